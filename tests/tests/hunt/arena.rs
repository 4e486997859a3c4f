//! The world: a hub with five sites, a VPC, a network of its own and a default route; its configuration; the agent.

use std::env;
use std::fmt::Write as _;
use std::fs;

use anyhow::Context;
use hub_tests::lab::{Agent, AgentCommand, End, HUB, Link, Mac, Namespace, PlaceSpec, World, agent_binary};

use crate::changing::Stage;
use crate::dual::{Dual, Tunnel};
use crate::learned::{self, NEW4, NEW6};
use crate::places::{ALL, OWN4, OWN6, POLICY_ROUTES, Place, SEGMENTS, SHARED, SHARED4, SHARED6, SITES, TRANSLATED};
use crate::policy::Policy;
use crate::raw::{Raw, RawLink};

/// Differences between hunts.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "independent features")]
pub struct Variant {
    /// The value of `--attach`.
    pub attach: &'static str,
    pub rp_filter: &'static str,
    pub spoke_to_spoke: bool,
    /// Links without Ethernet headers.
    pub raw: Raw,
    /// Two sites have the same networks.
    pub translated: bool,
    /// Some sites are in segments: [`SEGMENTS`].
    pub segments: bool,
    /// There are policy routes: [`POLICY_ROUTES`].
    pub policy_routes: bool,
    /// A site with two tunnels, one of which fails at times.
    pub dual: Option<Dual>,
    /// A part of the routes is learned, and some of those change.
    pub learned: bool,
}

impl Variant {
    pub const PLAIN: Self = Self {
        attach: "auto",
        rp_filter: "0",
        spoke_to_spoke: true,
        raw: Raw::Tun,
        translated: false,
        segments: false,
        policy_routes: false,
        dual: None,
        learned: false,
    };
    pub const ISOLATED: Self = Self { spoke_to_spoke: false, ..Self::PLAIN };

    pub fn attach(self, attach: &'static str) -> Self {
        Self { attach, ..self }
    }

    pub fn policy(self, stage: Stage) -> Policy {
        Policy {
            spoke_to_spoke: self.spoke_to_spoke,
            promises_raw_links: self.attach != "generic",
            guarded: true,
            translated: self.translated,
            segments: self.segments,
            routes_by_source: self.policy_routes,
            learned: self.learned.then_some(stage.moving),
        }
    }

    /// The configuration file.
    pub fn config(self) -> String {
        self.config_with(env::var("VPNHUB_TEST_LOOKUP").ok().as_deref())
    }

    /// The configuration without the routes to these destinations.
    pub fn config_without(self, destinations: &[&str]) -> String {
        const ROUTE: &str = "\n[[route]]\n";
        let text = self.config();
        let parts = text.split(ROUTE);
        let is_left =
            |part: &&str| !destinations.iter().any(|gone| part.starts_with(&format!("destination = \"{gone}\"")));
        parts.filter(is_left).collect::<Vec<_>>().join(ROUTE)
    }

    /// The configuration with this `lookup`.
    pub fn config_with(self, lookup: Option<&str>) -> String {
        let mut parts = vec![format!("[gateway]\nname = \"hunted\"\nspoke_to_spoke = {}\n", self.spoke_to_spoke)];
        if let Some(lookup) = lookup {
            parts.push(format!("\n[dataplane]\nlookup = \"{lookup}\"\n"));
        }
        let (vpc4, vpc6) = Place::Vpc.networks();
        parts.push(format!("\n[vpc]\ninterface = \"vpc0\"\ncidrs = [\"{vpc4}\", \"{vpc6}\"]\n"));
        if self.learned {
            parts.push(format!("\n[learn]\ntable = {}\nprotocols = [\"bird\"]\n", learned::TABLE));
        }
        if self.segments {
            let section = |(name, reaches)| format!("\n[segment.{name}]\nreaches = {reaches:?}\n");
            parts.extend(SEGMENTS.map(section));
        }
        if self.policy_routes {
            for (source, destination, next_hop) in POLICY_ROUTES {
                let ((from4, from6), (to4, to6)) = (source.networks(), destination.networks());
                for (from, to) in [(from4.to_string(), to4.to_string()), (from6.to_string(), to6.to_string())] {
                    parts.push(format!(
                        "\n[[policy_route]]\nsource = \"{from}\"\ndestination = \"{to}\"\nnext_hop = \"{next_hop}\"\n"
                    ));
                }
            }
        }
        for (site, last) in SITES.into_iter().zip(61..) {
            let (net4, net6) = site.networks();
            let translates = self.translated && TRANSLATED.contains(&site);
            let own =
                if translates { [OWN4.to_string(), OWN6.to_string()] } else { [net4.to_string(), net6.to_string()] };
            let mut remote = own.to_vec();
            if SHARED.contains(&site) {
                remote.extend([SHARED4.to_string(), SHARED6.to_string()]);
            }
            if self.learned && site == Place::Epsilon {
                remote.extend([NEW4.to_string(), NEW6.to_string()]);
            }
            if site == Place::Delta {
                remote = vec!["0.0.0.0/0".into(), "::/0".into()];
            }
            let local = match site {
                Place::Gamma => vec![vpc4.to_string(), vpc6.to_string()],
                _ => vec!["0.0.0.0/0".into(), "::/0".into()],
            };
            let device = site.device();
            parts.push(format!("\n[customer_gateway.{site}]\naddress = \"203.0.113.{last}\"\n"));
            parts.push(format!("\n[connection.{site}]\ncustomer_gateway = \"{site}\"\n"));
            if let Some(segment) = site.segment().filter(|_| self.segments) {
                parts.push(format!("segment = \"{segment}\"\n"));
            }
            match self.dual.filter(|dual| dual.site == site) {
                Some(dual) => parts.push(format!("tunnels = {}\n", dual.config())),
                None => parts.push(format!("interface = \"{device}\"\n")),
            }
            if site.is_ethernet() && self.dual.is_none_or(|dual| dual.site != site) {
                parts.push(format!("peer = \"{}\"\n", site.link4().1[1]));
            }
            if translates {
                let pair = |site: &str, hub: &str| format!("{{ site = \"{site}\", hub = \"{hub}\" }}");
                let pairs = [pair(&own[0], &net4.to_string()), pair(&own[1], &net6.to_string())];
                parts.push(format!("translate = [{}]\n", pairs.join(", ")));
            }
            parts.push(format!("local_cidrs = {local:?}\nremote_cidrs = {remote:?}\n"));
        }
        let own = SITES.into_iter().map(|site| {
            let (net4, net6) = site.networks();
            (site, [net4.to_string(), net6.to_string()], 100)
        });
        let shared = SHARED.into_iter().map(|site| (site, [SHARED4.to_string(), SHARED6.to_string()], 50));
        let own = own.filter(|(site, ..)| !self.learned || *site != Place::Beta);
        for (site, destinations, weight) in own.chain(shared) {
            for destination in destinations {
                parts.push(format!(
                    "\n[[route]]\ndestination = \"{destination}\"\nnext_hop = \"{site}\"\nweight = {weight}\npublish = true\n"
                ));
            }
        }
        parts.concat()
    }
}

