//! The time at which the kernel notifies listeners that a link has failed. The agent cannot react earlier.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
            sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use crate::{arrivals, netdev::Netdev};

/// `struct nlmsghdr` (linux/netlink.h), and behind it `struct ifinfomsg` (linux/rtnetlink.h).
const TYPE: usize = 4;
const INDEX: usize = 16 + 4;
const FLAGS: usize = 16 + 8;
/// Alignment of messages.
const ALIGNED: usize = 4;

/// Listens for notifications about one link.
pub struct LinkMonitor {
    socket: OwnedFd,
    index: u32,
}

impl LinkMonitor {
    pub fn open(netdev: &Netdev) -> Result<Self> {
        let Netdev { namespace, index, .. } = netdev;
        let socket =
            namespace.enter(listen)?.with_context(|| format!("following the links of {}", namespace.name()))?;
        Ok(Self { socket, index: *index })
    }

    /// Discards the notifications until now.
    pub fn discard(&self) -> Result<()> {
        let mut buffer = vec![0; 1 << 15];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error).context("following the links"),
            }
        }
    }

    /// Waits for the notification that the link is not running. Returns its time on the clock of [`arrivals::clock`];
    /// `None` if there is none within `patience`.
    pub fn wait(&self, patience: Duration) -> Result<Option<u64>> {
        let begin = Instant::now();
        let mut buffer = vec![0; 1 << 15];
        while begin.elapsed() < patience {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) if failed(&buffer[..length], self.index) => return arrivals::clock().map(Some),
                // Overrun: notifications are lost; wait for the next one.
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) => {}
                Err(error) => return Err(error).context("following the links"),
            }
        }
        Ok(None)
    }
}

fn listen() -> nix::Result<OwnedFd> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(SockProtocol::NetlinkRoute))?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, libc::RTMGRP_LINK as u32))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(50))?;
    Ok(socket)
}

/// Whether any of the messages reports that the device `index` is not running.
fn failed(mut messages: &[u8], index: u32) -> bool {
    let number = |bytes: &[u8], at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    while let Some(length) = number(messages, 0).and_then(|length| usize::try_from(length).ok()) {
        let message = messages.get(..length.max(FLAGS + 4)).unwrap_or(&[]);
        let new = message.get(TYPE..TYPE + 2) == Some(&libc::RTM_NEWLINK.to_ne_bytes());
        let runs = number(message, FLAGS).is_some_and(|flags| flags & libc::IFF_RUNNING as u32 != 0);
        if new && number(message, INDEX) == Some(index) && !runs {
            return true;
        }
        messages = messages.get(length.max(1).next_multiple_of(ALIGNED)..).unwrap_or(&[]);
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of this type about a device with these flags.
    fn message(kind: u16, index: u32, flags: i32) -> Vec<u8> {
        let mut bytes = vec![0; 34];
        bytes[..4].copy_from_slice(&34_u32.to_ne_bytes());
        bytes[TYPE..TYPE + 2].copy_from_slice(&kind.to_ne_bytes());
        bytes[INDEX..INDEX + 4].copy_from_slice(&index.to_ne_bytes());
        bytes[FLAGS..FLAGS + 4].copy_from_slice(&flags.to_ne_bytes());
        // Up to where the next may begin.
        bytes.resize(36, 0);
        bytes
    }

    #[test]
    fn link_failure_message_is_found_among_others() {
        let fine = message(libc::RTM_NEWLINK, 7, libc::IFF_UP | libc::IFF_RUNNING);
        let other = message(libc::RTM_NEWLINK, 8, libc::IFF_UP);
        let gone = message(libc::RTM_DELLINK, 7, 0);
        let down = message(libc::RTM_NEWLINK, 7, libc::IFF_UP);
        assert!(!failed(&[&fine[..], &other, &gone].concat(), 7));
        assert!(failed(&[&fine[..], &other, &down].concat(), 7));
        assert!(failed(&[down, fine].concat(), 7));
        assert!(!failed(&[], 7));
        assert!(!failed(&[0; 40], 7));
    }
}
