//! Very many IPsec sites: one charon that speaks for all of them, and addresses at which nobody answers.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hub_tests::lab::{Charon, CharonOptions, End, Esp, HUB, Link, PlaceSpec, Scratch, World};
use ipnet::Ipv4Net;

use crate::{process, testbed};

/// The place of all sites.
const CROWD: &str = "crowd";
const HUB_PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const CROWD_PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 0);
/// Public addresses of sites that answer, and of sites that do not.
const ALIVE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const DEAD: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 0);
/// The sites' networks, a /30 each.
const BEHIND: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
/// The hub has an address in it, which kernel-libipsec requires.
pub const LOCAL: &str = "192.168.0.0/24";
/// The device of all tunnels (kernel-libipsec).
const DEVICE: &str = "ipsec0";
const PROPOSALS: &str = "proposals = aes256gcm16-prfsha384-ecp384";
const ESP_PROPOSALS: &str = "esp_proposals = aes256gcm16-ecp384";
/// Interval of dead peer detection.
const DPD: &str = "30s";
const SECRET: &str = "secret-of-the-bench";

/// How long charon may take for all tunnels.
const PATIENCE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(100);

/// Whether the sites answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sites {
    Alive,
    Dead,
}

/// The offices of the other benches and the sites, without daemons.
pub fn world(tunnels: u32) -> Result<World> {
    let wan = Link::new(
        End::new(HUB, "wan0").address(format_args!("{HUB_PUBLIC}/31")),
        End::new(CROWD, "pub0").address(format_args!("{CROWD_PUBLIC}/31")),
    );
    let world = testbed::offices()
        .place(PlaceSpec::new(CROWD))
        .link(wan)
        .ip(HUB, format!("route add 198.18.0.0/15 via {CROWD_PUBLIC}"))
        // The other half is no address of the sites' host, which does not forward: packets to it end there.
        .ip(CROWD, format!("route add local {ALIVE}/16 dev lo"));
    // kernel-libipsec requires an address in each network.
    let world = (0..tunnels).fold(world, |world, site| {
        world.ip(CROWD, format!("addr add {}/32 dev lo", Ipv4Addr::from_bits(network(site).addr().to_bits() + 1)))
    });
    let world = world.build()?;
    testbed::same_address_at_both_tunnels(&world)?;
    Ok(world)
}

/// The charons of the hub and of the sites. The hub's has no connections yet.
pub struct Charons {
    hub: Charon,
    /// `None` of sites that do not answer.
    sites: Option<Charon>,
    scratch: Scratch,
    tunnels: u32,
}

impl Charons {
    pub fn start(world: &World, sites: Sites, tunnels: u32) -> Result<Self> {
        if let Some(missing) = Charon::missing() {
            bail!("{missing}");
        }
        let scratch = Scratch::new()?;
        let options = CharonOptions::new(Esp::Userspace).many();
        let hub = Charon::start(&world[HUB], &scratch.file("hub"), options)?;
        let sites = match sites {
            Sites::Alive => Some(Charon::start(&world[CROWD], &scratch.file("sites"), options)?),
            Sites::Dead => None,
        };
        hub.wait_until_ready()?;
        if let Some(sites) = &sites {
            sites.wait_until_ready()?;
            sites.load("sites", &swanctl(tunnels, Side::Site))?;
        }
        let psk = scratch.file("psk");
        fs::write(&psk, SECRET).context("writing the secret")?;
        fs::set_permissions(&psk, fs::Permissions::from_mode(0o600)).context("protecting the secret")?;
        Ok(Self { hub, sites, scratch, tunnels })
    }

    /// The configuration of the offices, with these sites.
    pub fn config(&self, offices: &str) -> String {
        let address = if self.sites.is_some() { ALIVE } else { DEAD };
        let gateway =
            format!("[gateway]\naddress = \"{HUB_PUBLIC}\"\nvici_socket = \"{}\"\n", self.hub.socket().display());
        let mut text = super::with_quota(offices, self.tunnels).replacen("[gateway]\n", &gateway, 1);
        let psk = self.scratch.file("psk");
        for site in 0..self.tunnels {
            let (address, network) = (nth(address, site), network(site));
            write!(
                text,
                "\n[customer_gateway.g{site}]\naddress = \"{address}\"\n\
                 [connection.t{site}]\ncustomer_gateway = \"g{site}\"\ninterface = \"{DEVICE}\"\n\
                 local_cidrs = [\"{LOCAL}\"]\nremote_cidrs = [\"{network}\"]\n\
                 [connection.t{site}.ipsec]\npsk_file = \"{}\"\nstart = \"start\"\nencap = true\ndpd_delay = \"{DPD}\"\n\
                 [[route]]\ndestination = \"{network}\"\nnext_hop = \"t{site}\"\npublish = false\n",
                psk.display(),
            )
            .expect("a string takes all");
        }
        text
    }

