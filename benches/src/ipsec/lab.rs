//! A hub with two sites and a forwarder: namespaces of its own, because some settings cost a namespace for good.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use hub_tests::{
    lab::{Builder, End as LinkEnd, FrameSocket, HUB, Link, PlaceSpec, Scratch, World, output},
    packet::Packet,
};

use super::{
    replay::{Flight, Replay},
    tunnels::{self, Encryption, End, HUB_UNDER, PEERS, SITE_DEVICE, SITE_UNDER, UNDER},
};
use crate::{forward::routes::Family, netdev::Netdev, testbed::Running};

pub const SITES: [&str; 2] = ["a", "b"];
/// One address of each site, IPv4 and IPv6.
pub const HOSTS4: [&str; 2] = ["10.10.10.1", "10.10.20.1"];
const HOSTS6: [&str; 2] = ["fd00:10:0::1", "fd00:10:1::1"];
const TTL: u8 = 64;
const PORT: u16 = 9;
/// Time for a packet to come through.
const WAIT: Duration = Duration::from_secs(2);
/// Packets that may be lost at first: an agent that has just started is still busy.
const TRIES: u32 = 10;

/// Protocol number of ESP, and its place in a frame that has no IP options.
const ESP: u8 = 50;
const PROTOCOL: usize = 14 + 9;

/// What forwards. In this order they are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Forwarder {
    /// The agent and its program
    #[value(name = "hub")]
    Hub,
    /// The kernel, by its routes
    #[value(name = "ip_forward")]
    Kernel,
    /// A TC program that only redirects
    #[value(name = "bare-tc")]
    Bare,
    /// The same beside a copy of the hub's nftables table, which all outer packets pass
    #[value(name = "bare-tc-nftables")]
    BareWithTable,
}

impl Forwarder {
    pub fn name(self) -> &'static str {
        match self {
            Self::Hub => "hub",
            Self::Kernel => "ip_forward",
            Self::Bare => "bare-tc",
            Self::BareWithTable => "bare-tc-nftables",
        }
    }

    /// Packets arrive as they were sent.
    fn is_bare(self) -> bool {
        matches!(self, Self::Bare | Self::BareWithTable)
    }
}

/// Dropping it removes its namespaces.
pub struct Lab {
    pub forwarder: Forwarder,
    running: Option<Running>,
    pub world: World,
    encrypted: bool,
}

impl Lab {
    /// The hub has `attachments` tunnels, of which the first two have sites.
    pub fn build(forwarder: Forwarder, attachments: u32, agent: &Path, replay: &mut Replay) -> Result<Self> {
        let world = builder(forwarder).build()?;
        neighbours(&world)?;
        let hub = &world[HUB];
        for (number, site) in (0..).zip(SITES) {
            let hosts = format!(
                "addr add {}/32 dev {SITE_DEVICE}\naddr add {}/128 dev {SITE_DEVICE} nodad\n\
                 route add default dev {SITE_DEVICE}\nroute add ::/0 dev {SITE_DEVICE}\n",
                HOSTS4[number as usize], HOSTS6[number as usize]
            );
            world[site].batch(&(End::at_site(number).add_interface(SITE_DEVICE, SITE_UNDER) + &hosts))?;
        }
        let interface = |number| {
            let under = UNDER.get(number as usize).unwrap_or(&UNDER[0]);
            End::at_hub(number).add_interface(&tunnels::device(number), under)
        };
        hub.batch(&(0..attachments).map(interface).collect::<String>())?;
        // Those without a site never change.
        hub.batch(&(2..attachments).map(|number| End::at_hub(number).add_sas(Encryption::AesGcm)).collect::<String>())?;

        let mut running = None;
        match forwarder {
            Forwarder::Kernel => hub.batch(&tunnels::add_routes(attachments))?,
            Forwarder::Bare | Forwarder::BareWithTable => {
                // An xfrm interface looks up the route of what it sends.
                hub.batch(&tunnels::add_routes(attachments))?;
                let netdev = |number| Netdev::find(hub.name(), &tunnels::device(number));
                replay.attach_bare(&[netdev(0)?, netdev(1)?])?;
            }
            Forwarder::Hub => {
                let started = Running::start(agent, hub, &tunnels::config(attachments))?;
                started.rest()?;
                running = Some(started);
            }
        }
        let rules = hub.ip("rule")?;
        ensure!(
            rules.lines().count() == 3,
            "{} has rules of its own, which cost more than the hub:\n{rules}",
            hub.name()
        );
        replay.attach_sink(&Netdev::find(world[SITES[1]].name(), SITE_DEVICE)?)?;
        Ok(Self { forwarder, running, world, encrypted: false })
    }

    /// Gives the two tunnels with sites SAs of this kind.
    pub fn encrypt(&mut self, encryption: Encryption) -> Result<()> {
        let replace = |end: End| {
            let before = if self.encrypted { end.delete_sas() } else { String::new() };
            before + &end.add_sas(encryption)
        };
        self.world[HUB].batch(&(0..2).map(|number| replace(End::at_hub(number))).collect::<String>())?;
        for (number, site) in (0..).zip(SITES) {
            self.world[site].batch(&replace(End::at_site(number)))?;
        }
        self.encrypted = true;
        Ok(())
    }

