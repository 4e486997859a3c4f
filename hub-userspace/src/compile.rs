//! RIB to tables: what every map of the program must hold. State in, tables out; the [`Layout`] carries the numbers over
//! from one compilation to the next.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use hub_common::maps::{
    ANY_LOCAL, Attachment, LinkAddress, Neighbour, NextHop, Remote, Route, SCOPE_BITS, Scoped, UNATTRIBUTED, VPC, Vlan,
};
use ipnet::IpNet;

use crate::{
    config::model::{Config, Connection},
    layout::{GroupKey, Layout, Member},
    netlink::{HostState, Link},
    rib::{self, Rib, Target},
    selectors::{self, Selector},
    slots::Full,
    state::States,
    tables::{Family, Prefix, Tables},
};

/// All that the tables follow from.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub config: &'a Config,
    pub host: &'a HostState,
    pub states: &'a States,
}

/// Scopes of interfaces that carry several connections; a connection's own scope is its slot.
const SHARED_SCOPE: u32 = 1 << 31;

/// Compiles everything. On an error `layout` is spoilt: give it a copy.
pub fn compile(inputs: Inputs<'_>, rib: &Rib, layout: &mut Layout) -> Result<Tables, Full> {
    layout.begin();
    let mut compiler =
        Compiler { inputs, layout, slots: BTreeMap::new(), next_hops: HashMap::new(), tables: Tables::default() };
    compiler.connections()?;
    compiler.attachments()?;
    compiler.neighbours();
    compiler.routes(rib)?;
    let tables = compiler.tables;
    layout.end();
    Ok(tables)
}

struct Compiler<'a> {
    inputs: Inputs<'a>,
    layout: &'a mut Layout,
    /// `COUNTERS` slots by connection name.
    slots: BTreeMap<&'a str, u32>,
    /// Index into `NEXT_HOPS`, for the members met so far.
    next_hops: HashMap<Member, u32>,
    tables: Tables,
}

impl<'a> Compiler<'a> {
    /// Numbers the connections and compiles each one's own selectors, which the egress check asks.
    fn connections(&mut self) -> Result<(), Full> {
        for (name, connection) in &self.inputs.config.connections {
            let slot = self.layout.connections.take(name.clone())?;
            self.slots.insert(name, slot);
            self.tables.connections.insert(slot, name.clone());
            self.scope(slot, &selectors_of(slot, connection))?;
        }
        Ok(())
    }

