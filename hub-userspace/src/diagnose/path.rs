//! The MTU of the paths to the sites: what the kernel has learned from routers, or has by its routes. Pure.

use super::facts::{ConfigFacts, Facts, PathMtu};
use crate::{
    api_types::{
        diagnose::{Area, Code, Finding},
        status::{ConnectionStatus, FullStatus, OutsideStatus},
    },
    config::{
        ipsec::{InterfaceMtu, Ipsec},
        tunnels::is_meant,
    },
    connection::state::State,
    ipsec::mtu::{EspSizes, Outer, largest_packet},
};

/// Bytes of an IPv4 and a TCP header.
const HEADERS: u32 = 40;

/// Judges all connections, or the one with this name.
pub fn judge(facts: &Facts, FullStatus { status, .. }: &FullStatus, only: Option<&str>) -> Vec<Finding> {
    let Some(network) = &facts.host.network else { return Vec::new() };
    let members = status.connections.iter().flat_map(ConnectionStatus::members);
    let members = members.filter(|member| only.is_none_or(|only| is_meant(only, &member.name)));
    let mut findings = Vec::new();
    for member in members.filter(|member| member.state != State::AdminDown) {
        let Some(paths) = network.paths.get(&member.name) else { continue };
        let Some(tunnel) = network.interfaces.get(&member.interface) else { continue };
        let mtu = tunnel.link.mtu;
        let headers = facts.config.as_ref().and_then(|config| Headers::of(config, member, tunnel.link.kind.as_deref()));
        if let Some((path, headers)) = paths.outside.as_ref().zip(headers) {
            findings.push(outside(member, path, &headers, mtu));
        }
        findings.extend(paths.inside.as_ref().and_then(|path| inside(member, path)));
    }
    findings
}

/// What a tunnel adds to a packet.
struct Headers {
    kind: HeaderKind,
    /// The agent makes the interface, whose MTU the file has.
    is_managed: bool,
}

enum HeaderKind {
    /// The negotiated algorithms, or those that may be.
    Esp { sizes: Vec<EspSizes>, in_udp: bool },
    /// Bytes behind the outer IP header.
    Fixed(u32),
}

impl Headers {
    /// `None`: unknown, such as that of a link.
    fn of(config: &ConfigFacts, member: &ConnectionStatus, kind: Option<&str>) -> Option<Self> {
        let ipsec = config.config.connections.get(&member.name).and_then(|connection| connection.ipsec.as_ref());
        let outside = member.ipsec.as_ref().and_then(|ipsec| ipsec.outside.as_ref());
        if let Some(ipsec) = ipsec {
            return Some(Self { kind: esp(ipsec, outside), is_managed: ipsec.create_interface.is_some() });
        }
        let fixed = match kind? {
            // UDP, the message's header, and the authentication tag (drivers/net/wireguard/messages.h).
            "wireguard" => 8 + 16 + 16,
            // Without key, checksum and sequence number (RFC 2784).
            "gre" | "ip6gre" => 4,
            "ipip" | "sit" | "ip6tnl" => 0,
            _ => return None,
        };
        Some(Self { kind: HeaderKind::Fixed(fixed), is_managed: false })
    }

    /// The largest packet that fits a path with this MTU.
    fn largest(&self, mtu: u32, is_ipv6: bool) -> u32 {
        match &self.kind {
            HeaderKind::Esp { sizes, in_udp } => {
                let outer = Outer { mtu, is_ipv6, is_in_udp: *in_udp };
                sizes.iter().map(|esp| largest_packet(outer, *esp)).min().unwrap_or(mtu)
            }
            HeaderKind::Fixed(bytes) => mtu.saturating_sub(bytes + if is_ipv6 { 40 } else { 20 }),
        }
    }
}

fn esp(ipsec: &Ipsec, outside: Option<&OutsideStatus>) -> HeaderKind {
    let negotiated =
        outside.and_then(|outside| EspSizes::of_names(outside.encryption.as_deref()?, outside.integrity.as_deref()));
    let sizes = match negotiated {
        Some(esp) => vec![esp],
        None => ipsec.esp.proposals.iter().map(EspSizes::of_proposal).collect(),
    };
    HeaderKind::Esp { sizes, in_udp: outside.map_or(ipsec.encap, |outside| outside.in_udp) }
}

/// `mtu`: that of the tunnel's interface.
fn outside(member: &ConnectionStatus, path: &PathMtu, headers: &Headers, mtu: u32) -> Finding {
    let ConnectionStatus { name, interface: tunnel, .. } = member;
    let PathMtu { destination, interface, link, known } = path;
    let (area, code) = (Area::Connection, Code::PathMtu);
    let Some(known) = known.filter(|known| known < link) else {
        let message =
            format!("no router on the path to {destination} has reported an MTU below {link}, that of {interface}");
        return Finding::ok(area, name, code, message);
    };
    let fits = headers.largest(known, destination.is_ipv6());
    let carries = format!("the path to {destination} carries packets of {known} bytes, {interface} itself {link}");
    if mtu <= fits {
        let message = format!("{carries}; those of {tunnel}, with up to {mtu} bytes in the tunnel, fit");
        return Finding::ok(area, name, code, message);
    }
    let message = format!(
        "{carries}: {fits} bytes fit in the tunnel, and {tunnel} has an MTU of {mtu}; larger packets are fragmented, or \
         answered with \"fragmentation needed\""
    );
    let lower = match (fits < InterfaceMtu::LOWEST, headers.is_managed) {
        (true, _) => format!("no MTU that IPv6 permits, {} or more, fits", InterfaceMtu::LOWEST),
        (false, true) => format!("write interface_mtu = {fits} in the ipsec section of {name}"),
        (false, false) => format!("`ip link set {tunnel} mtu {fits}`"),
    };
    let action = format!("{lower}; `tracepath -n {destination}` shows the router that limits the path");
    Finding::warning(area, name, code, message, action)
}

/// A smaller MTU behind the tunnel.
fn inside(member: &ConnectionStatus, path: &PathMtu) -> Option<Finding> {
    let ConnectionStatus { name, interface: tunnel, .. } = member;
    let known = path.known.filter(|known| *known < path.link)?;
    let message = format!(
        "the path to {} in the tunnel carries packets of {known} bytes, and {tunnel} has an MTU of {}: a link behind the \
         tunnel is smaller",
        path.destination, path.link
    );
    let action = format!(
        "write mss_clamp = {} for {name}, so that TCP does not depend on \"fragmentation needed\" from the site",
        known.saturating_sub(HEADERS)
    );
    Some(Finding::warning(Area::Connection, name, Code::PathMtu, message, action))
}
