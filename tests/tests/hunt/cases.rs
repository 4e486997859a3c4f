//! Bypasses of the selectors that were found once, one test each. Those of an agent's life are in `lifecycle`.

use std::net::IpAddr;

use hub_tests::packet::Packet;
use hub_tests::packet::number::{IPV4, VLAN};

use crate::arena::{Arena, Variant};
use crate::hunt::{Hunt, ip, udp};
use crate::places::{ALL, Place, SITES, is_hub};
use crate::wires::{framed, informed, payload};

/// Packets of a kind: enough to detect one that gets through now and then.
pub const COPIES: u32 = 10;

/// Runs a test with an active hub. At the end nothing may have arrived beyond policy, and every allowed packet must
/// have arrived.
pub fn hunted(
    variant: Variant,
    prepare: impl FnOnce(&Arena) -> anyhow::Result<()>,
    test: impl FnOnce(&mut Hunt<'_>, &hub_tests::lab::Agent) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (arena, tuns) = Arena::build(variant)?;
    prepare(&arena)?;
    let agent = arena.start()?;
    let mut hunt = Hunt::new(&arena, tuns)?;
    hunt.settle()?;
    test(&mut hunt, &agent)?;
    hunt.settle()?;
    hunt.collect_debts();
    hunt.conclude(agent)
}

impl Hunt<'_> {
    /// A packet with the usual link header.
    pub fn send(&mut self, entry: Place, make: impl FnOnce(Vec<u8>) -> Packet) -> u64 {
        let macs = self.macs.clone();
        self.fire(entry, |id| framed(entry, &make(payload(id, 32)), &macs))
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// 1.1
fn frames_with_many_tags_reach_nobody(variant: Variant) -> anyhow::Result<()> {
    hunted(
        variant,
        |_| Ok(()),
        |hunt, _| {
            for count in 0..=10 {
                for (entry, from, to) in [
                    (Place::Alpha, Place::Beta.host(false), Place::Vpc.host(false)),
                    (Place::Alpha, Place::Beta.host(true), Place::Vpc.host(true)),
                    (Place::Alpha, address("8.8.8.8"), Place::Vpc.host(false)),
                    (Place::Alpha, Place::Alpha.host(false), Place::Beta.host(false)),
                    (Place::Alpha, Place::Alpha.host(true), Place::Beta.host(true)),
                    (Place::Alpha, Place::Alpha.host(false), Place::Vpc.host(false)),
                    (Place::Vpc, Place::Beta.host(false), Place::Alpha.host(false)),
                    (Place::Vpc, Place::Beta.host(true), Place::Alpha.host(true)),
                ] {
                    for copy in 0..COPIES {
                        let protocol = if copy % 2 == 0 { VLAN } else { 0x88a8 };
                        hunt.send(entry, |body| {
                            (0..count).fold(udp(from, to).bytes(body), |tagged, _| tagged.tag(protocol, 0))
                        });
                    }
                }
            }
            Ok(())
        },
    )
}

#[test]
fn frames_with_many_tags_by_native_xdp_are_dropped() -> anyhow::Result<()> {
    frames_with_many_tags_reach_nobody(Variant::ISOLATED)
}

#[test]
fn frames_with_many_tags_by_generic_xdp_are_dropped() -> anyhow::Result<()> {
    frames_with_many_tags_reach_nobody(Variant::ISOLATED.attach("generic"))
}

#[test]
fn frames_with_many_tags_by_tc_are_dropped() -> anyhow::Result<()> {
    frames_with_many_tags_reach_nobody(Variant::ISOLATED.attach("tc"))
}

/// 1.2
#[test]
fn raw_link_packet_is_checked_as_kernel_reads_it() -> anyhow::Result<()> {
    hunted(
        Variant::PLAIN,
        |_| Ok(()),
        |hunt, _| {
            for count in 0..=6 {
                for from in [Place::Beta, Place::Vpc, Place::Epsilon] {
                    for _ in 0..COPIES {
                        hunt.fire(Place::Epsilon, |id| {
                            let packet =
                                udp(from.host(false), Place::Vpc.host(false)).ttl(255).bytes(payload(id, 32)).build();
                            // The second tag's priority looks like the version of an IPv6 header, and the destination
                            // like multicast.
                            let mut tags: Vec<u8> = Vec::new();
                            for tag in 0..count {
                                let control: u16 = if tag == 1 { 0x6000 } else { 0 };
                                let next = if tag + 1 == count { IPV4 } else { VLAN };
                                tags.extend(control.to_be_bytes());
                                tags.extend(next.to_be_bytes());
                            }
                            tags.extend(packet);
                            informed(if count == 0 { IPV4 } else { VLAN }, &tags)
                        });
                    }
                }
            }
            Ok(())
        },
    )
}

/// 1.3
#[test]
fn packets_passed_to_kernel_take_program_next_hop() -> anyhow::Result<()> {
    hunted(
        Variant::PLAIN,
        |_| Ok(()),
        |hunt, _| {
            let from = Place::Alpha.host(false);
            let mut flows = Vec::new();
            for port in 0..64 {
                let to = address(&format!("10.64.0.{port}"));
                let flow = |body| ip(from, to).udp(1000 + port, 2000).bytes(body);
                let plain = hunt.send(Place::Alpha, flow);
                let with_option = hunt.send(Place::Alpha, |body| flow(body).ip_options(&[1, 1, 1, 1]));
                // Longer than the tunnels' MTU, so the kernel fragments it.
                let too_big = hunt.send(Place::Alpha, |body| flow(body.repeat(45)));
                flows.push((plain, with_option, too_big));
                let to = address(&format!("fd64::{port}"));
                hunt.send(Place::Alpha, |body| {
                    ip(Place::Alpha.host(true), to).hop_by_hop(&[1, 2, 0, 0]).udp(1000 + port, 2000).bytes(body)
                });
                hunt.send(Place::Alpha, |body| ip(Place::Alpha.host(true), to).udp(1000 + port, 2000).bytes(body));
            }
            hunt.settle()?;
            let arrived = |hunt: &Hunt<'_>, id| hunt.arrivals_of(id).iter().any(|arrival| arrival.place == Place::Beta);
            let plain = flows.iter().filter(|(plain, ..)| arrived(hunt, *plain)).count();
            anyhow::ensure!((10..54).contains(&plain), "{plain} of 64 flows go by the connection that admits them");
            for (plain, with_option, too_big) in flows {
                let ways = [plain, with_option, too_big].map(|id| arrived(hunt, id));
                anyhow::ensure!(ways.iter().all(|way| *way == ways[0]), "plain, with an option, too big: {ways:?}");
            }
            Ok(())
        },
    )
}

/// 1.5
#[test]
fn site_packets_never_leave_in_clear_text() -> anyhow::Result<()> {
    fn everywhere(hunt: &mut Hunt<'_>) {
        for site in SITES {
            for to in ["8.8.8.8", "10.60.0.1", "10.99.0.10", "169.254.62.2", "198.51.100.10", "10.62.0.9"] {
                hunt.send(site, |body| udp(site.host(false), address(to)).bytes(body));
                hunt.send(site, |body| udp(site.host(false), address(to)).ip_options(&[1, 1, 1, 1]).bytes(body));
                hunt.send(site, |body| udp(site.host(false), address(to)).ttl(1).bytes(body));
            }
            for to in ["2001:4860:4860::8888", "fd60::1", "fd99::a", "2001:db8:100::a", "fd62::9"] {
                hunt.send(site, |body| udp(site.host(true), address(to)).bytes(body));
                hunt.send(site, |body| udp(site.host(true), address(to)).hop_by_hop(&[1, 2, 0, 0]).bytes(body));
            }
        }
    }
    hunted(
        Variant::PLAIN,
        |_| Ok(()),
        |hunt, agent| {
            everywhere(hunt);
            hunt.settle()?;
            hunt.collect_debts();
            "after a route is deleted".clone_into(&mut hunt.phase);
            Arena::reload(agent, &Variant::PLAIN.config_without(&["10.62.0.0/16", "fd62::/48"]))?;
            everywhere(hunt);
            // Packets to beta have no route now.
            hunt.waive_debts();
            let ways = [Place::Alpha, Place::Gamma, Place::Delta, Place::Epsilon].map(|site| (site, Place::Vpc));
            hunt.settle_ways(&ways)?;
            Arena::reload(agent, &Variant::PLAIN.config())
        },
    )
}

/// 1.6
#[test]
fn unattached_network_reaches_no_site() -> anyhow::Result<()> {
    hunted(
        Variant::PLAIN,
        |_| Ok(()),
        |hunt, _| {
            for entry in [Place::Mgmt, Place::Wan] {
                for site in SITES {
                    for v6 in [false, true] {
                        for from in [entry, Place::Alpha, Place::Vpc] {
                            hunt.send(entry, |body| udp(from.host(v6), site.host(v6)).bytes(body));
                            hunt.send(entry, |body| ip(from.host(v6), site.host(v6)).echo(1, 1).bytes(body));
                        }
                    }
                }
            }
            Ok(())
        },
    )
}

/// 1.7
#[test]
fn hub_answers_to_spoofed_source_reach_no_victim() -> anyhow::Result<()> {
    hunted(
        Variant::ISOLATED,
        |_| Ok(()),
        |hunt, _| {
            for of in ALL {
                let own = address(&of.link4().1[0].to_string());
                hunt.send(Place::Alpha, |body| ip(Place::Beta.host(false), own).echo(1, 1).bytes(body));
                hunt.send(Place::Alpha, |body| udp(Place::Beta.host(false), own).bytes(body));
                if let Some([own, _]) = of.link6() {
                    hunt.send(Place::Alpha, |body| ip(Place::Beta.host(true), own.into()).echo(1, 1).bytes(body));
                }
            }
            for group in ["ff02::1", "fe80::1"] {
                hunt.send(Place::Alpha, |body| ip(Place::Beta.host(true), address(group)).echo(1, 1).bytes(body));
            }
            let [hub, far] = Place::Alpha.link4().1;
            let probe = hunt.send(Place::Alpha, |body| ip(far.into(), hub.into()).echo(1, 1).bytes(body));
            let vpc = Place::Vpc.link4().1[0].into();
            let ping = hunt.send(Place::Alpha, |body| ip(Place::Alpha.host(false), vpc).echo(1, 1).bytes(body));
            hunt.settle()?;
            for id in [probe, ping] {
                let arrivals = hunt.arrivals_of(id);
                let places: Vec<_> =
                    arrivals.iter().map(|arrival| (arrival.place, arrival.source.is_some_and(is_hub))).collect();
                anyhow::ensure!(places == [(Place::Alpha, true)], "the site's own echo request {id}: {places:?}");
            }
            Ok(())
        },
    )
}

/// 1.11
#[test]
fn route_based_peer_sources_are_limited_to_its_routes() -> anyhow::Result<()> {
    hunted(
        Variant::PLAIN,
        |_| Ok(()),
        |hunt, _| {
            for v6 in [false, true] {
                for from in ALL {
                    hunt.send(Place::Delta, |body| udp(from.host(v6), Place::Vpc.host(v6)).bytes(body));
                    hunt.send(Place::Delta, |body| udp(from.host(v6), Place::Alpha.host(v6)).bytes(body));
                }
            }
            for from in ["8.8.8.8", "10.64.0.1"] {
                hunt.send(Place::Delta, |body| udp(address(from), Place::Vpc.host(false)).bytes(body));
            }
            Ok(())
        },
    )
}
