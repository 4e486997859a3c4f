//! Ingress policy: attachments, selectors, link prefixes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use hub_common::maps::{
    ADMITS_NOTHING, ANY_LOCAL, Attachment, Local, NO_PORT_RULES, NO_REVERSE_PATH, RULES_PER_ENTRY, Remote, Rule,
    SCOPE_BITS, SHARED_SCOPE, Scoped, UNATTRIBUTED, VPC, Vlan, link,
};
use ipnet::IpNet;

use super::inputs::Inputs;
use crate::{
    config::model::{Connection, ReversePath},
    fib::{
        id_allocator::Full,
        id_maps::{IdMaps, IngressLayout},
        tables::{FamilyMaps, PolicyTables, Prefix},
    },
    kernel::netlink::Link,
    policy::{
        ports::ProtoPorts,
        selectors::{self, NegotiatedSelectors, Owner, Pair, Selector},
    },
};

/// Compiles the policy tables and numbers the connections. Unused ids are quarantined by [`IngressLayout::end`]; call
/// it once the tables are written.
pub fn policy_tables(inputs: Inputs<'_>, layout: &mut IdMaps) -> Result<PolicyTables, Full> {
    layout.policy.begin();
    let mut compiler = PolicyCompiler {
        inputs,
        layout: &mut layout.policy,
        slots: BTreeMap::new(),
        scopes: BTreeMap::new(),
        without_reverse_path: BTreeSet::from([VPC]),
        tables: PolicyTables::default(),
    };
    compiler.connections()?;
    compiler.attachments()?;
    Ok(compiler.tables)
}

struct PolicyCompiler<'a> {
    inputs: Inputs<'a>,
    layout: &'a mut IngressLayout,
    /// `COUNTERS` slots by connection name.
    slots: BTreeMap<&'a str, u32>,
    /// Scopes of connections by `COUNTERS` slot.
    scopes: BTreeMap<u32, u32>,
    /// `COUNTERS` slots of connections without reverse-path check.
    without_reverse_path: BTreeSet<u32>,
    tables: PolicyTables,
}

