//! Packet sockets (packet(7)) that carry echo requests and replies of one interface and IP version.

use std::{
    io::{self, Read as _},
    mem::MaybeUninit,
    net::IpAddr,
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::{Interest, unix::AsyncFd};

use super::echo::{ICMP, ICMP_REPLY, ICMPV6, ICMPV6_REPLY, IPV6_HEADER};

/// The first bytes of each payload. The socket's filter matches them, so that foreign replies do not wake the agent.
pub type Cookie = [u8; 4];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IpVersion {
    V4,
    V6,
}

impl IpVersion {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `EtherType`; packet sockets use it on interfaces without Ethernet, too.
    fn ethertype(self) -> u16 {
        match self {
            Self::V4 => 0x0800,
            Self::V6 => 0x86dd,
        }
    }
}

/// A socket whose packets start at the IP header (`SOCK_DGRAM`): the kernel adds and removes the link header, with the
/// interface's own address as the source.
pub struct EchoSocket {
    socket: AsyncFd<Socket>,
    ifindex: u32,
    version: IpVersion,
}

impl EchoSocket {
    /// Receives replies to probes with this cookie. Needs `CAP_NET_RAW`.
    pub fn open(ifindex: u32, version: IpVersion, cookie: Cookie) -> io::Result<Self> {
        Self::with_filter(ifindex, version, Some(cookie))
    }

    /// Receives all echo replies to this host, on all interfaces. Needs `CAP_NET_RAW`.
    pub fn open_anywhere(version: IpVersion) -> io::Result<Self> {
        // Any interface (packet(7)).
        Self::with_filter(0, version, None)
    }

    fn with_filter(ifindex: u32, version: IpVersion, cookie: Option<Cookie>) -> io::Result<Self> {
        // With protocol 0 the socket receives nothing until bind, when the filter is already attached.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(&filter(version, cookie))?;
        socket.bind(&address(ifindex, version, None))?;
        // SAFETY: a `Socket` owns its descriptor: it names the same open socket until the `AsyncFd` drops it.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE)? };
        Ok(Self { socket, ifindex, version })
    }

    /// Sends an IP packet; on Ethernet, to the neighbour with this link address.
    pub fn send(&self, packet: &[u8], neighbour: Option<[u8; 6]>) -> io::Result<()> {
        let address = address(self.ifindex, self.version, neighbour);
        self.socket.get_ref().send_to(packet, &address).map(drop)
    }

    /// Waits for a packet; truncates it to the buffer. Cancel-safe.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.async_io(Interest::READABLE, |mut socket| socket.read(buffer)).await
    }

    /// As [`Self::receive`], with the index of the interface that the packet came in by.
    pub async fn receive_from(&self, buffer: &mut [u8]) -> io::Result<(usize, u32)> {
        self.socket.async_io(Interest::READABLE, |socket| receive_from(socket, buffer)).await
    }

    /// Receives a packet without waiting; `WouldBlock` if there is none.
    pub fn receive_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.get_ref().read(buffer)
    }
}

fn receive_from(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, u32)> {
    let mut received = vec![MaybeUninit::new(0); buffer.len()];
    let (length, sender) = socket.recv_from(&mut received)?;
    for (to, from) in buffer.iter_mut().zip(&received[..length]) {
        // SAFETY: every element was initialized above.
        *to = unsafe { from.assume_init() };
    }
    let mut sender = sender.as_storage();
    // SAFETY: the kernel writes a `sockaddr_ll` for a packet socket, of which a `LinkAddress` is a longer form; what it
    // does not write is zero. All bits are valid in its fields, and `view_as` asserts that it fits.
    let sender = unsafe { sender.view_as::<LinkAddress>() };
    Ok((length, sender.ifindex.cast_unsigned()))
}

