//! Loss by fixed, exhaustive and steady sequences of answered and lost probes.

use super::{LossWindow, Verdict};
use crate::config::model::Degraded;

/// The definition, by counting anew: all outcomes so far, and whether it was degraded.
pub fn is_degraded(outcomes: &[bool], window: usize, tolerated: usize, was: bool) -> bool {
    let lost = outcomes.iter().rev().take(window).filter(|lost| **lost).count();
    lost > if was { tolerated / 2 } else { tolerated }
}

#[test]
fn loss_of_every_short_sequence_is_that_of_the_definition() {
    const PROBES: usize = 12;
    for window in 2..=5_u32 {
        for percent in [1, 20, 34, 50, 67, 99] {
            let degraded = Degraded { loss: percent * 10_000, window };
            let tolerated = percent as usize * window as usize / 100;
            for sequence in 0..1_u32 << PROBES {
                let outcomes: [bool; PROBES] = std::array::from_fn(|probe| sequence >> probe & 1 != 0);
                let (mut loss, mut expected) = (LossWindow::new(degraded), false);
                for (probe, lost) in outcomes.iter().enumerate() {
                    loss.note(*lost);
                    expected = is_degraded(&outcomes[..=probe], window as usize, tolerated, expected);
                    assert_eq!(loss.is_degraded(), expected, "{degraded:?} {:?}", &outcomes[..=probe]);
                    assert_eq!(loss.is_full(), probe + 1 >= window as usize);
                }
            }
        }
    }
}

/// At a constant loss of exactly the threshold or beside it, the state changes once at most.
#[test]
fn steady_loss_at_threshold_does_not_flap() {
    for (window, every) in [(30, 20), (30, 15), (100, 20), (100, 21), (100, 19), (1000, 20)] {
        let mut loss = LossWindow::new(Degraded { loss: 50_000, window });
        let mut changes = 0;
        let mut was = false;
        for probe in 1..100_000 {
            loss.note(probe % every == 0);
            changes += u32::from(loss.is_degraded() != was);
            was = loss.is_degraded();
        }
        assert!(changes <= 1, "one of {every} in a window of {window}: {changes} changes");
    }
}

#[test]
fn degraded_path_recovers_once_half_of_the_tolerated_loss_is_left() {
    let mut loss = LossWindow::new(Degraded { loss: 200_000, window: 20 });
    for _ in 0..5 {
        assert!(!loss.is_degraded());
        loss.note(true);
    }
    assert_eq!(loss.verdict(), Verdict::Degraded { lost: 5, probes: 5 });
    // The window holds 20: after 15 more the lost ones leave it, one by one.
    for _ in 0..17 {
        loss.note(false);
        assert!(loss.is_degraded());
    }
    assert_eq!(loss.verdict(), Verdict::Degraded { lost: 3, probes: 20 });
    loss.note(false);
    assert!(!loss.is_degraded());
}
