//! Time that programs at TC take, by the kernel's own statistics.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use aya_obj::generated::bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS;

use crate::stats::float;

/// Nanoseconds and runs of a program until now.
type Times = BTreeMap<u32, (u64, u64)>;

/// Nanoseconds of a packet in programs, if any, that ran once for each of `packets`, except the program of this id.
///
/// The kernel reads the clock before and after each run, which is counted in part: only differences of two results mean
/// something.
pub fn measure(packets: u32, except: u32, send: impl FnOnce() -> Result<()>) -> Result<Option<f64>> {
    let statistics = enable_stats(Stats::RunTime).context("enabling the kernel's statistics of programs")?;
    let before = times()?;
    send()?;
    let after = times()?;
    drop(statistics);
    Ok(of_packets(&before, &after, packets, except))
}

fn of_packets(before: &Times, after: &Times, packets: u32, except: u32) -> Option<f64> {
    let took: Vec<f64> = after
        .iter()
        .filter_map(|(id, (time, runs))| {
            let (time_before, runs_before) = before.get(id).copied().unwrap_or_default();
            // Some other packet may have passed, too.
            let all = *id != except && runs - runs_before >= packets.into();
            all.then(|| float(time - time_before) / float(runs - runs_before))
        })
        .collect();
    (!took.is_empty()).then(|| took.iter().sum())
}

fn times() -> Result<Times> {
    let mut times = Times::new();
    for program in loaded_programs() {
        // One may have been removed meanwhile.
        let Ok(program) = program else { continue };
        if program.program_type() == BPF_PROG_TYPE_SCHED_CLS {
            times.insert(program.id(), (u64::try_from(program.run_time().as_nanos())?, program.run_count()));
        }
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_every_packet_count_except_the_sink() {
        let before = Times::from([(1, (1_000, 10)), (2, (500, 3)), (3, (0, 0))]);
        let after = Times::from([(1, (51_000, 110)), (2, (900, 5)), (3, (90_000, 100)), (4, (2_000, 100))]);
        assert_eq!(of_packets(&before, &after, 100, 3), Some(520.0));
        assert_eq!(of_packets(&before, &before, 100, 3), None);
    }
}
