//! A hub that decrypts, and a site, with tunnels between one pair of addresses.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd as _,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use hub_tests::{
    lab::{End as LinkEnd, FrameSocket, HUB, Link, PlaceSpec, World},
    packet::Packet,
};
use nix::{errno::Errno, libc};

use super::super::{
    lab::{HOSTS4, SITES},
    replay::Flight,
    tunnels::{self, Encryption, End, HUB_UNDER, PEERS, SITE_UNDER, UNDER},
};
use crate::{netdev::Netdev, testbed::Running};

/// UDP port of ESP with NAT traversal (RFC 3948), and what sets it up (include/uapi/linux/udp.h).
const NAT_T: u16 = 4500;
const UDP_ENCAP: libc::c_int = 100;
const UDP_ENCAP_ESPINUDP: libc::c_int = 2;
/// Place of the protocol in a frame that has no IP options.
const PROTOCOL: usize = 14 + 9;
const ESP: u8 = 50;
const UDP: u8 = 17;
const PORT: u16 = 9;
/// Time for a packet to come through.
const WAIT: Duration = Duration::from_secs(5);
const OFFLOAD: &str = "esp4_offload";

/// What distributes received ESP over the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Spread {
    /// Nothing: spread = "off"
    None,
    /// Receive Packet Steering
    Rps,
    /// The agent's XDP program
    Xdp,
}

impl Spread {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Rps => "rps",
            Self::Xdp => "xdp",
        }
    }

    /// Value of the key `spread`, and what `status` must report.
    fn key(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::None => ("off", None),
            Self::Rps => ("rps", Some("rps")),
            Self::Xdp => ("xdp", Some("xdp-native")),
        }
    }
}

/// Packets on the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// ESP
    Esp,
    /// ESP in UDP, port 4500 at both ends
    NatT,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Esp => "esp",
            Self::NatT => "nat-t",
        }
    }

    fn protocol(self) -> u8 {
        match self {
            Self::Esp => ESP,
            Self::NatT => UDP,
        }
    }
}

/// Dropping it removes its namespaces.
pub struct Lab {
    pub spread: Spread,
    kind: Kind,
    tunnels: u32,
    running: Running,
    world: World,
    /// Passes ESP in UDP to the kernel.
    _decapsulation: Option<UdpSocket>,
}

impl Lab {
    pub fn build(spread: Spread, kind: Kind, tunnels: u32, agent: &Path) -> Result<Self> {
        let hub_end = LinkEnd::new(HUB, UNDER[0]).address(format!("{}/30", HUB_UNDER[0])).receives_redirects();
        let far = LinkEnd::new(SITES[0], SITE_UNDER).address(format!("{}/30", PEERS[0])).receives_redirects();
        let places = World::builder().place(PlaceSpec::new(HUB)).place(PlaceSpec::new(SITES[0]));
        let world = places.link(Link::new(hub_end, far)).build()?;
        let (hub, site) = (&world[HUB], &world[SITES[0]]);
        let neighbour =
            |address: Ipv4Addr, mac, device| format!("neigh replace {address} lladdr {mac} dev {device} nud permanent");
        hub.ip(&neighbour(PEERS[0], site.mac(SITE_UNDER)?, UNDER[0]))?;
        site.ip(&neighbour(HUB_UNDER[0], hub.mac(UNDER[0])?, SITE_UNDER))?;
        hub.batch(&ends(kind, tunnels, HUB_UNDER[0], PEERS[0], UNDER[0]))?;
        let routes = format!("addr add {}/32 dev {}\nroute add default dev {1}\n", HOSTS4[0], tunnels::device(0));
        site.batch(&(ends(kind, tunnels, PEERS[0], HUB_UNDER[0], SITE_UNDER) + &routes))?;
        let decapsulation = match kind {
            Kind::Esp => None,
            Kind::NatT => Some(hub.enter(decapsulation)??),
        };

        let (key, in_force) = spread.key();
        let config = format!("[gateway]\nname = \"bench-hub\"\n[underlay.{}]\nspread = \"{key}\"\n", UNDER[0]);
        let running = Running::start(agent, hub, &config)?;
        running.rest()?;
        let status = running.agent.status()?;
        let underlay = &status["underlays"][0];
        ensure!(
            underlay["spread_in_force"].as_str() == in_force,
            "spread = \"{key}\" is not in force: {}",
            underlay["spread_reason"]
        );
        Ok(Self { spread, kind, tunnels, running, world, _decapsulation: decapsulation })
    }