/// The world with the hub as its operator has set it up. The links without Ethernet headers are separate.
pub struct Arena {
    pub variant: Variant,
    pub world: World,
}

impl Arena {
    /// Builds it, without an agent.
    pub fn build(variant: Variant) -> anyhow::Result<(Self, [RawLink; 2])> {
        let hub = PlaceSpec::new(HUB)
            .forwards(true)
            .sysctl("ipv4/conf/all/rp_filter", variant.rp_filter)
            .sysctl("ipv4/conf/default/rp_filter", variant.rp_filter)
            // The kernel follows source routes where it may: a path to a destination that the header does not name.
            .sysctl("ipv4/conf/all/accept_source_route", "1")
            .sysctl("ipv4/conf/default/accept_source_route", "1");
        let mut world = World::builder().place(hub);
        for place in ALL.into_iter().filter(|place| place.is_ethernet()) {
            world = world.place(PlaceSpec::new(place.name())).link(link(place, Tunnel::First));
        }
        if let Some(Dual { site, .. }) = variant.dual {
            world = world.link(link(site, Tunnel::Second));
        }
        for (place, link) in variant.raw.places() {
            world = world.place(place).link(link);
        }
        let world = world.build()?;
        let hub = &world[HUB];
        let raw = variant.raw.create(&world)?;
        let mut lines = String::new();
        for place in [Place::Delta, Place::Epsilon] {
            let (net, [own, _]) = place.link4();
            let (device, mtu, length) = (place.device(), place.mtu(), net.prefix_len());
            writeln!(lines, "link set dev {device} mtu {mtu} txqueuelen 20000 up")?;
            writeln!(lines, "addr add {own}/{length} dev {device}")?;
        }
        let [_, wan4] = Place::Wan.link4().1;
        let [_, wan6] = Place::Wan.link6().context("the default route's link has addresses")?;
        writeln!(lines, "route add default via {wan4}")?;
        writeln!(lines, "route add ::/0 via {wan6}")?;
        if variant.learned {
            lines.push_str(&learned::batch(Stage::FIRST.moving, variant.dual, variant.translated));
        }
        hub.batch(&lines)?;
        Ok((Self { variant, world }, raw))
    }

    pub fn hub(&self) -> &Namespace {
        &self.world[HUB]
    }

    /// The command that starts the agent.
    pub fn command(&self) -> AgentCommand {
        AgentCommand::new(agent_binary()).argument("--attach").argument(self.variant.attach)
    }

    /// Makes the agent load another configuration.
    pub fn reload(agent: &Agent, config: &str) -> anyhow::Result<()> {
        fs::write(agent.config(), config)?;
        let output = agent.cli(&["reload"])?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Starts the agent and waits until it answers.
    pub fn start(&self) -> anyhow::Result<Agent> {
        self.command().start_with(self.hub(), &self.variant.config())
    }
}

/// The veth pair to a place. Only the link's address answers there: other addresses have no routes to answer by. Both
/// tunnels of a site have the same Ethernet addresses, so a frame can enter by either.
fn link(place: Place, tunnel: Tunnel) -> Link {
    let (net, [hub4, far4]) = place.tunnel_link4(tunnel);
    let length = net.prefix_len();
    let mac = |end| Mac([2, 0, 0, 0, 0x10 + place as u8, end]);
    let mut hub = End::new(HUB, &place.tunnel_device(tunnel))
        .mac(mac(1))
        .address(format_args!("{hub4}/{length}"))
        .address("fe80::1/64");
    let mut far = End::new(place.name(), tunnel.far_device())
        .mac(mac(2))
        .address(format_args!("{far4}/{length}"))
        .address("fe80::2/64")
        .receives_redirects();
    if let Some([hub6, far6]) = place.link6() {
        hub = hub.address(format_args!("{hub6}/64"));
        far = far.address(format_args!("{far6}/64"));
    }
    Link::new(hub, far).mtu(place.mtu())
}
