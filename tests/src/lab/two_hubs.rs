//! Two hubs for the same sites, with an agent and a BIRD each: the examples `two-hubs*`.
//!
//! Each hub has a link to each site, and one into the VPC. All links lead through switches, so that the end of a hub is
//! no loss of carrier anywhere else.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::offices::add_site_networks;
use super::world::{Builder, End, Link, PlaceSpec, World};
use super::{Agent, AgentCommand, Bird, HANGZHOU, Namespace, SHANGHAI, Scratch, Site, retry};

const CONFIG: &str = include_str!("../../../examples/two-hubs.toml");
const HUB_CONF: &str = include_str!("../../../examples/two-hubs-bird-hub.conf");
const SITE_CONF: &str = include_str!("../../../examples/two-hubs-bird-site.conf");
const ROUTER_CONF: &str = include_str!("../../../examples/two-hubs-bird-router.conf");
/// For each session: BIRD waits 5 s by default.
const FAST: &str = "connect delay time 1; connect retry time 1; error wait time 1, 2;";

/// Places of the hubs.
pub const HUBS: [&str; 2] = ["hub-a", "hub-b"];
/// The place of the VPC's router. A host of the VPC is on it.
pub const ROUTER: &str = "router";
/// The VPC, as the sites learn it.
pub const VPC_PREFIX: &str = "192.168.0.0/16";
/// The sites.
pub const TWO_SITES: [Site; 2] = [SHANGHAI, HANGZHOU];
/// All switches.
const SWITCHES: &str = "switches";
/// A hub's devices.
const DEVICES: [&str; 3] = ["vpc0", "tun-sh", "tun-hz"];

/// One of the hubs.
#[derive(Debug)]
struct Hub {
    agent: Option<Agent>,
    bird: Option<Bird>,
    /// The files of an agent that was killed.
    files: Option<Scratch>,
}

/// The hubs, the sites and the VPC's router. The agents are dropped first.
#[derive(Debug)]
pub struct TwoHubs {
    hubs: [Hub; 2],
    /// Of the sites and the router.
    _birds: Vec<Bird>,
    pub world: World,
    scratch: Scratch,
    binary: PathBuf,
}

impl TwoHubs {
    /// Builds the world, and starts everything, with agents of this binary. Waits until sites and router have all routes
    /// by both hubs.
    ///
    /// # Errors
    /// When something is missing or refuses: with its output.
    pub fn start(binary: &Path) -> anyhow::Result<Self> {
        let world = world().build()?;
        let scratch = Scratch::new()?;
        let mut birds = Vec::new();
        for site in &TWO_SITES {
            birds.push(Bird::start(&world[&site.place], &scratch.file(&site.place), &site_conf(site))?.real_time()?);
        }
        let conf = ROUTER_CONF.replace("local as 65001;", &format!("local as 65001; {FAST}"));
        birds.push(Bird::start(&world[ROUTER], &scratch.file(ROUTER), &conf)?.real_time()?);
        let hub = || Hub { agent: None, bird: None, files: None };
        let mut lab = Self { hubs: [hub(), hub()], _birds: birds, world, scratch, binary: binary.to_owned() };
        for (hub, place) in HUBS.iter().enumerate() {
            let files = Scratch::new()?;
            std::fs::write(files.file("vpnhub.toml"), config(hub)).context("writing the configuration")?;
            lab.hubs[hub].files = Some(files);
            lab.start_hub(hub).with_context(|| format!("starting {place}"))?;
        }
        lab.wait_for_next_hops(2)?;
        Ok(lab)
    }

    /// The agent of a hub that runs.
    ///
    /// # Panics
    /// When it was killed.
    pub fn agent(&self, hub: usize) -> &Agent {
        self.hubs[hub].agent.as_ref().expect("this hub runs")
    }

