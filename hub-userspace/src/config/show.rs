//! The configuration in force as the text of a configuration file: all keys, with each object's origin as a comment.

use std::{fmt::Write as _, time::Duration};

use ipnet::IpNet;

use super::{
    diagnostic::join,
    health_check,
    ipsec::{Auth, IkeV1Mode, IkeVersion, InterfaceMtu, Ipsec},
    model::{
        Config, Connection, CustomerGateway, Learn, LookupKind, Metrics, MssClamp, OnStop, ReversePath, Route,
        SelectorSource, Underlay,
    },
    policy_routes::PolicyRoute,
    provenance::Origin,
    segments::Segment,
    translate::Translation,
    tunnels::{connection_of, connection_text},
};
use crate::store::ObjectId;

/// The whole configuration; the text loads as a file again.
pub fn show(config: &Config) -> String {
    let mut text = settings(config);
    for (name, found) in &config.segments {
        section(&mut text, &config.provenance.segment(name), |text| segment(text, name, found));
    }
    for (name, gateway) in &config.customer_gateways {
        section(&mut text, &config.provenance.customer_gateway(name), |text| customer_gateway(text, name, gateway));
    }
    let connections = config.provenance.connections.iter();
    for name in connections {
        let members: Vec<_> = config.members(name).collect();
        if !members.is_empty() {
            section(&mut text, &config.provenance.connection(name), |text| connection_text(text, name, &members));
        }
    }
    for (index, found) in config.routes.iter().enumerate() {
        section(&mut text, &config.provenance.route(index), |text| route(text, found));
    }
    for (index, found) in config.policy_routes.iter().enumerate() {
        section(&mut text, &config.provenance.policy_route(index), |text| policy_route(text, found));
    }
    text
}

/// The origin of one object in force, and the text of its section.
pub fn show_object(config: &Config, id: &ObjectId) -> Option<(Origin, String)> {
    let mut text = String::new();
    let origin = match id {
        ObjectId::Segment(name) => {
            segment(&mut text, name, config.segments.get(name)?);
            config.provenance.segment(name)
        }
        ObjectId::CustomerGateway(name) => {
            customer_gateway(&mut text, name, config.customer_gateways.get(name)?);
            config.provenance.customer_gateway(name)
        }
        ObjectId::Connection(name) => {
            let members: Vec<_> = config.members(name).filter(|(member, _)| connection_of(member) == name).collect();
            members.first()?;
            connection_text(&mut text, name, &members);
            config.provenance.connection(name)
        }
        ObjectId::Route((destination, next_hop)) => {
            let is_it = |route: &Route| route.destination == *destination && route.next_hop == *next_hop;
            let index = config.routes.iter().position(is_it)?;
            route(&mut text, &config.routes[index]);
            config.provenance.route(index)
        }
        ObjectId::PolicyRoute(id) => {
            let index = config.policy_routes.iter().position(|route| route.id() == *id)?;
            policy_route(&mut text, &config.policy_routes[index]);
            config.provenance.policy_route(index)
        }
    };
    Some((origin, text))
}

fn section(text: &mut String, origin: &Origin, write: impl FnOnce(&mut String)) {
    let _ = writeln!(text, "\n# {}", one_line(&origin.to_string()));
    write(text);
}

/// Replaces control characters: a line break would end the comment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A line `key = value`; the value is TOML.
fn key(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{name} = {value}");
}

/// A quoted TOML string.
pub(super) fn string<T: ToString + ?Sized>(value: &T) -> String {
    toml::Value::String(value.to_string()).to_string()
}

pub(super) fn strings<'a, T: ToString + 'a>(values: impl IntoIterator<Item = &'a T>) -> String {
    format!("[{}]", values.into_iter().map(string).collect::<Vec<_>>().join(", "))
}

/// In seconds, with nanoseconds if necessary.
pub(super) fn time(duration: Duration) -> String {
    let fraction = format!("{:09}", duration.subsec_nanos());
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    format!("\"{}{dot}{fraction}s\"", duration.as_secs())
}

