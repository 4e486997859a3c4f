//! The implementation of ESP.

use std::fmt;

use super::super::{Namespace, unique_prefix};

/// Which component encrypts and decrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Esp {
    /// The kernel; the hub has one xfrm interface per connection.
    Kernel,
    /// charon itself (its plugin kernel-libipsec), in UDP: works on any kernel. All connections share one TUN device.
    Userspace,
}

impl Esp {
    /// The kernel, if it can.
    pub fn of_this_host() -> Self {
        if Self::kernel_lacks().is_none() { Self::Kernel } else { Self::Userspace }
    }

    /// A few words on what this kernel lacks for [`Esp::Kernel`]; `None` if nothing.
    pub fn kernel_lacks() -> Option<&'static str> {
        // In a namespace of its own, so that nothing remains.
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
