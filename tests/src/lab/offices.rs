//! The world of three offices, a VPC and the hub between them: that of `examples/three-offices.toml`.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::world::{Builder, End, Link, PlaceSpec, World};

/// The hub's place.
pub const HUB: &str = "hub";

/// The VPC: its place, its network, the host in it and the hub's side of it.
pub const VPC: Vpc = Vpc {
    place: "vpc",
    device: "eth0",
    hub_device: "vpc0",
    host4: Ipv4Addr::new(192, 168, 0, 10),
    host6: Ipv6Addr::new(0xfd00, 0x192, 0x168, 0, 0, 0, 0, 0x10),
    hub4: Ipv4Addr::new(192, 168, 0, 1),
    hub6: Ipv6Addr::new(0xfd00, 0x192, 0x168, 0, 0, 0, 0, 1),
};

pub const SHANGHAI: Site = Site::new("shanghai", "tun-sh", 10);
pub const HANGZHOU: Site = Site::new("hangzhou", "tun-hz", 20);
pub const NINGBO: Site = Site::new("ningbo", "tun-nb", 30);

/// The cloud side. Its networks are a /24 and a /64.
#[derive(Debug, Clone, Copy)]
pub struct Vpc {
    pub place: &'static str,
    /// The host's device.
    pub device: &'static str,
    pub hub_device: &'static str,
    pub host4: Ipv4Addr,
    pub host6: Ipv6Addr,
    pub hub4: Ipv4Addr,
    pub hub6: Ipv6Addr,
}

/// A site: an office behind a tunnel link. Everything follows from its number N. The networks are 10.10.N.0/24 and
/// `fd00:10:10:N::/64` (N as decimal digits). The tunnel link is 169.254.N.0/30 and `fe80::/64`; in each the hub is 1
/// and the site is 2. All addresses of its networks are local to the site, so each of them answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    pub place: Cow<'static, str>,
    /// The hub's device towards the site. A second link's has a 2 appended.
    pub hub_device: Cow<'static, str>,
    pub number: u8,
}

impl Site {
    /// Numbers of sites with a second link must leave N + 1 free.
    pub const fn new(place: &'static str, hub_device: &'static str, number: u8) -> Self {
        Self { place: Cow::Borrowed(place), hub_device: Cow::Borrowed(hub_device), number }
    }

    pub fn network4(&self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::new(10, 10, self.number, 0), 24)
    }

    pub fn network6(&self) -> Ipv6Net {
        // N reads the same in both addresses: its decimal digits are written as hexadecimal ones.
        let n = u16::from(self.number);
        let digits = n / 100 * 0x100 + n / 10 % 10 * 0x10 + n % 10;
        Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x10, digits, 0, 0, 0, 0), 64)
    }

    /// The site's host, .1.
    pub fn host4(&self) -> Ipv4Addr {
        self.nth4(1)
    }

    /// The site's host, `::1`.
    pub fn host6(&self) -> Ipv6Addr {
        self.nth6(1)
    }

    /// An address of its IPv4 network.
    pub fn nth4(&self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 10, self.number, n)
    }

    /// An address of its IPv6 network.
    pub fn nth6(&self, n: u64) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network6().addr().to_bits() | u128::from(n))
    }

    /// Both addresses of its host.
    pub fn hosts(&self) -> [IpAddr; 2] {
        [self.host4().into(), self.host6().into()]
    }

    /// The hub's address on the tunnel link; on the second link with `link` 1.
    pub fn hub4(&self, link: u8) -> Ipv4Addr {
        Ipv4Addr::new(169, 254, self.number + link, 1)
    }

    /// The site's address on the tunnel link; on the second link with `link` 1.
    pub fn peer4(&self, link: u8) -> Ipv4Addr {
        Ipv4Addr::new(169, 254, self.number + link, 2)
    }

    /// Its public address, where its tunnel is IPsec.
    pub fn public4(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, self.number)
    }

    /// The hub's device of the tunnel link; of the second link with `link` 1.
    pub fn hub_device(&self, link: u8) -> String {
        if link == 0 { self.hub_device.clone().into_owned() } else { format!("{}{}", self.hub_device, link + 1) }
    }

    /// The site's device of the tunnel link: wan0, or wan1.
    pub fn device(link: u8) -> String {
        format!("wan{link}")
    }
}

/// Options for the world of offices.
#[derive(Debug, Clone)]
pub struct Options {
    prefix: Option<String>,
    recreate: bool,
    slow_path: bool,
    tunnel_mtu: u32,
    vpc_mtu: u32,
    sites: Vec<Site>,
    second_links: Vec<String>,
}

impl Default for Options {
    /// The three offices, unique names, no forwarding by the hub's kernel, 1400 bytes in tunnels, 1500 in the VPC.
    fn default() -> Self {
        Self {
            prefix: None,
            recreate: false,
            slow_path: false,
            tunnel_mtu: 1400,
            vpc_mtu: 1500,
            sites: vec![SHANGHAI, HANGZHOU, NINGBO],
            second_links: Vec::new(),
        }
    }
}

impl Options {
    /// Namespaces are named `PREFIX-PLACE`; existing ones of these names are replaced.
    #[must_use]
    pub fn fixed_names(mut self, prefix: &str) -> Self {
        self.prefix = Some(prefix.to_owned());
        self.recreate = true;
        self
    }

