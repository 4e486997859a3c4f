//! Cores: the one for the traffic, and scheduling priority there.

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    libc,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Lets this thread, and those that it starts from now on, run on every core again.
pub fn unpin() -> Result<()> {
    let mut set = CpuSet::new();
    // The kernel ignores those that are not there or not allowed.
    (0..CpuSet::count()).try_for_each(|cpu| set.set(cpu)).context("all cores")?;
    sched_setaffinity(Pid::from_raw(0), &set).context("allowing all cores")
}

/// Keeps this thread, and those that it starts from now on, on one core: the last that is allowed, if none is named.
pub fn pin(cpu: Option<usize>) -> Result<()> {
    let this = Pid::from_raw(0);
    let cpu = match cpu {
        Some(cpu) => cpu,
        None => allowed()?.pop().context("no core is allowed")?,
    };
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(this, &set))
        .with_context(|| format!("--cpu {cpu}: this process may not run there (`nproc`, `taskset -p $$`)"))
}

/// Keeps this thread on another core than [`pin`] with the same argument. Needs two.
pub fn pin_beside(cpu: Option<usize>) -> Result<()> {
    let mut others = allowed()?;
    let last = others.pop();
    others.extend(last.filter(|_| cpu.is_some()));
    let other = others.into_iter().find(|other| Some(*other) != cpu);
    pin(Some(other.context("only one core is allowed, and this measurement needs two")?))
}

/// The cores that this thread may run on, in ascending order.
fn allowed() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("asking for the cores that are allowed")?;
    Ok((0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect())
}

/// Lets hardly any task get before this thread, or those that it starts from now on. (Not real-time: the kernel stops
/// such a thread for 50 ms when it has had a core for 950 ms, which at 1 Mpps it may have.)
pub fn go_first() -> Result<()> {
    // SAFETY: a call without memory. 0 is this thread: on Linux each has its own priority.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    Errno::result(result).map(drop).context("asking for the highest priority (CAP_SYS_NICE)")
}
