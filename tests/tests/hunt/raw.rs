//! Links without Ethernet headers: TUN devices, and kernel tunnels over an underlay that is not in the configuration.

use std::fmt::Write as _;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use hub_tests::lab::{End, FrameSocket, HUB, Link, Mac, Namespace, PlaceSpec, Scratch, Tun, World, output};
use hub_tests::packet::{Packet, number::IPV4};

use crate::places::{FAR_DEVICE, Place};
use crate::wires::informed;

/// The type of delta's and epsilon's links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raw {
    /// TUN devices.
    Tun,
    /// Delta's is this kind of tunnel; epsilon's is GRE with headers that the test writes.
    Tunnel(Kind),
}

/// A kernel tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    WireGuard,
    /// An xfrm interface with the kernel's ESP.
    Xfrm,
}

/// The underlay's device in the far ends' places.
const UNDERLAY: &str = "und0";
/// Room for every tunnel's headers.
const UNDERLAY_MTU: u32 = 2000;
/// WireGuard retries a handshake after 5 s without an answer.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(20);
/// IP protocol number.
const GRE: u8 = 47;
const IPV4_HEADER: usize = 20;
const ETHERNET_HEADER: usize = 14;
const GRE_HEADER: usize = 4;

/// The test's end of a raw link.
pub enum RawLink {
    /// Packets, with packet information or without.
    Tun(Tun),
    /// The far end of a tunnel: packets.
    Device(FrameSocket),
    Gre(GreLink),
}

/// The far end of a GRE tunnel without a device. Packets have packet information in front, whose `EtherType` is GRE's
/// protocol.
pub struct GreLink {
    socket: FrameSocket,
    /// The hub's and the far end's.
    macs: [Mac; 2],
    addresses: [String; 2],
}

impl RawLink {
    /// # Errors
    /// When the device does not take it.
    pub fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        match self {
            Self::Tun(tun) => tun.send(bytes),
            Self::Device(socket) => socket.send(bytes),
            Self::Gre(link) => link.send(bytes),
        }
    }

    /// The next packet, if one has arrived.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Tun(tun) => tun.receive(Duration::ZERO).ok()?,
            Self::Device(socket) => Some(socket.receive(Duration::ZERO).ok()??.bytes),
            Self::Gre(link) => link.receive(),
        }
    }
}

impl GreLink {
    fn send(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let [_, _, protocol @ ..] = bytes else { anyhow::bail!("no packet information") };
        ensure!(protocol.len() >= 2, "no packet information");
        let [hub, far] = &self.addresses;
        let gre = [&[0, 0], protocol].concat();
        let [to, from] = self.macs;
        self.socket
            .send(&Packet::ipv4(far.as_str(), hub.as_str()).protocol(GRE).bytes(gre).ethernet(from.0, to.0).build())
    }

    fn receive(&self) -> Option<Vec<u8>> {
        loop {
            let frame = self.socket.receive(Duration::ZERO).ok()??.bytes;
            let header = ETHERNET_HEADER + IPV4_HEADER;
            if frame.len() >= header + GRE_HEADER
                && frame[12..14] == IPV4.to_be_bytes()
                && frame[ETHERNET_HEADER + 9] == GRE
            {
                let protocol = u16::from_be_bytes([frame[header + 2], frame[header + 3]]);
                return Some(informed(protocol, &frame[header + GRE_HEADER..]));
            }
        }
    }
}

/// The underlay's addresses: the hub's and the far end's.
fn underlay(place: Place) -> [String; 2] {
    [1, 2].map(|last| format!("198.18.{}.{last}", place.link4().0.network().octets()[2]))
}

fn underlay_device(place: Place) -> String {
    format!("und-{}", &place.name()[..1])
}

impl Raw {
    /// The far ends and the underlay.
    pub fn places(self) -> Vec<(PlaceSpec, Link)> {
        let Self::Tunnel(_) = self else { return Vec::new() };
        let place = |place: Place| {
            let [hub, far] = underlay(place);
            let mut far_end = End::new(place.name(), UNDERLAY).receives_redirects();
            if place == Place::Delta {
                far_end = far_end.address(format_args!("{far}/30"));
            }
            let hub_end = End::new(HUB, &underlay_device(place)).address(format_args!("{hub}/30"));
            (PlaceSpec::new(place.name()), Link::new(hub_end, far_end).mtu(UNDERLAY_MTU))
        };
        [Place::Delta, Place::Epsilon].map(place).into()
    }

    /// Creates the hub's devices, still down.
    pub fn create(self, world: &World) -> anyhow::Result<[RawLink; 2]> {
        let hub = &world[HUB];
        match self {
            Self::Tun => Ok([
                RawLink::Tun(Tun::create(hub, Place::Delta.device())?),
                RawLink::Tun(Tun::create_with_information(hub, Place::Epsilon.device())?),
            ]),
            Self::Tunnel(kind) => Ok([kind.create(world)?, RawLink::Gre(gre(world)?)]),
        }
    }
}

