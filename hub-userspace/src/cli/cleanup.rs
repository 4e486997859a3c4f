//! `vpnhub cleanup`.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Output, printed};
use crate::{agent::cleanup, datapath::Instance};

pub async fn run(instance: &Instance, output: Output) -> Result<String> {
    let removed = cleanup::remove(instance, detaching()).await?;
    printed(&removed, |removed| format!("{removed}\n"), output)
}

/// Shows once a second how many programs are detached.
fn detaching() -> impl FnMut(usize, usize) {
    let mut last = Instant::now();
    move |done, all| {
        if last.elapsed() >= Duration::from_secs(1) {
            last = Instant::now();
            eprintln!("vpnhub: nothing is forwarded any more; {done} of {all} programs are detached");
        }
    }
}
