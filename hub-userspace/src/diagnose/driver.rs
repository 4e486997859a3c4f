//! What an attachment's driver takes from XDP, and offloads that are in the way. Pure.

use super::facts::{InterfaceFacts, OtherEndFacts};
use crate::api_types::{
    diagnose::{Area, Code, Finding},
    status::Attachment,
};

const NATIVE: &str = "xdp-native";
const GENERIC: &str = "xdp-generic";
/// VLAN interfaces that a message lists.
const LISTED: usize = 5;

/// XDP of the other attachments redirects to this one, if it has native XDP. A redirect to a device that takes no frames
/// fails silently, after the program has counted the packet as forwarded (`dev_map_enqueue`, kernel/bpf/devmap.c).
pub fn redirect_target(name: &str, facts: &InterfaceFacts, attachment: &Attachment) -> Option<Finding> {
    if attachment.attach.as_deref() != Some(NATIVE) {
        return None;
    }
    let other_end = facts.other_end.as_ref();
    // A veth takes frames while its other end has NAPI (`veth_xdp_xmit`, drivers/net/veth.c). Before Linux 6.3 only that
    // end itself shows it.
    let takes = match facts.xdp_features {
        Some(features) => Some(features.takes_redirects()),
        None => other_end.and_then(|end| end.has_napi),
    };
    let (area, code) = (Area::Interface, Code::RedirectTarget);
    match (takes, other_end) {
        (Some(true), _) => Some(Finding::ok(area, name, code, "it takes frames from XDP of other interfaces")),
        (Some(false), Some(end)) => {
            let (shown, device) = shown(end);
            let message = format!(
                "{shown} has neither GRO nor an XDP program, so packets that XDP of other interfaces sends to {name} are \
                 lost"
            );
            let action = format!("`ethtool -K {device} gro on`, or start the agent with `--attach tc`");
            Some(Finding::error(area, name, code, message, action))
        }
        (Some(false), None) => {
            let driver = facts.driver.as_ref().map(|driver| format!("driver {driver}"));
            let message = format!(
                "its {} takes no frames from XDP of other interfaces: packets to it are lost",
                driver.unwrap_or_else(|| "driver".to_owned())
            );
            // The drivers' own conditions differ; some need a queue for each CPU.
            let action = format!(
                "set as many queues as CPUs (`ethtool -L {name} combined N`); if that does not help, start the agent with \
                 `--attach tc`"
            );
            Some(Finding::error(area, name, code, message, action))
        }
        (None, Some(end)) => {
            let (shown, device) = shown(end);
            let message = format!(
                "{shown} must have GRO or an XDP program, or else packets that XDP of other interfaces sends to {name} are \
                 lost; this kernel does not show it, which needs Linux 6.3"
            );
            let action =
                format!("`ethtool -k {device}` there; if generic-receive-offload is off, `ethtool -K {device} gro on`");
            Some(Finding::warning(area, name, code, message, action))
        }
        // The agent's own program makes most drivers take frames.
        (None, None) => None,
    }
}

/// The other end in a sentence, and its name in a command.
fn shown(OtherEndFacts { name, .. }: &OtherEndFacts) -> (String, &str) {
    match name {
        Some(name) => (format!("its other end, {name},"), name),
        None => ("its other end, in another network namespace,".to_owned(), "PEER"),
    }
}

/// Offloads that change packets before the program sees them.
pub fn offloads(name: &str, facts: &InterfaceFacts, attachment: &Attachment) -> Vec<Finding> {
    let Some(offloads) = &facts.offloads else { return Vec::new() };
    let has = |offload: &str| offloads.contains(offload);
    let is = |mode: &str| attachment.attach.as_deref() == Some(mode);
    let (area, code) = (Area::Interface, Code::Offload);
    let mut findings = Vec::new();
    if has("rx-lro") {
        let message = "LRO merges received packets into ones that may not be forwarded: they exceed the MTU, and their \
                       headers are lost";
        findings.push(Finding::warning(area, name, code, message, format!("`ethtool -K {name} lro off`")));
    }
    if has("rx-gro-hw") && is(GENERIC) {
        let message =
            "the NIC merges received packets (rx-gro-hw), and generic XDP cannot forward those that exceed the MTU";
        findings.push(Finding::warning(area, name, code, message, format!("`ethtool -K {name} rx-gro-hw off`")));
    }
    if has("rx-vlan-hw-parse") && is(NATIVE) && !facts.vlans.is_empty() {
        let listed: Vec<_> = facts.vlans.iter().take(LISTED).map(String::as_str).collect();
        let more = if facts.vlans.len() > LISTED { ", ..." } else { "" };
        let message = format!(
            "it removes VLAN tags before XDP sees them (rx-vlan-offload): packets for {}{more} count as its own",
            listed.join(", ")
        );
        findings.push(Finding::warning(area, name, code, message, format!("`ethtool -K {name} rxvlan off`")));
    }
    if findings.is_empty() && attachment.attach.is_some() {
        findings.push(Finding::ok(area, name, code, "no offload is in the way"));
    }
    findings
}
