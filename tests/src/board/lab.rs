//! A hub for the board: three sites with IPsec, one of them with a leased line, too.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::lab::{
    Esp, FrameSocket, HANGZHOU, HUB, HubConfig, IpsecLab, IpsecOptions, NINGBO, Ping, Prometheus, SHANGHAI, VPC,
};
use crate::packet::Packet;

/// Packets of an event.
const BURST: usize = 20;
/// Pauses between pings, in turn, so that the rates change.
const PAUSES: [u64; 4] = [4, 6, 10, 7];
/// Pings with the same pause.
const ROUND: u16 = 400;
/// Neither a site's network nor the VPC's.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(172, 31, 0, 1);

/// The lab, and the Prometheus that scrapes its agent.
pub struct BoardLab {
    pub prometheus: Prometheus,
    pub lab: IpsecLab,
    scrape: Duration,
}

/// What happens to the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Shanghai's tunnel ends: its leased line takes over.
    TunnelEnds,
    TunnelReturns,
    /// Ningbo is administratively down.
    TakenDown,
    TakenUp,
    /// A child SA and an IKE SA are renewed.
    Rekeyed,
    /// Hangzhou, the VPC and nobody known send packets that they must not send.
    Forbidden,
    /// Packets whose TTL ends at the hub.
    Expired,
}

impl BoardLab {
    /// Why it cannot run here.
    pub fn missing() -> Option<String> {
        crate::lab::Charon::missing().or_else(Prometheus::missing)
    }

    /// Starts the agent of this file. Returns when all tunnels are up. `scrape` is Prometheus's interval.
    ///
    /// # Errors
    /// When something is missing or refuses.
    pub fn start(agent: &Path, scrape: Duration) -> anyhow::Result<Self> {
        let options = IpsecOptions::new(Esp::Userspace).leased_line(&SHANGHAI).agent(agent.to_owned());
        let lab = IpsecLab::start(&options, configure)?;
        let prometheus = Prometheus::start(&lab.world[HUB], scrape)?;
        Ok(Self { prometheus, lab, scrape })
    }

    pub fn scrape(&self) -> Duration {
        self.scrape
    }

    /// Has sites and VPC ping each other until the flag is set.
    pub fn traffic<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, ends: &'scope AtomicBool) {
        let pairs = [
            ("hangzhou", SHANGHAI.host4(), 900),
            ("ningbo", VPC.host4, 500),
            (VPC.place, HANGZHOU.host4(), 200),
            ("shanghai", NINGBO.host4(), 60),
        ];
        for (from, to, size) in pairs {
            scope.spawn(move || {
                for pause in PAUSES.into_iter().cycle() {
                    for _ in 0..ROUND {
                        if ends.load(Ordering::Relaxed) {
                            return;
                        }
                        // A lost one, or one without a route, is part of the picture.
                        let ping = Ping::new(to.into()).size(size).timeout(Duration::from_millis(200));
                        drop(ping.run(&self.lab.world[from]));
                        std::thread::sleep(Duration::from_millis(pause));
                    }
                }
            });
        }
    }

    /// # Errors
    /// When strongSwan or the agent refuses, or a packet cannot be sent.
    pub fn happens(&self, event: Event) -> anyhow::Result<()> {
        let shanghai = self.lab.office("shanghai");
        match event {
            Event::TunnelEnds => shanghai.terminate(),
            Event::TunnelReturns => shanghai.initiate(),
            Event::TakenDown => self.command(&["connection", "down", "ningbo"]),
            Event::TakenUp => self.command(&["connection", "up", "ningbo"]),
            Event::Rekeyed => {
                let charon = &self.lab.office("hangzhou").charon;
                charon.swanctl(&["--rekey", "--child", "hangzhou"])?;
                charon.swanctl(&["--rekey", "--ike", "hangzhou"]).map(drop)
            }
            Event::Forbidden => (0..BURST).try_for_each(|_| self.send_forbidden()),
            Event::Expired => {
                let ping = Ping::new(VPC.host4.into()).hops(1).count(BURST as u16).timeout(Duration::from_millis(20));
                ping.run(&self.lab.world["hangzhou"]).map(drop)
            }
        }
    }

    fn command(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output = self.lab.agent.cli(arguments)?;
        if !output.status.success() {
            bail!("vpnhub {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    fn send_forbidden(&self) -> anyhow::Result<()> {
        // As strongSwan writes decrypted packets.
        let mut tun = self.lab.hub.tun().context("the hub's tunnel device")?;
        let packet = |from: Ipv4Addr, to: Ipv4Addr| Packet::ipv4(from, to).udp(7001, 53).payload(64);
        tun.send(&packet(HANGZHOU.host4(), NOWHERE).build())?;
        tun.send(&packet(NOWHERE, VPC.host4).build())?;
        let world = &self.lab.world;
        let [own, hubs] =
            [(VPC.place, VPC.device), (HUB, VPC.hub_device)].map(|(place, device)| world[place].mac(device));
        let socket = FrameSocket::open(&world[VPC.place], VPC.device)?;
        socket.send(&packet(NINGBO.nth4(9), HANGZHOU.host4()).ethernet(own?.0, hubs?.0).build())
    }
}

/// With metrics, a weight for the leased line, and health checks of it and of Hangzhou.
fn configure(config: HubConfig) -> HubConfig {
    let mut config = config.second_link(&SHANGHAI, [70, 30]);
    let check = |connection: &str, source: Ipv4Addr, destination: Ipv4Addr| {
        format!(
            "[connection.{connection}.health_check]\nsource = \"{source}\"\ndestination = \"{destination}\"\n\
             interval = \"1s\"\n"
        )
    };
    let checks =
        [check("hangzhou", VPC.hub4, HANGZHOU.host4()), check("shanghai-2", SHANGHAI.hub4(1), SHANGHAI.peer4(1))];
    config.sections = format!("{}{}", Prometheus::METRICS, checks.concat());
    config
}
