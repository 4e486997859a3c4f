//! A hub with the agent at work and three sites: traffic comes from `a`, goes to `b` by two tunnels, and `c` is there
//! to be changed.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use hub_tests::lab::{Agent, AgentCommand, Builder, HUB, HubConfig, Namespace, Options, Scratch, Site, World};

use crate::{
    control::Control,
    dispatcher::Idle,
    netdev::Netdev,
    process,
    programs::{Mute, Programs},
    settings::{Macs, NO_WINDOW, Spread, Traffic, settings},
    stream::BYTES,
};

pub const A: Site = Site::new("a", "tun-a", 10);
pub const B: Site = Site::new("b", "tun-b", 20);
pub const C: Site = Site::new("c", "tun-c", 30);

/// The connections to `b`, by tunnel, and the one to `c`.
pub const TO_B: [&str; 2] = ["b", "b-2"];
pub const TO_C: &str = "c";

/// Networks behind `b` and `c`, in addition to those of all sites. Split into /30: a million prefixes each.
const BEHIND_B: &str = "10.64.0.0/10";
const BEHIND_C: &str = "10.128.0.0/10";
pub const PREFIX_LENGTH: u8 = 30;
/// Addresses of a prefix.
pub const PREFIX_SIZE: u32 = 1 << (32 - PREFIX_LENGTH);
/// Prefixes of a network behind a site.
pub const PREFIXES: u32 = 1 << (PREFIX_LENGTH - 10);

/// Default weight of a route.
const DEFAULT_WEIGHT: u8 = 100;

/// Where a stream goes that other changes are not to disturb, and how many addresses it has there.
pub const STREAM: &str = "10.64.0.0/24";
pub const STREAM_ADDRESSES: u32 = 254;
/// For the stream to flow at first.
pub const FLOWS_WITHIN: Duration = Duration::from_secs(60);

/// Source ports of the stream.
const FLOWS: u32 = 64;

/// How long an agent may take to be ready, and to come to rest.
const PATIENCE: Duration = Duration::from_secs(300);

/// Arguments of all benches with an agent.
#[derive(Args)]
pub struct Common {
    /// Agent to measure. Default: the one beside this program
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// A line for the configuration of each connection to the site with two tunnels, such as `up_delay = "0s"`
    #[arg(long = "connection-key", value_name = "LINE")]
    keys: Vec<String>,
    /// Core that generator, hub and sink run on. Default: the last that is allowed
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Writes the results here, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl Common {
    pub fn agent(&self) -> Result<PathBuf> {
        agent(self.agent.as_deref())
    }
}

/// The agent named, or the one beside this program.
pub fn agent(named: Option<&Path>) -> Result<PathBuf> {
    let beside = || Ok::<_, anyhow::Error>(std::env::current_exe()?.with_file_name("vpnhub"));
    let agent = named.map(Path::to_owned).map_or_else(beside, Ok)?;
    ensure!(agent.is_file(), "there is no agent {}: `cargo xtask build` makes one", agent.display());
    Ok(agent)
}

/// Prefix `number` of the network behind `b`.
pub fn prefix_b(number: u32) -> String {
    prefix(Ipv4Addr::new(10, 64, 0, 0), number)
}

/// Prefix `number` of the network behind `c`.
pub fn prefix_c(number: u32) -> String {
    prefix(Ipv4Addr::new(10, 128, 0, 0), number)
}

fn prefix(first: Ipv4Addr, number: u32) -> String {
    format!("{}/{PREFIX_LENGTH}", Ipv4Addr::from_bits(first.to_bits() + number * PREFIX_SIZE))
}

/// One of so many that their text matters: the agent takes no file of more than 64 MiB.
pub struct Route {
    pub destination: String,
    pub next_hop: &'static str,
    pub weight: u8,
}

pub fn route(destination: String, next_hop: &'static str, weight: u8) -> Route {
    Route { destination, next_hop, weight }
}

/// The namespaces, without an agent.
pub fn world() -> Result<World> {
    let world = offices().build()?;
    same_address_at_both_tunnels(&world)?;
    Ok(world)
}

/// The plan of [`world`], for additions.
pub fn offices() -> Builder {
    World::offices(&Options::default().sites([A, B, C]).second_link(&B.place))
}

/// The sinks compare with one Ethernet address.
pub fn same_address_at_both_tunnels(world: &World) -> Result<()> {
    let b = &world[&B.place];
    b.ip(&format!("link set dev {} address {}", Site::device(1), b.mac(&Site::device(0))?)).map(drop)
}

/// A configuration with these routes.
pub fn config(common: &Common, routes: impl IntoIterator<Item = Route>, health_checks: bool) -> String {
    let mut config = HubConfig::offices(&[A, B, C]).second_link(&B, [100, 0]);
    for name in TO_B {
        config.connection(name).health_check = health_checks;
    }
    text(common, config, &TO_B, routes)
}

/// The same with one connection to `b`, whose two tunnels have these weights.
pub fn config_of_dual(
    common: &Common,
    routes: impl IntoIterator<Item = Route>,
    weights: [u8; 2],
    health_checks: bool,
) -> String {
    let config = HubConfig::offices(&[A, B, C]).two_tunnels(&B, weights, health_checks);
    text(common, config, &TO_B[..1], routes)
}

/// `to_b`: the connections to `b`.
fn text(common: &Common, config: HubConfig, to_b: &[&str], routes: impl IntoIterator<Item = Route>) -> String {
    let mut config = config.unpublished();
    for name in to_b {
        config.connection(name).remote_cidrs.push(BEHIND_B.to_owned());
    }
    config.connection(TO_C).remote_cidrs.push(BEHIND_C.to_owned());
    let mut text = config.to_string();
    for name in to_b {
        let head = format!("[connection.{name}]\n");
        text = text.replace(&head, &[&head, &common.keys.join("\n"), "\n"].concat());
    }
    for Route { destination, next_hop, weight } in routes {
        // No blanks, and no weight where it is the default: a million of them fit a file.
        write!(text, "[[route]]\ndestination=\"{destination}\"\nnext_hop=\"{next_hop}\"\n")
            .expect("a string takes all");
        if weight != DEFAULT_WEIGHT {
            writeln!(text, "weight={weight}").expect("a string takes all");
        }
    }
    text
}

/// An agent that has reported that it is ready.
pub struct Running {
    pub agent: Agent,
    pub control: Control,
    /// From its start until that report.
    pub ready: Duration,
    /// Socket for the report, like systemd's.
    _notify: UnixDatagram,
}

impl Running {
    pub fn start(binary: &Path, hub: &Namespace, config: &str) -> Result<Self> {
        Self::start_with(binary, hub, config, &[])
    }

