//! The nftables table: the packets it passes, and its lifecycle.

mod bench;
mod chains;
mod changes;
mod dump;
mod owner;
mod packet;
mod scale;

use std::collections::BTreeSet;

use hub_common::Mark;
use hub_userspace::kernel::netlink::{GuardService, Ruleset};
use imbl::OrdMap;
use ipnet::IpNet;

use crate::lab::net;

/// Device group of the sites' interfaces, if a test has one.
const GROUP: u32 = 118;

/// Marks of packets for the two sites and the VPC.
fn to(number: u32) -> u32 {
    Mark::default().numbered(number)
}

fn no_route() -> u32 {
    to(Mark::NO_ROUTE)
}

fn local() -> u32 {
    Mark::default().local()
}

/// `site1` is number 2, `site2` number 3, the VPC 1.
fn ruleset() -> Ruleset {
    let next_hops = [(1, "vpc0"), (2, "site1"), (3, "site2")];
    let output = [
        ("site1", "10.0.1.0/24", "10.1.0.0/16"),
        ("site1", "10.0.0.0/16", "10.1.5.0/24"),
        ("site1", "2001:db8:0:1::/64", "2001:db8:1::/48"),
    ];
    Ruleset {
        vpc: names(["vpc0"]),
        sites: names(["site1", "site2"]),
        group: 0,
        mark: Mark::default(),
        next_hops: next_hops.map(|(number, name)| (to(number), name.to_owned())).into(),
        output: selectors(output.map(|(name, hub, site)| (name, net(hub), net(site)))),
        services: [GuardService::Icmp, GuardService::Tcp(179), GuardService::Udp(53)].into(),
    }
}

/// What the hub may send: interface, the hub's side, the site's side.
fn selectors<'a>(pairs: impl IntoIterator<Item = (&'a str, IpNet, IpNet)>) -> OrdMap<String, BTreeSet<(IpNet, IpNet)>> {
    let mut output = OrdMap::<String, BTreeSet<_>>::new();
    for (name, hub, site) in pairs {
        output.entry(name.to_owned()).or_default().insert((hub, site));
    }
    output
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}
