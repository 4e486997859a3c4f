//! Sets a device up and down at a precise moment: no process, no thread, one system call.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::Context;
use nix::errno::Errno;
use nix::libc;

use super::{
    Namespace,
    device::{control_socket, interface_request},
};

/// A device of a namespace, ready to be switched.
#[derive(Debug)]
pub struct Switch {
    /// A socket of the device's namespace: its ioctls act there, from any thread.
    control: OwnedFd,
    device: String,
}

impl Namespace {
    /// # Errors
    /// When the namespace has no such device.
    pub fn switch(&self, device: &str) -> anyhow::Result<Switch> {
        self.ifindex(device)?;
        let control = self.enter(control_socket)?.context("opening a socket for the device's flags")?;
        Ok(Switch { control, device: device.to_owned() })
    }
}

impl Switch {
    /// Sets the device up or down, as [`Namespace::set_link`] does. For down it returns when the kernel has finished,
    /// some time after the link is gone.
    ///
    /// # Errors
    /// When the device has gone.
    pub fn set(&self, up: bool) -> anyhow::Result<()> {
        let mut request = interface_request(&self.device)?;
        // SAFETY: SIOCGIFFLAGS fills in the flags of an ifreq, which outlives the call.
        let result = unsafe { libc::ioctl(self.control.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) };
        Errno::result(result).with_context(|| format!("reading the flags of {}", self.device))?;
        // SAFETY: the call has succeeded, so the flags are what the union holds.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let bit = libc::IFF_UP as libc::c_short;
        request.ifr_ifru.ifru_flags = if up { flags | bit } else { flags & !bit };
        // SAFETY: SIOCSIFFLAGS reads the flags of an ifreq, which outlives the call.
        let result = unsafe { libc::ioctl(self.control.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
        Errno::result(result).map(drop).with_context(|| format!("setting the flags of {}", self.device))
    }
}
