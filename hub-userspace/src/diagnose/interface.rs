//! Attachments of connections and of the VPC, underlays, and interfaces that are neither. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    driver,
    facts::{ConfigFacts, InterfaceFacts, NetworkFacts},
    remedy,
};
use crate::{
    api_types::{
        diagnose::{Area, Code, Finding, Severity},
        status::{Attachment, ConnectionStatus, FullStatus, ReceiveStatus, Status, UnderlayStatus},
    },
    connection::state::State,
    ipsec::mtu::{EspSizes, Outer, largest_packet},
};

/// MTU of a link on the Internet, if no underlay is configured.
const USUAL_MTU: u32 = 1500;
/// CPUs that a message lists.
const LISTED: usize = 8;
/// `rp_filter`: the source's route must lead back to the interface.
const STRICT: u32 = 1;

/// Judges all interfaces, or the one with this name.
pub fn judge(
    status: &FullStatus,
    network: Option<&NetworkFacts>,
    config: Option<&ConfigFacts>,
    only: Option<&str>,
) -> Vec<Finding> {
    let status = &status.status;
    let is_asked = |name: &str| only.is_none_or(|only| only == name);
    let mut findings = Vec::new();
    for (name, attached) in attachments(status).into_iter().filter(|(name, _)| is_asked(name)) {
        findings.extend(attachment(name, &attached));
        if let Some(facts) = network.and_then(|network| network.interfaces.get(name)) {
            findings.extend(settings(name, facts, attached.is_site));
            findings.extend(driver::redirect_target(name, facts, attached.of));
            findings.extend(driver::offloads(name, facts, attached.of));
            findings.extend(network.and_then(|network| queues(name, facts, attached.of, network.cpus)));
            findings.extend(config.and_then(|config| mtu(name, facts, config, network)));
        }
    }
    for underlay in status.underlays.iter().filter(|underlay| is_asked(&underlay.interface)) {
        findings.extend(self::underlay(underlay));
    }
    findings
        .extend(status.strangers.iter().filter(|(name, _)| is_asked(name)).map(|(name, count)| stranger(name, *count)));
    findings
}

struct Attached<'a> {
    of: &'a Attachment,
    /// It carries a connection, not the VPC.
    is_site: bool,
    /// The state of a connection has the reason.
    is_known: bool,
}

/// By interface, which several connections may share.
fn attachments(status: &Status) -> BTreeMap<&str, Attached<'_>> {
    let mut attachments = BTreeMap::new();
    if let Some(vpc) = &status.vpc {
        let attached = Attached { of: &vpc.attachment, is_site: false, is_known: false };
        attachments.insert(vpc.interface.as_str(), attached);
    }
    for connection in status.connections.iter().flat_map(ConnectionStatus::members) {
        let of = &connection.attachment;
        let reason = connection.state_reason.as_deref().unwrap_or_default();
        let is_known = connection.state == State::Down && reason.starts_with("interface ");
        attachments.insert(connection.interface.as_str(), Attached { of, is_site: true, is_known });
    }
    attachments
}

fn attachment(name: &str, attached: &Attached<'_>) -> Option<Finding> {
    let Attachment { attach, attach_reason } = attached.of;
    let reason = attach_reason.as_deref();
    match attach.as_deref() {
        None if attached.is_known => None,
        None => {
            let text = reason.unwrap_or("the program is not attached");
            let otherwise = "the agent's log has the reason";
            Some(remedy::finding(Severity::Error, Area::Interface, name, Code::Attachment, text, otherwise))
        }
        Some(mode @ "xdp-generic") => {
            let message = format!("{mode}: {}", reason.unwrap_or("slower than native XDP and TC"));
            let action = "use an interface whose driver has native XDP, or start the agent with `--attach tc`";
            Some(Finding::warning(Area::Interface, name, Code::Attachment, message, action))
        }
        Some(mode) => {
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            Some(Finding::ok(Area::Interface, name, Code::Attachment, format!("attached, {mode}{reason}")))
        }
    }
}

fn settings(name: &str, facts: &InterfaceFacts, is_site: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.rp_filter == STRICT {
        let message = "rp_filter is strict: the kernel drops packets that the program leaves to it, if the route to their \
                       source leads to another interface";
        let action = format!(
            "`sysctl net/ipv4/conf/{name}/rp_filter=0 net/ipv4/conf/all/rp_filter=0`, and a file in /etc/sysctl.d: the \
             program checks sources itself"
        );
        findings.push(Finding::warning(Area::Interface, name, Code::InterfaceSetting, message, action));
    }
    // The VPC's interface may depend on advertisements.
    for (setting, value) in facts.enabled_settings.iter().filter(|_| is_site) {
        let message = format!("{setting} is {value}: the site can change the hub's routes or addresses");
        let action = "let the agent write to /proc/sys/net (its log has the error), and stop what enables it";
        findings.push(Finding::warning(Area::Interface, name, Code::InterfaceSetting, message, action));
    }
    findings
}

