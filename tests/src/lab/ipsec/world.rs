//! A hub and its sites, each behind a public address, and the Internet between them.

use std::net::Ipv4Addr;

use super::super::offices::{add_site_networks, add_vpc, tunnel};
use super::super::world::{Builder, End, Link, PlaceSpec, World};
use super::super::{HUB, Site};

/// The hub's public address. A public link is a /31, with the Internet at the other address.
pub const HUB_PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// The place between all public links.
pub const INTERNET: &str = "internet";
/// The router in front of the sites that are behind NAT.
const NAT: &str = "nat";

/// The variable parts of the world.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub sites: Vec<Site>,
    /// The places of sites behind the router with NAT.
    pub behind_nat: Vec<String>,
    /// The place of a site that has a second link to the hub, without IPsec, and falls back to it.
    pub leased_line: Option<String>,
}

/// The hub (wan0, vpc0), the VPC, the Internet, and the sites (pub0). Only the Internet's kernel forwards, and it knows
/// only public addresses.
pub(super) fn world(shape: &Shape) -> Builder {
    let hub_link = public_link(End::new(HUB, "wan0"), "hub", HUB_PUBLIC, above(HUB_PUBLIC));
    let mut world = World::builder().place(PlaceSpec::new(HUB)).place(PlaceSpec::new(INTERNET).forwards(true));
    world = add_vpc(world, 1500)
        .link(hub_link)
        .ip(HUB, format!("route add default via {}", above(HUB_PUBLIC)))
        // The hub's own address among the sites'.
        .ip(HUB, "addr add 10.10.0.1/32 dev lo");
    let is_behind_nat = |site: &&Site| shape.behind_nat.contains(&site.place.to_string());
    if let Some(first) = shape.sites.iter().find(is_behind_nat) {
        world = add_nat(world, first);
    }
    for site in &shape.sites {
        world = add_site_networks(world, site);
        world = if is_behind_nat(&site) {
            behind_nat(world, site)
        } else {
            let (own, other) = (site.public4(), above(site.public4()));
            world
                .link(public_link(End::new(&site.place, "pub0"), &site.place, own, other))
                .ip(&site.place, format!("route add {HUB_PUBLIC} via {other}"))
        };
        let (host4, host6) = (site.host4(), site.host6());
        // For traffic that charon's routes do not cover (yet).
        let (way4, way6) = if shape.leased_line.as_deref() == Some(&site.place) {
            world = world.link(tunnel(site, 1).mtu(1400));
            let device = Site::device(1);
            (format!("via {} dev {device}", site.hub4(1)), format!("via fe80::1 dev {device}"))
        } else {
            (format!("via {HUB_PUBLIC} dev pub0 onlink"), "dev pub0".to_owned())
        };
        world = world
            .ip(&site.place, format!("route add default {way4} src {host4}"))
            .ip(&site.place, format!("route add ::/0 {way6} src {host6}"));
    }
    world
}

fn public_link(end: End, name: &str, own: Ipv4Addr, other: Ipv4Addr) -> Link {
    let far = End::new(INTERNET, &format!("to-{name}")).address(format_args!("{other}/31"));
    Link::new(end.address(format_args!("{own}/31")), far)
}

/// The other address of a /31.
fn above(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address) ^ 1)
}

/// The router has the public address of this site, and masquerades: see [`masquerade`].
fn add_nat(world: Builder, site: &Site) -> Builder {
    let (own, other) = (site.public4(), above(site.public4()));
    world
        .place(PlaceSpec::new(NAT).forwards(true))
        .link(public_link(End::new(NAT, "outside"), &site.place, own, other))
        .ip(NAT, format!("route add default via {other}"))
}

/// The site has a private address.
fn behind_nat(world: Builder, site: &Site) -> Builder {
    let (own, router) = (format!("172.31.{}.2", site.number), format!("172.31.{}.1", site.number));
    let inside = Link::new(
        End::new(&site.place, "pub0").address(format_args!("{own}/24")),
        End::new(NAT, &format!("in-{}", site.place)).address(format_args!("{router}/24")),
    );
    world.link(inside).ip(&site.place, format!("route add {HUB_PUBLIC} via {router}"))
}

/// Makes the router in front of the sites translate addresses and ports.
pub(super) fn masquerade(world: &World) -> anyhow::Result<()> {
    let rules = "add table ip nat; add chain ip nat out { type nat hook postrouting priority 100 ; }; \
                 add rule ip nat out oifname outside masquerade random";
    let said = super::super::output(world[NAT].command("nft").arg(rules))?;
    anyhow::ensure!(said.status.success(), "nft: {}", String::from_utf8_lossy(&said.stderr));
    Ok(())
}
