//! Routing: the longest prefix, and among its members the next hop of the packet's flow.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;

use super::{Account, Connection, Interface, PolicyRoute, Route, World, flow, parse::Packet, prefix::contains};

/// The target of a destination.
pub enum Target<'a> {
    Vpc {
        gateway: Option<IpAddr>,
    },
    /// All routes of one destination, by next-hop name; at least one.
    Routes(Vec<&'a Route>),
    /// All policy routes of one priority and pair of prefixes, likewise.
    Policy(Vec<&'a PolicyRoute>),
}

/// A next hop with its weight, whatever leads to it.
pub trait Weighted {
    fn next_hop(&self) -> &str;
    fn weight(&self) -> u8;
}

impl Weighted for Route {
    fn next_hop(&self) -> &str {
        &self.next_hop
    }

    fn weight(&self) -> u8 {
        self.weight
    }
}

impl Weighted for PolicyRoute {
    fn next_hop(&self) -> &str {
        &self.next_hop
    }

    fn weight(&self) -> u8 {
        self.weight
    }
}

/// The egress of a packet.
pub struct Way<'a> {
    pub account: Account,
    /// `None` if the host has no such interface.
    pub interface: Option<&'a Interface>,
    /// The address whose link address becomes the frame's destination.
    pub neighbour: IpAddr,
}

impl Interface {
    /// An address of this interface, or the directed broadcast of its link, which links of one or two hosts do not have
    /// (RFC 3021).
    pub(super) fn is_own(&self, destination: IpAddr) -> bool {
        self.addresses.iter().any(|own| {
            let last_of_link = match own.addr() {
                IpAddr::V4(address) if own.prefix_len() < 31 => {
                    let hosts = u32::MAX >> own.prefix_len();
                    Some(IpAddr::V4((u32::from(address) | hosts).into()))
                }
                _ => None,
            };
            own.addr() == destination || last_of_link == Some(destination)
        })
    }
}

impl World {
    /// An address of the hub, or the directed broadcast of one of its links.
    pub(super) fn is_hub(&self, destination: IpAddr) -> bool {
        self.interfaces.iter().any(|interface| interface.is_own(destination))
    }