    /// Takes all links of a hub down and kills all its processes, at once.
    ///
    /// # Errors
    /// When one of them does not run.
    pub fn kill_hub(&mut self, hub: usize) -> anyhow::Result<()> {
        let down = DEVICES.map(|device| format!("link set {device} down\n")).concat();
        self.world[HUBS[hub]].batch(&down)?;
        let found = &mut self.hubs[hub];
        found.files = Some(found.agent.take().context("no agent")?.kill()?);
        found.bird.take().context("no BIRD")?.kill()
    }

    /// Starts a hub: its links, its agent and its BIRD.
    ///
    /// # Errors
    /// When one of them refuses.
    pub fn start_hub(&mut self, hub: usize) -> anyhow::Result<()> {
        let place = &self.world[HUBS[hub]];
        let up = DEVICES.map(|device| format!("link set {device} up\n")).concat();
        place.batch(&format!("{up}route replace {VPC_PREFIX} via 192.168.0.1\n"))?;
        let files = self.hubs[hub].files.take().context("it runs")?;
        let agent = AgentCommand::new(&self.binary).start_in(place, files)?;
        let bird = Bird::start(place, &self.scratch.file(HUBS[hub]), &hub_conf(hub))?.real_time()?;
        self.hubs[hub] = Hub { agent: Some(agent), bird: Some(bird), files: None };
        Ok(())
    }

