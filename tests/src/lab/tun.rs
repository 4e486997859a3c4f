//! A TUN device (layer 3, raw IP) with this process at its far end.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::libc;

use super::Namespace;
use super::device::interface_request;
use super::socket::readable;

const DEVICE_NODE: &str = "/dev/net/tun";
// linux/if_tun.h: layer 3, and no header before the packets.
const IFF_TUN: libc::c_short = 0x0001;
const IFF_NO_PI: libc::c_short = 0x1000;

/// A TUN device, which exists as long as this value. Packets that the kernel routes into it are read here; packets
/// written here arrive from it. They are raw IP. Initially it has no addresses and is down.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

impl Tun {
    /// # Errors
    /// When /dev/net/tun is missing or the name is taken.
    pub fn create(place: &Namespace, device: &str) -> anyhow::Result<Self> {
        Self::with_flags(place, device, IFF_TUN | IFF_NO_PI)
    }

    /// The same with packet information: four bytes in front of every packet, in both directions. The last two are the
    /// `EtherType` in network byte order, which the sender may choose (`linux/if_tun.h`, struct `tun_pi`).
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub fn create_with_information(place: &Namespace, device: &str) -> anyhow::Result<Self> {
        Self::with_flags(place, device, IFF_TUN)
    }

    fn with_flags(place: &Namespace, device: &str, flags: libc::c_short) -> anyhow::Result<Self> {
        place.enter(|| {
            let file = OpenOptions::new().read(true).write(true).open(DEVICE_NODE).context("opening /dev/net/tun")?;
            let mut request = interface_request(device)?;
            request.ifr_ifru.ifru_flags = flags;
            // SAFETY: TUNSETIFF reads and writes an ifreq, which outlives the call.
            let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
            nix::errno::Errno::result(result)
                .with_context(|| format!("making the TUN device {device} in {}", place.name()))?;
            Ok(Self { file })
        })?
    }

    /// Opens another process's TUN device as well: packets written here arrive as if that process had written them.
    ///
    /// # Errors
    /// When the process has none, or may not be inspected.
    pub fn of_process(pid: u32) -> anyhow::Result<Self> {
        let descriptors = format!("/proc/{pid}/fd");
        for entry in fs::read_dir(&descriptors).with_context(|| format!("reading {descriptors}"))? {
            let entry = entry?;
            if fs::read_link(entry.path()).is_ok_and(|target| target == Path::new(DEVICE_NODE)) {
                let name = entry.file_name();
                let number = name.to_str().and_then(|name| name.parse().ok()).context("a descriptor is a number")?;
                return Ok(Self { file: descriptor_of(pid, number)?.into() });
            }
        }
        bail!("process {pid} has no TUN device")
    }

    /// Makes a raw IP packet arrive from the device.
    ///
    /// # Errors
    /// When the device is down.
    pub fn send(&mut self, packet: &[u8]) -> anyhow::Result<()> {
        self.file.write_all(packet).context("writing to a TUN device")
    }

    /// The next raw IP packet that was sent into the device, or `None` when there is none within `timeout`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn receive(&mut self, timeout: Duration) -> anyhow::Result<Option<Vec<u8>>> {
        if !readable(&self.file, Instant::now() + timeout)? {
            return Ok(None);
        }
        let mut packet = vec![0; 65_536];
        let length = self.file.read(&mut packet).context("reading from a TUN device")?;
        packet.truncate(length);
        Ok(Some(packet))
    }
}

/// For what only this device's owner may set (`linux/if_tun.h`).
impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Another process's file descriptor, as one of this process.
fn descriptor_of(pid: u32, number: libc::c_int) -> anyhow::Result<OwnedFd> {
    let opened = |result: libc::c_long, what: &str| {
        let number = nix::errno::Errno::result(result).with_context(|| format!("{what} of process {pid}"))?;
        // SAFETY: the call has just made this descriptor, and it has no other owner.
        anyhow::Ok(unsafe { OwnedFd::from_raw_fd(libc::c_int::try_from(number)?) })
    };
    // SAFETY: these calls take only numbers.
    let process = opened(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }, "a descriptor")?;
    // SAFETY: as above.
    opened(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) }, "the TUN device")
}
