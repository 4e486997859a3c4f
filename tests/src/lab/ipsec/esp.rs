//! Who does ESP.

use std::fmt;

use super::super::{Namespace, unique_prefix};

/// Who encrypts and decrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Esp {
    /// The kernel; the hub has an xfrm interface for each connection.
    Kernel,
    /// charon itself (its plugin kernel-libipsec), in UDP: any kernel will do. All connections share one TUN device.
    Userspace,
}

impl Esp {
    /// The kernel, where it can.
    pub fn of_this_host() -> Self {
        if Self::kernel_lacks().is_none() { Self::Kernel } else { Self::Userspace }
    }

    /// What this kernel lacks for [`Esp::Kernel`], in a few words; `None`: nothing.
    pub fn kernel_lacks() -> Option<&'static str> {
        // A namespace of its own: nothing of it stays.
        let Ok(place) = Namespace::create(&format!("{}-esp", unique_prefix())) else {
            return Some("root");
        };
        if place.ip("link add probe type xfrm if_id 1 dev lo").is_err() {
            return Some("xfrm interfaces");
        }
        let esp = "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x100 mode tunnel aead rfc4106(gcm(aes)) \
                   0x0102030405060708090a0b0c0d0e0f1011121314 128";
        place.ip(esp).is_err().then_some("ESP")
    }
}

impl fmt::Display for Esp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "ESP in the kernel, an xfrm interface for each connection",
            Self::Userspace => "strongSwan's own ESP (kernel-libipsec), one TUN device for all connections",
        })
    }
}
