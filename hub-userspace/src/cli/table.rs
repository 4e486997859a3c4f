//! Status and routes as text tables.

use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use super::{cpu_table, policy_routes};
use crate::{
    api::{CustomerGatewayEntry, SegmentEntry, Shown},
    api_types::{
        event::ConnectionEvent,
        packet::{LeftOut, LeftOutCause, PacketEvent, PacketLine, PacketVerdict},
        status::{
            ChildStatus, ConnectionStatus, FullStatus, IpsecStatus, MetricsStatus, Reasons, RouteStatus,
            RunningConnectionStatus, Status, StoreStatus, Traffic, UnderlayStatus, WithoutAgent,
        },
    },
    config::{Confirmation, Role, SetAside},
    connection::state::{Health, State},
    store::audit::AuditEntry,
};

/// The whole status.
pub fn status(FullStatus { status, store, metrics }: &FullStatus) -> String {
    let mut connections =
        table(&["CONNECTION", "INTERFACE", "STATE", "ATTACH", "RX PKTS", "RX BYTES", "TX PKTS", "TX BYTES", "DROPS"]);
    let mut notes = Vec::new();
    for connection in status.connections.iter().flat_map(with_tunnels) {
        let attach = connection.attachment.attach.as_deref().unwrap_or("-");
        row(
            &mut connections,
            &shown_name(connection),
            &connection.interface,
            state_of(connection),
            attach,
            &connection.traffic,
        );
        if connection.tunnels.is_empty() {
            notes.push(notes_of(connection));
        }
    }
    if let Some(vpc) = &status.vpc {
        let attach = vpc.attachment.attach.as_deref().unwrap_or("-");
        row(&mut connections, "(vpc)", &vpc.interface, "", attach, &vpc.traffic);
        notes.extend(vpc.attachment.attach_reason.iter().map(|reason| format!("vpc: {reason}\n")));
        notes.extend(vpc.warnings.iter().map(|warning| format!("vpc: warning: {warning}\n")));
    }
    let notes = notes.concat();
    let underlays = underlays(&status.underlays) + &cpu_table::packets(status);
    let strangers = match status.strangers.is_empty() {
        true => String::new(),
        false => format!("  to sites, from interfaces that are not attachments: {}\n", reasons(&status.strangers)),
    };
    let policies = match status.policy_routes.is_empty() {
        true => String::new(),
        false => format!("\n{}", policy_routes::table_of(&status.policy_routes)),
    };
    let notes_of_configuration = notes_of_configuration(status, store.as_ref(), metrics.as_ref());
    format!(
        "gateway {}{}\n\n{connections}\n{notes}\n{underlays}{}\n{notes_of_configuration}dropped            {}\nleft to the kernel {}\nkernel drops       {}\n{strangers}",
        status.gateway.name,
        role(status.gateway.role),
        routes(&status.routes) + &policies,
        reasons(&status.drops),
        reasons(&status.passes),
        reasons(&status.kernel_drops),
    )
}

/// What the gateway's name does not say; empty for the usual role.
fn role(role: Role) -> String {
    if role == Role::Active { String::new() } else { format!("\n{}", role.sentence()) }
}

/// The interfaces of encrypted packets, if there are any.
fn underlays(underlays: &[UnderlayStatus]) -> String {
    if underlays.is_empty() {
        return String::new();
    }
    let mut rows = table(&["UNDERLAY", "SPREAD", "IN FORCE", "RX QUEUES", "CPUS"]);
    let mut notes = String::new();
    let number = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
    for underlay in underlays {
        let UnderlayStatus { interface, spread, spread_in_force, spread_reason, spread_hint, rx_queues, cpus, receive } =
            underlay;
        let in_force = spread_in_force.as_deref().unwrap_or("-").to_owned();
        let numbers = [rx_queues.map(|queues| queues.to_string()), cpus.map(|cpus| cpus.to_string())].map(number);
        rows.add_row([interface.clone(), spread.clone(), in_force].into_iter().chain(numbers));
        notes.extend(spread_reason.iter().chain(spread_hint).map(|reason| format!("{interface}: {reason}\n")));
        notes.extend(receive.iter().filter_map(|receive| cpu_table::interrupts(interface, receive)));
    }
    right(&mut rows, &[3, 4]);
    format!("{rows}\n{notes}\n")
}

