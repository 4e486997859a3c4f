//! Listens for replies to the probes of checks that have lost some: on other interfaces, from other addresses, or dropped.
//!
//! The program's records of packets have what it drops and passes on its attachments, and a packet socket has what reaches
//! the kernel on any interface. Nothing is sent: the agent's own probes draw the replies.

use std::{cell::RefCell, collections::BTreeSet, net::IpAddr, time::Duration};

use rustix::net::{AddressFamily, SocketType, netdevice::index_to_name, socket};
use tokio::time::{Instant, timeout_at};

use crate::{
    api::{Client, PacketQuery},
    api_types::{
        packet::{PacketEvent, PacketLine, PacketLink, PacketVerdict},
        status::{ConnectionStatus, Health, Status},
    },
    connection::state::State,
    diagnose::facts::{Facts, StrayReply},
    health::{ProbeReply, ReplyListener, probe_reply},
    trace::hex,
};

/// Longest time to listen: checks with a longer interval may send no probe meanwhile.
const MOST: Duration = Duration::from_secs(5);
/// For the reply to the last probe of an interval.
const ROUND_TRIP: Duration = Duration::from_millis(500);
/// Bytes of a packet: those of a reply to a probe behind Ethernet and VLAN headers.
const SNAPLEN: u32 = 128;
/// ICMP and `ICMPv6`.
const PROTOCOLS: [u8; 2] = [1, 58];

/// A check that has lost probes.
struct Check<'a> {
    connection: &'a str,
    interface: &'a str,
    source: IpAddr,
    destinations: &'a [IpAddr],
    /// ICMP identifiers of its probes.
    identifiers: BTreeSet<u16>,
}

/// Empty at once if no check has lost a probe lately. Otherwise it listens for an interval of the slowest check, at most 5
/// seconds.
pub async fn stray_replies(client: &Client, facts: &Facts, status: &Status) -> BTreeSet<StrayReply> {
    let Some(config) = &facts.config else { return BTreeSet::new() };
    let members = status.connections.iter().flat_map(ConnectionStatus::members);
    let losing = members.filter(|member| {
        let health = member.health.as_ref();
        member.state != State::AdminDown && health.is_some_and(|health| health.recent_lost > 0 || !health.healthy)
    });
    let (mut checks, mut interval) = (Vec::new(), Duration::ZERO);
    for member in losing {
        let connection = config.config.connections.get(&member.name);
        let Some(check) = connection.and_then(|connection| connection.health_check.as_ref()) else { continue };
        let (connection, interface) = (member.name.as_str(), member.interface.as_str());
        let identifiers = member.health.iter().flat_map(Health::identifiers).collect();
        checks.push(Check {
            connection,
            interface,
            source: check.source,
            destinations: &check.destinations,
            identifiers,
        });
        interval = interval.max(check.interval);
    }
    if checks.is_empty() {
        return BTreeSet::new();
    }
    let deadline = Instant::now() + (interval + ROUND_TRIP).min(MOST);
    let found = RefCell::new(BTreeSet::new());
    let has = |is_ipv6: bool| checks.iter().any(|check| check.source.is_ipv6() == is_ipv6);
    let of_program = async {
        let [v4, v6] = PROTOCOLS.map(|protocol| dropped_or_passed(client, protocol, &checks, &found, deadline));
        tokio::join!(when(has(false), v4), when(has(true), v6));
    };
    let of_kernel = async {
        // The interfaces of another namespace are none of the agent's.
        let is_here = facts.host.network.is_some();
        let [v4, v6] = [false, true].map(|is_ipv6| arriving(is_ipv6, &checks, &found, deadline));
        tokio::join!(when(is_here && has(false), v4), when(is_here && has(true), v6));
    };
    tokio::join!(of_program, of_kernel);
    let found: BTreeSet<StrayReply> = found.into_inner();
    // The program has passed what the kernel has received; of a drop only the program has a record.
    let is_dropped =
        |reply: &StrayReply| found.contains(&StrayReply { dropped: None, ..reply.clone() }) && reply.dropped.is_some();
    found.iter().filter(|reply| !is_dropped(reply)).cloned().collect()
}

async fn when(condition: bool, work: impl Future<Output = ()>) {
    if condition {
        work.await;
    }
}