    /// Sends a packet of so many bytes from site to site, and records it as ESP: towards the hub, and towards the second
    /// site.
    pub fn record(&self, family: Family, bytes: usize) -> Result<[Flight; 2]> {
        let [from, to] = [&self.world[SITES[0]], &self.world[SITES[1]]];
        let hub = &self.world[HUB];
        let sender = FrameSocket::open(from, SITE_DEVICE)?;
        let at_hub = FrameSocket::open(hub, UNDER[0])?;
        let at_site = FrameSocket::open(to, SITE_UNDER)?;
        let decrypted = FrameSocket::open(to, SITE_DEVICE)?;
        let ttl = if self.forwarder.is_bare() { TTL } else { TTL - 1 };
        let arrives = packet(family, bytes, ttl)?;
        let is_esp = |frame: &[u8]| frame.get(PROTOCOL) == Some(&ESP);
        for _ in 0..TRIES {
            sender.send(&packet(family, bytes, TTL)?)?;
            let frame = at_hub.expect(WAIT, is_esp).context("the first site's ESP")?.bytes;
            let Some(packet) = decrypted.find(WAIT, |_| true)? else { continue };
            ensure!(
                packet.bytes == arrives,
                "{} forwarded a packet as {:02x?}, not as {arrives:02x?}",
                self.forwarder.name(),
                packet.bytes
            );
            let far_frame = at_site.expect(WAIT, is_esp).context("the hub's ESP")?.bytes;
            ensure!(far_frame.len() == frame.len(), "ESP of {} bytes became {}", frame.len(), far_frame.len());
            let flight = |at: &str, device: &str, frame| {
                Ok::<_, anyhow::Error>(Flight { from: Netdev::find(at, device)?, frame, arrives: arrives.clone() })
            };
            return Ok([flight(from.name(), SITE_UNDER, frame)?, flight(hub.name(), UNDER[1], far_frame)?]);
        }
        let log = self.running.as_ref().map(|running| running.agent.log()).unwrap_or_default();
        bail!("{} forwards nothing from site to site\n{log}", self.forwarder.name())
    }

    /// Its nftables table, for [`Self::load_table`].
    pub fn table(&self) -> Result<String> {
        let mut nft = self.world[HUB].command("nft");
        let said = output(nft.args(["list", "table", "inet", "vpnhub"])).context("running nft")?;
        ensure!(said.status.success(), "no nftables table: {}", String::from_utf8_lossy(&said.stderr));
        Ok(without_owner(&String::from_utf8_lossy(&said.stdout)))
    }

    pub fn load_table(&self, table: &str) -> Result<()> {
        let scratch = Scratch::new()?;
        let file = scratch.file("table.nft");
        fs::write(&file, table).with_context(|| format!("writing {}", file.display()))?;
        let said = output(self.world[HUB].command("nft").arg("-f").arg(&file)).context("running nft")?;
        ensure!(said.status.success(), "copying the table: {}", String::from_utf8_lossy(&said.stderr));
        Ok(())
    }

    /// The agent must end well.
    pub fn end(self) -> Result<()> {
        self.running.map_or(Ok(()), |running| running.agent.stop_within(Duration::from_secs(300)))
    }
}

/// A table with an owner is removed when the owner's socket closes, here that of `nft`.
fn without_owner(table: &str) -> String {
    let lines = table.lines().filter(|line| !line.trim_start().starts_with("flags owner"));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The smallest packet that the sink can check.
pub fn smallest(family: Family) -> usize {
    match family {
        Family::V4 => 36,
        Family::V6 => 56,
    }
}

/// UDP from site to site.
fn packet(family: Family, bytes: usize, ttl: u8) -> Result<Vec<u8>> {
    let (packet, headers) = match family {
        Family::V4 => (Packet::ipv4(HOSTS4[0], HOSTS4[1]), 28),
        Family::V6 => (Packet::ipv6(HOSTS6[0], HOSTS6[1]), 48),
    };
    let payload = bytes.checked_sub(headers).context("a packet has its headers at least")?;
    Ok(packet.ttl(ttl).udp(PORT, PORT).payload(payload).build())
}

fn builder(forwarder: Forwarder) -> Builder {
    let mut builder = World::builder();
    // The kernel forwards only where it is the one that is measured.
    builder = builder.place(PlaceSpec::new(HUB).forwards(forwarder == Forwarder::Kernel));
    for (link, site) in SITES.into_iter().enumerate() {
        let hub = LinkEnd::new(HUB, UNDER[link]).address(format!("{}/30", HUB_UNDER[link])).receives_redirects();
        let far = LinkEnd::new(site, SITE_UNDER).address(format!("{}/30", PEERS[link])).receives_redirects();
        builder = builder.place(PlaceSpec::new(site)).link(Link::new(hub, far));
    }
    builder
}

/// Fixed neighbours: no ARP during a measurement.
fn neighbours(world: &World) -> Result<()> {
    for (link, site) in SITES.into_iter().enumerate() {
        let (hub, far) = (&world[HUB], &world[site]);
        let line = |address, mac, device| format!("neigh replace {address} lladdr {mac} dev {device} nud permanent");
        hub.ip(&line(PEERS[link], far.mac(SITE_UNDER)?, UNDER[link]))?;
        far.ip(&line(HUB_UNDER[link], hub.mac(UNDER[link])?, SITE_UNDER))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copied_table_has_no_owner() {
        let table =
            "table inet vpnhub { # progname x\n\tflags owner,persist\n\tset sites {\n\t\tflags interval\n\t}\n}\n";
        let copy = "table inet vpnhub { # progname x\n\tset sites {\n\t\tflags interval\n\t}\n}\n";
        assert_eq!(without_owner(table), copy);
    }
}
