//! Packets that the program leaves to the kernel get there and take the same next hop, and nothing remains after the
//! agent is removed. The hub's kernel forwards (`ip_forward` is on).

mod exit;
mod icmp_errors;
mod kernel;
mod others;
mod peers;
mod policy_routes;
mod routes;
mod sources;
mod translate;
mod unreachable;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hub_tests::lab::{
    FrameSocket, HANGZHOU, HUB, HubConfig, NINGBO, Namespace, Options, Rig, SHANGHAI, Site, UdpProbe, World,
};
use hub_tests::packet::{View, verify_checksums};

static SITES: [Site; 3] = [SHANGHAI, HANGZHOU, NINGBO];
const WAIT: Duration = Duration::from_secs(5);

/// The three offices and the agent, with all neighbours resolved.
fn warm_hub(config: &HubConfig) -> Rig {
    let rig = Rig::start(&Options::default().slow_path(true), config).unwrap();
    rig.warm_up(&SITES).unwrap();
    rig
}

/// Host addresses of two sites, of both families.
fn hosts(from: &Site, to: &Site) -> [(IpAddr, IpAddr); 2] {
    let ([from4, from6], [to4, to6]) = (from.hosts(), to.hosts());
    [(from4, to4), (from6, to6)]
}

/// A UDP probe between two addresses.
fn datagram(from: IpAddr, to: IpAddr) -> UdpProbe {
    UdpProbe::new(SocketAddr::new(from, 5000), SocketAddr::new(to, 6000))
}

/// Waits for an ICMP error to Shanghai's host from the hub about a packet to `about`: the whole frame.
fn icmp_error(place: &FrameSocket, kinds: [(u8, u8); 2], about: IpAddr) -> Vec<u8> {
    let kind = kinds[usize::from(about.is_ipv6())];
    let error = place.expect(WAIT, |frame| {
        View::ethernet(frame).is_ok_and(|view| view.icmp() == Some(kind) && quoted_destination(&view) == Some(about))
    });
    let error = error.unwrap().bytes;
    verify_checksums(&error).unwrap();
    error
}

/// The destination of the packet that an ICMP error quotes.
fn quoted_destination(error: &View<'_>) -> Option<IpAddr> {
    let quoted = error.payload();
    let at = |from: usize, length: usize| quoted.get(from..from + length);
    match quoted.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(at(16, 4)?).ok()?)),
        6 => Some(IpAddr::from(<[u8; 16]>::try_from(at(24, 16)?).ok()?)),
        _ => None,
    }
}

/// All addresses of the hub, except link-local IPv6 ones.
fn hub_addresses(world: &World) -> Vec<IpAddr> {
    let shown: serde_json::Value = serde_json::from_str(&world[HUB].ip("-j addr show").unwrap()).unwrap();
    let devices = shown.as_array().unwrap().iter().filter(|device| device["ifname"] != "lo");
    let addresses = devices.flat_map(|device| device["addr_info"].as_array().unwrap());
    let global = addresses.filter_map(|address| address["local"].as_str()).filter(|text| !text.starts_with("fe80"));
    global.map(|text| text.parse().unwrap()).collect()
}

/// Everything that the agent must remove: entries with its protocol numbers or to the table of earlier versions, every
/// XDP program, and every interface in the sites' device group. Empty if there is nothing.
fn traces(hub: &Namespace) -> String {
    let mut found = String::new();
    for command in ["rule show", "-6 rule show"] {
        let rules = hub.ip(command).unwrap();
        found.extend(rules.lines().filter(|line| line.contains("1180")).map(|line| format!("{command}: {line}\n")));
    }
    for command in [
        "route show table all proto 118",
        "route show table all proto 119",
        "-6 route show table all proto 118",
        "-6 route show table all proto 119",
        "neigh show proto 118",
    ] {
        found.extend(hub.ip(command).unwrap().lines().map(|line| format!("{command}: {line}\n")));
    }
    // `ip` does not show the protocol of every neighbour.
    let neighbours = hub.ip("neigh show").unwrap();
    found.extend(neighbours.lines().filter(|line| line.contains("managed")).map(|line| format!("neigh: {line}\n")));
    let links = hub.ip("-o link show").unwrap();
    found.extend(
        links
            .lines()
            .filter(|line| line.contains("xdp") || line.contains("group 118"))
            .map(|line| format!("link: {line}\n")),
    );
    found
}