    fn attachments(&mut self) -> Result<(), Full> {
        let inputs = self.inputs;
        let mut by_interface = BTreeMap::<&str, Vec<(u32, &Connection)>>::new();
        for (name, connection) in &inputs.config.connections {
            by_interface.entry(&connection.interface).or_default().push((self.slots[name.as_str()], connection));
        }
        let isolated = if inputs.config.gateway.spoke_to_spoke { 0 } else { Attachment::ISOLATED };
        for (interface, connections) in by_interface {
            let Some(link) = inputs.host.link(interface) else {
                continue;
            };
            let port = self.port(link)?;
            let (scope, connection) = match connections.as_slice() {
                [(slot, _)] => (*slot, *slot),
                _ => (SHARED_SCOPE | port, UNATTRIBUTED),
            };
            if connection == UNATTRIBUTED {
                let all: Vec<Selector> =
                    connections.iter().flat_map(|(slot, connection)| selectors_of(*slot, connection)).collect();
                self.scope(scope, &all)?;
            }
            self.attach(link, scope, connection, isolated);
        }
        if let Some(vpc) = &inputs.config.vpc {
            let any = |cidr: &IpNet| IpNet::new_assert(cidr.network(), 0).trunc();
            let selectors: Vec<Selector> =
                vpc.cidrs.iter().map(|cidr| Selector { connection: VPC, remote: *cidr, local: any(cidr) }).collect();
            self.scope(VPC, &selectors)?;
            if let Some(link) = inputs.host.link(&vpc.interface) {
                self.port(link)?;
                self.attach(link, VPC, VPC, 0);
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
        let flags = flags | if link.ethernet { Attachment::ETHERNET } else { 0 };
        let attachment = Attachment { scope, connection, mac: link.mac.unwrap_or_default(), flags };
        self.tables.attachments.insert(link.index, attachment);
        for upper in self.inputs.host.links.values() {
            if let Some((ifindex, id)) = upper.vlan
                && ifindex == link.index
            {
                self.tables.vlans.insert(Vlan { ifindex, id: u32::from(id) }, upper.index);
            }
        }
    }

    /// Compiles the selectors of a scope.
    fn scope(&mut self, scope: u32, selectors: &[Selector]) -> Result<(), Full> {
        for compiled in selectors::compile(selectors) {
            let policy = match compiled.admits_any_local() {
                true => ANY_LOCAL,
                false => self.layout.policies.take(compiled.policy.clone())?,
            };
            let remote = Remote { policy, connection: compiled.connection };
            let tables = &mut self.tables;
            match compiled.remote {
                IpNet::V4(net) => tables.v4.remote(scope, net.network().octets(), net.prefix_len(), remote),
                IpNet::V6(net) => tables.v6.remote(scope, net.network().octets(), net.prefix_len(), remote),
            }
            if policy == ANY_LOCAL {
                continue;
            }
            for (local, connection) in compiled.policy {
                match local {
                    IpNet::V4(net) => tables.v4.local(policy, net.network().octets(), net.prefix_len(), connection),
                    IpNet::V6(net) => tables.v6.local(policy, net.network().octets(), net.prefix_len(), connection),
                }
            }
        }
        Ok(())
    }

    /// Link addresses of hosts that are reached directly: the VPC's, and those of Ethernet links without a `peer`.
    fn neighbours(&mut self) {
        let Inputs { config, host, .. } = self.inputs;
        let without_peer = config.connections.values().filter(|connection| connection.peer.is_none());
        let interfaces =
            without_peer.map(|connection| &connection.interface).chain(config.vpc.iter().map(|vpc| &vpc.interface));
        let indices: BTreeSet<u32> = interfaces.filter_map(|name| host.link(name)).map(|link| link.index).collect();
        for ((ifindex, address), mac) in host.neighbours.iter().filter(|((ifindex, _), _)| indices.contains(ifindex)) {
            let value = LinkAddress { mac: *mac, padding: [0; 2] };
            let ifindex = *ifindex;
            match address {
                IpAddr::V4(address) => {
                    self.tables.v4.neighbours.insert(Neighbour { ifindex, address: address.octets() }, value);
                }
                IpAddr::V6(address) => {
                    self.tables.v6.neighbours.insert(Neighbour { ifindex, address: address.octets() }, value);
                }
            }
        }
    }

    fn routes(&mut self, rib: &Rib) -> Result<(), Full> {
        // Destinations with the same members share their group, whatever their number.
        let mut groups = HashMap::<GroupKey, Route>::new();
        for (destination, target) in rib.iter() {
            let route = match target {
                Target::Hub => Route { first_bucket: 0, bucket_mask: 0, flags: Route::HUB },
                Target::Vpc { gateway } => {
                    let member = Member::Vpc(*gateway);
                    let route = self.group(&mut groups, vec![(member, 1)], &[(member, 1)])?;
                    Route { flags: Route::VPC, ..route }
                }
                Target::Connections(members) => {
                    let member = |name: &str| Member::Connection(self.slots[name]);
                    let key = members.iter().map(|(name, weight)| (member(name), *weight)).collect();
                    let active: Vec<(Member, u32)> = rib::active(members, self.inputs.states)
                        .into_iter()
                        .map(|(name, part)| (member(name), part))
                        .collect();
                    self.group(&mut groups, key, &active)?
                }
            };
            match destination {
                IpNet::V4(net) => self.tables.v4.route(net.network().octets(), net.prefix_len(), route),
                IpNet::V6(net) => self.tables.v6.route(net.network().octets(), net.prefix_len(), route),
            }
        }
        Ok(())
    }

    fn group(
        &mut self,
        groups: &mut HashMap<GroupKey, Route>,
        key: GroupKey,
        active: &[(Member, u32)],
    ) -> Result<Route, Full> {
        if let Some(route) = groups.get(&key) {
            return Ok(*route);
        }
        let group = self.layout.group(&key, active)?;
        for (bucket, owner) in (group.first..).zip(&group.owners) {
            let owner = owner.expect("a group has an active member: rib::active never gives none");
            let next_hop = self.next_hop(owner)?;
            self.tables.buckets.insert(bucket, next_hop);
        }
        let bucket_mask = u16::try_from(group.owners.len() - 1).expect("asserted in hub_common::maps");
        let route = Route { first_bucket: group.first, bucket_mask, flags: 0 };
        groups.insert(key, route);
        Ok(route)
    }

    /// Where a member's packets go now.
    fn next_hop(&mut self, member: Member) -> Result<u32, Full> {
        if let Some(index) = self.next_hops.get(&member) {
            return Ok(*index);
        }
        let next_hop = match member {
            Member::Connection(slot) => {
                let (_, connection) = self.connection(slot);
                self.way_out(slot, &connection.interface, connection.peer)
            }
            Member::Vpc(gateway) => {
                let vpc = self.inputs.config.vpc.as_ref().expect("only a VPC has VPC destinations");
                self.way_out(VPC, &vpc.interface, gateway)
            }
        };
        let index = self.layout.next_hops.take(next_hop)?;
        self.tables.next_hops.insert(index, next_hop);
        self.next_hops.insert(member, index);
        Ok(index)
    }

    fn connection(&self, slot: u32) -> (&'a str, &'a Connection) {
        let (name, _) = self.slots.iter().find(|(_, other)| **other == slot).expect("members come from `slots`");
        (name, &self.inputs.config.connections[*name])
    }

    /// `neighbour` is the one on the link that everything goes to; without one, each destination is its own.
    fn way_out(&self, connection: u32, interface: &str, neighbour: Option<IpAddr>) -> NextHop {
        let host = self.inputs.host;
        let nowhere = NextHop {
            connection,
            scope: connection,
            ifindex: 0,
            port: 0,
            mtu: 0,
            source_mac: [0; 6],
            destination_mac: [0; 6],
            flags: 0,
        };
        let Some(link) = host.link(interface) else {
            return nowhere;
        };
        let mut flags = if link.is_up() { NextHop::UP } else { 0 };
        let mut destination_mac = [0; 6];
        if link.ethernet {
            flags |= NextHop::ETHERNET;
            match neighbour.map(|address| host.neighbours.get(&(link.index, address))) {
                None => flags |= NextHop::ON_LINK,
                Some(None) => {}
                Some(Some(mac)) => {
                    flags |= NextHop::RESOLVED;
                    destination_mac = *mac;
                }
            }
        }
        NextHop {
            ifindex: link.index,
            port: self.layout.ports.get(&link.index).expect("every attachment has a port"),
            mtu: link.mtu,
            source_mac: link.mac.unwrap_or_default(),
            destination_mac,
            flags,
            ..nowhere
        }
    }
}

fn selectors_of(slot: u32, connection: &Connection) -> Vec<Selector> {
    let pairs = connection.remote_cidrs.iter().flat_map(|remote| {
        connection.local_cidrs.iter().map(|local| Selector { connection: slot, remote: *remote, local: *local })
    });
    pairs.collect()
}

impl<A: Ord> Family<A> {
    fn remote(&mut self, scope: u32, address: A, length: u8, remote: Remote) {
        self.remotes.insert(scoped(scope, address, length), remote);
    }

    fn local(&mut self, policy: u32, address: A, length: u8, connection: u32) {
        self.locals.insert(scoped(policy, address, length), connection);
    }

    fn route(&mut self, address: A, length: u8, route: Route) {
        self.routes.insert(Prefix { data: address, length }, route);
    }
}

/// A prefix of an address within a scope.
fn scoped<A>(scope: u32, address: A, length: u8) -> Prefix<Scoped<A>> {
    Prefix { data: Scoped::new(scope, address), length: SCOPE_BITS as u8 + length }
}