    /// With these arguments of `vpnhub run`.
    pub fn start_with(binary: &Path, hub: &Namespace, config: &str, arguments: &[&str]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let file = scratch.file("vpnhub.toml");
        fs::write(&file, config).with_context(|| format!("writing {}", file.display()))?;
        let command = AgentCommand::new(binary);
        Self::start_in(arguments.iter().fold(command, |command, argument| command.argument(argument)), hub, scratch)
    }

    /// With the files that an earlier agent left.
    pub fn start_in(command: AgentCommand, hub: &Namespace, scratch: Scratch) -> Result<Self> {
        let path = scratch.file("notify");
        // The earlier one's.
        drop(fs::remove_file(&path));
        let notify = UnixDatagram::bind(&path).context("opening the socket for the agent's readiness report")?;
        notify.set_read_timeout(Some(Duration::from_millis(50)))?;
        let start = Instant::now();
        let command = command.environment("NOTIFY_SOCKET", &path.display().to_string());
        let agent = command.spawn_in(hub, scratch)?;
        loop {
            let mut said = [0; 512];
            let length = notify.recv(&mut said).unwrap_or(0);
            let ready = start.elapsed();
            if String::from_utf8_lossy(&said[..length]).lines().any(|line| line == "READY=1") {
                let control = Control::new(&agent.socket());
                return Ok(Self { agent, control, ready, _notify: notify });
            }
            agent.must_run()?;
            if ready > PATIENCE {
                bail!("the agent is not ready after {PATIENCE:?}; its log:\n{}", agent.log());
            }
        }
    }

    /// Waits until it has nothing more to do.
    pub fn rest(&self) -> Result<()> {
        process::wait_for_rest(self.agent.pid(), PATIENCE)
    }
}

/// The world and the programs at the endpoints of its tunnels, without an agent.
pub struct Endpoints {
    pub programs: Programs,
    pub mute: Mute,
    pub from: Netdev,
    pub world: World,
    macs: Macs,
    _idle: Idle,
}

impl Endpoints {
    pub fn make() -> Result<Self> {
        Self::make_in(world()?)
    }