/// Reads the program's records. Without the permission, or with too many listeners, there are none.
async fn dropped_or_passed(
    client: &Client,
    protocol: u8,
    checks: &[Check<'_>],
    found: &RefCell<BTreeSet<StrayReply>>,
    deadline: Instant,
) {
    let query = PacketQuery { protocol: Some(protocol), snaplen: Some(SNAPLEN), ..PacketQuery::default() };
    let handle = |line: &PacketLine| {
        if let PacketLine::Packet(packet) = line
            && let Some(reply) = packet_reply(packet)
        {
            let dropped = packet.reason.clone().filter(|_| packet.verdict == PacketVerdict::Drop);
            note(checks, reply, &packet.interface, dropped.as_deref(), found);
        }
        Ok(true)
    };
    // It ends at the deadline.
    drop(timeout_at(deadline, client.packets(&query, || Ok(()), handle)).await);
}

/// The reply in a record.
fn packet_reply(packet: &PacketEvent) -> Option<ProbeReply> {
    const ADDRESSES: usize = 12;
    const TYPE: usize = 2;
    const TAG: usize = 4;
    let bytes = hex::decode(&packet.bytes)?;
    let mut at = 0;
    if packet.link == PacketLink::Ethernet {
        at = ADDRESSES;
        while matches!(bytes.get(at..at + TYPE)?, [0x81, 0x00] | [0x88, 0xa8]) {
            at += TAG;
        }
        at += TYPE;
    }
    probe_reply(bytes.get(at..)?)
}

/// Reads replies on all interfaces. Without the permission there are none.
async fn arriving(is_ipv6: bool, checks: &[Check<'_>], found: &RefCell<BTreeSet<StrayReply>>, deadline: Instant) {
    let (Ok(listener), Ok(names)) =
        (ReplyListener::open(is_ipv6), socket(AddressFamily::INET, SocketType::DGRAM, None))
    else {
        return;
    };
    while let Ok(Ok((reply, ifindex))) = timeout_at(deadline, listener.next()).await {
        // The interface may be gone by now.
        if let Ok(interface) = index_to_name(&names, ifindex) {
            note(checks, reply, &interface, None, found);
        }
    }
}

/// Records a reply, unless it is as it should be or belongs to none of the checks.
fn note(
    checks: &[Check<'_>],
    reply: ProbeReply,
    interface: &str,
    dropped: Option<&str>,
    found: &RefCell<BTreeSet<StrayReply>>,
) {
    let ProbeReply { source, destination, identifier } = reply;
    let is_its = |check: &&Check<'_>| check.source == destination && check.identifiers.contains(&identifier);
    for check in checks.iter().filter(is_its) {
        let is_expected = check.destinations.contains(&source) && check.interface == interface;
        if !is_expected || dropped.is_some() {
            found.borrow_mut().insert(StrayReply {
                connection: check.connection.to_owned(),
                source,
                destination,
                interface: interface.to_owned(),
                dropped: dropped.map(str::to_owned),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 0, 1));
    const PROBED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 2));

    #[test]
    fn only_replies_that_are_wrong_are_noted() {
        let (connection, interface, identifiers) = ("a", "tun-a", [3].into());
        let checks = [Check { connection, interface, source: SOURCE, destinations: &[PROBED], identifiers }];
        for (source, destination, identifier, interface, dropped, is_stray) in [
            (PROBED, SOURCE, 3, "tun-a", None, false),
            (PROBED, SOURCE, 3, "tun-a", Some("spoofed_source"), true),
            (PROBED, SOURCE, 3, "eth0", None, true),
            (PROBED, SOURCE, 3, "tun-b", Some("spoofed_source"), true),
            (OTHER, SOURCE, 3, "tun-a", None, true),
            (OTHER, SOURCE, 3, "tun-b", None, true),
            // Those of the check of another connection with the same addresses.
            (PROBED, SOURCE, 4, "tun-b", None, false),
            (PROBED, OTHER, 3, "eth0", None, false),
        ] {
            let found = RefCell::default();
            note(&checks, ProbeReply { source, destination, identifier }, interface, dropped, &found);
            let shown = format!("{source} {destination} {identifier} {interface} {dropped:?}");
            assert_eq!(!found.into_inner().is_empty(), is_stray, "{shown}");
        }
    }

    #[test]
    fn reply_is_found_behind_link_headers() {
        let reply = |link: PacketLink, header: &str| {
            // 192.168.0.1 <- 10.1.0.1, identifier 3, 20 bytes.
            let ip = "4500003000004000400170220a010001c0a80001";
            let icmp = format!("0000fffb{}{}", "00030001", "00".repeat(20));
            let packet = PacketEvent {
                time: 0.0,
                verdict: PacketVerdict::Drop,
                reason: None,
                connection: None,
                next_hop: None,
                interface: String::new(),
                link,
                source: None,
                destination: None,
                protocol: None,
                source_port: None,
                destination_port: None,
                length: 0,
                bytes: format!("{header}{ip}{icmp}"),
            };
            packet_reply(&packet)
        };
        let expected = Some(ProbeReply { source: PROBED, destination: SOURCE, identifier: 3 });
        let addresses = "02".repeat(12);
        for (link, header) in [
            (PacketLink::Raw, String::new()),
            (PacketLink::Ethernet, format!("{addresses}0800")),
            (PacketLink::Ethernet, format!("{addresses}810000010800")),
            (PacketLink::Ethernet, format!("{addresses}88a80001810000010800")),
        ] {
            assert_eq!(reply(link, &header), expected, "{header}");
        }
        assert_eq!(reply(PacketLink::Raw, "00"), None);
    }
}
