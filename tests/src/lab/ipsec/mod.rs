//! Real IPsec: a hub whose agent drives a charon, and sites with a charon each that load the output of `peer-config`.

mod charon;
mod esp;
mod mounts;
mod starter;
mod world;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};

use super::{
    Agent, AgentCommand, AuthConfig, HANGZHOU, HUB, HubConfig, IpsecConfig, NINGBO, Namespace, PublicSide, SHANGHAI,
    Scratch, Site, Status, World,
};
pub use charon::{Charon, CharonOptions};
pub use esp::Esp;
pub use starter::Starter;
use world::Shape;
pub use world::{HUB_PUBLIC, INTERNET};

/// Time limit for daemons, even in a slow virtual machine. It passes in full only on failure.
const PATIENCE: Duration = Duration::from_secs(60);
const LIBIPSEC_DEVICE: &str = "ipsec0";
/// For the route that it creates, kernel-libipsec needs an address of its host in each local selector. So these are
/// few, and the hub has one in each.
const LIBIPSEC_LOCAL: [&str; 3] = ["10.10.0.0/16", "192.168.0.0/24", "fd00::/8"];

/// Options of a lab with IPsec.
#[derive(Debug, Clone)]
pub struct IpsecOptions {
    shape: Shape,
    charon: CharonOptions,
    /// Fixed name of namespaces and folder, both replaced if they exist.
    fixed_name: Option<String>,
    hub_has_own_names: bool,
    start: &'static str,
    dpd_delay: &'static str,
    agent: Option<PathBuf>,
    record: Option<PathBuf>,
}

impl IpsecOptions {
    /// The three offices, which initiate the tunnels. The agent does not.
    pub fn new(esp: Esp) -> Self {
        let shape = Shape { sites: vec![SHANGHAI, HANGZHOU, NINGBO], behind_nat: Vec::new(), leased_line: None };
        let charon = CharonOptions::new(esp);
        Self {
            shape,
            charon,
            fixed_name: None,
            hub_has_own_names: false,
            start: "none",
            dpd_delay: "30s",
            agent: None,
            record: None,
        }
    }

    /// Uses another agent than [`agent_binary`](super::agent_binary).
    #[must_use]
    pub fn agent(mut self, binary: PathBuf) -> Self {
        self.agent = Some(binary);
        self
    }

    /// Makes the agent record into this file: `run --record`.
    #[must_use]
    pub fn record(mut self, file: PathBuf) -> Self {
        self.record = Some(file);
        self
    }

    #[must_use]
    pub fn sites(mut self, sites: impl IntoIterator<Item = Site>) -> Self {
        self.shape.sites = sites.into_iter().collect();
        self
    }

    /// Names namespaces `NAME-PLACE`, and replaces existing ones.
    #[must_use]
    pub fn fixed_name(mut self, name: &str) -> Self {
        self.fixed_name = Some(name.to_owned());
        self
    }

    /// Makes the agent initiate the tunnels, and the sites wait.
    #[must_use]
    pub fn hub_begins(mut self) -> Self {
        self.start = "start";
        self
    }

    /// Makes the agent, and the sites, initiate a tunnel on its first packet. Needs the kernel's ESP.
    #[must_use]
    pub fn hub_waits_for_a_packet(mut self) -> Self {
        self.start = "trap";
        self
    }

    /// A router translates this site's address and ports (needs `nft`). Several sites have one router, with the public
    /// address of the first of them.
    #[must_use]
    pub fn behind_nat(mut self, site: &Site) -> Self {
        self.shape.behind_nat.push(site.place.to_string());
        self
    }

    /// Adds a second link to this site, without IPsec, like [`HubConfig::second_link`]: the site uses it while its
    /// tunnel is down.
    #[must_use]
    pub fn leased_line(mut self, site: &Site) -> Self {
        self.shape.leased_line = Some(site.place.to_string());
        self
    }

    /// Makes the hub's charon know only the names that the test gives it: [`Charon::set_names`].
    #[must_use]
    pub fn own_names(mut self) -> Self {
        self.hub_has_own_names = true;
        self
    }

    /// Probes a silent peer after a second and gives it up within two more.
    #[must_use]
    pub fn impatient(mut self) -> Self {
        self.charon = self.charon.impatient();
        self.dpd_delay = "1s";
        self
    }
}

/// A site, and its charon.
#[derive(Debug)]
pub struct Office {
    pub site: Site,
    pub charon: Charon,
}

