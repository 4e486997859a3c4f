//! What the kernel does with a packet that the program passes to it.

use std::collections::BTreeSet;

use hub_common::{Mark, Reason};

use super::{
    packet::{ICMP, ICMPV6, Ip, TCP, Transport, UDP},
    prepare::Prepared,
    report::name,
};
use crate::{api_types::trace::SlowPath, config::model::Service, datapath::TraceRun};

/// The meaning of the mark: see [`hub_common::mark`].
pub fn slow_path(prepared: &Prepared, run: &TraceRun) -> SlowPath {
    let Prepared { config, explanation, frame, .. } = prepared;
    let mark = config.dataplane.mark;
    let bits = run.mark & mark.mask;
    let answer = |next_hop: &str| match run.reason {
        Some(Reason::TtlExpired) => "the kernel answers \"time exceeded\"".to_owned(),
        Some(Reason::TooBig) => format!("the kernel fragments it towards {next_hop}, or answers \"packet too big\""),
        Some(Reason::NextHopDown) => "the kernel answers \"unreachable\"".to_owned(),
        Some(Reason::NoNeighbour) => {
            format!("the kernel resolves the neighbour and forwards it, only to next hop {next_hop}")
        }
        _ => format!("the kernel forwards it, only to next hop {next_hop}"),
    };
    let number = next_hop_of(mark, bits);
    let (meaning, next_hop) = match number {
        _ if bits == 0 => {
            ("the kernel may take it for itself or forward it by its own routes, never to a site".to_owned(), None)
        }
        _ if bits == mark.local() => {
            let service = match (run.reason, &frame.ip) {
                (Some(Reason::ToHub), Some(ip)) => of_service(&config.gateway.services, ip),
                _ => "",
            };
            (format!("only for the hub itself: the kernel never forwards it{service}"), None)
        }
        Some(Mark::NO_ROUTE) => ("the kernel answers \"unreachable\" and never forwards it".to_owned(), None),
        Some(slot) => {
            let name = name(explanation, slot);
            (answer(&name), Some(name))
        }
        None => ("unknown mark".to_owned(), None),
    };
    SlowPath { mark: format!("{bits:#010x}"), meaning, next_hop }
}

fn next_hop_of(mark: Mark, bits: u32) -> Option<u32> {
    (0..mark.numbers()).find(|number| mark.numbered(*number) == bits)
}

/// Whether the nftables table lets a packet from a site reach a service of the hub.
fn of_service(services: &BTreeSet<Service>, ip: &Ip) -> &'static str {
    let Transport { protocol, ports } = ip.transport();
    let service = match (protocol, ports) {
        (ICMP | ICMPV6, _) => Some(Service::Icmp),
        (TCP, Some((_, port))) => Some(Service::Tcp(port)),
        (UDP, Some((_, port))) => Some(Service::Udp(port)),
        _ => None,
    };
    match service.is_some_and(|service| services.contains(&service)) {
        true => "; `services` admits it",
        false => "; `services` does not admit it, so it is dropped unless it answers the hub's own traffic",
    }
}

/// The slot of the next hop in the mark of a passed packet.
pub fn marked_next_hop(mark: Mark, run: &TraceRun) -> Option<u32> {
    let bits = run.mark & mark.mask;
    next_hop_of(mark, bits).filter(|number| bits != 0 && bits != mark.local() && *number != Mark::NO_ROUTE)
}
