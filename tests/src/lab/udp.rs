//! UDP datagrams with given properties, and their reception.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use super::Namespace;
use super::socket::{readable, receive, set_option};

/// A datagram to send.
#[derive(Debug, Clone)]
pub struct UdpProbe {
    from: SocketAddr,
    to: SocketAddr,
    hops: Option<u8>,
    dont_fragment: bool,
    payload: Vec<u8>,
}

/// A datagram that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    pub from: SocketAddr,
    /// TTL or hop limit on arrival.
    pub hops: u8,
    pub payload: Vec<u8>,
}

/// Sends a probe from one place and receives it at another: `None` if it has not arrived within `timeout`.
///
/// # Errors
/// When it cannot be sent (no route, longer than the device's MTU with DF set) or an address does not belong to its
/// place.
pub fn udp_probe(
    from: &Namespace,
    to: &Namespace,
    probe: &UdpProbe,
    timeout: Duration,
) -> anyhow::Result<Option<Datagram>> {
    let receiver = UdpReceiver::bind(to, probe.to)?;
    probe.send(from)?;
    let deadline = Instant::now() + timeout;
    while let Some(datagram) = receiver.receive(deadline.saturating_duration_since(Instant::now()))? {
        if datagram.from.ip() == probe.from.ip() && datagram.payload == probe.payload {
            return Ok(Some(datagram));
        }
    }
    Ok(None)
}

impl UdpProbe {
    /// An empty datagram. For source port 0 the kernel selects one.
    pub fn new(from: SocketAddr, to: SocketAddr) -> Self {
        Self { from, to, hops: None, dont_fragment: false, payload: Vec::new() }
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

    /// Sets the payload's size in bytes; each byte is its index modulo 256.
    #[must_use]
    pub fn size(mut self, size: usize) -> Self {
        self.payload = (0..size).map(|i| i.to_le_bytes()[0]).collect();
        self
    }

    #[must_use]
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Sends it and returns the socket, which receives any answer, or an ICMP error.
    ///
    /// # Errors
    /// As [`udp_probe`].
    pub fn send(&self, from: &Namespace) -> anyhow::Result<UdpSocket> {
        let v4 = self.to.is_ipv4();
        let socket = bind(from, self.from)?;
        if let Some(hops) = self.hops {
            let (level, name) =
                if v4 { (libc::IPPROTO_IP, libc::IP_TTL) } else { (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) };
            set_option(&socket, level, name, hops.into())?;
        }
        if self.dont_fragment {
            super::socket::dont_fragment(&socket, v4)?;
        }
        socket.send_to(&self.payload, self.to).with_context(|| {
            format!("sending {} bytes of UDP to {} from {}", self.payload.len(), self.to, from.name())
        })?;
        Ok(socket)
    }
}

/// Binds, with retries: a child that another thread is starting has a copy of every socket until it executes its
/// program. So an address may stay in use for a moment after its socket was closed.
fn bind(place: &Namespace, address: SocketAddr) -> anyhow::Result<UdpSocket> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match place.enter(|| UdpSocket::bind(address))? {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(5));
            }
            bound => return bound.with_context(|| format!("binding to {address} in {}", place.name())),
        }
    }
}

/// Receives datagrams at a place.
#[derive(Debug)]
pub struct UdpReceiver {
    socket: UdpSocket,
}

impl UdpReceiver {
    /// # Errors
    /// When the address does not belong to the place or is in use.
    pub fn bind(place: &Namespace, address: SocketAddr) -> anyhow::Result<Self> {
        let socket = bind(place, address)?;
        if address.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvTtl, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
        }
        Ok(Self { socket })
    }

    /// The next datagram, or `None` when there is none within `timeout`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn receive(&self, timeout: Duration) -> anyhow::Result<Option<Datagram>> {
        if !readable(&self.socket, Instant::now() + timeout)? {
            return Ok(None);
        }
        let received = receive(&self.socket).context("receiving UDP")?;
        let hops = received.control.iter().find_map(|(level, kind, data)| match (*level, *kind) {
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT) => {
                u8::try_from(libc::c_int::from_ne_bytes(*data.first_chunk()?)).ok()
            }
            _ => None,
        });
        Ok(Some(Datagram {
            from: received.from.context("the datagram has no source")?,
            hops: hops.context("the datagram has no TTL")?,
            payload: received.bytes,
        }))
    }
}
