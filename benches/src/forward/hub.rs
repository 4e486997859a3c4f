//! A hub between two sites: its interfaces, the generator's way in, and the sink.

use anyhow::{Context as _, Result};
use hub_tests::lab::{End, HUB, Link, Options, PlaceSpec, Site, Tun, World};

use super::cases::Interfaces;
use crate::{
    netdev::Netdev,
    programs::Programs,
    settings::Macs,
    shape::DEVICE_IN,
    testbed::{A, B},
};

pub const SITES: [Site; 2] = [A, B];
/// Frames of up to 1514 bytes go through.
pub const MTU: u32 = 1500;
/// The hub's device that the generator sends to where frames come in by a TUN device.
const FEED: &str = "feed0";

/// A hub between two sites, and where frames go in and out.
pub struct Hub {
    pub world: World,
    pub from: Netdev,
    /// The hub's own devices on the way.
    pub ingress: Netdev,
    pub egress: Netdev,
    pub macs: Macs,
    /// Where all of it must come out.
    pub sink: Netdev,
    /// Frames arrive here, and then from the ingress.
    feed: Option<Netdev>,
    /// This process's ends of the TUN devices, of ingress and egress.
    tuns: [Option<Tun>; 2],
}

impl Hub {
    /// Between veth devices, without routes and without an agent.
    pub fn make(kernel_forwards: bool) -> Result<Self> {
        Self::make_with(Interfaces::Veth, kernel_forwards)
    }

    /// The same with other interfaces.
    pub fn make_with(interfaces: Interfaces, kernel_forwards: bool) -> Result<Self> {
        let are_tun @ [from_tun, to_tun] = interfaces.are_tun();
        let ethernet = SITES.into_iter().zip(are_tun).filter_map(|(site, is_tun)| (!is_tun).then_some(site));
        let options = Options::default().sites(ethernet).slow_path(kernel_forwards).tunnel_mtu(MTU);
        let device = Site::device(0);
        let mut world = World::offices(&options);
        if from_tun {
            let link = Link::new(End::new(HUB, FEED), End::new(&A.place, &device)).mtu(MTU);
            world = world.place(PlaceSpec::new(&A.place)).link(link);
        }
        let world = world.build()?;
        let tun = |site: &Site, is_tun: bool| is_tun.then(|| tun(&world, site)).transpose();
        let tuns = [tun(&A, from_tun)?, tun(&B, to_tun)?];

        let netdev = |namespace: &str, device: &str| Netdev::find(world[namespace].name(), device);
        let from = netdev(&A.place, &device)?;
        let (ingress, egress) = (netdev(HUB, &A.hub_device(0))?, netdev(HUB, &B.hub_device(0))?);
        let sink = if to_tun { netdev(HUB, &B.hub_device(0))? } else { netdev(&B.place, &device)? };
        let feed = from_tun.then(|| netdev(HUB, FEED)).transpose()?;
        for end in [Some(&ingress).filter(|_| !from_tun), Some(&egress).filter(|_| !to_tun), feed.as_ref()] {
            // A veth takes the generator's frames only with GRO or an XDP program; the same for all contenders.
            end.map_or(Ok(()), |end| world[HUB].set_gro(&end.device, true))?;
        }
        let from_mac = from.mac()?;
        // A TUN device has none, and its frames are not compared.
        let to = if to_tun { from_mac } else { sink.mac()? };
        // The floor cannot take its link header from a TUN device: it writes that of the generator's frames.
        let gateway = if from_tun { to } else { ingress.mac()? };
        let macs = Macs { from: from_mac, gateway, to };
        Ok(Self { world, from, ingress, egress, macs, sink, feed, tuns })
    }

    /// Attaches the programs at both ends: the sink, and the one that feeds a TUN device.
    pub fn attach_ends(&self, programs: &mut Programs) -> Result<()> {
        match &self.tuns[1] {
            Some(tun) => programs.attach_to_tun(tun)?,
            None => programs.attach("sink", &self.sink).map(|_link| ())?,
        }
        if let Some(feed) = &self.feed {
            programs.attach_tc("feed", feed)?;
        }
        Ok(())
    }

    /// Lets the feed send to this hub's ingress: there is one for all hubs.
    pub fn aim_feed(&self, programs: &mut Programs) -> Result<()> {
        match self.feed {
            Some(_) => programs.set_device(DEVICE_IN, &self.ingress),
            None => Ok(()),
        }
    }

    pub fn is_from_tun(&self) -> bool {
        self.tuns[0].is_some()
    }

    pub fn is_to_tun(&self) -> bool {
        self.tuns[1].is_some()
    }

    /// Has the hub's kernel know the way to both sites' own networks.
    pub fn route_sites(&self) -> Result<()> {
        for site in &SITES {
            for (network, via) in [
                (site.network4().to_string(), site.peer4(0).to_string()),
                (site.network6().to_string(), "fe80::2".to_owned()),
            ] {
                self.world[HUB].ip(&format!("route add {network} via {via} dev {}", site.hub_device(0)))?;
            }
        }
        Ok(())
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // The kernel drops their routes with the devices, now: else it would while the next is measured.
        for netdev in [&self.ingress, &self.egress] {
            drop(self.world[HUB].ip(&format!("link del {}", netdev.device)));
        }
    }
}

/// The hub's device towards a site, as a TUN device.
fn tun(world: &World, site: &Site) -> Result<Tun> {
    let device = site.hub_device(0);
    let tun = Tun::create(&world[HUB], &device)?;
    world[HUB].ip(&format!("link set dev {device} mtu {MTU} up")).context("setting up a TUN device")?;
    Ok(tun)
}