impl Office {
    pub fn place(&self) -> &Namespace {
        self.charon.place()
    }

    /// Loads the hub's configuration for it: the output of `vpnhub peer-config`.
    ///
    /// # Errors
    /// When the agent has none or strongSwan refuses it.
    pub fn configure(&self, agent: &Agent) -> anyhow::Result<()> {
        self.charon.load(&self.site.place, &self.peer_config(agent, "swanctl", &["--with-secret"])?)
    }

    /// The hub's configuration for it.
    ///
    /// # Errors
    /// When the agent has none.
    pub fn peer_config(&self, agent: &Agent, format: &str, options: &[&str]) -> anyhow::Result<String> {
        let name = &self.site.place;
        let output = agent.cli(&[&["peer-config", name, "--format", format], options].concat())?;
        if !output.status.success() {
            bail!("`vpnhub peer-config {name}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(lossy(&output.stdout))
    }

    /// Initiates its tunnel, and waits until it is established.
    ///
    /// # Errors
    /// When it is not established.
    pub fn initiate(&self) -> anyhow::Result<()> {
        self.charon.swanctl(&["--initiate", "--child", &self.site.place]).map(drop)
    }

    /// Ends its tunnel, with notice to the hub.
    ///
    /// # Errors
    /// When there is none.
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.charon.swanctl(&["--terminate", "--ike", &self.site.place]).map(drop)
    }
}

/// A world of charons with the agent in its hub. The agent is dropped first, then the charons.
#[derive(Debug)]
pub struct IpsecLab {
    pub agent: Agent,
    pub hub: Charon,
    pub offices: Vec<Office>,
    pub world: World,
    pub esp: Esp,
    /// Secrets, and charons' files.
    scratch: Scratch,
}

impl IpsecLab {
    /// Builds the world and starts charons and agent, after `change` has modified the agent's configuration. No tunnel
    /// is up yet.
    ///
    /// # Errors
    /// When something is missing or refuses: with its output.
    pub fn prepare(options: &IpsecOptions, change: impl FnOnce(HubConfig) -> HubConfig) -> anyhow::Result<Self> {
        let esp = options.charon.esp;
        let mut world = world::world(&options.shape);
        if let Some(name) = &options.fixed_name {
            world = world.prefix(name).recreate(true);
        }
        let world = world.build()?;
        if !options.shape.behind_nat.is_empty() {
            world::masquerade(&world)?;
        }
        let files = |of: &str| match &options.fixed_name {
            Some(name) => Scratch::named(&format!("{name}-{of}")),
            None => Scratch::new(),
        };
        let scratch = files("charon")?;
        // Started together, as each takes a moment.
        let of_hub = if options.hub_has_own_names { options.charon.own_names() } else { options.charon };
        let hub = Charon::start(&world[HUB], &scratch.file("hub"), of_hub)?;
        let offices = options.shape.sites.iter().map(|site| {
            let charon = Charon::start(&world[&site.place], &scratch.file(&site.place), options.charon)?;
            Ok(Office { site: site.clone(), charon })
        });
        let offices = offices.collect::<anyhow::Result<Vec<_>>>()?;
        offices.iter().map(|office| &office.charon).chain([&hub]).try_for_each(Charon::wait_until_ready)?;

        let mut config = HubConfig::offices(&options.shape.sites);
        config.public = Some(PublicSide { address: HUB_PUBLIC.into(), vici_socket: hub.socket() });
        for (site, connection) in options.shape.sites.iter().zip(&mut config.connections) {
            connection.peer = None;
            if esp == Esp::Userspace {
                LIBIPSEC_DEVICE.clone_into(&mut connection.interface);
                connection.local_cidrs = LIBIPSEC_LOCAL.map(str::to_owned).to_vec();
            }
            connection.ipsec = Some(IpsecConfig {
                site: site.public4().to_string(),
                auth: AuthConfig::Psk(secret(&scratch, &site.place)?),
                local_id: None,
                remote_id: None,
                start: options.start,
                if_id: (esp == Esp::Kernel).then_some(site.number.into()),
                encap: esp == Esp::Userspace,
                dpd_delay: options.dpd_delay,
                interface_mtu: None,
                esp: None,
            });
        }
        let binary = options.agent.as_deref().unwrap_or_else(|| super::agent_binary());
        let mut command = AgentCommand::new(binary);
        if let Some(file) = &options.record {
            command = command.argument("--record").argument(&file.display().to_string());
        }
        let files = files("agent")?;
        fs::write(files.file("vpnhub.toml"), change(config).to_string()).context("writing the configuration")?;
        let agent = command.start_in(&world[HUB], files)?;
        Ok(Self { agent, hub, offices, world, esp, scratch })
    }

