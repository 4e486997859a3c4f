//! The kernel program, at each hook and with each look-up, against the reference model: random worlds, random packets,
//! the same verdicts.
//!
//! - `VPNHUB_SEED=N` replays the worlds of that seed; the default is from the clock.
//! - `VPNHUB_PACKETS=N` sets the number of packets, 250,000 by default.
//! - `VPNHUB_WORLD=N` runs only that world of the seed.

mod agreements;
mod compare;
mod coverage;
mod draw;
mod icmp_errors;
mod packets;
mod policies;
#[path = "../program/mod.rs"]
#[expect(dead_code, reason = "other tests run one program at a time")]
mod program;
mod show;
mod translations;
mod tunnels;
mod worlds;

use std::{
    collections::BTreeMap,
    env,
    time::{Instant, SystemTime},
};

use anyhow::Context;
use rand::{SeedableRng, rngs::SmallRng};

use crate::{
    compare::Comparison,
    coverage::Coverage,
    program::{ENTRIES, Program, in_namespace},
};

const PACKETS: u64 = 250_000;
const PACKETS_PER_WORLD: u64 = 400;

/// A number from the environment.
fn setting(name: &str) -> anyhow::Result<Option<u64>> {
    match env::var(name) {
        Ok(text) => text.parse().map(Some).with_context(|| format!("{name}={text} is not a number")),
        Err(env::VarError::NotPresent) => Ok(None),
        Err(error) => Err(error).context(name.to_owned()),
    }
}

#[test]
fn program_equals_model_for_random_packets() -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let seed = setting("VPNHUB_SEED")?.unwrap_or(now);
    let packets = setting("VPNHUB_PACKETS")?.unwrap_or(PACKETS);
    let only = setting("VPNHUB_WORLD")?;
    println!("VPNHUB_SEED={seed} VPNHUB_PACKETS={packets}");

    in_namespace(&worlds::DEVICES.collect::<Vec<_>>(), |_| {
        let started = Instant::now();
        let mut programs = ENTRIES.map(Program::load).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        // Both hooks and both look-ups.
        let mut tracers = BTreeMap::new();
        for index in [0, 3] {
            tracers.insert(index, programs[index].tracer()?);
        }
        let mut coverage = Coverage::default();
        let worlds = only.map_or(0..packets.div_ceil(PACKETS_PER_WORLD), |only| only..only + 1);
        for number in worlds {
            // Each world has its own generator, so that it can run alone.
            let mut rng = SmallRng::seed_from_u64(seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let world = worlds::draw(&mut rng);
            let comparison = Comparison { world: &world, rng: &mut rng, packets: PACKETS_PER_WORLD };
            comparison.run(&mut programs, &mut tracers, &mut coverage).with_context(|| {
                format!(
                    "world {number}; to run it alone:\nVPNHUB_SEED={seed} VPNHUB_WORLD={number} cargo test --release \
                     -p hub-tests --test differential -- --nocapture"
                )
            })?;
        }
        println!("{coverage}in {:.1?}", started.elapsed());
        if only.is_none() { coverage.check() } else { Ok(()) }
    })
}
