//! Both endpoints of the measured path: frames are stamped where they leave, and checked, counted and timed where they
//! arrive.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    maps::{Array, PerCpuArray},
    programs::{SchedClassifier, TcAttachType, Xdp, XdpMode, tc},
};
use hub_tests::lab::{AtInterrupt, Namespace};

use crate::{
    expect::{CLASS, CLASSES, Expect, Tally},
    netdev::Netdev,
    programs::Programs,
    stats::float,
};

// SAFETY: integers and arrays of them, without padding: the size is asserted beside the type.
unsafe impl aya::Pod for Expect {}
// SAFETY: three integers of the same size.
unsafe impl aya::Pod for Tally {}

/// After this time without a frame, no more are expected.
const QUIET: Duration = Duration::from_millis(300);

/// The programs of one case. Dropping it detaches them.
pub struct Endpoints {
    programs: Programs,
    /// The device that got a `clsact` for the stamp, which must be removed.
    classified: Option<(Netdev, AtInterrupt)>,
}

/// Latency in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latency {
    pub median: f64,
    pub p99: f64,
    pub most: f64,
}

impl Endpoints {
    /// Attaches the sink to the far device: natively if the driver supports it.
    pub fn attach(to: &Netdev) -> Result<Self> {
        let mut programs = Programs::load()?;
        let sink: &mut Xdp =
            programs.object().program_mut("pktgen_sink").context("no program pktgen_sink")?.try_into()?;
        sink.load().context("loading pktgen_sink")?;
        to.namespace
            .enter(|| {
                sink.attach_to_if_index(to.index, XdpMode::Driver)
                    .or_else(|_| sink.attach_to_if_index(to.index, XdpMode::Skb))
            })?
            .with_context(|| format!("attaching to {}: has it an XDP program already?", to.device))?;
        Ok(Self { programs, classified: None })
    }

    /// Attaches the stamp to the sending device.
    pub fn stamp(&mut self, from: Netdev) -> Result<()> {
        let stamp: &mut SchedClassifier =
            self.programs.object().program_mut("stamp").context("no program stamp")?.try_into()?;
        stamp.load().context("loading stamp")?;
        let mut attach = || stamp.attach(&from.device, TcAttachType::Egress).map(drop);
        let added = from.namespace.enter(|| {
            // Linux before 6.6 requires a clsact on the device. It may already exist.
            if attach().is_ok() {
                return Ok(false);
            }
            let added = tc::qdisc_add_clsact(&from.device).is_ok();
            attach().map(|()| added)
        })?;
        let added = added.map_err(|error| anyhow!(error).context(format!("stamping frames on {}", from.device)))?;
        if added {
            let (namespace, device) = (from.namespace.duplicate()?, from.device.clone());
            let at_interrupt = AtInterrupt::run(move || declassify(&namespace, &device));
            self.classified = Some((from, at_interrupt));
        }
        Ok(())
    }

    pub fn expect(&mut self, expect: &Expect) -> Result<()> {
        let map = self.programs.object().map_mut("EXPECT").context("no map EXPECT")?;
        let mut array: Array<_, Expect> = map.try_into()?;
        array.set(0, expect, 0).context("writing EXPECT")
    }

    pub fn tally(&mut self) -> Result<Tally> {
        let map = self.programs.object().map("TALLY").context("no map TALLY")?;
        let array: PerCpuArray<_, Tally> = map.try_into()?;
        let sum = array.get(&0, 0).context("reading TALLY")?.iter().fold(Tally::default(), |sum, one| Tally {
            good: sum.good + one.good,
            garbled: sum.garbled + one.garbled,
            slowest: sum.slowest.max(one.slowest),
        });
        Ok(sum)
    }

    /// Waits until `sent` frames more than `before` have arrived, or no more arrive.
    pub fn drain(&mut self, before: Tally, sent: u64) -> Result<Tally> {
        let (mut last, mut changed) = (Tally::default(), Instant::now());
        loop {
            let now = self.tally()?;
            let since = Tally { good: now.good - before.good, garbled: now.garbled - before.garbled, ..now };
            if (since.good, since.garbled) != (last.good, last.garbled) {
                changed = Instant::now();
            }
            last = since;
            // Wait a little longer: more frames than sent would be an error.
            if changed.elapsed() > if last.good + last.garbled >= sent { QUIET / 10 } else { QUIET } {
                return Ok(last);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Latency of all stamped frames that have arrived.
    pub fn latency(&mut self) -> Result<Option<Latency>> {
        let slowest = self.tally()?.slowest;
        let map = self.programs.object().map("LATENCY").context("no map LATENCY")?;
        let array: PerCpuArray<_, u64> = map.try_into()?;
        let counts: Result<Vec<u64>> =
            (0..CLASSES).map(|class| Ok(array.get(&class, 0).context("reading LATENCY")?.iter().sum())).collect();
        Ok(latency(&counts?, slowest))
    }
}

impl Drop for Endpoints {
    fn drop(&mut self) {
        if let Some((netdev, _)) = &self.classified {
            declassify(&netdev.namespace, &netdev.device);
        }
    }
}

fn declassify(namespace: &Namespace, device: &str) {
    // A failure is harmless: an empty clsact does nothing.
    drop(namespace.command("tc").args(["qdisc", "del", "dev", device, "clsact"]).output());
}

/// Order statistics over classes, by their upper bounds: nearest rank. Frames in the last class count as the slowest.
fn latency(counts: &[u64], slowest: u64) -> Option<Latency> {
    let all: u64 = counts.iter().sum();
    if all == 0 {
        return None;
    }
    let microseconds = |nanoseconds: u64| float(nanoseconds) / 1e3;
    let rank = |percent: u64| {
        let rank = (all * percent).div_ceil(100);
        let mut sum = 0;
        let class = counts.iter().position(|count| {
            sum += count;
            sum >= rank
        });
        match class {
            Some(class) if class + 1 < counts.len() => microseconds(((class as u64 + 1) * CLASS).min(slowest)),
            _ => microseconds(slowest),
        }
    };
    Some(Latency { median: rank(50), p99: rank(99), most: microseconds(slowest) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_percentiles_come_from_histogram_classes() {
        let mut counts = vec![0; 10];
        (counts[1], counts[3]) = (98, 1);
        assert_eq!(latency(&counts, 350), Some(Latency { median: 0.2, p99: 0.35, most: 0.35 }));
        counts[9] = 100;
        let slow = latency(&counts, 5_000).unwrap();
        assert_eq!((slow.median, slow.p99, slow.most), (5.0, 5.0, 5.0));
        assert_eq!(latency(&[0; 10], 0), None);
    }
}