    /// In a world with these offices.
    pub fn make_in(world: World) -> Result<Self> {
        let (first, second) = (Site::device(0), Site::device(1));
        let netdev = |site: &Site, device: &str| Netdev::find(world[&site.place].name(), device);
        let (from, to) = (netdev(&A, &first)?, [netdev(&B, &first)?, netdev(&B, &second)?]);
        not_taken_for_stacked(&world, &to)?;
        let macs = Macs { from: from.mac()?, gateway: world[HUB].mac(&A.hub_device(0))?, to: to[0].mac()? };
        let mut programs = Programs::load()?;
        let idle = Idle::attach(&mut programs)?;
        programs.attach("first_tunnel", &to[0])?;
        programs.attach("second_tunnel", &to[1])?;
        let mute = programs.mute()?;
        Ok(Self { programs, mute, from, world, macs, _idle: idle })
    }

    /// Has the hub's kernel know the far ends of the tunnels to `b`: traffic then waits for nothing but routes.
    pub fn know_neighbours(&self) -> Result<()> {
        for link in [0, 1] {
            let (peer, device) = (B.peer4(link), B.hub_device(link));
            let line = format!("neigh replace {peer} lladdr {} dev {device} nud permanent", self.macs.to);
            self.world[HUB].ip(&line)?;
        }
        Ok(())
    }

    /// Sets the stream's destinations: addresses of the network behind `b`. Only while no stream runs.
    pub fn aim(&mut self, spread: Spread, addresses: u32) -> Result<()> {
        let traffic = Traffic {
            source: A.host4().into(),
            destination: BEHIND_B.parse()?,
            spread,
            destinations: addresses,
            flows: FLOWS,
            bytes: BYTES,
            untouched: false,
            translated: None,
        };
        let mut settings = settings(&traffic, self.macs)?;
        settings.window = NO_WINDOW;
        self.programs.set(&settings)
    }
}

/// The world, the agent, and the programs at the endpoints. The agent goes first.
pub struct Testbed {
    pub running: Running,
    pub endpoints: Endpoints,
}

impl Testbed {
    /// Starts everything. The stream goes to the first `addresses` addresses of the network behind `b`.
    pub fn start(common: &Common, config: &str, addresses: u32) -> Result<Self> {
        Self::start_in(world()?, common, config, addresses)
    }

    /// In a world with these offices.
    pub fn start_in(world: World, common: &Common, config: &str, addresses: u32) -> Result<Self> {
        let mut endpoints = Endpoints::make_in(world)?;
        endpoints.aim(Spread::Hosts, addresses)?;
        let running = Running::start(&common.agent()?, &endpoints.world[HUB], config)?;
        Ok(Self { running, endpoints })
    }

    /// Stops the agent, which must exit with 0, and takes all down.
    pub fn stop(self) -> Result<()> {
        self.running.agent.stop()
    }
}

/// The kernel takes a device whose link has the index of the device itself for one without a lower device, and tells of
/// its carrier up to a second late (`linkwatch_urgent_event`, `net/core/link_watch.c`). A veth whose two ends happen to
/// have the same index, in two namespaces, is such a one; a tunnel is not.
fn not_taken_for_stacked(world: &World, to: &[Netdev; 2]) -> Result<()> {
    for (link, far) in (0..).zip(to) {
        let index = world[HUB].ifindex(&B.hub_device(link))?;
        ensure!(index != far.index, "both ends of {} have the index {index}", B.hub_device(link));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;

    use super::*;

    #[test]
    fn site_prefixes_fill_network_behind_site() {
        for (prefix, behind) in [(prefix_b as fn(u32) -> String, BEHIND_B), (prefix_c, BEHIND_C)] {
            let behind: Ipv4Net = behind.parse().unwrap();
            let first: Ipv4Net = prefix(0).parse().unwrap();
            let last: Ipv4Net = prefix(PREFIXES - 1).parse().unwrap();
            assert_eq!((first.network(), last.broadcast()), (behind.network(), behind.broadcast()));
        }
    }

    #[test]
    fn extra_keys_apply_to_two_tunnel_connections_only() {
        let common = Common { agent: None, keys: vec!["up_delay = \"0s\"".to_owned()], cpu: None, json: None };
        let routes = vec![route(prefix_b(1), TO_B[1], 100), route(prefix_b(2), TO_B[0], 0)];
        let text = config(&common, routes, true);
        assert_eq!(text.matches("up_delay = \"0s\"\n").count(), 2);
        assert_eq!(text.matches("health_check").count(), 2);
        assert!(text.contains("destination=\"10.64.0.4/30\"\nnext_hop=\"b-2\"\n[[route]]\n"));
    }
}
