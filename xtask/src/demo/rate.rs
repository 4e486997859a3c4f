//! The packet rate next to that of the kernel's own forwarding.

use std::io::Write;

use anyhow::{Result, ensure};
use hub_tests::lab::World;

use super::{
    flood::Flood,
    matrix::{Family, Matrix},
    world,
};
use crate::process::Progress;

/// The goal on an idle machine. The demo reports a lower rate.
const GOAL: f64 = 1.5;

/// Floods the hub's world and an equal one where the kernel forwards, in turn, and prints the ratio of the rates.
///
/// Both have the same places, links, MTU, offloads (GRO on at the hub), neighbours that are resolved, frames,
/// generator, core, and the same checking sink at the far end. They differ in who forwards at the hub.
///
/// # Errors
/// When the twin cannot be made or does not work, or too many floods are void.
pub fn compare(hub: &World, frames: u64, rounds: u32, out: &mut impl Write) -> Result<()> {
    let progress = Progress::start("comparing with the kernel's forwarding", None);
    let kernel = world::with_kernel()?;
    // Resolves the twin's neighbours, and makes sure that it is a fair opponent.
    ensure!(
        Matrix::measure(&kernel, Family::V4)?.complete(),
        "packets are lost in the comparison network, where the kernel forwards"
    );
    progress.suspend(|| {
        writeln!(out, "The same hosts with Linux ip_forward=1 and static routes instead, in turn:\n")?;
        writeln!(out, "  round        XDP hub     ip_forward   (million packets a second)")
    })?;

    let mut pairs = Vec::new();
    let mut voids = 0;
    while pairs.len() < rounds as usize {
        let round = pairs.len() + 1;
        let [by_hub, by_kernel] = [Flood::run(hub, frames)?, Flood::run(&kernel, frames)?];
        progress.suspend(|| writeln!(out, "  {round:>5}   {:>12}   {:>12}", shown(&by_hub), shown(&by_kernel)))?;
        if by_hub.void || by_kernel.void {
            voids += 1;
            let flaw = if by_hub.void { by_hub.flaw() } else { by_kernel.flaw() };
            progress.suspend(|| writeln!(out, "          not counted: {flaw}"))?;
            ensure!(voids <= rounds, "{voids} rounds were void: no fair comparison here. Is the machine very busy?");
            continue;
        }
        pairs.push((by_hub.mpps(), by_kernel.mpps()));
    }
    drop(progress);
    writeln!(out, "\n{}", Comparison::of(&pairs))?;
    Ok(())
}

fn shown(flood: &Flood) -> String {
    if flood.void { "void".to_owned() } else { format!("{:.2}", flood.mpps()) }
}

/// The outcome of all rounds.
struct Comparison {
    hub: f64,
    kernel: f64,
    /// Of the medians.
    ratio: f64,
    /// The least and the greatest of any one round.
    range: (f64, f64),
    rounds: usize,
}

impl Comparison {
    fn of(pairs: &[(f64, f64)]) -> Self {
        let hub = median(pairs.iter().map(|pair| pair.0));
        let kernel = median(pairs.iter().map(|pair| pair.1));
        let ratios = pairs.iter().map(|(hub, kernel)| hub / kernel);
        let range = (ratios.clone().fold(f64::INFINITY, f64::min), ratios.fold(0.0, f64::max));
        Self { hub, kernel, ratio: hub / kernel, range, rounds: pairs.len() }
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { hub, kernel, ratio, range, rounds } = self;
        writeln!(f, "  median  {hub:>12.2}   {kernel:>12.2}\n")?;
        writeln!(
            f,
            "XDP hub: {ratio:.1} times the packets per second of ip_forward on the same hosts\n\
             (median of {rounds} interleaved rounds; range {:.1}-{:.1}).",
            range.0, range.1
        )?;
        if *ratio < GOAL {
            writeln!(f, "That is less than the {GOAL} times that VPN-Hub aims for.")?;
        }
        writeln!(
            f,
            "Generator and checking sink take a part of the core in both cases, which brings the ratio closer to 1.\n\
             On a shared or virtual machine the absolute numbers mean little, and the ratio more."
        )
    }
}

/// The middle one, or the mean of the middle two. There must be one at least.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_values_is_middle() {
        for (values, expected) in [(&[3.0][..], 3.0), (&[9.0, 1.0, 5.0], 5.0), (&[4.0, 1.0, 2.0, 100.0], 3.0)] {
            assert!((median(values.iter().copied()) - expected).abs() < 1e-12, "{values:?}");
        }
    }

    #[test]
    fn slow_round_widens_range_only() {
        let comparison = Comparison::of(&[(4.0, 1.0), (4.0, 1.0), (0.5, 1.0)]);
        assert!((comparison.ratio - 4.0).abs() < 1e-12);
        assert_eq!(comparison.range, (0.5, 4.0));
        let text = comparison.to_string();
        assert!(text.contains("XDP hub: 4.0 times the packets per second of ip_forward"), "{text}");
        assert!(text.contains("(median of 3 interleaved rounds; range 0.5-4.0)"), "{text}");
        assert!(!text.contains("less than"), "{text}");
    }

    #[test]
    fn ratio_below_goal_is_reported() {
        assert!(Comparison::of(&[(1.0, 1.0)]).to_string().contains("less than the 1.5 times"));
    }
}
