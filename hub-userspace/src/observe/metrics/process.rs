//! The agent's own process, as /proc shows it.

use procfs::{
    ProcResult, WithCurrentSystemInfo as _,
    process::{LimitValue, Process},
};

#[derive(Debug, Clone, Copy)]
pub struct ProcessScrape {
    /// User and system time.
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub open_fds: usize,
    /// The soft limit; `None`: unlimited.
    pub max_fds: Option<u64>,
    /// Since 1970, UTC.
    pub start_time_seconds: f64,
}

impl ProcessScrape {
    /// Reads it now; `None` if /proc is not mounted.
    pub fn read() -> Option<Self> {
        read().ok()
    }
}

#[expect(clippy::cast_precision_loss, reason = "clock ticks: a double is exact for 2 million years")]
fn read() -> ProcResult<ProcessScrape> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let ticks_per_second = procfs::ticks_per_second() as f64;
    let max_fds = match process.limits()?.max_open_files.soft_limit {
        LimitValue::Value(limit) => Some(limit),
        LimitValue::Unlimited => None,
    };
    Ok(ProcessScrape {
        cpu_seconds: (stat.utime + stat.stime) as f64 / ticks_per_second,
        resident_bytes: stat.rss_bytes().get(),
        virtual_bytes: stat.vsize,
        open_fds: process.fd_count()?,
        max_fds,
        start_time_seconds: procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks_per_second,
    })
}
