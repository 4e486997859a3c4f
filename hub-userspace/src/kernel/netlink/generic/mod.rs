//! Facts about devices that rtnetlink does not have, by generic netlink: what a driver takes from XDP (family `netdev`,
//! Linux 6.3), and the offloads in force (family `ethtool`). Needs no privileges.
//!
//! Blocking: the kernel answers within the system call.

mod wire;

use std::{collections::BTreeSet, io, time::Duration};

use rtnetlink::sys::{Socket, protocols::NETLINK_GENERIC};
use rustix::{io::Errno, net::sockopt};

use self::wire::{Answer, Command, request};
use super::{NetlinkError, Refusal};

/// The kernel fills its answers up to this size.
const LONGEST_ANSWER: usize = 32 << 10;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What a device takes from XDP, as flags of `enum netdev_xdp_act` (linux/netdev.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XdpFeatures(pub u64);

impl XdpFeatures {
    const NDO_XMIT: u64 = 1 << 2;

    /// Frames that XDP of other devices redirects to it (`NETDEV_XDP_ACT_NDO_XMIT`). A veth takes them while its other end
    /// has GRO or an XDP program.
    pub fn takes_redirects(self) -> bool {
        self.0 & Self::NDO_XMIT != 0
    }
}

/// A socket for questions about devices of the calling thread's network namespace.
pub struct DeviceQueries {
    socket: Socket,
    sequence: u32,
    /// The families' numbers; `None`: the kernel does not have the family.
    netdev: Option<u16>,
    ethtool: Option<u16>,
}

impl DeviceQueries {
    /// # Errors
    /// When there is no socket, or the kernel does not answer.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_GENERIC).map_err(NetlinkError::Open)?;
        let timeout = sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(ANSWER_TIMEOUT));
        timeout.map_err(|errno| NetlinkError::Open(errno.into()))?;
        socket.bind_auto().map_err(NetlinkError::Open)?;
        let mut queries = Self { socket, sequence: 0, netdev: None, ethtool: None };
        queries.netdev = queries.family("netdev")?;
        queries.ethtool = queries.family("ethtool")?;
        Ok(queries)
    }

    /// `None`: the kernel does not tell.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn xdp_features(&mut self, ifindex: u32) -> Result<Option<XdpFeatures>, NetlinkError> {
        let Some(family) = self.netdev else { return Ok(None) };
        let answer = self.ask("reading XDP features", &Command::xdp_features(family, ifindex))?;
        Ok(answer.and_then(|answer| wire::xdp_features(&answer)).map(XdpFeatures))
    }

    /// The names of the offloads in force, such as `rx-gro` (`netdev_features_strings`, net/ethtool/common.c). `None`: the
    /// kernel does not tell.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn offloads(&mut self, ifindex: u32) -> Result<Option<BTreeSet<String>>, NetlinkError> {
        let Some(family) = self.ethtool else { return Ok(None) };
        let answer = self.ask("reading offloads", &Command::offloads(family, ifindex))?;
        Ok(answer.and_then(|answer| wire::active_offloads(&answer)))
    }

    fn family(&mut self, name: &str) -> Result<Option<u16>, NetlinkError> {
        let answer = self.ask("looking up a netlink family", &Command::family(name))?;
        Ok(answer.and_then(|answer| wire::family(&answer)))
    }

    /// The attributes of the answer; `None` if the kernel refuses: no such family, device or command.
    fn ask(&mut self, what: &'static str, command: &Command) -> Result<Option<Vec<u8>>, NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let failed = |source| NetlinkError::Socket { what, source };
        self.socket.send(&request(command, self.sequence), 0).map_err(failed)?;
        let mut received = Vec::with_capacity(LONGEST_ANSWER);
        loop {
            received.clear();
            match self.socket.recv_from(&mut received, 0) {
                Ok((_, sender)) if sender.port_number() == 0 => {}
                // Another process.
                Ok(_) => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(NetlinkError::Lost(what)),
                Err(error) => return Err(failed(error)),
            }
            match wire::answer(&received, self.sequence) {
                Some(Answer::Attributes(attributes)) => return Ok(Some(attributes.to_vec())),
                Some(Answer::Error(errno)) if errno == Errno::PERM.raw_os_error() => {
                    return Err(NetlinkError::Refused { what, refusal: Refusal { errno, detail: None } });
                }
                Some(Answer::Error(_)) => return Ok(None),
                // An answer to an earlier question that was lost.
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loopback device exists in every namespace, and no driver of it takes frames.
    #[test]
    fn loopback_takes_no_frames_from_xdp() {
        let mut queries = DeviceQueries::open().expect("generic netlink");
        if queries.netdev.is_some() {
            let features = queries.xdp_features(1).expect("an answer").expect("it exists");
            assert!(!features.takes_redirects(), "{features:?}");
        }
        if queries.ethtool.is_some() {
            let offloads = queries.offloads(1).expect("an answer").expect("it exists");
            assert!(offloads.contains("loopback"), "{offloads:?}");
        }
        assert_eq!(queries.xdp_features(u32::MAX / 2).expect("an answer"), None);
        assert_eq!(queries.offloads(u32::MAX / 2).expect("an answer"), None);
        assert_eq!(queries.family("no-such-family").expect("an answer"), None);
    }
}