/// Notes on why the store rejects changes and metrics are not served, on objects set aside, and on differences between the files and the
/// configuration in force.
fn notes_of_configuration(status: &Status, store: Option<&StoreStatus>, metrics: Option<&MetricsStatus>) -> String {
    let store = store.and_then(|StoreStatus { path, problem }| {
        Some(format!("store {path}: {}; changes are refused\n", problem.as_ref()?))
    });
    let metrics = metrics.and_then(|MetricsStatus { listen, problem }| {
        Some(format!("metrics are not served on {listen}: {}\n", problem.as_ref()?))
    });
    let set_aside = status.set_aside.iter().map(|SetAside { kind, name, reason }| {
        let kind = kind.replace('_', " ");
        format!("set aside: {kind} {name}: {reason}\n")
    });
    let confirmation = status.confirmation.map(|confirmation| match confirmation {
        Confirmation::Pending { until } => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
            let left = (until - now).max(0.0);
            format!("the last reload is reverted in {left:.0} s, unless `vpnhub confirm` confirms it\n")
        }
        Confirmation::Reverted => "the last reload was not confirmed: the configuration before it is in force until \
            the files are edited or `vpnhub reload` is run\n"
            .to_owned(),
    });
    let problems = status.problems.iter().map(|problem| format!("{problem}\n"));
    let notes: String = store.into_iter().chain(metrics).chain(set_aside).chain(confirmation).chain(problems).collect();
    if notes.is_empty() { notes } else { notes + "\n" }
}

/// The datapath that runs without an agent.
pub fn without_agent(status: &WithoutAgent) -> String {
    let mut interfaces = table(&["INTERFACE", "ATTACH"]);
    for interface in &status.interfaces {
        interfaces.add_row([interface.name.as_deref().unwrap_or("(elsewhere)"), interface.attach]);
    }
    let mut connections = table(&["CONNECTION", "RX PKTS", "RX BYTES", "TX PKTS", "TX BYTES", "DROPS"]);
    for RunningConnectionStatus { name, traffic } in &status.connections {
        let drops = traffic.drops.values().sum();
        let counts = [traffic.rx_packets, traffic.rx_bytes, traffic.tx_packets, traffic.tx_bytes, drops];
        connections.add_row([name.clone()].into_iter().chain(counts.map(|count: u64| count.to_string())));
    }
    right(&mut connections, &[1, 2, 3, 4, 5]);
    format!(
        "no agent runs: the datapath forwards with its last tables, without failover; start the agent\n\n\
         {interfaces}\n\n\
         {connections}\n\ndropped            {}\nleft to the kernel {}\n",
        reasons(&status.drops),
        reasons(&status.passes),
    )
}

/// Connections with their states, without their traffic.
pub fn connections(connections: &[ConnectionStatus]) -> String {
    let mut rows = table(&["CONNECTION", "INTERFACE", "STATE", "ATTACH"]);
    let mut notes = String::new();
    for connection in connections.iter().flat_map(with_tunnels) {
        let attach = connection.attachment.attach.as_deref().unwrap_or("-");
        rows.add_row([&shown_name(connection), &connection.interface, state_of(connection), attach]);
        if connection.tunnels.is_empty() {
            notes += &notes_of(connection);
        }
    }
    format!("{rows}\n{notes}")
}

/// A connection, and its tunnels.
pub(super) fn with_tunnels(connection: &ConnectionStatus) -> impl Iterator<Item = &ConnectionStatus> {
    std::iter::once(connection).chain(&connection.tunnels)
}

/// The name of a connection. That of a tunnel is indented, and followed by its weight.
fn shown_name(connection: &ConnectionStatus) -> String {
    match connection.tunnel_weight {
        None => connection.name.clone(),
        Some(weight) => format!("  {} ({weight})", connection.name),
    }
}

