//! The state of the tunnels, as reported by charon.

use std::collections::BTreeMap;

use super::table::Tunnel;
use crate::config::ipsec::StartAction;

/// The state of the tunnels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// By our names; only connections with IPsec.
    pub tunnels: BTreeMap<String, Tunnel>,
    /// Connections that cannot be configured, with the reason.
    pub problems: BTreeMap<String, String>,
    /// Why their state is unknown; `None`: charon answers.
    pub unreachable: Option<String>,
    /// All SAs have been listed at least once.
    pub heard: bool,
}

impl Tunnels {
    /// Whether a connection's tunnel can carry traffic; `None`: not known yet.
    pub fn is_up(&self, name: &str, start: StartAction) -> Option<bool> {
        if self.unreachable.is_some() || self.problems.contains_key(name) {
            return Some(false);
        }
        let tunnel = self.tunnels.get(name)?;
        // The first packet triggers negotiation; reporting "down" would keep packets away forever.
        let waits = start == StartAction::Trap && tunnel.fault.is_none();
        Some(tunnel.is_up() || waits)
    }

    /// Why it cannot carry traffic.
    pub fn reason(&self, name: &str, start: StartAction) -> String {
        if let Some(why) = self.problems.get(name).or(self.unreachable.as_ref()) {
            return why.clone();
        }
        match (self.tunnels.get(name), start) {
            (Some(Tunnel { fault: Some(fault), .. }), _) => format!("IPsec: {fault}"),
            (Some(Tunnel { ike: Some(_), .. }), _) => "IPsec: negotiating".to_owned(),
            (Some(_), StartAction::None) => "IPsec: the site has not initiated yet (start = \"none\")".to_owned(),
            (Some(_), _) => "IPsec: there is no tunnel; initiating again".to_owned(),
            (None, _) => "IPsec: strongSwan has not answered yet".to_owned(),
        }
    }
}
