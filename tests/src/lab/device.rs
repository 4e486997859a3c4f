//! One network device inside a namespace: identity, offloads, counters.
//!
//! Offloads are set with the ioctls that `ethtool -K` uses, so that `ethtool` need not be installed.

use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Namespace;

// linux/ethtool.h: commands, and the features they set as `ethtool -K` names them.
const ETHTOOL_GLINK: u32 = 0x0a;
const ETHTOOL_STXCSUM: u32 = 0x17; // tx
const ETHTOOL_STSO: u32 = 0x1f; // tso
const ETHTOOL_SGSO: u32 = 0x24; // gso
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETHTOOL_SGRO: u32 = 0x2c; // gro
const ETH_FLAG_TXVLAN: u32 = 1 << 7;
/// Large receive offload.
const ETH_FLAG_LRO: u32 = 1 << 15;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// An Ethernet address, in transmission order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&parts.join(":"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Mac> for [u8; 6] {
    fn from(mac: Mac) -> Self {
        mac.0
    }
}

impl std::str::FromStr for Mac {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2);
            *byte = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .with_context(|| format!("{text:?} is not an Ethernet address"))?;
        }
        if parts.next().is_some() {
            bail!("{text:?} is not an Ethernet address");
        }
        Ok(Self(bytes))
    }
}

/// A device's counters since its creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    pub rx_packets: u64,
    pub rx_bytes: u64,
    pub tx_packets: u64,
    pub tx_bytes: u64,
}

impl Namespace {
    /// # Errors
    /// When the namespace has no such device.
    pub fn ifindex(&self, device: &str) -> anyhow::Result<u32> {
        self.enter(|| nix::net::if_::if_nametoindex(device))?
            .with_context(|| format!("looking for the device {device} in {}", self.name()))
    }

    /// # Errors
    /// When the namespace has no such device.
    pub fn mac(&self, device: &str) -> anyhow::Result<Mac> {
        let shown = self.ip(&format!("-o link show dev {device}"))?;
        let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
        words.nth(1).with_context(|| format!("{device} in {} has no Ethernet address", self.name()))?.parse()
    }

    /// Sets a device up or down. The far end of a veth loses or gains its carrier. Its kernel may notice up to a second
    /// later, unless [`notice_carrier`](Self::notice_carrier) is called.
    ///
    /// # Errors
    /// When the namespace has no such device.
    pub fn set_link(&self, device: &str, up: bool) -> anyhow::Result<()> {
        self.ip(&format!("link set dev {device} {}", if up { "up" } else { "down" })).map(drop)
    }

    /// Makes the kernel process a changed carrier at once: routes, events, state. Kernels before 6.9 still take up to a
    /// second.
    ///
    /// # Errors
    /// When the namespace has no such device.
    pub fn notice_carrier(&self, device: &str) -> anyhow::Result<()> {
        self.enter(|| notice_carrier(device))?
            .with_context(|| format!("asking for the link of {device} in {}", self.name()))
    }