/// An event on one line, sortable by time in a log file.
pub fn event(event: &ConnectionEvent) -> String {
    let ConnectionEvent { time, connection, state: now, health, reason, selectors, .. } = event;
    // The state says that it is degraded.
    let reason = reason.as_ref().map(|reason| reason.strip_prefix("degraded: ").unwrap_or(reason));
    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    let selectors = match selectors {
        Some(selectors) if !selectors.is_empty() => format!(", for {}", selectors.join(", ")),
        _ => String::new(),
    };
    format!("{time:.3} {connection} {}{reason}{selectors}\n", state(*now, *health))
}

/// A packet on one line, sortable by time.
pub fn packet(line: &PacketLine) -> String {
    let packet = match line {
        PacketLine::Packet(packet) => packet,
        PacketLine::LeftOut(LeftOut { left_out, reason, cause }) => {
            let cause = match cause {
                LeftOutCause::RateLimit => "over the rate limit",
                LeftOutCause::SlowReader => "not read fast enough",
            };
            return format!("{left_out} more {reason} left out: {cause}\n");
        }
    };
    let end = |address: Option<IpAddr>, port: Option<u16>| match (address, port) {
        (Some(IpAddr::V6(address)), Some(port)) => format!("[{address}]:{port}"),
        (Some(address), Some(port)) => format!("{address}:{port}"),
        (Some(address), None) => address.to_string(),
        (None, _) => "-".to_owned(),
    };
    let protocol = match packet.protocol {
        Some(1) => "icmp".to_owned(),
        Some(6) => "tcp".to_owned(),
        Some(17) => "udp".to_owned(),
        Some(58) => "icmpv6".to_owned(),
        Some(number) => format!("protocol {number}"),
        None => "no IP".to_owned(),
    };
    let verdict = match packet.verdict {
        PacketVerdict::Drop => "drop",
        PacketVerdict::Pass => "pass",
        PacketVerdict::Forward => "forward",
    };
    let PacketEvent { time, reason, connection, next_hop, interface, length, .. } = packet;
    let from = connection.as_deref().unwrap_or("-");
    let why = match (reason, next_hop) {
        (Some(reason), _) => format!(" {reason}"),
        (None, Some(next_hop)) => format!(" to {next_hop}"),
        (None, None) => String::new(),
    };
    let source = end(packet.source, packet.source_port);
    let destination = end(packet.destination, packet.destination_port);
    format!("{time:.6} {from} {interface} {verdict}{why} {source} > {destination} {protocol} {length} bytes\n")
}

/// Reasons why it is not up, or not attached as desired; one per line.
fn notes_of(connection: &ConnectionStatus) -> String {
    let reasons = [&connection.state_reason, &connection.attachment.attach_reason];
    let mut reported: Vec<&str> = reasons.into_iter().flatten().map(String::as_str).collect();
    reported.dedup();
    let mut notes: Vec<String> = reported.into_iter().map(str::to_owned).collect();
    notes.extend(connection.ipsec.iter().flat_map(notes_of_ipsec));
    notes.extend(connection.warnings.iter().map(|warning| format!("warning: {warning}")));
    notes.into_iter().map(|note| format!("{}: {note}\n", connection.name)).collect::<Vec<_>>().concat()
}

/// The tunnel's SAs, and the parts of them that are not admitted; one per line.
fn notes_of_ipsec(ipsec: &IpsecStatus) -> Vec<String> {
    let child = |child: &ChildStatus| {
        let ChildStatus { spi_in, spi_out, bytes_in, bytes_out, seconds, selectors, .. } = child;
        let selectors = selectors.join(", ");
        format!("SA {spi_in} in ({bytes_in} bytes), {spi_out} out ({bytes_out} bytes), {seconds} s old: {selectors}")
    };
    let mut notes: Vec<String> = ipsec.children.iter().map(child).chain(ipsec.problems.iter().cloned()).collect();
    if !ipsec.children.is_empty() {
        // Without any SA, the reason of the state has the same.
        notes
            .extend(ipsec.missing.iter().map(|missing| format!("no SA for {}: {}", missing.selectors, missing.reason)));
    }
    notes
}

