//! The hunt itself, in all attach modes.

use std::env;
use std::time::{Instant, SystemTime};

use anyhow::Context;

use crate::arena::{Arena, Variant};
use crate::changing::{CHANGES, Stage};
use crate::dual::Dual;
use crate::hunt::Hunt;
use crate::places::Place;
use crate::raw::{Kind, Raw};

/// Packets in total.
const PACKETS: u64 = 100_000;

const fn variant(attach: &'static str, rp_filter: &'static str, spoke_to_spoke: bool) -> Variant {
    Variant { attach, rp_filter, spoke_to_spoke, ..Variant::PLAIN }
}

const fn translated(variant: Variant) -> Variant {
    Variant { translated: true, ..variant }
}

const fn segmented(variant: Variant) -> Variant {
    Variant { segments: true, ..variant }
}

const fn by_source(variant: Variant) -> Variant {
    Variant { policy_routes: true, ..variant }
}

const fn dual(site: Place, weights: [u8; 2], variant: Variant) -> Variant {
    Variant { dual: Some(Dual { site, weights }), ..variant }
}

const fn learned(variant: Variant) -> Variant {
    Variant { learned: true, ..variant }
}

const VARIANTS: [Variant; 24] = [
    variant("auto", "0", true),
    variant("tc", "0", true),
    variant("generic", "0", true),
    variant("auto", "1", false),
    variant("tc", "2", false),
    variant("generic", "1", true),
    translated(variant("auto", "1", true)),
    translated(variant("tc", "0", true)),
    translated(variant("generic", "2", false)),
    segmented(variant("auto", "0", true)),
    segmented(variant("generic", "1", true)),
    segmented(translated(variant("tc", "0", true))),
    by_source(variant("auto", "1", true)),
    by_source(variant("tc", "0", true)),
    by_source(segmented(variant("generic", "0", true))),
    dual(Place::Alpha, [100, 0], variant("auto", "0", true)),
    dual(Place::Beta, [50, 50], translated(variant("tc", "1", true))),
    dual(Place::Alpha, [50, 50], segmented(translated(variant("generic", "0", true)))),
    learned(variant("auto", "0", true)),
    learned(translated(variant("tc", "0", true))),
    learned(by_source(variant("generic", "1", true))),
    learned(dual(Place::Beta, [100, 0], variant("auto", "2", true))),
    learned(dual(Place::Alpha, [50, 50], variant("tc", "0", false))),
    learned(dual(Place::Beta, [50, 50], by_source(segmented(translated(variant("auto", "0", true)))))),
];

/// A number from the environment.
pub fn number(variable: &str) -> anyhow::Result<Option<u64>> {
    match env::var(variable) {
        Ok(text) => text.parse().map(Some).with_context(|| format!("{variable}={text} is not a number")),
        Err(_) => Ok(None),
    }
}

/// The seed to replay, or one from the clock; it is printed.
pub fn seed() -> anyhow::Result<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let seed = number("VPNHUB_SEED")?.unwrap_or(now);
    println!("VPNHUB_SEED={seed}");
    Ok(seed)
}

#[test]
fn random_packets_stay_within_policy() -> anyhow::Result<()> {
    let seed = seed()?;
    let packets = number("VPNHUB_HUNT")?.unwrap_or(PACKETS).div_ceil(VARIANTS.len() as u64);
    let mut failures = Vec::new();
    for variant in VARIANTS {
        let started = Instant::now();
        let outcome = hunt(variant, seed, packets);
        println!("{variant:?}: {:?} in {:.1?}", outcome.as_ref().ok(), started.elapsed());
        if let Err(error) = outcome {
            failures.push(format!("{variant:?}, VPNHUB_SEED={seed}: {error:#}"));
        }
    }
    anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

/// Returns the number of packets that arrived at allowed places.
fn hunt(variant: Variant, seed: u64, packets: u64) -> anyhow::Result<u64> {
    let (arena, tuns) = Arena::build(variant)?;
    let agent = arena.start()?;
    let mut hunt = Hunt::new(&arena, tuns)?;
    hunt.settle()?;
    arena.must_refuse(&agent, Stage::FIRST)?;
    if variant.learned || variant.dual.is_some() {
        let part = packets / (CHANGES.len() as u64 + 1);
        hunt.run(seed, part)?;
        for stage in CHANGES {
            hunt.change(seed, &agent, stage)?;
            hunt.run(seed, part)?;
        }
    } else {
        hunt.run(seed, packets)?;
    }
    let arrived = hunt.arrived;
    anyhow::ensure!(arrived > packets / 20, "{arrived} of {packets} arrived anywhere: the hunt does not hunt");
    let verdict = hunt.verdict();
    agent.stop()?;
    verdict.map(|()| arrived)
}

/// Few, as the emulated machine for these is slow.
const PACKETS_OF_A_KIND: u64 = 6_000;

fn hunt_through(kind: Kind) -> anyhow::Result<()> {
    let seed = seed()?;
    let packets = number("VPNHUB_HUNT")?.unwrap_or(PACKETS_OF_A_KIND);
    for (spoke_to_spoke, translated, segments) in [(true, true, true), (false, false, false)] {
        let variant = Variant { spoke_to_spoke, translated, segments, raw: Raw::Tunnel(kind), ..Variant::PLAIN };
        let arrived = hunt(variant, seed, packets / 2).with_context(|| format!("{variant:?}, VPNHUB_SEED={seed}"))?;
        println!("{variant:?}: {arrived} of {} arrived", packets / 2);
    }
    Ok(())
}

#[test]
#[ignore = "needs WireGuard and GRE in the kernel: cargo xtask vm-test"]
fn random_packets_by_wireguard_and_gre_stay_within_policy() -> anyhow::Result<()> {
    hunt_through(Kind::WireGuard)
}

#[test]
#[ignore = "needs ESP, xfrm interfaces and GRE in the kernel: cargo xtask vm-test"]
fn random_packets_by_xfrm_and_gre_stay_within_policy() -> anyhow::Result<()> {
    hunt_through(Kind::Xfrm)
}