impl PolicyCompiler<'_> {
    /// Numbers the connections, and compiles each one's own selectors for the egress check.
    fn connections(&mut self) -> Result<(), Full> {
        for (name, connection) in &self.inputs.config.connections {
            let slot = self.layout.connections.take(name.clone())?;
            self.slots.insert(name, slot);
            self.tables.connections.insert(slot, name.clone());
            if connection.reverse_path == ReversePath::Off {
                self.without_reverse_path.insert(slot);
            }
            let scope = self.layout.scopes.take((name.clone(), connection.interface.clone()))?;
            self.scopes.insert(slot, scope);
            self.scope(scope, &to_site(slot, connection, self.inputs.negotiated.get(name)))?;
        }
        Ok(())
    }

    fn attachments(&mut self) -> Result<(), Full> {
        let inputs = self.inputs;
        let mut by_interface = BTreeMap::<&str, Vec<Carried<'_>>>::new();
        for (name, connection) in &inputs.config.connections {
            let slot = self.slots[name.as_str()];
            let carried = Carried { slot, connection, agreed: inputs.negotiated.get(name) };
            by_interface.entry(&connection.interface).or_default().push(carried);
        }
        let isolated = if inputs.config.gateway.spoke_to_spoke { 0 } else { Attachment::ISOLATED };
        for (interface, connections) in by_interface {
            let Some(link) = inputs.host.link(interface) else {
                continue;
            };
            let port = self.port(link)?;
            let connection = match connections.as_slice() {
                [only] => only.slot,
                _ => UNATTRIBUTED,
            };
            let scope = if let [Carried { slot, agreed: None, .. }] = connections.as_slice() {
                // Its ingress selectors equal its egress selectors.
                self.scopes[slot]
            } else {
                let scope = SHARED_SCOPE + port;
                let all: Vec<Selector> = connections.iter().flat_map(Carried::sent).collect();
                self.scope(scope, &all)?;
                scope
            };
            self.attach(link, scope, connection, isolated);
            self.links(link.index, &connections);
        }
        self.vpc()?;
        self.vlans();
        Ok(())
    }

    fn vpc(&mut self) -> Result<(), Full> {
        let inputs = self.inputs;
        if let Some(vpc) = &inputs.config.vpc {
            let any = |cidr: &IpNet| IpNet::new_assert(cidr.network(), 0).trunc();
            let pair = |cidr: &IpNet| Pair { remote: *cidr, local: any(cidr), limit: ProtoPorts::NONE };
            let selectors: Vec<Selector> =
                vpc.cidrs.iter().map(|cidr| Selector { connection: VPC, pair: pair(cidr) }).collect();
            self.scope(VPC, &selectors)?;
            if let Some(link) = inputs.host.link(&vpc.interface) {
                self.port(link)?;
                self.attach(link, VPC, VPC, 0);
                self.links(link.index, &[]);
                self.links_to_sites(link.index);
            }
        }
        Ok(())
    }

    fn port(&mut self, link: &Link) -> Result<u32, Full> {
        let port = self.layout.ports.take(link.index)?;
        self.tables.ports.insert(port, link.index);
        Ok(port)
    }

    fn attach(&mut self, link: &Link, scope: u32, connection: u32, flags: u16) {
        let flags = flags | Attachment::PRESENT | if link.ethernet { Attachment::ETHERNET } else { 0 };
        let attachment = Attachment { scope, connection, mac: link.mac.unwrap_or_default(), flags };
        self.tables.attachments.insert(link.index, attachment);
    }

    /// The VLAN interfaces above attachments.
    fn vlans(&mut self) {
        for upper in self.inputs.host.links.values() {
            if let Some((ifindex, id)) = upper.vlan
                && self.tables.attachments.contains_key(&ifindex)
            {
                self.tables.vlans.insert(Vlan { ifindex, id: u32::from(id) }, upper.index);
            }
        }
    }

    fn scope(&mut self, scope: u32, selectors: &[Selector]) -> Result<(), Full> {
        for compiled in selectors::compile(selectors) {
            let policy = match compiled.admits_any_local() {
                true => ANY_LOCAL,
                false => self.layout.policies.take(compiled.policy.clone())?,
            };
            let remote = Remote { policy, connection: self.with_reverse_path(compiled.connection) };
            self.tables.truncated.extend(compiled.truncated);
            let tables = &mut self.tables;
            match compiled.remote {
                IpNet::V4(net) => tables.v4.remote(scope, net.network().octets(), net.prefix_len(), remote),
                IpNet::V6(net) => tables.v6.remote(scope, net.network().octets(), net.prefix_len(), remote),
            }
            if policy == ANY_LOCAL {
                continue;
            }
            for (local, owner) in compiled.policy {
                let value = self.local(&owner);
                let tables = &mut self.tables;
                match local {
                    IpNet::V4(net) => tables.v4.local(policy, net.network().octets(), net.prefix_len(), value),
                    IpNet::V6(net) => tables.v6.local(policy, net.network().octets(), net.prefix_len(), value),
                }
            }
        }
        Ok(())
    }

    /// The owner of a local prefix, with its rules in the table of port rules.
    fn local(&mut self, owner: &Owner) -> Local {
        let mut rules = [Rule::NONE; RULES_PER_ENTRY];
        for (rule, (limit, connection)) in rules.iter_mut().zip(&owner.limits) {
            *rule = limit.rule(self.with_reverse_path(*connection));
        }
        let limits = if owner.limits.is_empty() {
            NO_PORT_RULES
        } else if let Ok(limits) = self.layout.limits.take(rules) {
            self.tables.limits.insert(limits, rules);
            limits
        } else {
            // Sites influence the number of rules: an excess must not prevent writing the other entries.
            self.tables.truncated.extend(owner.limits.iter().map(|(_, connection)| *connection));
            ADMITS_NOTHING
        };
        Local { connection: self.with_reverse_path(owner.connection), rules: limits }
    }

    /// A connection's slot as encoded in selectors.
    fn with_reverse_path(&self, slot: u32) -> u32 {
        if self.without_reverse_path.contains(&slot) { slot | NO_REVERSE_PATH } else { slot }
    }

    /// Prefixes that are not allowed on the VPC's link: the neighbours on the sites' links.
    fn links_to_sites(&mut self, vpc: u32) {
        let Inputs { config, host, .. } = self.inputs;
        let mut add = |prefix: IpNet| {
            let (address, length) = mapped(prefix);
            self.tables.links.entry(scoped(vpc, address, length)).or_insert(link::SITE);
        };
        for connection in config.connections.values() {
            let link = host.link(&connection.interface).into_iter();
            link.flat_map(|link| host.addresses_of(link.index)).for_each(|address| add(address.trunc()));
            connection.peer.into_iter().for_each(|peer| add(peer.into()));
        }
    }

    /// Source prefixes and hub addresses that are allowed on an interface's own link.
    fn links(&mut self, ifindex: u32, connections: &[Carried<'_>]) {
        // An own address that is configured as a `peer` remains the hub's.
        let mut add = |prefix: IpNet, what: u32| {
            let (address, length) = mapped(prefix);
            self.tables.links.entry(scoped(ifindex, address, length)).or_insert(what);
        };
        for address in self.inputs.host.addresses_of(ifindex) {
            if address.prefix_len() < address.max_prefix_len() {
                add(address.trunc(), link::SOURCE);
            }
            add(address.addr().into(), link::HUB);
            if let IpNet::V4(net) = address
                && net.prefix_len() < 31
            {
                add(IpAddr::V4(net.broadcast()).into(), link::HUB);
            }
        }
        for peer in connections.iter().filter_map(|carried| carried.connection.peer) {
            add(peer.into(), link::SOURCE);
        }
    }
}

