//! The same routes in the kernel's own table, written by `ip -batch`, for comparison with the agent.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use hub_tests::lab::{End, Link, PlaceSpec, World};

use crate::{process::field, testbed};

/// How long `ip` takes to write as many routes into a kernel that has none, and to give each another next hop; and how
/// many bytes of memory the kernel then has more. What else is done on the machine meanwhile counts in.
pub fn measure(routes: u32) -> Result<(Duration, Duration, u64)> {
    let here = End::new("here", "wan0").address("169.254.1.1/29");
    let world = World::builder()
        .place(PlaceSpec::new("here"))
        .place(PlaceSpec::new("there"))
        .link(Link::new(here, End::new("there", "wan0")))
        .build()?;
    let batch = |what: &str, neighbour: &str| {
        let lines =
            (0..routes).map(|number| format!("route {what} {} via {neighbour} dev wan0\n", testbed::prefix_b(number)));
        let lines: String = lines.collect();
        let begin = Instant::now();
        world["here"].batch(&lines)?;
        Ok::<_, anyhow::Error>(begin.elapsed())
    };
    let before = memory()?;
    let loaded = batch("add", "169.254.1.2")?;
    let grown = memory()?.saturating_sub(before);
    let changed = batch("replace", "169.254.1.3")?;
    // Its routes go with the device, now: else the kernel would drop them while the next is measured.
    world["here"].ip("link del wan0")?;
    Ok((loaded, changed, grown))
}

/// Bytes that the kernel has for itself: small objects, and tables of many pages.
fn memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let kilobytes = |name| field(&text, name).with_context(|| format!("no {name} in /proc/meminfo"));
    Ok((kilobytes("Slab")? + kilobytes("VmallocUsed")?) * 1024)
}
