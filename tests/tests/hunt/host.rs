//! Changes by a site, or the operator, to the hub's own interfaces: router advertisements, other names, other programs.

use std::net::IpAddr;

use hub_tests::packet::Packet;

use crate::arena::{Arena, Variant};
use crate::cases::{COPIES, hunted};
use crate::hunt::{Hunt, udp};
use crate::places::{Place, SITES};
use crate::wires::{framed, raw};

/// All nodes, as an Ethernet group.
const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// A router advertisement (RFC 4861 section 4.2) with a router lifetime of half an hour and a prefix (section 4.6.2)
/// for address autoconfiguration.
fn advertisement(prefix: [u8; 16]) -> Packet {
    let mut body = vec![0; 8];
    // Type, length in 8 bytes, prefix length, on-link and autonomous, valid and preferred for an hour.
    body.extend([3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0]);
    body.extend(prefix);
    Packet::ipv6("fe80::2", "ff02::1").ttl(255).icmp(134, 0, [64, 0, 7, 8]).bytes(body)
}

/// 1.8
#[test]
fn router_advertisement_of_site_adds_no_address_or_route() -> anyhow::Result<()> {
    let (arena, tuns) = Arena::build(Variant::PLAIN)?;
    let hub = arena.hub();
    // The default for hosts.
    let mut settings = vec![("ipv6/conf/all/forwarding".to_owned(), "0")];
    for site in SITES {
        for (name, value) in [("forwarding", "0"), ("accept_ra", "1"), ("autoconf", "1"), ("addr_gen_mode", "0")] {
            settings.push((format!("ipv6/conf/{}/{name}", site.device()), value));
        }
    }
    hub.sysctl(&settings.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>())?;
    let agent = arena.start()?;
    let mut hunt = Hunt::new(&arena, tuns)?;
    let IpAddr::V6(prefix) = "fd62::".parse()? else { unreachable!("an IPv6 address") };
    let packet = advertisement(prefix.octets());
    for _ in 0..COPIES {
        for site in [Place::Alpha, Place::Gamma, Place::Delta, Place::Epsilon] {
            hunt.fire(site, |_| match hunt_macs(&arena, site) {
                Some(far) => packet.clone().ethernet(far, ALL_NODES).build(),
                None => raw(site, packet.build()),
            });
        }
    }
    // An arrived marker proves that the kernel has processed the advertisements before it.
    hunt.settle_ways(&[Place::Alpha, Place::Gamma, Place::Delta, Place::Epsilon].map(|site| (site, Place::Vpc)))?;
    let addresses = hub.ip("-6 -o addr show")?;
    let routes = hub.ip("-6 route show proto ra")?;
    let from_kernel = hub.ip("-6 route show proto kernel")?;
    agent.stop()?;
    anyhow::ensure!(!addresses.contains("fd62:"), "the hub has taken an address:\n{addresses}");
    anyhow::ensure!(routes.is_empty(), "the hub has taken a route:\n{routes}");
    anyhow::ensure!(!from_kernel.contains("fd62:"), "the hub has taken a prefix:\n{from_kernel}");
    Ok(())
}

fn hunt_macs(arena: &Arena, site: Place) -> Option<[u8; 6]> {
    site.is_ethernet().then(|| arena.world[site.name()].mac(crate::places::FAR_DEVICE).expect("the far device").0)
}

/// From beta with others' sources, and from alpha to beta.
fn probe(hunt: &mut Hunt<'_>) {
    let macs = hunt.macs.clone();
    for v6 in [false, true] {
        for from in [Place::Alpha, Place::Vpc, Place::Gamma, Place::Wan] {
            for to in [Place::Vpc, Place::Alpha, Place::Wan, Place::Mgmt] {
                for ttl in [1, 64] {
                    hunt.fire(Place::Beta, |id| {
                        let packet = udp(from.host(v6), to.host(v6)).ttl(ttl).bytes(crate::wires::payload(id, 32));
                        framed(Place::Beta, &packet, &macs)
                    });
                }
            }
        }
        for from in [Place::Mgmt, Place::Wan, Place::Vpc] {
            hunt.send(from, |body| udp(Place::Alpha.host(v6), Place::Beta.host(v6)).bytes(body));
        }
    }
    // Whether beta's own traffic still gets through does not matter here.
    hunt.waive_debts();
}

/// 1.10
#[test]
fn renamed_tunnel_is_closed_and_connection_down() -> anyhow::Result<()> {
    let (arena, tuns) = Arena::build(Variant::ISOLATED)?;
    let agent = arena.start()?;
    let mut hunt = Hunt::new(&arena, tuns)?;
    hunt.settle()?;
    "renamed".clone_into(&mut hunt.phase);
    arena.hub().batch("link set dev tun-b down\nlink set dev tun-b name was\nlink set dev was up")?;
    probe(&mut hunt);
    let others = [Place::Alpha, Place::Gamma, Place::Delta, Place::Epsilon].map(|site| (site, Place::Vpc));
    hunt.settle_ways(&others)?;
    let status = agent
        .wait_for_status(std::time::Duration::from_secs(10), |status| status.connection("beta")["state"] == "down");
    probe(&mut hunt);
    hunt.settle_ways(&others)?;
    let verdict = hunt.verdict();
    agent.stop()?;
    verdict.and(status.map(drop))
}

/// 1.10
#[test]
fn tunnel_with_foreign_xdp_program_is_served_by_tc() -> anyhow::Result<()> {
    let mut foreign = None;
    hunted(
        Variant::ISOLATED,
        |arena| {
            foreign = Some(arena.hub().foreign_xdp(Place::Beta.device())?);
            Ok(())
        },
        |hunt, agent| {
            probe(hunt);
            let status = agent.status()?;
            let beta = status.connection("beta");
            anyhow::ensure!(beta["attach"] == "tc", "attached as {}", beta["attach"]);
            anyhow::ensure!(beta["attach_reason"].is_string(), "no reason is given");
            Ok(())
        },
    )
}