    /// Like [`prepare`](Self::prepare), and waits until all tunnels are up.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare), or when one does not come up within a minute: with the status.
    pub fn start(options: &IpsecOptions, change: impl FnOnce(HubConfig) -> HubConfig) -> anyhow::Result<Self> {
        let lab = Self::prepare(options, change)?;
        lab.offices.iter().try_for_each(|office| office.configure(&lab.agent))?;
        lab.wait_until_up()?;
        Ok(lab)
    }

    /// Waits until all connections are up.
    ///
    /// # Errors
    /// When one is not within a minute: with the status, and the end of the hub's charon's log.
    pub fn wait_until_up(&self) -> anyhow::Result<Status> {
        let up = |status: &Status| {
            let mut connections = status["connections"].as_array().into_iter().flatten();
            connections.all(|connection| connection["state"] == "up")
        };
        self.wait_for_status(up)
    }

    /// Waits until `accept` returns true for the status.
    ///
    /// # Errors
    /// When it does not within a minute: with the status, and the end of the hub's charon's log.
    pub fn wait_for_status(&self, accept: impl FnMut(&Status) -> bool) -> anyhow::Result<Status> {
        self.agent.wait_for_status(PATIENCE, accept).with_context(|| {
            let log = self.hub.log();
            let start = log.len().saturating_sub(4000);
            format!("the end of the hub's charon's log:\n{}", log.get(start..).unwrap_or(&log))
        })
    }

    /// Diagnostics for lost packets: the status, devices' counters, the kernel's counts of IPsec drops.
    pub fn diagnosis(&self) -> String {
        let mut text =
            self.agent.cli(&["status"]).map_or_else(|error| format!("{error:#}"), |said| lossy(&said.stdout));
        for (name, place) in self.world.places() {
            let links = place.ip("-s link").unwrap_or_default();
            let dropped = place.enter(|| fs::read_to_string("/proc/thread-self/net/xfrm_stat"));
            let dropped = dropped.ok().and_then(Result::ok).unwrap_or_default();
            let dropped: Vec<&str> =
                dropped.lines().filter(|line| !line.ends_with("\t0") && !line.ends_with(" 0")).collect();
            let states = place.ip("-s xfrm state").unwrap_or_default();
            let counts: Vec<&str> = states.lines().filter(|line| shows_use(line)).map(str::trim).collect();
            text.extend(["\n-- ", name, "\n", &links, &dropped.join("\n"), "\n", &counts.join("\n"), "\n"]);
        }
        text
    }

    /// Kills the agent as a crash would, and starts it again.
    ///
    /// # Errors
    /// When it does not run, or does not start.
    pub fn restart_agent(self) -> anyhow::Result<Self> {
        let files = self.agent.kill()?;
        let agent = AgentCommand::new(super::agent_binary()).start_in(&self.world[HUB], files)?;
        Ok(Self { agent, ..self })
    }

    /// The office of a place.
    ///
    /// # Panics
    /// When there is none.
    pub fn office(&self, place: &str) -> &Office {
        let found = self.offices.iter().find(|office| office.site.place == place);
        found.unwrap_or_else(|| panic!("there is no office {place:?}"))
    }

    /// The files of charons and secrets.
    pub fn folder(&self) -> &std::path::Path {
        self.scratch.path()
    }

    /// Stops the agent, which must exit with 0, and takes the world down.
    ///
    /// # Errors
    /// As [`Agent::stop`].
    pub fn stop(self) -> anyhow::Result<()> {
        self.agent.stop()
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Selects lines of `ip -s xfrm state` that identify an SA and count its traffic; no keys.
fn shows_use(line: &str) -> bool {
    let line = line.trim_start();
    ["src ", "if_id", "proto", "replay-window", "replay ", "encap"].iter().any(|start| line.starts_with(start))
        || line.contains("(packets)")
}

/// Creates a secret in a file that only its owner may read.
fn secret(scratch: &Scratch, name: &str) -> anyhow::Result<PathBuf> {
    let path = scratch.file(&format!("{name}.psk"));
    let mut random = [0; size_of::<u128>()];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut random)?;
    let text = format!("{:032x}", u128::from_ne_bytes(random));
    let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}