/// A connection on an interface.
struct Carried<'a> {
    slot: u32,
    connection: &'a Connection,
    agreed: Option<&'a NegotiatedSelectors>,
}

impl Carried<'_> {
    /// Its ingress selectors; none without an SA.
    fn sent(&self) -> Vec<Selector> {
        match self.agreed {
            Some(agreed) => with_slot(self.slot, agreed.pairs.iter().copied()),
            None => with_slot(self.slot, of_file(self.connection)),
        }
    }
}

/// Egress selectors of a connection. Without an SA, the file's apply, so that packets reach the IKE daemon and can
/// trigger negotiation.
fn to_site(slot: u32, connection: &Connection, agreed: Option<&NegotiatedSelectors>) -> Vec<Selector> {
    let pairs = agreed.into_iter().flat_map(|agreed| agreed.pairs.iter().copied());
    let mut selectors = with_slot(slot, pairs);
    if agreed.is_none_or(|agreed| agreed.on_demand || agreed.pairs.is_empty()) {
        selectors.extend(with_slot(slot, of_file(connection)));
    }
    selectors
}

fn with_slot(connection: u32, pairs: impl Iterator<Item = Pair>) -> Vec<Selector> {
    pairs.map(|pair| Selector { connection, pair }).collect()
}

/// The pairs from the configuration file.
fn of_file(connection: &Connection) -> impl Iterator<Item = Pair> {
    connection.remote_cidrs.iter().flat_map(|remote| {
        connection.local_cidrs.iter().map(|local| Pair { remote: *remote, local: *local, limit: ProtoPorts::NONE })
    })
}

impl<A: Ord> FamilyMaps<A> {
    fn remote(&mut self, scope: u32, address: A, length: u8, remote: Remote) {
        self.remotes.insert(scoped(scope, address, length), remote);
    }

    fn local(&mut self, policy: u32, address: A, length: u8, local: Local) {
        self.locals.insert(scoped(policy, address, length), local);
    }
}

/// A prefix in IPv6 form: IPv4 as IPv4-mapped (RFC 4291 section 2.5.5.2).
fn mapped(prefix: IpNet) -> ([u8; 16], u8) {
    match prefix {
        IpNet::V4(net) => (net.network().to_ipv6_mapped().octets(), 96 + net.prefix_len()),
        IpNet::V6(net) => (net.network().octets(), net.prefix_len()),
    }
}

/// A prefix within a scope.
fn scoped<A>(scope: u32, address: A, length: u8) -> Prefix<Scoped<A>> {
    Prefix { data: Scoped::new(scope, address), length: SCOPE_BITS as u8 + length }
}
