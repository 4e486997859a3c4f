//! Cores: which one the traffic runs on.

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Keeps this thread, and those that it starts from now on, on one core: the last that is allowed, if none is named.
pub fn pin(cpu: Option<usize>) -> Result<()> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).context("asking for the cores that are allowed")?;
    let cpu = match cpu {
        Some(cpu) => cpu,
        None => {
            (0..CpuSet::count()).rfind(|cpu| allowed.is_set(*cpu).unwrap_or(false)).context("no core is allowed")?
        }
    };
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(this, &set))
        .with_context(|| format!("--cpu {cpu}: this process may not run there (`nproc`, `taskset -p $$`)"))
}