fn settings(config: &Config) -> String {
    let gateway = &config.gateway;
    let mut text = format!("# {}\n[gateway]\n", one_line(&config.provenance.main()));
    key(&mut text, "name", string(&gateway.name));
    key(&mut text, "max_connections", gateway.max_connections);
    key(&mut text, "max_policy_routes", gateway.max_policy_routes);
    key(&mut text, "spoke_to_spoke", gateway.spoke_to_spoke);
    key(&mut text, "allow_default_route", gateway.allow_default_route);
    if let Some(address) = gateway.address {
        key(&mut text, "address", string(&address));
    }
    key(&mut text, "vici_socket", string(&gateway.vici_socket.display()));
    key(&mut text, "services", strings(&gateway.services));
    key(&mut text, "role_at_boot", string(&gateway.role_at_boot));
    let dataplane = &config.dataplane;
    text.push_str("\n[dataplane]\n");
    key(
        &mut text,
        "lookup",
        string(match dataplane.lookup {
            LookupKind::Compiled => "compiled",
            LookupKind::Lpm => "lpm",
        }),
    );
    key(&mut text, "lookup_memory", dataplane.lookup_memory);
    key(
        &mut text,
        "on_stop",
        string(match dataplane.on_stop {
            OnStop::Keep => "keep",
            OnStop::Detach => "detach",
        }),
    );
    key(&mut text, "mark", format!("\"{:#x}/{:#x}\"", dataplane.mark.flag, dataplane.mark.mask));
    if let Some(Metrics { listen }) = &config.metrics {
        text.push_str("\n[metrics]\n");
        key(&mut text, "listen", string(listen));
    }
    if let Some(Learn { table, protocols, max_per_connection }) = &config.learn {
        text.push_str("\n[learn]\n");
        key(&mut text, "table", table);
        key(&mut text, "protocols", strings(protocols));
        key(&mut text, "max_per_connection", max_per_connection);
    }
    if let Some(vpc) = &config.vpc {
        text.push_str("\n[vpc]\n");
        key(&mut text, "interface", string(&vpc.interface));
        key(&mut text, "cidrs", strings(&vpc.cidrs));
        key(&mut text, "publish_table", vpc.publish_table);
    }
    for (name, Underlay { spread }) in &config.underlays {
        let _ = writeln!(text, "\n[{}]", join("underlay", name));
        key(&mut text, "spread", string(spread.name()));
    }
    text
}

fn segment(text: &mut String, name: &str, segment: &Segment) {
    let Segment { reaches } = segment;
    let _ = writeln!(text, "[{}]", join("segment", name));
    key(text, "reaches", strings(reaches));
}

fn customer_gateway(text: &mut String, name: &str, gateway: &CustomerGateway) {
    let CustomerGateway { address } = gateway;
    let _ = writeln!(text, "[{}]", join("customer_gateway", name));
    key(text, "address", string(address));
}

/// The section of a connection. With tunnels: whether it has a customer gateway, and the text of the tunnels.
pub(super) fn connection(text: &mut String, name: &str, connection: &Connection, tunnels: Option<(bool, &str)>) {
    let Connection {
        customer_gateway,
        segment,
        enabled,
        interface,
        peer,
        local_cidrs,
        remote_cidrs,
        translate,
        health_check,
        up_delay,
        ipsec,
        selectors,
        reverse_path,
        mss_clamp,
        tunnel_weight: _,
    } = connection;
    let path = join("connection", name);
    let _ = writeln!(text, "[{path}]");
    if tunnels.is_none_or(|(has_gateway, _)| has_gateway) {
        key(text, "customer_gateway", string(customer_gateway));
    }
    key(text, "segment", string(segment));
    key(text, "enabled", enabled);
    match tunnels {
        Some((_, tunnels)) => text.push_str(tunnels),
        None => key(text, "interface", string(interface)),
    }
    if let Some(peer) = peer {
        key(text, "peer", string(peer));
    }
    let cidrs = |cidrs: &[IpNet]| strings(cidrs);
    key(text, "local_cidrs", cidrs(local_cidrs));
    key(text, "remote_cidrs", cidrs(remote_cidrs));
    if !translate.is_empty() {
        let tables = translate.iter().map(|Translation { site, hub }| {
            let (site, hub) = (string(site), string(hub));
            format!("{{ site = {site}, hub = {hub} }}")
        });
        key(text, "translate", format!("[{}]", tables.collect::<Vec<_>>().join(", ")));
    }
    if let Some(check) = health_check {
        key(text, "health_check", health_check::text(check));
    }
    key(text, "up_delay", time(*up_delay));
    key(
        text,
        "selectors",
        string(match selectors {
            SelectorSource::File => "file",
            SelectorSource::Ike => "ike",
            SelectorSource::Xfrm => "xfrm",
        }),
    );
    key(
        text,
        "reverse_path",
        string(match reverse_path {
            ReversePath::Strict => "strict",
            ReversePath::Off => "off",
        }),
    );
    match mss_clamp {
        MssClamp::Auto => key(text, "mss_clamp", string("auto")),
        MssClamp::Off => key(text, "mss_clamp", string("off")),
        MssClamp::Bytes(bytes) => key(text, "mss_clamp", bytes),
    }
    if let Some(found) = ipsec {
        let _ = writeln!(text, "\n[{path}.ipsec]");
        ipsec_keys(text, found);
    }
}

