//! Packet sockets (packet(7)) that carry echo requests and replies of one interface and IP version.

use std::{
    io::{self, Read as _},
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
    /// Needs `CAP_NET_RAW`.
    pub fn open(ifindex: u32, version: IpVersion, cookie: Cookie) -> io::Result<Self> {
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

    /// Receives a packet without waiting; `WouldBlock` if there is none.
    pub fn receive_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.get_ref().read(buffer)
    }
}

/// Accepts only echo replies that were sent to this host and start with the cookie.
///
/// A classic BPF program. Offsets count from the IP header; loads beyond the packet's end reject it.
fn filter(version: IpVersion, cookie: Cookie) -> Vec<SockFilter> {
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
    // (operation, jump if equal, jump if not, operand); jumps count from the next instruction.
    vec![
        SockFilter::new(LOAD_WORD, 0, 0, PACKET_TYPE),
        SockFilter::new(JUMP_EQUAL, 0, 8, PACKET_HOST),
        SockFilter::new(LOAD_BYTE, 0, 0, protocol_at),
        SockFilter::new(JUMP_EQUAL, 0, 6, protocol.into()),
        SockFilter::new(load_index, 0, 0, operand),
        SockFilter::new(LOAD_BYTE_BEHIND, 0, 0, 0),
        SockFilter::new(JUMP_EQUAL, 0, 3, reply.into()),
        SockFilter::new(LOAD_WORD_BEHIND, 0, 0, PAYLOAD),
        SockFilter::new(JUMP_EQUAL, 0, 1, u32::from_be_bytes(cookie)),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
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
