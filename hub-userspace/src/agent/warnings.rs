//! Conditions that may lose packets of a connection although it is up.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::world::World;
use crate::{
    api_types::status::warning,
    config::Config,
    fib::slow_path::{Preferred, Sources},
    ipsec::vici::per_cpu,
    kernel::netlink::{Family, Link},
    routing::rib::Rib,
};

/// Computes the warnings of all connections.
pub(super) struct Warnings<'a> {
    world: &'a World,
    sources: Sources,
    /// For connections that share flows with another customer gateway: a destination, and that customer gateway.
    shared: BTreeMap<&'a str, (IpNet, &'a str)>,
}

impl<'a> Warnings<'a> {
    pub fn of(world: &'a World) -> Self {
        let sources = Sources::of(world.inputs());
        Self { world, sources, shared: shared(&world.config, &world.rib) }
    }

    /// The warnings of a connection, each with a stable name.
    pub fn of_connection(&self, name: &str) -> Vec<(&'static str, String)> {
        let connection = &self.world.config.connections[name];
        let link = self.world.host.link(&connection.interface);
        let families = [(Family::V4, "IPv4"), (Family::V6, "IPv6")];
        let sources = families.into_iter().filter_map(|(family, shown)| {
            let source = self.sources.of_connection(self.world.inputs(), name, family);
            (source == Preferred::Missing).then(|| (warning::NO_HUB_ADDRESS, no_source(shown)))
        });
        let bridge = link.filter(|link| link.is_bridge_port()).map(|link| {
            let Link { name, .. } = link;
            let text = format!(
                "interface {name} is a port of a bridge, which takes the packets that the program leaves to the kernel: \
                 `ip link set {name} nomaster`"
            );
            (warning::BRIDGE_PORT, text)
        });
        let offload = link.and_then(|link| self.offload(link)).map(|text| (warning::SENDER_CHECKSUM, text));
        let shared = self.shared.get(name).map(|(destination, other)| {
            let text = format!(
                "flows to {destination} are shared with customer gateway {other:?}: if they are different sites with the \
                 same addresses, give each its own; if both lead to one site, give each route a weight other than 100"
            );
            (warning::SHARED_FLOWS, text)
        });
        let per_cpu = connection.ipsec.as_ref().filter(|ipsec| ipsec.esp.per_cpu_sas);
        let per_cpu = per_cpu.and(self.world.tunnels.lacks_per_cpu_sas.as_deref());
        let per_cpu = per_cpu.map(|version| (warning::PER_CPU_SAS, per_cpu::missing(version)));
        let learned = self.world.learned_warnings(name).into_iter().map(|text| (warning::LEARNED_REFUSED, text));
        sources.chain(bridge).chain(offload).chain(shared).chain(per_cpu).chain(learned).collect()
    }

    /// Packets of local senders have no checksum yet, and native XDP cannot complete it. Whether the sender at the other
    /// end of a veth pair has switched this offload off is not visible from here.
    pub fn offload(&self, link: &Link) -> Option<String> {
        let is_native = self.world.attachments.is_native(link.index);
        (is_native && link.kind.as_deref() == Some("veth")).then(|| {
            let name = &link.name;
            format!(
                "XDP on veth interface {name} forwards TCP and UDP packets of senders on this host without a valid \
                 checksum, unless the other end has `ethtool -K PEER tx off`; or start the agent with `--attach tc`"
            )
        })
    }
}

fn no_source(family: &str) -> String {
    format!(
        "no {family} address of the hub is in the local selectors: ICMP errors of the hub do not reach the site, so that \
         it does not learn the path MTU; add an address of local_cidrs to an interface of the hub"
    )
}

/// Destinations whose next hops belong to several customer gateways and all have the default weight.
fn shared<'a>(config: &'a Config, rib: &'a Rib) -> BTreeMap<&'a str, (IpNet, &'a str)> {
    let mut shared = BTreeMap::new();
    for members in rib.groups().filter(|members| members.len() > 1) {
        let Some(destination) = rib.destinations(members).next() else { continue };
        for (name, other) in
            crate::config::strangers(config, members.iter().map(|(name, weight)| (&**name, weight.route)))
        {
            shared.entry(name).or_insert((destination, other));
        }
    }
    shared
}