fn ipsec_keys(text: &mut String, ipsec: &Ipsec) {
    let Ipsec { auth, local_id, remote_id, start, encap, if_id, create_interface, dpd_delay, ike, esp } = ipsec;
    match auth {
        Auth::Psk { file } => key(text, "psk_file", string(&file.display())),
        Auth::Certificate { certificate, private_key, ca } => {
            key(text, "certificate", string(&certificate.display()));
            key(text, "private_key", string(&private_key.display()));
            if let Some(ca) = ca {
                key(text, "ca", string(&ca.display()));
            }
        }
    }
    if let Some(id) = local_id {
        key(text, "local_id", string(id));
    }
    if let Some(id) = remote_id {
        key(text, "remote_id", string(id));
    }
    key(text, "start", string(start.name()));
    if let Some(id) = if_id {
        key(text, "if_id", id);
    }
    if let Some(interface) = create_interface {
        key(text, "create_interface", true);
        match interface.mtu {
            InterfaceMtu::Auto => key(text, "interface_mtu", string("auto")),
            InterfaceMtu::Bytes(bytes) => key(text, "interface_mtu", bytes),
        }
    }
    key(text, "encap", encap);
    key(text, "dpd_delay", time(*dpd_delay));
    if ipsec.is_weak() {
        key(text, "allow_weak", true);
    }
    let (version, mode) = match ike.version {
        IkeVersion::V2 => ("2", ""),
        IkeVersion::V1(IkeV1Mode::Main) => ("1", ", mode = \"main\""),
        IkeVersion::V1(IkeV1Mode::Aggressive) => ("1", ", mode = \"aggressive\""),
    };
    let (proposals, lifetime) = (strings(&ike.proposals), time(ike.lifetime));
    key(text, "ike", format!("{{ version = {version}{mode}, proposals = {proposals}, lifetime = {lifetime} }}"));
    let (proposals, lifetime, pfs) = (strings(&esp.proposals), time(esp.lifetime), ipsec.has_pfs());
    let per_cpu = if esp.per_cpu_sas { ", per_cpu_sas = true" } else { "" };
    key(text, "esp", format!("{{ proposals = {proposals}, lifetime = {lifetime}, pfs = {pfs}{per_cpu} }}"));
}

fn route(text: &mut String, route: &Route) {
    let Route { destination, next_hop, weight, publish } = route;
    text.push_str("[[route]]\n");
    key(text, "destination", string(destination));
    key(text, "next_hop", string(next_hop));
    key(text, "weight", weight);
    key(text, "publish", publish);
}

fn policy_route(text: &mut String, route: &PolicyRoute) {
    let PolicyRoute { source, destination, next_hop, priority, weight, publish } = route;
    text.push_str("[[policy_route]]\n");
    key(text, "source", string(source));
    key(text, "destination", string(destination));
    key(text, "next_hop", string(next_hop));
    key(text, "priority", priority);
    key(text, "weight", weight);
    key(text, "publish", publish);
}
