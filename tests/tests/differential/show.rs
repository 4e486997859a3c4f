//! Formats a world briefly.

use std::fmt::Write as _;

use hub_tests::{
    lab::Mac,
    model::{Pair, ReversePath, World},
};

pub fn world(world: &World) -> String {
    let mut text = String::new();
    write(&mut text, world).expect("a string takes all");
    text
}

fn write(text: &mut String, world: &World) -> std::fmt::Result {
    writeln!(text, "spoke_to_spoke {}", world.spoke_to_spoke)?;
    for segment in &world.segments {
        writeln!(text, "segment {} reaches {:?}", segment.name, segment.reaches)?;
    }
    for link in &world.interfaces {
        write!(text, "interface {} {} mtu {}", link.index, link.name, link.mtu)?;
        write!(text, " {}", if link.ethernet { Mac(link.mac).to_string() } else { "raw".into() })?;
        write!(text, "{}", if link.up { "" } else { " down" })?;
        link.vlan.iter().try_for_each(|(below, id)| write!(text, " vlan {id} of {below}"))?;
        link.addresses.iter().try_for_each(|own| write!(text, " {own}"))?;
        link.gateways.iter().try_for_each(|(prefix, via)| write!(text, " [{prefix} via {via}]"))?;
        link.neighbours.iter().try_for_each(|(address, mac)| write!(text, " {address}={}", Mac(*mac)))?;
        writeln!(text)?;
    }
    world.vpc.iter().try_for_each(|vpc| writeln!(text, "vpc {} {:?}", vpc.interface, vpc.cidrs))?;
    for connection in &world.connections {
        write!(text, "connection {} on {}", connection.name, connection.interface)?;
        write!(text, "{}", if connection.up { "" } else { " down" })?;
        connection.tunnel_weight.iter().try_for_each(|weight| write!(text, " tunnel weight {weight}"))?;
        write!(text, "{}", if connection.reverse_path == ReversePath::Off { " reverse path off" } else { "" })?;
        connection.segment.iter().try_for_each(|segment| write!(text, " segment {segment}"))?;
        write!(text, " MSS {:?}", connection.mss_clamp)?;
        connection.peer.iter().try_for_each(|peer| write!(text, " peer {peer}"))?;
        writeln!(text, " remotes {:?} locals {:?}", connection.remotes, connection.locals)?;
        if !connection.translations.is_empty() {
            writeln!(text, "  translations {:?}", connection.translations)?;
        }
        if let Some(agreement) = &connection.agreement {
            writeln!(text, "  SAs{}", if agreement.on_demand { ", more on demand" } else { "" })?;
        }
        for pair in connection.agreement.iter().flat_map(|agreement| &agreement.pairs) {
            let Pair { remote, local, protocol, remote_ports, local_ports } = pair;
            writeln!(text, "  {remote} {remote_ports:?} === {local} {local_ports:?} protocol {protocol:?}")?;
        }
    }
    for route in &world.routes {
        writeln!(text, "route {} -> {} weight {}", route.destination, route.next_hop, route.weight)?;
    }
    for route in &world.policy_routes {
        write!(text, "policy {} {} -> {} -> {}", route.priority, route.source, route.destination, route.next_hop)?;
        writeln!(text, " weight {}", route.weight)?;
    }
    Ok(())
}
