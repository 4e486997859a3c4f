//! ICMP echo, v4 and v6, over a raw socket: no `ping` needed, and any number at once.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::libc;

use super::Namespace;
use super::socket::{raw_icmp, readable, set_option};
use crate::packet::internet_checksum;

/// The kernel gives every raw socket all ICMP: the identifier matches answers to their pinger.
static NEXT_ID: AtomicU16 = AtomicU16::new(1);

/// Pings `to` from a place, `count` times. A ping without an answer within a second is lost.
///
/// # Errors
/// When a ping cannot be sent at all: no route, no permission. A lost one is not an error.
pub fn ping(from: &Namespace, to: IpAddr, count: u16) -> anyhow::Result<PingReport> {
    Ping::new(to).count(count).run(from)
}

/// The result of a [`Ping`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PingReport {
    pub sent: u16,
    pub received: u16,
    /// Round-trip times of those received; `None` when there were none.
    pub rtt_min: Option<Duration>,
    pub rtt_avg: Option<Duration>,
    pub rtt_max: Option<Duration>,
    /// Longest time between two answers in a row; `None` with fewer than two.
    pub longest_gap: Option<Duration>,
    /// Indexes of the lost pings, from 0.
    pub lost: Vec<u16>,
}

impl PingReport {
    /// Whether all were answered.
    pub fn complete(&self) -> bool {
        self.sent == self.received
    }
}

/// Pings to send one after the other: the next after the last is answered or lost, and not before `interval`.
#[derive(Debug, Clone)]
pub struct Ping {
    to: IpAddr,
    source: Option<IpAddr>,
    count: u16,
    interval: Duration,
    timeout: Duration,
    size: usize,
    hops: Option<u8>,
    dont_fragment: bool,
}

impl Ping {
    /// One ping with 56 bytes of payload, to be answered within a second.
    pub fn new(to: IpAddr) -> Self {
        Self {
            to,
            source: None,
            count: 1,
            interval: Duration::ZERO,
            timeout: Duration::from_secs(1),
            size: 56,
            hops: None,
            dont_fragment: false,
        }
    }

    #[must_use]
    pub fn source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    #[must_use]
    pub fn count(mut self, count: u16) -> Self {
        self.count = count;
        self
    }

    /// The minimum time between two pings.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// The time limit for each answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Bytes after the 8 of the ICMP header: IPv4 packets are 28 bytes longer, IPv6 ones 48.
    #[must_use]
    pub fn size(mut self, size: usize) -> Self {
        self.size = size;
        self
    }

    /// Initial TTL or hop limit.
    #[must_use]
    pub fn hops(mut self, hops: u8) -> Self {
        self.hops = Some(hops);
        self
    }

    /// Sets DF (v4) or forbids fragments (v6), and ignores the kernel's learned path MTU.
    #[must_use]
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// # Errors
    /// As [`ping`].
    pub fn run(&self, from: &Namespace) -> anyhow::Result<PingReport> {
        let socket = from.enter(|| self.socket())??;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (mut times, mut longest_gap, mut last) = (Vec::new(), None, None);
        let mut unanswered = Vec::new();
        for sequence in 0..self.count {
            let sent = Instant::now();
            socket
                .send_to(&self.request(id, sequence), SocketAddr::new(self.to, 0))
                .with_context(|| format!("sending a ping to {} from {}", self.to, from.name()))?;
            match self.answer(&socket, id, sequence, sent + self.timeout)? {
                Some(received) => {
                    times.push(received - sent);
                    longest_gap = last.map(|last| received - last).max(longest_gap);
                    last = Some(received);
                }
                None => unanswered.push(sequence),
            }
            if sequence + 1 < self.count {
                std::thread::sleep(self.interval.saturating_sub(sent.elapsed()));
            }
        }
        let received = u16::try_from(times.len()).expect("no more answers than pings");
        Ok(PingReport {
            sent: self.count,
            received,
            rtt_min: times.iter().min().copied(),
            rtt_avg: (received > 0).then(|| times.iter().sum::<Duration>() / u32::from(received)),
            rtt_max: times.iter().max().copied(),
            longest_gap,
            lost: unanswered,
        })
    }

    fn socket(&self) -> anyhow::Result<UdpSocket> {
        let socket = raw_icmp(self.to)?;
        if let Some(source) = self.source {
            let address = nix::sys::socket::SockaddrStorage::from(SocketAddr::new(source, 0));
            nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &address)
                .with_context(|| format!("binding to {source}"))?;
        }
        let v4 = self.to.is_ipv4();
        if let Some(hops) = self.hops {
            let (level, name) =
                if v4 { (libc::IPPROTO_IP, libc::IP_TTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) };
            set_option(&socket, level, name, hops.into())?;
        }
        if self.dont_fragment {
            super::socket::dont_fragment(&socket, v4)?;
        }
        Ok(socket)
    }

    /// An echo request: type, code, checksum, identifier, sequence number, payload.
    fn request(&self, id: u16, sequence: u16) -> Vec<u8> {
        let kind = if self.to.is_ipv4() { 8 } else { 128 };
        let mut message = vec![kind, 0, 0, 0];
        message.extend(id.to_be_bytes());
        message.extend(sequence.to_be_bytes());
        message.extend((0..self.size).map(|i| i.to_le_bytes()[0]));
        if self.to.is_ipv4() {
            let checksum = internet_checksum(&[&message]);
            message[2..4].copy_from_slice(&checksum.to_be_bytes());
        }
        // The kernel fills in ICMPv6's, which covers the addresses.
        message
    }

    fn answer(&self, socket: &UdpSocket, id: u16, sequence: u16, deadline: Instant) -> anyhow::Result<Option<Instant>> {
        let mut buffer = vec![0; 65_536];
        while readable(socket, deadline)? {
            let (length, from) = socket.recv_from(&mut buffer).context("receiving ICMP")?;
            let now = Instant::now();
            let packet = &buffer[..length];
            let (message, kind) = if self.to.is_ipv4() {
                (packet.get(usize::from(packet[0] & 0xf) * 4..).unwrap_or_default(), 0)
            } else {
                (packet, 129)
            };
            let is_reply = from.ip() == self.to
                && message.len() == 8 + self.size
                && message[0] == kind
                && message[4..6] == id.to_be_bytes()
                && message[6..8] == sequence.to_be_bytes();
            if is_reply {
                return Ok(Some(now));
            }
        }
        Ok(None)
    }
}
