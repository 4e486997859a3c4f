//! What a change of the host's interfaces means for the configured ones. Pure.

use std::{collections::BTreeSet, mem};

use super::world::World;
use crate::{
    connection::affected::Affected,
    ipsec::underlay::{is_other_underlay, may_be_underlay},
    kernel::netlink::HostState,
};

impl World {
    /// Takes over the host's state, and notes the connections on interfaces that differ. Returns whether any changed
    /// link is configured, or a VLAN above such a one: all others, such as those of containers, matter to no table.
    pub(super) fn follow_host(&mut self, host: HostState) -> bool {
        let changed = host.changed_interfaces(&self.host);
        let old = mem::replace(&mut self.host, host);
        let both = |index: u32| [&old, &self.host].into_iter().filter_map(move |host| host.links.get(&index));
        let lower = |index: u32| both(index).filter_map(|link| link.vlan).flat_map(|(lower, _)| both(lower));
        self.pending.underlay |= changed.addresses.iter().any(|index| both(*index).any(may_be_underlay))
            || changed.links.iter().any(|index| is_other_underlay(old.links.get(index), self.host.links.get(index)));
        let links = changed.links.iter().flat_map(|index| both(*index).chain(lower(*index)));
        let changed_names: BTreeSet<&str> = links.map(|link| link.name.as_str()).collect();
        let connections = self.config.connections.values().map(|connection| connection.interface.as_str());
        let mut configured = connections.chain(self.config.vpc.iter().map(|vpc| vpc.interface.as_str()));
        let is_any_ours = configured.any(|interface| changed_names.contains(interface));
        let name = |index: &u32| Some(self.host.links.get(index)?.name.as_str());
        let themselves: BTreeSet<&str> = changed.themselves.iter().filter_map(name).collect();
        let neighbours: BTreeSet<&str> = changed.neighbours.iter().filter_map(name).collect();
        let is_on_them = |interface: &str| themselves.contains(interface) || neighbours.contains(interface);
        let connections = self.config.connections.iter();
        let on_them = connections.filter(|(_, connection)| is_on_them(&connection.interface));
        let (of_sites, names): (BTreeSet<&str>, Vec<String>) =
            on_them.map(|(name, connection)| (connection.interface.as_str(), name.clone())).unzip();
        // Another interface may have the source address of packets to any site.
        let is_other = !themselves.is_subset(&of_sites) || themselves.len() < changed.themselves.len();
        if is_other && self.routes.has_other_sources(self.inputs()) {
            self.pending.egress = Affected::All;
        }
        self.pending.affected.add(names.iter().cloned());
        self.pending.egress.add(names);
        self.pending.addressed.extend(changed.addresses);
        is_any_ours
    }
}
