//! The status of underlay interfaces.

use std::{collections::BTreeMap, net::IpAddr};

use tracing::debug;

use super::{edge::Edge, host::Host, world::World};
use crate::{
    api_types::status::UnderlayStatus,
    config::model::Spread,
    datapath::Dataplane,
    ipsec::vici::{driver::Driver, tunnels::Tunnels},
    kernel::spread::{Incarnation, Receive, ReceiveReader, SpreadReport, Spreader},
};

/// Of all underlays of the configuration.
pub(super) fn status(world: &World, edge: &Edge<Dataplane, Host, Driver>) -> Vec<UnderlayStatus> {
    let spreader = &edge.kernel.spreader;
    let mut hint = None;
    let status = |(name, underlay): (&String, &_)| {
        let spread = *underlay;
        let SpreadReport { is_rps, reason, rx_queues, cpus, xdp } = spreader.report(name);
        let (in_force, reason) = match xdp.and_then(|ifindex| edge.datapath.spread_result(ifindex)) {
            Some(Ok(attached)) => (Some(attached.mode), attached.reason.clone()),
            Some(Err(error)) => (None, Some(error.clone())),
            None => (is_rps.then_some("rps"), reason),
        };
        let hint = (matches!(spread, Spread::Auto | Spread::Rps) && cpus.is_some_and(|cpus| cpus > 1))
            .then(|| hint.get_or_insert_with(|| xdp_hint(spreader.esp_offload(), &world.tunnels)).clone());
        UnderlayStatus {
            interface: name.clone(),
            spread: spread.name().to_owned(),
            spread_in_force: in_force.map(str::to_owned),
            spread_reason: reason,
            spread_hint: hint.flatten(),
            rx_queues,
            cpus,
            receive: None,
        }
    };
    world.config.underlays.iter().map(|(name, underlay)| (name, &underlay.spread)).map(status).collect()
}

/// Reads queues and interrupts of underlays.
pub(super) struct Receivers {
    reader: Option<ReceiveReader>,
    links: BTreeMap<String, Incarnation>,
}

impl Receivers {
    pub fn of(world: &World, spreader: &Spreader) -> Self {
        let link = |name: &String| Some((name.clone(), Incarnation::of(world.host.link(name)?)));
        Self { reader: spreader.receive_reader(), links: world.config.underlays.keys().filter_map(link).collect() }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.links.keys().map(String::as_str)
    }

    /// For use outside the agent's loop: some system calls for each queue. `None` if it cannot be read.
    pub fn read(&self, name: &str) -> Option<Receive> {
        let found = self.reader.as_ref()?.read(name, self.links.get(name)?);
        found.inspect_err(|error| debug!("queues and interrupts of {name}: {error}")).ok()
    }
}

/// Why `spread = "xdp"` would distribute packets that RPS does not, if so.
fn xdp_hint(esp_offload: Option<&str>, tunnels: &Tunnels) -> Option<String> {
    let remedy = "RPS does not distribute; spread = \"xdp\" does";
    if let Some(module) = esp_offload {
        return Some(format!("{module} is loaded: GRO decrypts ESP on the CPU that receives it, which {remedy}"));
    }
    let (address, count) = shared_by_nat_t(tunnels)?;
    Some(format!("{count} connections use NAT-T from {address}, which {remedy}"))
}

/// The address of a site, or of a NAT, from which most connections have ESP in UDP, and their number, if several have.
fn shared_by_nat_t(tunnels: &Tunnels) -> Option<(IpAddr, usize)> {
    let mut pairs = BTreeMap::<(Option<IpAddr>, IpAddr), usize>::new();
    for tunnel in tunnels.tunnels.values() {
        let in_udp = tunnel.children.iter().map(|child| &child.outside).find(|outside| outside.is_in_udp);
        if let Some((outside, remote)) = in_udp.and_then(|outside| Some((outside, outside.remote?))) {
            *pairs.entry((outside.local, remote)).or_default() += 1;
        }
    }
    let most = pairs.into_iter().max_by_key(|(_, count)| *count)?;
    Some((most.0.1, most.1)).filter(|(_, count)| *count > 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{shared_by_nat_t, xdp_hint};
    use crate::ipsec::vici::{
        event::{ChildSa, Outside},
        table::Tunnel,
        tunnels::Tunnels,
    };

    /// Connections, by the site's address and whether ESP is in UDP.
    fn tunnels(connections: &[(&str, bool)]) -> Tunnels {
        let tunnel = |&(remote, is_in_udp): &(&str, bool)| {
            let local = Some("203.0.113.1".parse().expect("an address"));
            let outside = Outside { local, remote: remote.parse().ok(), is_in_udp, ..Outside::default() };
            // As during a rekeying.
            let child = ChildSa { outside, ..ChildSa::default() };
            Arc::new(Tunnel { children: [child.clone(), child].into_iter().collect(), ..Tunnel::default() })
        };
        let named = connections.iter().enumerate().map(|(number, tunnel_of)| (number.to_string(), tunnel(tunnel_of)));
        Tunnels { tunnels: named.collect(), ..Tunnels::default() }
    }

    #[test]
    fn only_nat_t_of_one_address_pair_is_reported() {
        for (connections, expected) in [
            (&[][..], None),
            (&[("192.0.2.1", true), ("192.0.2.2", true)], None),
            (&[("192.0.2.1", false), ("192.0.2.1", false)], None),
            (&[("192.0.2.1", true), ("192.0.2.1", false)], None),
            (&[("192.0.2.9", true), ("192.0.2.1", true), ("192.0.2.1", true)], Some(2)),
        ] {
            let found = shared_by_nat_t(&tunnels(connections));
            assert_eq!(found, expected.map(|count| ("192.0.2.1".parse().expect("an address"), count)));
        }
    }

    #[test]
    fn hint_names_cause_and_remedy() {
        let shared = tunnels(&[("192.0.2.1", true), ("192.0.2.1", true)]);
        assert_eq!(
            xdp_hint(None, &shared).as_deref(),
            Some("2 connections use NAT-T from 192.0.2.1, which RPS does not distribute; spread = \"xdp\" does")
        );
        let loaded = xdp_hint(Some("esp6_offload"), &tunnels(&[])).expect("a hint");
        assert!(loaded.starts_with("esp6_offload is loaded") && loaded.contains("spread = \"xdp\""), "{loaded}");
        assert_eq!(xdp_hint(None, &tunnels(&[])), None);
    }
}