/// Epsilon's link. The far end has no address and no GRE, and so answers nothing.
fn gre(world: &World) -> anyhow::Result<GreLink> {
    let place = Place::Epsilon;
    let (hub, far) = (&world[HUB], &world[place.name()]);
    let addresses = underlay(place);
    let [own, other] = &addresses;
    let device = underlay_device(place);
    let macs = [hub.mac(&device)?, far.mac(UNDERLAY)?];
    hub.batch(&format!(
        "link add {} type gre local {own} remote {other}\nneigh replace {other} lladdr {} dev {device} nud permanent",
        place.device(),
        macs[1]
    ))?;
    Ok(GreLink { socket: FrameSocket::open(far, UNDERLAY)?, macs, addresses })
}

impl Kind {
    /// Delta's link.
    fn create(self, world: &World) -> anyhow::Result<RawLink> {
        let place = Place::Delta;
        let (hub, far) = (&world[HUB], &world[place.name()]);
        let addresses = underlay(place);
        let [own, other] = &addresses;
        match self {
            Self::WireGuard => wireguard(world, place)?,
            Self::Xfrm => {
                hub.batch(&esp(place.device(), &underlay_device(place), [own, other]))?;
                far.batch(&esp(FAR_DEVICE, UNDERLAY, [other, own]))?;
            }
        }
        // An xfrm interface needs a route to its destinations.
        far.batch(&format!(
            "link set dev {FAR_DEVICE} mtu {} txqueuelen 20000 up\nroute add default dev {FAR_DEVICE}\nroute add ::/0 dev \
             {FAR_DEVICE}",
            place.mtu()
        ))?;
        Ok(RawLink::Device(FrameSocket::open(far, FAR_DEVICE)?))
    }
}

/// SAs and policies for everything, for `ip -batch`.
fn esp(device: &str, under: &str, [own, other]: [&str; 2]) -> String {
    const IF_ID: u32 = 65;
    let key = "0x".to_owned() + &"5a".repeat(20);
    let mut lines = format!("link add {device} type xfrm dev {under} if_id {IF_ID}\n");
    // Each end distinguishes the two SAs by their source.
    for (from, to) in [(own, other), (other, own)] {
        writeln!(
            lines,
            "xfrm state add src {from} dst {to} proto esp spi {} reqid 1 mode tunnel flag af-unspec aead rfc4106(gcm(aes)) {key} 128 \
             if_id {IF_ID}",
            if from < to { "0x101" } else { "0x102" }
        )
        .expect("a string takes all");
    }
    for any in ["0.0.0.0/0", "::/0"] {
        for (direction, from, to) in [("out", own, other), ("in", other, own), ("fwd", other, own)] {
            writeln!(
                lines,
                "xfrm policy add src {any} dst {any} dir {direction} tmpl src {from} dst {to} proto esp reqid 1 mode tunnel \
                 if_id {IF_ID}"
            )
            .expect("a string takes all");
        }
    }
    lines
}

fn wireguard(world: &World, place: Place) -> anyhow::Result<()> {
    let scratch = Scratch::new()?;
    let [own, other] = underlay(place);
    let ends = [(&world[HUB], place.device(), other), (&world[place.name()], FAR_DEVICE, own)];
    let mut public = Vec::new();
    for (at, device, _) in &ends {
        at.ip(&format!("link add {device} type wireguard"))?;
        let key = scratch.file(at.name());
        let script = format!("umask 077; wg genkey > {0}; wg pubkey < {0}", key.display());
        let said = output(Command::new("sh").args(["-c", &script]))?;
        public.push(String::from_utf8(said.stdout)?.trim().to_owned());
    }
    for ((at, device, endpoint), peer) in ends.iter().zip(public.iter().rev()) {
        let key = scratch.file(at.name());
        let peer = format!("peer {peer} allowed-ips 0.0.0.0/0,::/0 endpoint {endpoint}:51820");
        wg(at, &format!("set {device} listen-port 51820 private-key {} {peer}", key.display()))?;
        at.ip(&format!("link set dev {device} up"))?;
    }
    // Two simultaneous handshakes, one from each end, may both fail repeatedly.
    let far = &world[place.name()];
    wg(far, &format!("set {FAR_DEVICE} peer {} persistent-keepalive 25", public[0]))?;
    let deadline = Instant::now() + HANDSHAKE_WITHIN;
    while wg(far, &format!("show {FAR_DEVICE} latest-handshakes"))?.trim().ends_with("\t0") {
        ensure!(Instant::now() < deadline, "WireGuard's handshake does not end");
        thread::yield_now();
    }
    Ok(())
}

fn wg(at: &Namespace, arguments: &str) -> anyhow::Result<String> {
    let said = output(at.command("wg").args(arguments.split(' ')))?;
    ensure!(said.status.success(), "wg: {}", String::from_utf8_lossy(&said.stderr));
    Ok(String::from_utf8(said.stdout)?)
}
