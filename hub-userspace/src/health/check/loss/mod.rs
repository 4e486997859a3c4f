//! Loss over a window of probes, with hysteresis. Pure, and bounded by the window: a bit for each probe.
//!
//! A path becomes degraded when more than `loss` of the window's probes are lost. It remains degraded until the window
//! has half as many lost probes. So a loss that stays near the threshold changes nothing. Probes that were not sent yet
//! count as answered: a new check needs as many lost probes as an old one.

use super::Verdict;
use crate::config::model::Degraded;

const BITS: usize = u64::BITS as usize;

#[derive(Debug)]
pub struct LossWindow {
    /// A ring of `size` bits: 1 is lost.
    bits: Box<[u64]>,
    size: usize,
    /// Place of the next probe.
    next: usize,
    is_full: bool,
    /// Number of set bits.
    lost: u32,
    /// Lost probes that do not degrade the path.
    tolerated: u32,
    is_degraded: bool,
}

impl LossWindow {
    pub fn new(degraded: Degraded) -> Self {
        let size = degraded.window.max(1) as usize;
        Self {
            bits: vec![0; size.div_ceil(BITS)].into_boxed_slice(),
            size,
            next: 0,
            is_full: false,
            lost: 0,
            tolerated: degraded.tolerated(),
            is_degraded: false,
        }
    }

    /// Adds a probe that was answered or lost, in place of the oldest one.
    pub fn note(&mut self, is_lost: bool) {
        let (word, bit) = (&mut self.bits[self.next / BITS], 1 << (self.next % BITS));
        self.lost -= u32::from(*word & bit != 0);
        *word &= !bit;
        if is_lost {
            *word |= bit;
            self.lost += 1;
        }
        self.next = (self.next + 1) % self.size;
        self.is_full |= self.next == 0;
        self.is_degraded = match self.is_degraded {
            true => self.lost > self.tolerated / 2,
            false => self.lost > self.tolerated,
        };
    }

    pub fn is_degraded(&self) -> bool {
        self.is_degraded
    }

    /// Whether the window has seen as many probes as it holds.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// The loss so far, as the verdict on a degraded path.
    pub fn verdict(&self) -> Verdict {
        let probes = if self.is_full { self.size } else { self.next };
        Verdict::Degraded { lost: self.lost, probes: u32::try_from(probes).unwrap_or(u32::MAX) }
    }
}

#[cfg(test)]
pub mod tests;