/// Many drivers send redirected frames by a queue for each CPU, and drop them where there is none.
fn queues(name: &str, facts: &InterfaceFacts, attachment: &Attachment, cpus: Option<usize>) -> Option<Finding> {
    let ([receive, transmit], cpus) = (facts.queues?, cpus?);
    if !facts.is_hardware || attachment.attach.as_deref() != Some("xdp-native") || receive.min(transmit) >= cpus {
        return None;
    }
    let message = format!(
        "{receive} receive and {transmit} transmit queues for {cpus} CPUs: some drivers drop frames that XDP sends from a \
         CPU without a queue"
    );
    let action = format!(
        "`ethtool -L {name} combined {cpus}`; if `ethtool -S {name}` shows rising XDP drops, start the agent with \
         `--attach tc`"
    );
    Some(Finding::warning(Area::Interface, name, Code::ReceiveQueues, message, action))
}

/// An xfrm interface whose packets do not fit the underlay in ESP, with the largest overhead of its connections'
/// proposals.
fn mtu(name: &str, facts: &InterfaceFacts, config: &ConfigFacts, network: Option<&NetworkFacts>) -> Option<Finding> {
    if facts.link.kind.as_deref() != Some("xfrm") {
        return None;
    }
    let config = &config.config;
    let underlay = |name: &String| network.and_then(|network| network.interfaces.get(name)).map(|facts| facts.link.mtu);
    let below = config.underlays.keys().filter_map(underlay).min().unwrap_or(USUAL_MTU);
    let on_it = config.connections.values().filter(|connection| connection.interface == name);
    let proposals = on_it.filter_map(|connection| connection.ipsec.as_ref()).flat_map(|ipsec| {
        let outer = Outer { mtu: below, is_ipv6: false, is_in_udp: ipsec.encap };
        ipsec.esp.proposals.iter().map(move |proposal| largest_packet(outer, EspSizes::of_proposal(proposal)))
    });
    let fits = proposals.min()?;
    let mtu = facts.link.mtu;
    if mtu <= fits {
        let message = format!("its MTU, {mtu}, leaves room for ESP on a link with MTU {below}");
        return Some(Finding::ok(Area::Interface, name, Code::InterfaceMtu, message));
    }
    let message = format!(
        "its MTU is {mtu}, and only {fits} bytes fit a link with MTU {below} in ESP: packets are fragmented or lost"
    );
    let action = format!("write interface_mtu = \"auto\" for its connections, or `ip link set {name} mtu {fits}`");
    Some(Finding::warning(Area::Interface, name, Code::InterfaceMtu, message, action))
}

fn underlay(underlay: &UnderlayStatus) -> Vec<Finding> {
    let UnderlayStatus { interface, spread_in_force, spread_reason, spread_hint, rx_queues, cpus, receive, .. } =
        underlay;
    let mut findings = Vec::new();
    if let Some(hint) = spread_hint {
        let action =
            format!("write spread = \"xdp\" in [underlay.{interface}], if one CPU is busy (`mpstat -P ALL`: %soft)");
        findings.push(Finding::warning(Area::Interface, interface, Code::Spread, hint, action));
    }
    let has_few = rx_queues.zip(*cpus).is_some_and(|(queues, cpus)| queues < cpus as usize);
    let numbers = rx_queues.zip(*cpus).map(|(queues, cpus)| format!(", {queues} receive queues for {cpus} CPUs"));
    let numbers = numbers.unwrap_or_default() + &receive.as_ref().map(served_by).unwrap_or_default();
    match (spread_in_force, spread_reason) {
        (None, reason) if has_few => {
            let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let message = format!("received ESP is not distributed over the CPUs{numbers}{reason}");
            let action = format!(
                "write spread = \"rps\" or \"xdp\" in [underlay.{interface}]; docs/operations.md explains the reasons"
            );
            findings.push(Finding::warning(Area::Interface, interface, Code::ReceiveQueues, message, action));
        }
        (in_force, reason) if findings.is_empty() => {
            let how = in_force.as_ref().map_or("received ESP is not distributed by the agent".to_owned(), |in_force| {
                format!("received ESP is distributed by {in_force}")
            });
            let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let message = format!("{how}{numbers}{reason}");
            findings.push(Finding::ok(Area::Interface, interface, Code::Spread, message));
        }
        _ => {}
    }
    findings
}

/// The CPUs that serve the device's interrupts.
fn served_by(receive: &ReceiveStatus) -> String {
    let used = receive.interrupts.iter().filter(|interrupt| !interrupt.counts.is_empty());
    let cpus: BTreeSet<&str> = used.filter_map(|interrupt| interrupt.effective_affinity.as_deref()).collect();
    if cpus.is_empty() {
        return String::new();
    }
    let listed: Vec<&str> = cpus.iter().take(LISTED).copied().collect();
    let more = if cpus.len() > LISTED { ", ..." } else { "" };
    format!(", interrupts on CPU {}{more}", listed.join(", "))
}

fn stranger(name: &str, packets: u64) -> Finding {
    let message = format!("{packets} packets from it to sites were dropped: it is no attachment");
    let action = "name it in [vpc], or as the interface of a connection, if its hosts may reach the sites; otherwise find \
                  the sender: `tcpdump -ni INTERFACE`";
    let action = action.replace("INTERFACE", name);
    Finding::warning(Area::Interface, name, Code::Stranger, message, action)
}
