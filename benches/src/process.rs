//! Resource usage of a process, from /proc.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::fd::RawFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// A process rests when it has used less than two ticks of the clock (10 ms each) for this long.
const REST: Duration = Duration::from_millis(300);

/// Waits until a process has nothing more to do.
///
/// # Errors
/// When it has after `patience`, or has ended.
pub fn wait_for_rest(pid: u32, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    let mut before = ticks(pid)?;
    loop {
        thread::sleep(REST);
        let now = ticks(pid)?;
        if now - before < 2 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the agent does not come to rest within {patience:?}");
        }
        before = now;
    }
}

/// Processor time that a process has used, to a clock tick (10 ms).
pub fn processor_time(pid: u32) -> Result<Duration> {
    Ok(Duration::from_millis(ticks(pid)? * 10))
}

/// Processor time that a process has used, in ticks.
fn ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the agent has ended")?;
    // The name, in parentheses, may contain anything; utime and stime are the 12th and 13th fields after it.
    let (_, fields) = stat.rsplit_once(')').context("reading the agent's processor time")?;
    let mut fields = fields.split_whitespace().skip(11).map_while(|field| field.parse::<u64>().ok());
    let sum = fields.next().zip(fields.next()).map(|(user, system)| user + system);
    sum.context("reading the agent's processor time")
}

/// Bytes that a process has.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// In memory now.
    pub resident: u64,
    /// The most that it ever had in memory.
    pub peak: u64,
    /// In the kernel, for BPF maps that it holds open.
    pub maps: u64,
}

impl Memory {
    pub fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent has ended")?;
        let kilobytes = |name: &str| field(&status, name).with_context(|| format!("no {name} in its status"));
        Ok(Self {
            resident: kilobytes("VmRSS")? * 1024,
            peak: kilobytes("VmHWM")? * 1024,
            maps: maps(pid)?.values().sum(),
        })
    }
}

/// Kernel memory of a map of this process, by its descriptor.
pub fn locked(descriptor: RawFd) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).context("reading fdinfo")?;
    field(&text, "memlock").context("the kernel does not report the memory of a map")
}

/// `name: value ...` of a file of /proc.
pub fn field(text: &str, name: &str) -> Option<u64> {
    value(text, name)?.parse().ok()
}

/// The first word of it.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| key.trim() == name)?;
    value.split_whitespace().next()
}

/// The BPF objects of a process, by which two versions can be distinguished.
#[derive(Debug, PartialEq, Eq)]
pub struct Datapath {
    /// Digests of the programs' instructions (`prog_tag` in fdinfo).
    programs: BTreeSet<String>,
    /// Type, key bytes, value bytes and capacity of each map.
    maps: Vec<[u64; 4]>,
}

impl Datapath {
    pub fn of(pid: u32) -> Result<Self> {
        let mut programs = BTreeSet::new();
        let mut maps = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context("the agent has ended")? {
            // A descriptor may be closed meanwhile.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            programs.extend(value(&text, "prog_tag").map(str::to_owned));
            if let Some(id) = field(&text, "map_id") {
                let layout = ["map_type", "key_size", "value_size", "max_entries"];
                maps.insert(id, layout.map(|name| field(&text, name).unwrap_or_default()));
            }
        }
        let mut maps: Vec<[u64; 4]> = maps.into_values().collect();
        maps.sort_unstable();
        Ok(Self { programs, maps })
    }
}

/// The BPF maps that a process holds open, by their id: what each takes in the kernel (`memlock` in fdinfo).
pub fn maps(pid: u32) -> Result<BTreeMap<u32, u64>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context("the agent has ended")? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        if let Some((id, bytes)) = field(&text, "map_id").zip(field(&text, "memlock")) {
            found.insert(u32::try_from(id)?, bytes);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_ticks_of_own_process_are_read() {
        let pid = std::process::id();
        let memory = Memory::of(pid).unwrap();
        assert!(memory.peak >= memory.resident && memory.resident > 1 << 16, "{memory:?}");
        ticks(pid).unwrap();
    }

    #[test]
    fn proc_field_is_matched_by_whole_name() {
        let text = "pos:\t0\nmap_type:\t11\nmemlock:\t4096\nmap_id:\t7\n";
        assert_eq!((field(text, "map_id"), field(text, "memlock"), field(text, "map")), (Some(7), Some(4096), None));
    }
}
