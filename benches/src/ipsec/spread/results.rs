//! Times, speeds compared with no distribution, and which targets they reach.

use std::fmt;

use serde_json::Value;

use super::lab::{Kind, Spread};
use crate::{forward::results::median, rows::Results};

/// Lengths up to this one have the targets of small packets.
const SMALL: usize = 512;
/// One tunnel may lose this part of its speed.
const ONE_TUNNEL: f64 = 0.02;

/// What all ways to distribute have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    pub kind: Kind,
    pub tunnels: u32,
    /// Of the packet inside.
    pub bytes: usize,
    pub esp_offload: bool,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, tunnels, bytes, esp_offload } = self;
        let offload = if *esp_offload { ", esp4_offload" } else { "" };
        write!(f, "{tunnels} tunnels, {}, {bytes} bytes{offload}", kind.name())
    }
}

impl Condition {
    /// Whether RPS keeps all packets on one CPU.
    fn defeats_rps(self) -> bool {
        self.kind == Kind::NatT || self.esp_offload
    }

    /// The way to distribute that has a target, and by which factor it must be faster than none.
    fn target(self) -> (Spread, f64) {
        let small = self.bytes <= SMALL;
        match (self.tunnels, self.defeats_rps()) {
            (1, defeats) => (if defeats { Spread::Xdp } else { Spread::Rps }, 1.0 - ONE_TUNNEL),
            (_, false) => (Spread::Rps, if small { 1.25 } else { 1.5 }),
            (_, true) => (Spread::Xdp, if small { 1.2 } else { 1.4 }),
        }
    }
}

/// Of one way to distribute under one condition.
pub struct Found {
    pub condition: Condition,
    pub spread: Spread,
    /// Nanoseconds of a packet, in each round.
    pub times: Vec<f64>,
    /// Packets that each CPU has decrypted in the last round.
    pub cpus: Vec<u64>,
}

pub fn report(results: &mut Results, cpus: usize, found: &[Found]) {
    for one in found {
        let Condition { kind, tunnels, bytes, esp_offload } = one.condition;
        let case: [(&str, Value); 7] = [
            ("spread", one.spread.name().into()),
            ("kind", kind.name().into()),
            ("tunnels", tunnels.into()),
            ("packet_bytes", bytes.into()),
            ("esp4_offload", esp_offload.into()),
            ("cpus", cpus.into()),
            ("by_cpu", format!("{:?}", one.cpus).into()),
        ];
        results.add(&case, "packet", "ns", one.times.iter().copied());
        let none = found.iter().find(|other| other.condition == one.condition && other.spread == Spread::None);
        let Some(ratio) = none.and_then(|none| Some(median(&none.times)? / median(&one.times)?)) else { continue };
        results.add(&case, "speed, ratio to none", "", [ratio]);
        let (spread, least) = one.condition.target();
        if one.spread == spread {
            let what = format!("{}, {}: {ratio:.2} times none, at least {least:.2}", one.condition, spread.name());
            results.target(what, ratio >= least);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(spread: Spread, condition: Condition, time: f64) -> Found {
        Found { condition, spread, times: vec![time, 2.0 * time, time], cpus: vec![1, 2] }
    }

    #[test]
    fn faster_ways_reach_the_targets_of_their_condition() {
        let condition = |kind, tunnels, bytes, esp_offload| Condition { kind, tunnels, bytes, esp_offload };
        for (condition, spread, speed, reached) in [
            (condition(Kind::Esp, 8, 64, false), Spread::Rps, 1.26, Some(true)),
            (condition(Kind::Esp, 8, 64, false), Spread::Xdp, 1.0, None),
            (condition(Kind::Esp, 8, 1372, false), Spread::Rps, 1.49, Some(false)),
            (condition(Kind::NatT, 8, 64, false), Spread::Rps, 1.0, None),
            (condition(Kind::NatT, 8, 64, false), Spread::Xdp, 1.21, Some(true)),
            (condition(Kind::Esp, 8, 1372, true), Spread::Xdp, 1.39, Some(false)),
            (condition(Kind::Esp, 1, 64, false), Spread::Rps, 0.99, Some(true)),
            (condition(Kind::NatT, 1, 64, false), Spread::Xdp, 0.97, Some(false)),
        ] {
            let mut results = Results::new("spread");
            let found = [of(Spread::None, condition, 1000.0), of(spread, condition, 1000.0 / speed)];
            report(&mut results, 2, &found);
            let targets: Vec<bool> = results.targets.iter().map(|target| target.reached).collect();
            assert_eq!(targets, Vec::from_iter(reached), "{condition} {spread:?}");
        }
    }
}