/// Accepts only echo replies that were sent to this host and start with the cookie, if there is one.
///
/// A classic BPF program. Offsets count from the IP header; loads beyond the packet's end reject it.
fn filter(version: IpVersion, cookie: Option<Cookie>) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD_BEHIND: u16 = 0x40;
    const LOAD_BYTE_BEHIND: u16 = 0x50;
    const LOAD_LENGTH_OF_IPV4_HEADER: u16 = 0xb1;
    const LOAD_IMMEDIATE_INDEX: u16 = 0x01;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// `SKF_AD_OFF + SKF_AD_PKTTYPE` (linux/filter.h): the receiver class, from the frame's link header and VLAN.
    const PACKET_TYPE: u32 = (-0x1000_i32 + 4).cast_unsigned();
    const PACKET_HOST: u32 = 0;
    const IPV4_PROTOCOL: u32 = 9;
    const IPV6_NEXT_HEADER: u32 = 6;
    /// From the start of the message.
    const PAYLOAD: u32 = 8;

    let (protocol_at, protocol, reply, load_index, operand) = match version {
        IpVersion::V4 => (IPV4_PROTOCOL, ICMP, ICMP_REPLY, LOAD_LENGTH_OF_IPV4_HEADER, 0),
        IpVersion::V6 => (IPV6_NEXT_HEADER, ICMPV6, ICMPV6_REPLY, LOAD_IMMEDIATE_INDEX, IPV6_HEADER as u32),
    };
    let of_cookie = cookie.map(|cookie| [(LOAD_WORD_BEHIND, PAYLOAD), (JUMP_EQUAL, u32::from_be_bytes(cookie))]);
    let tests: Vec<(u16, u32)> = [
        (LOAD_WORD, PACKET_TYPE),
        (JUMP_EQUAL, PACKET_HOST),
        (LOAD_BYTE, protocol_at),
        (JUMP_EQUAL, protocol.into()),
        (load_index, operand),
        (LOAD_BYTE_BEHIND, 0),
        (JUMP_EQUAL, reply.into()),
    ]
    .into_iter()
    .chain(of_cookie.into_iter().flatten())
    .collect();
    let count = tests.len();
    // Jumps count from the next instruction. A test that fails jumps over the others and the acceptance.
    let instructions = tests.into_iter().enumerate().map(|(at, (operation, operand))| {
        let otherwise = if operation == JUMP_EQUAL { (count - at) as u8 } else { 0 };
        SockFilter::new(operation, 0, otherwise, operand)
    });
    let ends = [SockFilter::new(RETURN, 0, 0, u32::MAX), SockFilter::new(RETURN, 0, 0, 0)];
    instructions.chain(ends).collect()
}

/// `struct sockaddr_ll`, with room for the longest link address: the kernel requires as many bytes as the interface's
/// own address has, 16 on some tunnels (`packet_snd` in `net/packet/af_packet.c`).
#[repr(C)]
struct LinkAddress {
    family: u16,
    /// Network byte order.
    protocol: u16,
    ifindex: i32,
    hardware_type: u16,
    packet_type: u8,
    length: u8,
    address: [u8; 32],
}

fn address(ifindex: u32, version: IpVersion, neighbour: Option<[u8; 6]>) -> SockAddr {
    let mut address = [0; 32];
    address[..6].copy_from_slice(&neighbour.unwrap_or_default());
    let link_address = LinkAddress {
        family: i32::from(Domain::PACKET).cast_unsigned() as u16,
        protocol: version.ethertype().to_be(),
        ifindex: ifindex as i32,
        hardware_type: 0,
        packet_type: 0,
        length: if neighbour.is_some() { 6 } else { 0 },
        address,
    };
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a `LinkAddress` is a `sockaddr_ll` with a longer last field, plain data, aligned no more than the storage,
    // and `view_as` asserts that it fits.
    unsafe { *storage.view_as::<LinkAddress>() = link_address };
    // SAFETY: the storage has just been filled for this family, up to this length.
    unsafe { SockAddr::new(storage, size_of::<LinkAddress>() as u32) }
}