    /// Number of next hops of a destination in the kernel of a place; 0 without a route.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn next_hops(&self, place: &str, destination: &str) -> anyhow::Result<usize> {
        let routes = self.world[place].ip(&format!("route show {destination} proto bird"))?;
        Ok(routes.matches(" via ").count())
    }

    /// What sites and router learn: place and destination.
    pub fn learned() -> Vec<(&'static str, String)> {
        let [shanghai, hangzhou] = TWO_SITES.map(|site| site.network4().to_string());
        vec![
            (ROUTER, shanghai.clone()),
            (ROUTER, hangzhou.clone()),
            ("shanghai", VPC_PREFIX.to_owned()),
            ("shanghai", hangzhou),
            ("hangzhou", VPC_PREFIX.to_owned()),
            ("hangzhou", shanghai),
        ]
    }

    /// Waits until sites and router have this number of next hops for all that they learn.
    ///
    /// # Errors
    /// When they do not within 20 s.
    pub fn wait_for_next_hops(&self, count: usize) -> anyhow::Result<()> {
        for (place, destination) in Self::learned() {
            retry(&format!("{place} has not {count} next hops for {destination}"), || {
                Ok((self.next_hops(place, &destination)? == count).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Packets that a hub's sites and VPC have sent to it.
    ///
    /// # Errors
    /// When its agent does not answer.
    pub fn received(&self, hub: usize) -> anyhow::Result<u64> {
        let status = self.agent(hub).status()?;
        let connections = status["connections"].as_array().into_iter().flatten();
        let all = connections.chain([&status["vpc"]]).map(|side| side["rx_packets"].as_u64().unwrap_or_default());
        Ok(all.sum())
    }

    /// Stops both agents, which must exit with 0.
    ///
    /// # Errors
    /// As [`Agent::stop`].
    pub fn stop(self) -> anyhow::Result<()> {
        let agents: Vec<Agent> = self.hubs.into_iter().filter_map(|hub| hub.agent).collect();
        ensure!(agents.len() == 2, "a hub was killed and not started again");
        agents.into_iter().try_for_each(Agent::stop)
    }

    /// Where the traffic of a test begins and ends: a place, an address of it, and the destination. From site to VPC, from
    /// VPC to site, from site to site.
    pub fn flow(&self, kind: usize, number: u8) -> (&Namespace, IpAddr, IpAddr) {
        let host = Ipv4Addr::new(192, 168, 8, number);
        match kind {
            0 => (&self.world["shanghai"], SHANGHAI.nth4(number).into(), host.into()),
            1 => (&self.world[ROUTER], host.into(), HANGZHOU.nth4(number).into()),
            _ => (&self.world["shanghai"], SHANGHAI.nth4(number).into(), HANGZHOU.nth4(number).into()),
        }
    }
}

fn world() -> Builder {
    let hashed = |place: PlaceSpec| place.sysctl("ipv4/fib_multipath_hash_policy", "1");
    let mut world = World::builder().place(PlaceSpec::new(SWITCHES)).place(hashed(PlaceSpec::new(ROUTER)));
    for hub in HUBS {
        world = world.place(PlaceSpec::new(hub));
    }
    for site in &TWO_SITES {
        world = add_site_networks(world, site);
    }
    let mut switches = Switches { world, count: 0 };
    switches.connect(vec![
        End::new(ROUTER, "lan").address("192.168.0.1/24"),
        End::new(HUBS[0], "vpc0").address("192.168.0.11/24"),
        End::new(HUBS[1], "vpc0").address("192.168.0.12/24"),
    ]);
    for site in &TWO_SITES {
        for (link, hub) in (0_u8..).zip(HUBS) {
            let of_hub = End::new(hub, &site.hub_device(0)).address(format_args!("{}/30", site.hub4(link)));
            let of_site = End::new(&site.place, &Site::device(link)).address(format_args!("{}/30", site.peer4(link)));
            switches.connect(vec![of_hub, of_site]);
        }
    }
    let mut world = switches.world.ip(ROUTER, "route add local 192.168.8.0/24 dev lo");
    for site in &TWO_SITES {
        world = world.ip(&site.place, "link set lo up");
    }
    world
}

/// The world, and the number of its switches so far.
struct Switches {
    world: Builder,
    count: u8,
}

impl Switches {
    /// Connects these ends by a switch of their own.
    fn connect(&mut self, ends: Vec<End>) {
        self.count += 1;
        let bridge = format!("sw{}", self.count);
        let mut world = std::mem::take(&mut self.world);
        let mut lines = vec![format!("link add {bridge} type bridge"), format!("link set {bridge} up")];
        for (port, end) in ends.into_iter().enumerate() {
            let device = format!("sw{}p{port}", self.count);
            // XDP in a hub redirects frames to a port.
            world = world.link(Link::new(end, End::new(SWITCHES, &device).receives_redirects()).mtu(1500));
            lines.push(format!("link set {device} master {bridge}"));
        }
        self.world = lines.into_iter().fold(world, |world, line| world.ip(SWITCHES, line));
    }
}

/// The example for hub A, with the peers that links of Ethernet type need, and a quick health check.
fn config(hub: usize) -> String {
    let mut text = CONFIG.replace("interval = \"1s\"", "interval = \"100ms\"");
    for site in &TWO_SITES {
        let interface = format!("interface = \"{}\"", site.hub_device(0));
        text = text.replace(&interface, &format!("{interface}\npeer = \"{}\"", site.peer4(0)));
    }
    of_hub(&text, hub)
}

fn hub_conf(hub: usize) -> String {
    of_hub(&HUB_CONF.replace("local as 65000;", &format!("local as 65000; {FAST}")), hub)
}

/// A file of hub A for this hub.
fn of_hub(text: &str, hub: usize) -> String {
    let other = [
        ("hub-a", "hub-b"),
        ("192.168.0.11", "192.168.0.12"),
        ("169.254.10.", "169.254.11."),
        ("169.254.20.", "169.254.21."),
    ];
    let other = if hub == 0 { &[][..] } else { &other[..] };
    other.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The example for Shanghai, for this site.
fn site_conf(site: &Site) -> String {
    SITE_CONF
        .replace("local as 65010;", &format!("local as {}; {FAST}", 65000 + u32::from(site.number)))
        .replace("router id 10.10.10.1", &format!("router id {}", site.host4()))
        .replace("169.254.10.1", &site.hub4(0).to_string())
        .replace("169.254.11.1", &site.hub4(1).to_string())
}