    /// The target with the longest prefix that contains the destination. The VPC wins ties, so that no site can take
    /// its traffic.
    pub(super) fn target(&self, destination: IpAddr) -> Option<Target<'_>> {
        let routed = self.routes.iter().filter(|route| contains(route.destination, destination));
        let routed = routed.map(|route| route.destination).max_by_key(IpNet::prefix_len);
        let vpc = self.vpc_prefix_length(destination);
        match (vpc, routed) {
            (Some(vpc), routed) if routed.is_none_or(|routed| routed.prefix_len() <= vpc) => {
                Some(Target::Vpc { gateway: self.vpc_gateway(destination) })
            }
            (_, Some(routed)) => {
                let mut members: Vec<_> = self.routes.iter().filter(|route| route.destination == routed).collect();
                members.sort_by_key(|route| &route.next_hop);
                Some(Target::Routes(members))
            }
            (_, None) => None,
        }
    }

    /// The target of a packet: that of the policy routes, if one matches. The first one has the smallest priority, then the
    /// longest source, then the longest destination.
    pub(super) fn chosen(&self, source: IpAddr, destination: IpAddr) -> Option<Target<'_>> {
        let matches = |route: &&PolicyRoute| contains(route.source, source) && contains(route.destination, destination);
        let order = |route: &PolicyRoute| {
            let lengths = [route.source, route.destination].map(|prefix| std::cmp::Reverse(prefix.prefix_len()));
            (route.priority, lengths)
        };
        let Some(first) = self.policy_routes.iter().filter(matches).map(order).min() else {
            return self.target(destination);
        };
        let mut members: Vec<_> =
            self.policy_routes.iter().filter(matches).filter(|route| order(route) == first).collect();
        members.sort_by_key(|route| &route.next_hop);
        Some(Target::Policy(members))
    }

    /// Length of the longest VPC prefix that contains an address: the VPC's own, or a part of it that the kernel routes
    /// to the VPC interface.
    fn vpc_prefix_length(&self, destination: IpAddr) -> Option<u8> {
        let vpc = self.vpc.as_ref()?;
        let around = vpc.cidrs.iter().filter(|cidr| contains(**cidr, destination));
        let shortest = around.clone().map(IpNet::prefix_len).min()?;
        let longest = around.map(IpNet::prefix_len).max()?;
        let parts = self.vpc_kernel_routes(destination).into_iter().map(|(length, _)| length);
        parts.filter(|length| *length >= shortest).chain([longest]).max()
    }

    /// Router of the kernel's longest prefix that contains an address, on the VPC interface.
    fn vpc_gateway(&self, destination: IpAddr) -> Option<IpAddr> {
        let routes = self.vpc_kernel_routes(destination);
        routes.into_iter().max_by_key(|(length, gateway)| (*length, gateway.is_none()))?.1
    }

    /// Prefix length and router of every kernel route on the VPC interface that contains an address, its links
    /// included.
    fn vpc_kernel_routes(&self, destination: IpAddr) -> Vec<(u8, Option<IpAddr>)> {
        let Some(interface) = self.vpc.as_ref().and_then(|vpc| self.interface(&vpc.interface)) else {
            return Vec::new();
        };
        let routed = interface.gateways.iter().map(|(prefix, gateway)| (*prefix, Some(*gateway)));
        let links = interface.addresses.iter().map(|own| (own.trunc(), None));
        let around = routed.chain(links).filter(|(prefix, _)| contains(*prefix, destination));
        around.map(|(prefix, gateway)| (prefix.prefix_len(), gateway)).collect()
    }

    pub(super) fn way(&self, target: &Target<'_>, packet: &Packet) -> Way<'_> {
        match target {
            Target::Vpc { gateway } => Way {
                account: Account::Vpc,
                interface: self.vpc.as_ref().and_then(|vpc| self.interface(&vpc.interface)),
                neighbour: gateway.unwrap_or(packet.destination),
            },
            Target::Routes(routes) => self.way_by(self.member(routes, packet), packet),
            Target::Policy(routes) => self.way_by(self.member(routes, packet), packet),
        }
    }

    fn way_by(&self, connection: &Connection, packet: &Packet) -> Way<'_> {
        Way {
            account: Account::Connection(connection.name.clone()),
            interface: self.interface(&connection.interface),
            neighbour: connection.peer.unwrap_or(packet.destination),
        }
    }

    /// Names of the members that carry a destination's traffic now, with their shares; these sum up to 1.
    pub fn shares(&self, destination: IpNet) -> BTreeMap<String, f64> {
        let routes: Vec<_> = self.routes.iter().filter(|route| route.destination == destination).collect();
        let active = self.active(&routes);
        let total: u32 = active.iter().map(|(_, weight)| weight).sum();
        active.into_iter().map(|(one, weight)| (one.name.clone(), f64::from(weight) / f64::from(total))).collect()
    }

    fn member<R: Weighted>(&self, routes: &[&R], packet: &Packet) -> &Connection {
        let all: Vec<&Connection> = routes.iter().flat_map(|route| self.tunnels(route.next_hop())).collect();
        if let [only] = all.as_slice() {
            return only;
        }
        let active = self.active(routes);
        let buckets = flow::share_out(&active.iter().map(|(_, weight)| *weight).collect::<Vec<_>>());
        let bucket = usize::try_from(flow::hash(packet)).expect("32 bits") % buckets.len();
        active[buckets[bucket]].0
    }

    /// The connections that carry the traffic, or their tunnels, by name, with whole numbers in proportion to their shares.
    ///
    /// A connection with tunnels is up if one of them is. It distributes its share over its tunnels as routes distribute
    /// theirs over connections.
    fn active<R: Weighted>(&self, routes: &[&R]) -> Vec<(&Connection, u32)> {
        let is_up = |name: &str| self.tunnels(name).iter().any(|tunnel| tunnel.up);
        let of_routes = preferred(routes, |route| (route.weight(), is_up(route.next_hop())));
        let of_connections: Vec<(u32, Vec<(&Connection, u32)>)> = of_routes
            .into_iter()
            .map(|(route, part)| {
                let tunnels = self.tunnels(route.next_hop());
                let shared = preferred(&tunnels, |tunnel| (tunnel.tunnel_weight.unwrap_or(1), tunnel.up));
                (part, shared.into_iter().map(|(tunnel, weight)| (*tunnel, weight)).collect())
            })
            .collect();
        // A common denominator.
        let total = |tunnels: &[(&Connection, u32)]| tunnels.iter().map(|(_, weight)| weight).sum::<u32>();
        let totals: Vec<u32> = of_connections.iter().map(|(_, tunnels)| total(tunnels)).collect();
        let unit = (1..=u32::MAX).find(|unit| totals.iter().all(|total| unit % total == 0));
        let unit = unit.expect("their product is one");
        let shares = of_connections.iter().flat_map(|(part, tunnels)| {
            let each = part * (unit / total(tunnels));
            tunnels.iter().map(move |(tunnel, weight)| (*tunnel, each * weight))
        });
        let mut shares: Vec<_> = shares.collect();
        shares.sort_by_key(|(one, _)| &one.name);
        shares
    }
}

/// Those with weights above 0 that are up. If there are none, those of weight 0 that are up. If all are down, those with
/// weights above 0, so that traffic can bring the tunnel up; otherwise those of weight 0. With their parts, of which those
/// of weight 0 have equal ones. `of` returns a weight, and whether it is up.
fn preferred<T>(all: &[T], of: impl Fn(&T) -> (u8, bool)) -> Vec<(&T, u32)> {
    let pick = |weighted: bool, only_up: bool| -> Vec<(&T, u32)> {
        let candidates = all.iter().filter(|one| (of(one).0 > 0) == weighted && (!only_up || of(one).1));
        candidates.map(|one| (one, u32::from(of(one).0.max(1)))).collect()
    };
    let choices = [pick(true, true), pick(false, true), pick(true, false), pick(false, false)];
    choices.into_iter().find(|found| !found.is_empty()).expect("there is one at least")
}