    /// Whether the hub's kernel forwards (`ip_forward`, IPv6 `forwarding`). It has no routes to the offices of its own.
    #[must_use]
    pub fn slow_path(mut self, yes: bool) -> Self {
        self.slow_path = yes;
        self
    }

    /// MTU of all tunnel links, in bytes.
    #[must_use]
    pub fn tunnel_mtu(mut self, mtu: u32) -> Self {
        self.tunnel_mtu = mtu;
        self
    }

    /// MTU of the VPC's link, in bytes.
    #[must_use]
    pub fn vpc_mtu(mut self, mtu: u32) -> Self {
        self.vpc_mtu = mtu;
        self
    }

    /// Replaces the three offices with other sites.
    #[must_use]
    pub fn sites(mut self, sites: impl IntoIterator<Item = Site>) -> Self {
        self.sites = sites.into_iter().collect();
        self
    }

    /// Adds a second tunnel link to this site: the hub's device with a 2 appended, wan1 at the site,
    /// 169.254.(N+1).0/30. The site prefers wan0 while it has a carrier.
    #[must_use]
    pub fn second_link(mut self, place: &str) -> Self {
        self.second_links.push(place.to_owned());
        self
    }
}

impl World {
    /// The hub with `vpc0` and a tunnel device per site, the VPC with one host, and the sites. Sites and VPC send all
    /// other traffic to the hub, over IPv4 and IPv6, from their host addresses.
    ///
    /// # Errors
    /// As [`Builder::build`].
    pub fn three_offices(options: &Options) -> anyhow::Result<Self> {
        Self::offices(options).build()
    }

    /// Like [`three_offices`](Self::three_offices), as a builder for additions.
    pub fn offices(options: &Options) -> Builder {
        let mut world =
            Self::builder().recreate(options.recreate).place(PlaceSpec::new(HUB).forwards(options.slow_path));
        if let Some(prefix) = &options.prefix {
            world = world.prefix(prefix);
        }
        world = add_vpc(world, options.vpc_mtu);
        for site in &options.sites {
            world = add_site_networks(world, site);
            let second = options.second_links.iter().any(|place| *place == site.place);
            for link in 0..=u8::from(second) {
                world = world.link(tunnel(site, link).mtu(options.tunnel_mtu));
            }
            world = add_site_routes(world, site, 1 + u8::from(second));
        }
        world
    }
}

pub(super) fn add_vpc(world: Builder, mtu: u32) -> Builder {
    let hub = End::new(HUB, VPC.hub_device)
        .address(format_args!("{}/24", VPC.hub4))
        .address(format_args!("{}/64", VPC.hub6))
        .address("fe80::1/64");
    let host = End::new(VPC.place, VPC.device)
        .address(format_args!("{}/24", VPC.host4))
        .address(format_args!("{}/64", VPC.host6))
        .address("fe80::2/64")
        .receives_redirects();
    world
        .place(PlaceSpec::new(VPC.place))
        .link(Link::new(hub, host).mtu(mtu))
        .ip(VPC.place, format!("route add default via {}", VPC.hub4))
        .ip(VPC.place, format!("route add ::/0 via {}", VPC.hub6))
}

pub(super) fn tunnel(site: &Site, link: u8) -> Link {
    let hub =
        End::new(HUB, &site.hub_device(link)).address(format_args!("{}/30", site.hub4(link))).address("fe80::1/64");
    let peer = End::new(&site.place, &Site::device(link))
        .address(format_args!("{}/30", site.peer4(link)))
        .address("fe80::2/64")
        .receives_redirects();
    Link::new(hub, peer)
}

/// A site's networks: all their addresses are local to the site.
pub(super) fn add_site_networks(mut world: Builder, site: &Site) -> Builder {
    let (host4, host6) = (site.host4(), site.host6());
    // Only IPv6 needs more than a local route to bind to any address of the site.
    world = world.place(PlaceSpec::new(&site.place).sysctl("ipv6/ip_nonlocal_bind", "1"));
    for line in [
        format!("addr add {host4}/32 dev lo"),
        format!("addr add {host6}/128 dev lo nodad"),
        // Every address of the site's networks answers, not only its first host's.
        format!("route add local {} dev lo", site.network4()),
        format!("route add local {} dev lo", site.network6()),
    ] {
        world = world.ip(&site.place, line);
    }
    world
}

fn add_site_routes(mut world: Builder, site: &Site, links: u8) -> Builder {
    let (host4, host6) = (site.host4(), site.host6());
    for link in 0..links {
        let (hub4, device, metric) = (site.hub4(link), Site::device(link), 100 * (u32::from(link) + 1));
        world = world
            .ip(&site.place, format!("route add default via {hub4} dev {device} src {host4} metric {metric}"))
            .ip(&site.place, format!("route add ::/0 via fe80::1 dev {device} src {host6} metric {metric}"));
    }
    world
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn site_addresses_derive_from_its_number() {
        assert_eq!(SHANGHAI.network6().to_string(), "fd00:10:10:10::/64");
        assert_eq!(NINGBO.nth6(0x77).to_string(), "fd00:10:10:30::77");
        assert_eq!(Site::new("far", "tun-far", 123).network6().to_string(), "fd00:10:10:123::/64");
        assert_eq!(HANGZHOU.nth4(7).to_string(), "10.10.20.7");
        assert_eq!(HANGZHOU.peer4(1).to_string(), "169.254.21.2");
        assert_eq!(HANGZHOU.hub_device(1), "tun-hz2");
    }
}