    /// Waits until a device that is up can send and its routes are in effect. The kernel gets there shortly after both
    /// ends of a veth are up, and until then drops packets.
    ///
    /// # Errors
    /// When it cannot within `timeout`: its far end may be down.
    pub fn wait_until_running(&self, device: &str, timeout: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        self.enter(|| {
            loop {
                notice_carrier(device)?;
                if is_running(device)? {
                    break;
                }
                if Instant::now() > deadline {
                    bail!("it has no carrier after {timeout:?}");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            // The kernel sets the flag before it activates the device. This call waits for the lock that covers both.
            ethtool(device, ETHTOOL_GFLAGS, 0).map(drop)
        })?
        .with_context(|| format!("waiting for {device} in {}", self.name()))
    }

    /// # Errors
    /// When the namespace has no such device.
    pub fn counters(&self, device: &str) -> anyhow::Result<Counters> {
        // Not /sys/class/net: sysfs shows the namespace in which it was mounted.
        let table = self.enter(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        table
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':').and_then(parse_counters))
            .with_context(|| format!("{} has no device {device}", self.name()))
    }

    /// Makes `device` send complete frames, as on a wire: checksums filled in, segments split, VLAN tags in the frame.
    /// An XDP redirect forwards bytes only, and loses the metadata that offloads leave to the driver.
    ///
    /// # Errors
    /// When the device does not exist or refuses.
    pub fn disable_offloads(&self, device: &str) -> anyhow::Result<()> {
        self.features(device, &[(ETHTOOL_STSO, 0), (ETHTOOL_SGSO, 0), (ETHTOOL_STXCSUM, 0)], ETH_FLAG_TXVLAN)
    }

    /// Makes `device` accept offloads like a NIC: checksums still to be filled in, and super-packets.
    ///
    /// # Errors
    /// When the device does not exist or refuses.
    pub fn enable_offloads(&self, device: &str) -> anyhow::Result<()> {
        self.features(device, &[(ETHTOOL_STXCSUM, 1), (ETHTOOL_SGSO, 1), (ETHTOOL_STSO, 1)], 0)
    }

    /// Turns GRO on or off. On a veth this turns NAPI on or off: without NAPI (or an XDP program) frames that XDP
    /// redirects to the device's peer are lost.
    ///
    /// # Errors
    /// When the device does not exist or refuses.
    pub fn set_gro(&self, device: &str, on: bool) -> anyhow::Result<()> {
        self.features(device, &[(ETHTOOL_SGRO, u32::from(on))], 0)
    }

    /// Turns the removal of VLAN tags from received frames on or off (`ethtool -K DEVICE rxvlan`).
    ///
    /// # Errors
    /// When the device does not exist or refuses.
    pub fn set_rx_vlan(&self, device: &str, on: bool) -> anyhow::Result<()> {
        self.set_flag(device, ETH_FLAG_RXVLAN, on)
    }

    /// Turns LRO on or off (`ethtool -K DEVICE lro`).
    ///
    /// # Errors
    /// When the device does not exist or has none.
    pub fn set_lro(&self, device: &str, on: bool) -> anyhow::Result<()> {
        self.set_flag(device, ETH_FLAG_LRO, on)
    }

    fn set_flag(&self, device: &str, flag: u32, on: bool) -> anyhow::Result<()> {
        self.enter(|| {
            let flags = ethtool(device, ETHTOOL_GFLAGS, 0)?;
            let flags = if on { flags | flag } else { flags & !flag };
            ethtool(device, ETHTOOL_SFLAGS, flags).map(drop)
        })?
        .with_context(|| format!("setting flag {flag:#x} of {device} in {}", self.name()))
    }

    fn features(&self, device: &str, values: &[(u32, u32)], clear_flags: u32) -> anyhow::Result<()> {
        self.enter(|| {
            for &(command, value) in values {
                match ethtool(device, command, value) {
                    // An unsupported feature is off already: native XDP at the far end removes GSO from a veth.
                    Err(error) if value == 0 && error.downcast_ref() == Some(&Errno::EOPNOTSUPP) => {}
                    result => drop(result?),
                }
            }
            if clear_flags != 0 {
                let flags = ethtool(device, ETHTOOL_GFLAGS, 0)?;
                ethtool(device, ETHTOOL_SFLAGS, flags & !clear_flags)?;
            }
            anyhow::Ok(())
        })?
        .with_context(|| format!("setting offloads of {device} in {}", self.name()))
    }
}

/// struct `ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

pub(super) fn control_socket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
}

/// A link query makes the kernel process its deferred link events.
fn notice_carrier(device: &str) -> anyhow::Result<()> {
    ethtool(device, ETHTOOL_GLINK, 0).map(drop)
}

/// Whether a device of this thread's namespace is up, has a carrier, and the kernel has noticed.
fn is_running(device: &str) -> anyhow::Result<bool> {
    let control = control_socket()?;
    let mut request = interface_request(device)?;
    // SAFETY: SIOCGIFFLAGS fills in the flags of an ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) };
    Errno::result(result).context("reading its flags")?;
    // SAFETY: the call has succeeded, so the flags are what the union holds.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(libc::c_int::from(flags) & libc::IFF_RUNNING != 0)
}

/// One ethtool ioctl on a device of this thread's namespace: the value that came back.
fn ethtool(device: &str, command: u32, data: u32) -> anyhow::Result<u32> {
    let control = control_socket()?;
    let mut value = EthtoolValue { command, data };
    let mut request = interface_request(device)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: SIOCETHTOOL reads an ifreq whose ifr_data points to a value of the command's type, which is
    // ethtool_value for all commands used here; both outlive the call.
    let result = unsafe { libc::ioctl(control.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    Errno::result(result).with_context(|| format!("ethtool command {command:#x}"))?;
    Ok(value.data)
}

/// An `ifreq` with its name filled in and all other bytes zero.
pub(super) fn interface_request(device: &str) -> anyhow::Result<libc::ifreq> {
    // SAFETY: ifreq is plain old data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero: the kernel requires a terminated name.
    if device.is_empty() || device.len() >= request.ifr_name.len() {
        bail!("{device:?} is not a device name: 1 to 15 bytes");
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from.cast_signed() as libc::c_char;
    }
    Ok(request)
}

/// The fields after the colon in a line of /proc/net/dev: 8 of receive, 8 of transmit.
fn parse_counters(fields: &str) -> Option<Counters> {
    let fields: Vec<u64> = fields.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(Counters {
        rx_bytes: *fields.first()?,
        rx_packets: *fields.get(1)?,
        tx_bytes: *fields.get(8)?,
        tx_packets: *fields.get(9)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_address_round_trips_as_text() {
        let mac: Mac = "02:00:5e:10:00:ff".parse().unwrap();
        assert_eq!(mac, Mac([2, 0, 0x5e, 0x10, 0, 0xff]));
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        for wrong in ["", "02", "02:00:5e:10:00", "02:00:5e:10:00:ff:01", "02:00:5e:10:00:gg", "2:0:5e:10:0:ff"] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn kernel_device_counters_are_parsed() {
        let counters = parse_counters(" 1250 10 0 0 0 0 0 0 980 7 0 0 0 0 0 0").unwrap();
        assert_eq!(counters, Counters { rx_packets: 10, rx_bytes: 1250, tx_packets: 7, tx_bytes: 980 });
    }
}
