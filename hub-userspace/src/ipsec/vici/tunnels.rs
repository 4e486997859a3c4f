//! The state of the tunnels, as reported by charon.

use std::{collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};

use super::{hint::Stranger, table::Tunnel};
use crate::config::{SiteAddress, ipsec::StartAction};

/// The state of the tunnels. A copy shares all entries, so that publishing a change does not depend on their number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// By our names; only connections with IPsec.
    pub tunnels: OrdMap<String, Arc<Tunnel>>,
    /// Connections that cannot be configured, with the reason.
    pub problems: OrdMap<String, String>,
    /// Why their state is unknown; `None`: charon answers.
    pub unreachable: Option<String>,
    /// charon's version, if it has no SAs for each CPU although a connection is to have them.
    pub lacks_per_cpu_sas: Option<String>,
    /// All SAs have been listed at least once.
    pub heard: bool,
    /// The latest peer that has tried to connect and has no connection. Not evidence of any connection's state.
    pub stranger: Option<Stranger>,
}

impl Tunnels {
    /// Connections whose state differs, by our names; counters do not count. `None`: any may differ. Runs in time
    /// proportional to the difference.
    pub fn changed_since(&self, old: &Self) -> Option<BTreeSet<String>> {
        if self.heard != old.heard || self.unreachable != old.unreachable {
            return None;
        }
        let tunnels = old.tunnels.diff(&self.tunnels).filter_map(|item| match item {
            DiffItem::Update { old: (_, old), new: (name, new) } => (!new.is_same(old)).then_some(name),
            DiffItem::Add(name, _) | DiffItem::Remove(name, _) => Some(name),
        });
        let problems = old.problems.diff(&self.problems).map(|item| match item {
            DiffItem::Update { new: (name, _), .. } | DiffItem::Add(name, _) | DiffItem::Remove(name, _) => name,
        });
        Some(tunnels.chain(problems).cloned().collect())
    }

    /// Whether a connection's tunnel can carry traffic; `None`: not known yet.
    pub fn is_up(&self, name: &str, start: StartAction) -> Option<bool> {
        if self.unreachable.is_some() {
            return Some(false);
        }
        let tunnel = self.tunnels.get(name);
        if tunnel.is_some_and(|tunnel| tunnel.is_up()) {
            return Some(true);
        }
        if self.problems.contains_key(name) {
            return Some(false);
        }
        // The first packet triggers negotiation; reporting "down" would keep packets away forever.
        Some(start == StartAction::Trap && tunnel?.fault.is_none())
    }

    /// Why it cannot carry traffic.
    pub fn reason(&self, name: &str, start: StartAction, site: &SiteAddress) -> String {
        if let Some(why) = self.problems.get(name).or(self.unreachable.as_ref()) {
            return why.clone();
        }
        match (self.tunnels.get(name).map(|tunnel| &**tunnel), start) {
            (Some(Tunnel { fault: Some(fault), .. }), _) => format!("IPsec: {}", fault.sentence(site)),
            (Some(Tunnel { ike: Some(_), .. }), _) => "IPsec: negotiating".to_owned(),
            (Some(_), StartAction::None) => "IPsec: the site has not initiated yet (start = \"none\")".to_owned(),
            (Some(_), _) => "IPsec: there is no tunnel; initiating again".to_owned(),
            (None, _) => "IPsec: strongSwan has not answered yet".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipsec::vici::{
        event::{ChildSa, Outside},
        selector::TrafficSelector,
    };

    #[test]
    fn change_among_thousand_tunnels_names_one() {
        let selectors = |text| vec![TrafficSelector::parse(text).expect("a selector")];
        let child = |bytes_in| ChildSa {
            id: 1,
            name: "vpnhub-a".into(),
            state: "INSTALLED".into(),
            spi_in: "c1".into(),
            spi_out: "d1".into(),
            bytes_in,
            bytes_out: bytes_in,
            age: bytes_in,
            local: selectors("192.168.0.0/24"),
            remote: selectors("10.1.0.0/24"),
            outside: Outside::default(),
            cpu: None,
        };
        let up = |bytes| Arc::new(Tunnel { children: vec![child(bytes)], ..Tunnel::default() });
        let tunnels = (0..1000).map(|number| (format!("site-{number}"), up(0))).collect();
        let old = Tunnels { tunnels, heard: true, ..Tunnels::default() };
        let mut new = old.clone();
        new.tunnels.insert("site-7".into(), Arc::default());
        assert_eq!(new.changed_since(&old), Some(["site-7".to_owned()].into()));
        let shared = |(name, tunnel): &(&String, &Arc<Tunnel>)| Arc::ptr_eq(tunnel, &old.tunnels[*name]);
        assert_eq!(new.tunnels.iter().filter(shared).count(), 999);

        let tunnels = old.tunnels.keys().map(|name| (name.clone(), up(1))).collect();
        let counted = Tunnels { tunnels, ..old.clone() };
        assert_eq!(counted.changed_since(&old), Some(BTreeSet::new()), "counters are no change of state");
        let mut problem = old.clone();
        problem.problems.insert("site-8".into(), "no key".into());
        assert_eq!(problem.changed_since(&old), Some(["site-8".to_owned()].into()));
        assert_eq!(old.changed_since(&problem), Some(["site-8".to_owned()].into()));
        let lost = Tunnels { unreachable: Some("gone".into()), ..old.clone() };
        assert_eq!(lost.changed_since(&old), None);
    }

    #[test]
    fn refused_renewal_leaves_working_tunnel_up() {
        let mut view = Tunnels { heard: true, ..Tunnels::default() };
        view.problems.insert("a".into(), "strongSwan refuses the key".into());
        assert_eq!(view.is_up("a", StartAction::Trap), Some(false));
        view.tunnels.insert("a".into(), Arc::default());
        assert_eq!(view.is_up("a", StartAction::Trap), Some(false));
        assert_eq!(view.reason("a", StartAction::Trap, &SiteAddress::Any), "strongSwan refuses the key");
        let child = ChildSa { id: 1, state: "INSTALLED".into(), ..ChildSa::default() };
        view.tunnels.insert("a".into(), Arc::new(Tunnel { children: vec![child], ..Tunnel::default() }));
        assert_eq!(view.is_up("a", StartAction::Trap), Some(true));
    }
}
