//! The desired xfrm interfaces, and their MTU as it follows links and SAs. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use super::{
    mtu::{EspSizes, Outer, interface_mtu},
    underlay::Underlay,
    vici::{event::Outside, tunnels::Tunnels},
};
use crate::{
    config::{
        Config,
        ipsec::{InterfaceMtu, Ipsec},
        model::Connection,
    },
    connection::affected::Affected,
    kernel::netlink::{HostState, XfrmLink, XfrmLinks},
};

/// The xfrm interfaces that the agent must create, before anything is known about host and tunnels. Existing ones keep
/// their MTU if the configuration has no number.
pub fn first_links(config: &Config) -> XfrmLinks {
    let mut plan = LinkPlan::default();
    plan.follow_config(config, &HostState::default(), &Tunnels::default());
    plan.desired
}

/// The xfrm interfaces that the agent must create, updated by what changes: an event of one tunnel costs the same with
/// thousands of others.
#[derive(Debug, Default)]
pub struct LinkPlan {
    desired: XfrmLinks,
    /// MTUs of the connections of each interface. The smallest applies.
    mtus: HashMap<String, BTreeSet<(u32, String)>>,
    /// The MTU of each connection with `interface_mtu = "auto"`.
    autos: HashMap<String, u32>,
    /// Known if there are any of these.
    underlay: Underlay,
}

impl LinkPlan {
    pub fn desired(&self) -> &XfrmLinks {
        &self.desired
    }

    /// Whether anything depends on host and tunnels.
    pub fn has_auto(&self) -> bool {
        !self.autos.is_empty()
    }

    /// Starts from a new configuration.
    pub fn follow_config(&mut self, config: &Config, host: &HostState, tunnels: &Tunnels) {
        *self = Self::default();
        let autos = config.connections.iter().filter(|(_, connection)| auto(connection).is_some());
        self.autos = autos.map(|(name, _)| (name.clone(), 0)).collect();
        if self.has_auto() {
            self.underlay = Underlay::of(config, host);
        }
        for (name, connection) in &config.connections {
            let Some((made, if_id)) =
                connection.ipsec.as_ref().and_then(|ipsec| ipsec.create_interface.zip(ipsec.if_id))
            else {
                continue;
            };
            let mtu = match made.mtu {
                InterfaceMtu::Bytes(bytes) => bytes,
                InterfaceMtu::Auto => self.auto_mtu(config, name, connection, tunnels),
            };
            if made.mtu == InterfaceMtu::Auto {
                self.autos.insert(name.clone(), mtu);
            }
            let keeps_mtu = made.mtu == InterfaceMtu::Auto && is_unknown(tunnels);
            self.mtus.entry(connection.interface.clone()).or_default().insert((mtu, name.clone()));
            let link = self.desired.entry(connection.interface.clone()).or_insert(XfrmLink { if_id, mtu, keeps_mtu });
            (link.mtu, link.keeps_mtu) = (link.mtu.min(mtu), link.keeps_mtu || keeps_mtu);
        }
    }

    /// The host's links, addresses or gateways have changed. Returns whether any interface gets another MTU.
    pub fn follow_host(&mut self, config: &Config, host: &HostState, tunnels: &Tunnels) -> bool {
        if !self.has_auto() {
            return false;
        }
        let underlay = Underlay::of(config, host);
        if underlay == self.underlay {
            return false;
        }
        self.underlay = underlay;
        self.follow_tunnels(config, tunnels, &Affected::All)
    }

    /// The tunnels of these connections may have changed. Returns whether any interface gets another MTU.
    pub fn follow_tunnels(&mut self, config: &Config, tunnels: &Tunnels, affected: &Affected) -> bool {
        if !self.has_auto() {
            return false;
        }
        let mut is_changed = false;
        for name in affected.names(config) {
            let connection = &config.connections[name];
            let Some(old) = self.autos.get(name).copied().filter(|_| auto(connection).is_some()) else { continue };
            let mtu = self.auto_mtu(config, name, connection, tunnels);
            let (Some(mtus), Some(link)) =
                (self.mtus.get_mut(&connection.interface), self.desired.get(&connection.interface).copied())
            else {
                continue;
            };
            if mtu != old {
                mtus.remove(&(old, name.clone()));
                mtus.insert((mtu, name.clone()));
                self.autos.insert(name.clone(), mtu);
            }
            let smallest = mtus.first().map_or(mtu, |(smallest, _)| *smallest);
            let new = XfrmLink { mtu: smallest, keeps_mtu: is_unknown(tunnels), ..link };
            if new != link {
                self.desired.insert(connection.interface.clone(), new);
                is_changed = true;
            }
        }
        is_changed
    }

    /// The MTU for a connection: the smallest of its SAs. Without one, the smallest that may be negotiated.
    fn auto_mtu(&self, config: &Config, name: &str, connection: &Connection, tunnels: &Tunnels) -> u32 {
        let Some(ipsec) = auto(connection) else { return InterfaceMtu::HIGHEST };
        let hub = config.gateway.address;
        let site = config.customer_gateways.get(&connection.customer_gateway).and_then(|site| site.address.ip());
        let children = tunnels.tunnels.get(name).map_or(&[][..], |tunnel| &tunnel.children);
        let of_sa = |outside: &Outside| self.sa_mtu(outside, ipsec, (hub, site));
        let unknown = || of_sa(&Outside::default());
        children.iter().map(|child| of_sa(&child.outside)).min().unwrap_or_else(unknown)
    }

    /// `configured`: the addresses of hub and site, if the configuration has them.
    fn sa_mtu(&self, outside: &Outside, ipsec: &Ipsec, configured: (Option<IpAddr>, Option<IpAddr>)) -> u32 {
        let (hub, site) = configured;
        let remote = outside.remote.or(site);
        // NAT may have replaced the configured address of the hub, but not its family.
        let is_ipv6 = outside.local.or(remote).or(hub).is_none_or(|address| address.is_ipv6());
        // A tunnel of the other family does not leave by the link with this address.
        let hub = hub.filter(|hub| hub.is_ipv6() == is_ipv6);
        let mtu = self.underlay.mtu(outside.local.or(hub), remote);
        let negotiated = outside.encryption.as_deref().and_then(|encryption| {
            // An SA in which nothing protects integrity has an AEAD.
            EspSizes::of_names(encryption, outside.integrity.as_deref())
        });
        let outer = |is_in_udp| Outer { mtu, is_ipv6, is_in_udp };
        if let Some(esp) = negotiated {
            return interface_mtu(outer(outside.is_in_udp), esp);
        }
        let proposals = ipsec.esp.proposals.iter().map(EspSizes::of_proposal);
        proposals.map(|esp| interface_mtu(outer(true), esp)).min().unwrap_or(InterfaceMtu::LOWEST)
    }
}

/// Its IPsec, if the agent chooses the MTU of its interface.
fn auto(connection: &Connection) -> Option<&Ipsec> {
    let ipsec = connection.ipsec.as_ref()?;
    let is_auto = ipsec.create_interface.is_some_and(|made| made.mtu == InterfaceMtu::Auto);
    (is_auto && ipsec.if_id.is_some()).then_some(ipsec)
}

/// strongSwan has not answered yet: a former agent's interface may have SAs.
fn is_unknown(tunnels: &Tunnels) -> bool {
    !tunnels.heard && tunnels.unreachable.is_none()
}

#[cfg(test)]
mod tests;
