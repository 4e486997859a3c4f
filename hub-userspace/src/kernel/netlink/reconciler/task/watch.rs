//! Follows changes that other processes make to our routes and neighbours.

use std::{future::poll_fn, io, net::IpAddr};

use rtnetlink::{
    packet_core::NetlinkPayload,
    packet_route::{RouteNetlinkMessage, neighbour::NeighbourMessage},
    sys::{AsyncSocket as _, Socket, TokioSocket, protocols::NETLINK_ROUTE},
};
use rustix::io::Errno;
use socket2::{SockFilter, SockRef};

use crate::kernel::netlink::{
    BACKSTOP_METRIC, INTERNAL_METRIC, INTERNAL_PROTOCOL, METRIC, OWN_PREFIX_METRIC, PROTOCOL,
    plan::RouteKey,
    socket::{enlarge_receive_buffer, messages_of},
    wire,
};

/// `RTNLGRP_NEIGH`, `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV6_ROUTE`.
const GROUPS: [u32; 3] = [3, 7, 11];
/// The kernel packs events into datagrams of at most this size.
const LONGEST_EVENT: usize = 32 << 10;

/// A change by another process. It may concern our objects.
pub enum ForeignChange {
    /// A route with our protocol, or another one with a metric of ours.
    Route { key: RouteKey, is_ours: bool },
    /// A neighbour: its current state, `None` if it was removed.
    Neighbour { key: (u32, IpAddr), now: Option<Box<NeighbourMessage>> },
    /// Events were lost.
    Lost,
}

pub struct Watch {
    socket: TokioSocket,
    received: Vec<u8>,
}

impl Watch {
    /// Follows changes except those made through the socket with this port number, in the network namespace of the
    /// calling thread.
    pub fn open(own_port: u32) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        enlarge_receive_buffer(socket.socket_ref())?;
        select(socket.socket_ref(), own_port)?;
        socket.socket_mut().bind_auto()?;
        GROUPS.iter().try_for_each(|group| socket.socket_mut().add_membership(*group))?;
        Ok(Self { socket, received: Vec::with_capacity(LONGEST_EVENT) })
    }

    /// The changes of the next datagram. Cancel-safe.
    pub async fn next(&mut self) -> io::Result<Vec<ForeignChange>> {
        self.received.clear();
        match poll_fn(|context| self.socket.poll_recv_from(context, &mut self.received)).await {
            Ok(_) => Ok(messages_of(&self.received, |_| true).filter_map(|message| change(message.payload)).collect()),
            Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => Ok(vec![ForeignChange::Lost]),
            Err(error) => Err(error),
        }
    }
}

fn change(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<ForeignChange> {
    use RouteNetlinkMessage::{DelNeighbour, DelRoute, NewNeighbour, NewRoute};
    let NetlinkPayload::InnerMessage(message) = payload else { return None };
    match message {
        NewRoute(route) | DelRoute(route) => {
            let (key, is_ours) = (wire::route_key(&route)?, wire::is_our_route(&route));
            Some(ForeignChange::Route { key, is_ours })
        }
        NewNeighbour(neighbour) => {
            let key = wire::read_neighbour_key(&neighbour)?;
            Some(ForeignChange::Neighbour { key, now: Some(Box::new(neighbour)) })
        }
        DelNeighbour(neighbour) => {
            Some(ForeignChange::Neighbour { key: wire::read_neighbour_key(&neighbour)?, now: None })
        }
        _ => None,
    }
}

/// Makes the kernel filter out events that do not concern us: a BGP daemon may change 100,000 routes, and our own
/// changes would come back. Routes that the kernel changes by itself (author 0) are filtered out as well: they follow
/// the state of an interface, after which the agent audits its routes anyway.
///
/// A classic BPF program on `struct nlmsghdr` (16 bytes) and `struct rtmsg` (12 bytes). Loads convert from network byte
/// order. `SKF_AD_NLATTR` finds the attribute of type X from offset A on (`net/core/filter.c`).
fn select(socket: &Socket, own_port: u32) -> io::Result<()> {
    const LOAD: u16 = 0x00;
    const LOAD_X: u16 = 0x01;
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD_FROM_X: u16 = 0x40;
    const A_TO_X: u16 = 0x07;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const FIND_ATTRIBUTE: u32 = 0xffff_f000 + 12;
    const MESSAGE_TYPE: u32 = 4;
    const PORT: u32 = 12;
    const ROUTE_PROTOCOL: u32 = 16 + 5;
    const ATTRIBUTES: u32 = 16 + 12;
    const ATTRIBUTE_HEADER: u32 = 4;
    const RTA_PRIORITY: u32 = 6;
    const RTM_NEWNEIGH: u16 = 28;
    const RTM_DELNEIGH: u16 = 29;
    // (operation, jump if equal, jump if not, operand); jumps count from the next instruction.
    let program = [
        SockFilter::new(LOAD_HALF, 0, 0, MESSAGE_TYPE),
        SockFilter::new(JUMP_EQUAL, 16, 0, RTM_NEWNEIGH.to_be().into()),
        SockFilter::new(JUMP_EQUAL, 15, 0, RTM_DELNEIGH.to_be().into()),
        SockFilter::new(LOAD_WORD, 0, 0, PORT),
        SockFilter::new(JUMP_EQUAL, 14, 0, own_port.to_be()),
        SockFilter::new(JUMP_EQUAL, 13, 0, 0),
        SockFilter::new(LOAD_BYTE, 0, 0, ROUTE_PROTOCOL),
        SockFilter::new(JUMP_EQUAL, 10, 0, PROTOCOL.into()),
        SockFilter::new(JUMP_EQUAL, 9, 0, INTERNAL_PROTOCOL.into()),
        SockFilter::new(LOAD_X, 0, 0, RTA_PRIORITY),
        SockFilter::new(LOAD, 0, 0, ATTRIBUTES),
        SockFilter::new(LOAD_WORD, 0, 0, FIND_ATTRIBUTE),
        SockFilter::new(A_TO_X, 0, 0, 0),
        SockFilter::new(LOAD_WORD_FROM_X, 0, 0, ATTRIBUTE_HEADER),
        SockFilter::new(JUMP_EQUAL, 3, 0, METRIC.to_be()),
        SockFilter::new(JUMP_EQUAL, 2, 0, INTERNAL_METRIC.to_be()),
        SockFilter::new(JUMP_EQUAL, 1, 0, BACKSTOP_METRIC.to_be()),
        SockFilter::new(JUMP_EQUAL, 0, 1, OWN_PREFIX_METRIC.to_be()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ];
    SockRef::from(socket).attach_filter(&program)
}
