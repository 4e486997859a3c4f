//! Replies to probes, on whichever interface they arrive. A diagnosis listens for some seconds: a check itself receives
//! only those on its own interface.

use std::{io, net::IpAddr};

use super::{
    check::Nonce,
    echo,
    socket::{Cookie, EchoSocket, IpVersion},
};

/// Longer packets are no replies to our probes.
const BUFFER: usize = 256;
const PAYLOAD: usize = size_of::<Cookie>() + size_of::<Nonce>();

/// A reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeReply {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// That of the check's destination: [`super::HealthReport::identifier`].
    pub identifier: u16,
}

/// The reply in a packet, from the IP header on, if it has the form of a reply to a probe. Only the check knows cookies and
/// nonces, so that of another program with the same length cannot be told apart.
pub fn probe_reply(packet: &[u8]) -> Option<ProbeReply> {
    let echo::Reply { source, destination, identifier, payload, .. } = echo::reply(packet)?;
    (payload.len() == PAYLOAD).then_some(ProbeReply { source, destination, identifier })
}

/// A socket on all interfaces. It hears what the program leaves to the kernel, before the kernel's own filters.
pub struct ReplyListener(EchoSocket);

impl ReplyListener {
    /// Needs `CAP_NET_RAW` and a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn open(is_ipv6: bool) -> io::Result<Self> {
        EchoSocket::open_anywhere(if is_ipv6 { IpVersion::V6 } else { IpVersion::V4 }).map(Self)
    }

    /// The next reply, and the index of its interface. Cancel-safe.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn next(&self) -> io::Result<(ProbeReply, u32)> {
        let mut buffer = [0; BUFFER];
        loop {
            let (length, ifindex) = self.0.receive_from(&mut buffer).await?;
            if let Some(reply) = probe_reply(&buffer[..length]) {
                return Ok((reply, ifindex));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_replies_with_the_length_of_a_probe_count() {
        let (source, destination) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let reply = ProbeReply { source, destination, identifier: 7 };
        for (length, expected) in [(PAYLOAD, Some(reply)), (56, None), (0, None)] {
            let mut packet = echo::request(source, destination, 7, 1, &vec![7; length]).expect("one IP version");
            assert_eq!(probe_reply(&packet), None, "a request is no reply");
            // The type, and the checksum that is smaller by it.
            packet[20] = echo::ICMP_REPLY;
            let sum = u32::from(u16::from_be_bytes([packet[22], packet[23]])) + (u32::from(echo::ICMP_REQUEST) << 8);
            let sum = (sum & 0xffff) + (sum >> 16);
            packet[22..24].copy_from_slice(&(sum as u16).to_be_bytes());
            assert_eq!(probe_reply(&packet), expected, "{length}");
        }
    }
}