    /// The devices behind the decryption.
    pub fn sinks(&self) -> Result<Vec<Netdev>> {
        let hub = self.world[HUB].name();
        (0..self.tunnels).map(|number| Netdev::find(hub, &tunnels::device(number))).collect()
    }

    /// Sends a packet of so many bytes into each tunnel, and records it as it arrives at the hub. Without GRO, which
    /// decrypts before a socket sees the packet, if `esp4_offload` is loaded.
    pub fn record(&self, bytes: usize) -> Result<Vec<Flight>> {
        let payload = bytes.checked_sub(28).context("a packet has its headers at least")?;
        let packet = Packet::ipv4(HOSTS4[0], HOSTS4[1]).udp(PORT, PORT).payload(payload).build();
        let (site, hub) = (&self.world[SITES[0]], &self.world[HUB]);
        hub.set_gro(UNDER[0], false)?;
        let at_hub = FrameSocket::open(hub, UNDER[0])?;
        let protocol = self.kind.protocol();
        let flight = |number| {
            FrameSocket::open(site, &tunnels::device(number))?.send(&packet)?;
            let frame =
                at_hub.expect(WAIT, |frame| frame.get(PROTOCOL) == Some(&protocol)).context("the site's ESP")?;
            let from = Netdev::find(site.name(), SITE_UNDER)?;
            Ok(Flight { from, frame: frame.bytes, arrives: packet.clone() })
        };
        let flights = (0..self.tunnels).map(flight).collect();
        hub.set_gro(UNDER[0], true)?;
        flights
    }

    /// The agent must end well.
    pub fn end(self) -> Result<()> {
        self.running.agent.stop_within(Duration::from_secs(300))
    }
}

/// One end of all tunnels: interfaces, policies and SAs.
fn ends(kind: Kind, tunnels: u32, own: Ipv4Addr, other: Ipv4Addr, under: &str) -> String {
    let end = |number| {
        let end = End { number, own, other };
        let sas = end.add_sas(Encryption::AesGcm);
        let sas = match kind {
            Kind::Esp => sas,
            Kind::NatT => sas.replace('\n', &format!(" encap espinudp {NAT_T} {NAT_T} 0.0.0.0\n")),
        };
        end.add_interface(&tunnels::device(number), under) + &sas
    };
    (0..tunnels).map(end).collect()
}

/// A socket as that of an IKE daemon.
fn decapsulation() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((HUB_UNDER[0], NAT_T)).context("binding UDP port 4500")?;
    let kind = UDP_ENCAP_ESPINUDP;
    // SAFETY: the option is an integer, which lives during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_UDP,
            UDP_ENCAP,
            (&raw const kind).cast(),
            size_of_val(&kind).try_into()?,
        )
    };
    Errno::result(result).context("setting UDP_ENCAP")?;
    Ok(socket)
}

/// Whether GRO decrypts ESP.
pub fn has_offload() -> bool {
    fs::exists(format!("/sys/module/{OFFLOAD}")).unwrap_or(false)
}

pub fn load_offload() -> Result<()> {
    let status = Command::new("modprobe").arg(OFFLOAD).status().context("running modprobe")?;
    ensure!(status.success() && has_offload(), "the kernel's module {OFFLOAD} cannot be loaded");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sas_of_nat_t_are_encapsulated_at_both_ends() {
        let lines = |kind, own, other| ends(kind, 3, own, other, "under");
        let count = |text: &str, word: &str| text.matches(word).count();
        let esp = lines(Kind::Esp, HUB_UNDER[0], PEERS[0]);
        assert_eq!((count(&esp, "xfrm state add"), count(&esp, "encap")), (6, 0));
        let nat_t = lines(Kind::NatT, PEERS[0], HUB_UNDER[0]);
        assert_eq!((count(&nat_t, "xfrm state add"), count(&nat_t, " encap espinudp 4500 4500 0.0.0.0\n")), (6, 6));
        assert_eq!(count(&nat_t, "encap"), 6, "only the SAs");
    }
}