    /// Processor time of the hub's charon.
    pub fn processor_time(&self) -> Result<Duration> {
        process::processor_time(self.hub.pid()?)
    }

    /// Loads all connections into the hub's charon, which initiates them, without an agent. As an agent does, each
    /// with a secret of its own, and without a local address.
    pub fn load_into_hub(&self) -> Result<()> {
        self.hub.load("hub", &swanctl(self.tunnels, Side::Hub))
    }

    /// Waits until all tunnels are up at the hub's charon.
    pub fn wait_until_up(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (total, half_open) = self.ike_sas()?;
            if total - half_open >= self.tunnels {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} of {} tunnels are up after {PATIENCE:?}", total - half_open, self.tunnels);
            }
            thread::sleep(POLL);
        }
    }

    pub fn hub_socket(&self) -> PathBuf {
        self.hub.socket()
    }

    /// Rekeys the IKE SA (`--ike`) or child (`--child`) of this name at the hub.
    pub fn rekey(&self, kind: &str, name: &str) -> Result<()> {
        self.hub.swanctl(&["--rekey", kind, name]).map(drop)
    }

    /// Closes a tunnel at the site's side. The agent initiates it again.
    pub fn close(&self, site: u32) -> Result<()> {
        let Some(sites) = &self.sites else { bail!("no site answers") };
        sites.swanctl(&["--terminate", "--ike", &format!("t{site}")]).map(drop)
    }

    /// IKE SAs of the hub's charon, and how many of them are half-open.
    fn ike_sas(&self) -> Result<(u32, u32)> {
        // "  IKE_SAs: 3 total, 1 half-open"
        let said = self.hub.swanctl(&["--stats"])?;
        let line = said.lines().find_map(|line| line.trim().strip_prefix("IKE_SAs:")).unwrap_or_default();
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
        numbers.next().zip(numbers.next()).with_context(|| format!("swanctl --stats printed {said}"))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Hub,
    Site,
}

/// swanctl's configuration of one side.
fn swanctl(tunnels: u32, side: Side) -> String {
    let mut text = "connections {\n".to_owned();
    for site in 0..tunnels {
        let (public, network) = (nth(ALIVE, site).to_string(), network(site).to_string());
        let hub = (HUB_PUBLIC.to_string(), LOCAL.to_owned());
        let (own, other) = if side == Side::Hub { (hub, (public, network)) } else { ((public, network), hub) };
        // The agent leaves the hub's address to charon: it may be behind NAT.
        let (local, begin) = match side {
            Side::Hub => (String::new(), "start_action = start"),
            Side::Site => (format!("local_addrs = {}\n", own.0), ""),
        };
        write!(
            text,
            "t{site} {{\nversion = 2\n{local}remote_addrs = {other}\nencap = yes\ndpd_delay = {DPD}\n\
             {PROPOSALS}\nlocal {{\nauth = psk\nid = {own}\n}}\nremote {{\nauth = psk\nid = {other}\n}}\n\
             children {{\nt{site} {{\nlocal_ts = {}\nremote_ts = {}\n{ESP_PROPOSALS}\n{begin}\n}}\n}}\n}}\n",
            own.1,
            other.1,
            own = own.0,
            other = other.0,
        )
        .expect("a string takes all");
    }
    text += "}\nsecrets {\n";
    match side {
        Side::Hub => (0..tunnels).for_each(|site| {
            let public = nth(ALIVE, site);
            let ids = format!("id-hub = {HUB_PUBLIC}\nid-site = {public}");
            writeln!(text, "ike-t{site} {{\n{ids}\nsecret = \"{SECRET}\"\n}}").expect("a string takes all");
        }),
        Side::Site => writeln!(text, "ike-all {{\nsecret = \"{SECRET}\"\n}}").expect("a string takes all"),
    }
    text + "}\n"
}

/// The public address of a site that answers.
pub fn address(site: u32) -> Ipv4Addr {
    nth(ALIVE, site)
}

fn nth(first: Ipv4Addr, site: u32) -> Ipv4Addr {
    // None ends in .0.
    Ipv4Addr::from_bits(first.to_bits() + site + 1)
}

/// The network behind a site.
pub fn network(site: u32) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from_bits(BEHIND.to_bits() + site * 4), 30)
}
