//! Routes and next hop objects in netlink messages: `net/ipv4/fib_semantics.c` (`fib_dump_info`), `net/ipv6/route.c`
//! (`rt6_fill_node`), `net/ipv4/nexthop.c` (`nh_fill_node`). Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_core::{NLM_F_APPEND, NLM_F_REPLACE};

use super::table::{KernelHop, NextHopObject, RouteVia};
use crate::kernel::netlink::{
    attributes::{attributes, number16, number32},
    is_ours,
    socket::RawMessage,
};

pub const RTM_NEWROUTE: u16 = 24;
pub const RTM_DELROUTE: u16 = 25;
pub const RTM_GETROUTE: u16 = 26;
pub const RTM_NEWNEXTHOP: u16 = 104;
pub const RTM_DELNEXTHOP: u16 = 105;
pub const RTM_GETNEXTHOP: u16 = 106;
pub const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;

/// `struct rtmsg`.
const ROUTE_HEADER: usize = 12;
/// `struct nhmsg`.
const OBJECT_HEADER: usize = 8;
/// `struct rtnexthop`.
const HOP_HEADER: usize = 8;
/// `RTNH_F_DEAD`: the kernel does not use this next hop.
const DEAD: u32 = 1;

/// A change of a route or of a next hop object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableEvent {
    Route {
        route: KernelTableRoute,
        change: RouteEventKind,
    },
    /// `None`: deleted.
    Object(u32, Option<NextHopObject>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteEventKind {
    Added,
    /// In place of another route with this prefix and metric, if there is one.
    Replaced,
    /// After other routes with this prefix and metric.
    Appended,
    Deleted,
}

/// A route of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelTableRoute {
    pub prefix: IpNet,
    /// `RTA_PRIORITY`: the lowest of a prefix is in force.
    pub metric: u32,
    /// `rtm_protocol`.
    pub protocol: u8,
    pub via: RouteVia,
}

/// The change in an event or a dump; `None` for another table, and for routes that do not match by destination alone.
pub fn table_event(message: RawMessage<'_>, table: u32) -> Option<TableEvent> {
    let RawMessage { kind, flags, payload, .. } = message;
    match kind {
        RTM_NEWROUTE | RTM_DELROUTE => {
            let change = match kind {
                RTM_DELROUTE => RouteEventKind::Deleted,
                _ if flags & NLM_F_REPLACE != 0 => RouteEventKind::Replaced,
                _ if flags & NLM_F_APPEND != 0 => RouteEventKind::Appended,
                _ => RouteEventKind::Added,
            };
            Some(TableEvent::Route { route: route(payload, table)?, change })
        }
        RTM_NEWNEXTHOP => object(payload).map(|(id, object)| TableEvent::Object(id, Some(object))),
        RTM_DELNEXTHOP => object(payload).map(|(id, _)| TableEvent::Object(id, None)),
        _ => None,
    }
}

/// The request for a table's routes of a family: header and attributes.
pub fn routes_of(family: u8, table: u32) -> Vec<u8> {
    const RTA_TABLE: u16 = 15;
    let mut request = vec![0; ROUTE_HEADER];
    request[0] = family;
    request.extend(8_u16.to_ne_bytes());
    request.extend(RTA_TABLE.to_ne_bytes());
    request.extend(table.to_ne_bytes());
    request
}

/// The request for all next hop objects: its header.
pub fn all_objects() -> Vec<u8> {
    vec![0; OBJECT_HEADER]
}

fn route(payload: &[u8], table: u32) -> Option<KernelTableRoute> {
    const RTM_F_CLONED: u32 = 0x200;
    const RTN_UNICAST: u8 = 1;
    let &[family, length, source_length, tos, header_table, protocol, _scope, kind] = payload.first_chunk()?;
    let flags = number32(payload, 8)?;
    // Routes by source or TOS match some packets to the destination only, cached ones are copies, and the agent's own have
    // metrics of their own.
    if source_length != 0 || tos != 0 || flags & RTM_F_CLONED != 0 || is_ours(protocol) {
        return None;
    }
    let (mut destination, mut metric, mut of_table) = (None, 0, u32::from(header_table));
    let (mut hop, mut hops, mut object) = (HopAttributes::default(), None, None);
    for (kind, value) in attributes(payload.get(ROUTE_HEADER..)?) {
        match kind {
            1 => destination = address(family, value),
            6 => metric = number32(value, 0)?,
            9 => hops = Some(multipath(family, value)),
            15 => of_table = number32(value, 0)?,
            30 => object = Some(number32(value, 0)?),
            _ => hop.note(family, kind, value),
        }
    }
    let unspecified = address(family, &[0; 16])?;
    let prefix = IpNet::new(destination.unwrap_or(unspecified), length).ok()?;
    if of_table != table {
        return None;
    }
    let hops = match hops {
        _ if kind != RTN_UNICAST => Vec::new(),
        Some(hops) => hops,
        None => hop.finish(flags, 1).into_iter().collect(),
    };
    let via = match object.filter(|id| *id != 0) {
        Some(id) => RouteVia::Object(id),
        None => RouteVia::Hops(hops.into()),
    };
    Some(KernelTableRoute { prefix, metric, protocol, via })
}