/// Routes with their shares and origins.
pub fn routes(routes: &[RouteStatus]) -> String {
    let mut rows = table(&["DESTINATION", "NEXT HOP", "WEIGHT", "PUBLISHED", "SHARE", "ORIGIN"]);
    for route in routes {
        rows.add_row([
            route.destination.to_string(),
            route.next_hop.clone(),
            route.weight.to_string(),
            published(route).to_owned(),
            format!("{:.0} %", route.share * 100.0),
            route.origin.to_string(),
        ]);
    }
    right(&mut rows, &[2, 4]);
    let mut failed: Vec<_> =
        routes.iter().filter_map(|route| Some((route.destination, route.problem.as_ref()?))).collect();
    failed.dedup();
    let notes: Vec<_> = failed.iter().map(|(destination, problem)| format!("{destination}: {problem}\n")).collect();
    format!("{rows}\n{}", notes.concat())
}

const fn published(route: &RouteStatus) -> &'static str {
    match (route.publish, &route.problem) {
        (false, _) => "no",
        (true, None) => "yes",
        (true, Some(_)) => "failed",
    }
}

/// Customer gateways with their origins.
pub fn customer_gateways(gateways: &[CustomerGatewayEntry]) -> String {
    let mut rows = table(&["CUSTOMER GATEWAY", "ADDRESS", "ORIGIN"]);
    for CustomerGatewayEntry { name, address, origin } in gateways {
        rows.add_row([name.clone(), address.to_string(), origin.to_string()]);
    }
    format!("{rows}\n")
}

/// Segments with what they reach, and their origins.
pub fn segments(segments: &[SegmentEntry]) -> String {
    let mut rows = table(&["SEGMENT", "REACHES", "ORIGIN"]);
    for SegmentEntry { name, reaches, origin } in segments {
        let reaches = if reaches.is_empty() { "nothing".to_owned() } else { reaches.join(", ") };
        rows.add_row([name.clone(), reaches, origin.to_string()]);
    }
    format!("{rows}\n")
}

/// An object as a section of a file, with its origin; or its keys and why it is not in force.
pub fn object(shown: &Shown) -> String {
    match (&shown.toml, &shown.set_aside) {
        (Some(text), _) => format!("# {}\n{text}", shown.origin),
        (None, reason) => {
            let reason = reason.as_deref().unwrap_or("not in force");
            let keys = toml::to_string(&shown.keys).unwrap_or_default();
            format!("# {}, set aside: {reason}\n{keys}", shown.origin)
        }
    }
}

/// The audit log, one entry per line.
pub fn audit(entries: &[AuditEntry]) -> String {
    let line = |AuditEntry { time, uid, action, object, before, after }: &AuditEntry| {
        let uid = uid.map_or_else(|| "-".to_owned(), |uid| format!("uid {uid}"));
        let value = |value: &Value| if value.is_null() { "-".to_owned() } else { value.to_string() };
        format!("{time:.3} {uid} {action}: {object}: {} -> {}\n", value(before), value(after))
    };
    entries.iter().map(line).collect()
}

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

pub(super) fn right(table: &mut Table, columns: &[usize]) {
    for index in columns {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn row(table: &mut Table, name: &str, interface: &str, state: &str, attach: &str, traffic: &Traffic) {
    let counts =
        [traffic.rx_packets, traffic.rx_bytes, traffic.tx_packets, traffic.tx_bytes, traffic.drops.values().sum()];
    let names = [name, interface, state, attach].map(str::to_owned);
    table.add_row(names.into_iter().chain(counts.map(|count| count.to_string())));
    right(table, &[4, 5, 6, 7, 8]);
}

/// A connection's state, with the result of its health check.
pub(super) const fn state(state: State, health: Option<Health>) -> &'static str {
    match (state, health) {
        (State::Degraded, _) | (State::Up, Some(Health::Degraded)) => "degraded",
        (State::Up, _) => "up",
        (State::Down | State::HoldDown, _) => "down",
        (State::AdminDown, _) => "admin down",
    }
}

pub(super) fn state_of(connection: &ConnectionStatus) -> &'static str {
    state(connection.state, connection.health.as_ref().and_then(|health| health.state))
}

/// Non-zero counts, largest first.
fn reasons(reasons: &Reasons) -> String {
    let mut counts: Vec<_> = reasons.iter().filter(|(_, count)| **count > 0).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    match counts.is_empty() {
        true => "nothing".to_owned(),
        false => counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", "),
    }
}
