//! Filters of events in the kernel.

use std::io;

use rtnetlink::sys::Socket;
use socket2::{SockFilter, SockRef};

use crate::kernel::netlink::{INTERNAL_PROTOCOL, PROTOCOL};

/// `RT_TABLE_COMPAT`: `rtm_table` of a table whose number is in `RTA_TABLE` alone.
const TABLE_COMPAT: u8 = 252;

/// Makes the kernel filter out events of our own routes and of routes in other tables. We publish 100,000 routes at a
/// time, and each would return as an event. For a table above 255, routes of other such tables remain.
///
/// A classic BPF program on `struct nlmsghdr` (16 bytes) and the following `struct rtmsg`; loads convert from network
/// byte order. The kernel runs it as `sk_filter` in `do_one_broadcast`, `net/netlink/af_netlink.c`.
pub fn only_foreign_routes(socket: &Socket, table: u32) -> io::Result<()> {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const MESSAGE_TYPE: u32 = 4;
    const ROUTE_TABLE: u32 = 16 + 4;
    const ROUTE_PROTOCOL: u32 = 16 + 5;
    const RTM_NEWROUTE: u16 = 24;
    const RTM_DELROUTE: u16 = 25;
    let table = u8::try_from(table).unwrap_or(TABLE_COMPAT);
    // (operation, jump if equal, jump if not, operand); jumps count from the next instruction.
    let program = [
        SockFilter::new(LOAD_HALF, 0, 0, MESSAGE_TYPE),
        SockFilter::new(JUMP_EQUAL, 1, 0, RTM_NEWROUTE.to_be().into()),
        SockFilter::new(JUMP_EQUAL, 0, 5, RTM_DELROUTE.to_be().into()),
        SockFilter::new(LOAD_BYTE, 0, 0, ROUTE_TABLE),
        SockFilter::new(JUMP_EQUAL, 0, 4, table.into()),
        SockFilter::new(LOAD_BYTE, 0, 0, ROUTE_PROTOCOL),
        SockFilter::new(JUMP_EQUAL, 2, 0, PROTOCOL.into()),
        SockFilter::new(JUMP_EQUAL, 1, 0, INTERNAL_PROTOCOL.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ];
    SockRef::from(socket).attach_filter(&program)
}