/// The usable next hops of `RTA_MULTIPATH`.
fn multipath(family: u8, value: &[u8]) -> Vec<KernelHop> {
    let (mut found, mut rest) = (Vec::new(), value);
    while let Some(length) = number16(rest, 0).map(usize::from).filter(|length| *length >= HOP_HEADER)
        && let Some(entry) = rest.get(..length)
    {
        let mut hop = HopAttributes { ifindex: number32(entry, 4), ..HopAttributes::default() };
        for (kind, value) in attributes(&entry[HOP_HEADER..]) {
            hop.note(family, kind, value);
        }
        // `rtnh_hops` is the weight less 1.
        found.extend(hop.finish(entry[2].into(), u16::from(entry[3]) + 1));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn object(payload: &[u8]) -> Option<(u32, NextHopObject)> {
    const NHA_ID: u16 = 1;
    const NHA_GROUP: u16 = 2;
    const NHA_BLACKHOLE: u16 = 4;
    const NHA_OIF: u16 = 5;
    const NHA_GATEWAY: u16 = 6;
    const NHA_ENCAP: u16 = 8;
    const NHA_FDB: u16 = 11;
    let (family, flags) = (*payload.first()?, number32(payload, 4)?);
    let (mut id, mut members, mut usable) = (None, None, true);
    let mut hop = HopAttributes::default();
    for (kind, value) in attributes(payload.get(OBJECT_HEADER..)?) {
        match kind {
            NHA_ID => id = number32(value, 0),
            // `struct nexthop_grp`: id, weight less 1, its high byte since Linux 6.12.
            NHA_GROUP => {
                let member = |entry: &[u8]| Some((number32(entry, 0)?, u16::from_le_bytes([entry[4], entry[5]])));
                let member = |entry: &[u8]| member(entry).map(|(id, weight)| (id, weight.saturating_add(1)));
                members = Some(value.chunks_exact(8).filter_map(member).collect());
            }
            NHA_OIF => hop.ifindex = number32(value, 0),
            NHA_GATEWAY => hop.via = address(family, value),
            NHA_BLACKHOLE | NHA_ENCAP | NHA_FDB => usable = false,
            _ => {}
        }
    }
    let object = match members {
        Some(members) => NextHopObject::Group(members),
        None => NextHopObject::Single(hop.finish(flags, 1).filter(|_| usable)),
    };
    Some((id?, object))
}

/// What the attributes of a route or of a part of `RTA_MULTIPATH` say about a next hop.
#[derive(Default)]
struct HopAttributes {
    ifindex: Option<u32>,
    via: Option<IpAddr>,
    encapsulates: bool,
}

impl HopAttributes {
    fn note(&mut self, family: u8, kind: u16, value: &[u8]) {
        const RTA_OIF: u16 = 4;
        const RTA_GATEWAY: u16 = 5;
        const RTA_VIA: u16 = 18;
        const RTA_ENCAP: u16 = 22;
        match kind {
            RTA_OIF => self.ifindex = number32(value, 0),
            RTA_GATEWAY => self.via = address(family, value),
            // `struct rtvia`: a family, and an address of it.
            RTA_VIA => {
                let family = number16(value, 0).and_then(|family| u8::try_from(family).ok());
                self.via = family.and_then(|family| address(family, value.get(2..)?));
            }
            RTA_ENCAP => self.encapsulates = true,
            _ => {}
        }
    }

    /// The next hop, if the kernel uses it and it changes no packet.
    fn finish(self, flags: u32, weight: u16) -> Option<KernelHop> {
        let ifindex = self.ifindex.filter(|_| flags & DEAD == 0 && !self.encapsulates)?;
        Some(KernelHop { ifindex, via: self.via, weight })
    }
}

/// An address in network byte order; longer values are truncated.
fn address(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => value.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        AF_INET6 => value.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}
