//! `demo`: the main job, on real packets, and how much faster it goes than without VPN-Hub.

use std::{
    ffi::OsString,
    io::{self, Write},
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, ensure};
use hub_tests::lab::{self, HANGZHOU, HUB, SHANGHAI};

use crate::{
    build,
    process::Progress,
    setup::{self, host},
};
use flood::Flood;
use matrix::{Family, Matrix};

mod flood;
mod ipsec;
mod matrix;
mod proof;
mod rate;
mod world;

/// Shows VPN-Hub at work: three offices and a VPC reach one another through a hub that runs the agent.
///
/// All of it is in network namespaces of this host (vpnhub-demo-...) and removed at the end, also on Ctrl-C.
/// Pings every pair over IPv4 and IPv6, floods one office from another, and compares the packet rate with that of
/// the kernel's own forwarding. Needs root, otherwise uses sudo after the build.
///
/// With --ipsec the offices' links are real tunnels: strongSwan at each end, the offices configured by `vpnhub peer-config`.
/// Tunnels are rekeyed under traffic; one is terminated and initiated again. Uses the kernel's ESP and xfrm
/// interfaces, or strongSwan's own ESP if the kernel has none.
///
/// Exits with 0 if all places reached one another, otherwise with 1; a slow machine is not a failure.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --skip-comparison\n  \
                        cargo xtask demo --rounds 15\n  cargo xtask demo --ipsec")]
pub struct Args {
    /// Frames in each flood, of 64 bytes
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    frames: u64,
    /// Rounds of the comparison: a flood through VPN-Hub and one through the kernel each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Skips the comparison: a few seconds instead of half a minute
    #[arg(long)]
    skip_comparison: bool,
    /// Real IPsec between the offices and the hub, and no comparison of packet rates (installs strongSwan)
    #[arg(long, conflicts_with_all = ["frames", "rounds", "skip_comparison"])]
    ipsec: bool,
    /// Do not build: set when the demo runs itself through sudo, as root must not build in a user's directory
    #[arg(long, hide = true)]
    built: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    setup::runtime()?;
    if args.ipsec {
        setup::strongswan()?;
    }
    if !args.built {
        let built = build::run(&build::Args {})?;
        if built != ExitCode::SUCCESS {
            return Ok(built);
        }
    }
    if !host::is_root() {
        return as_root();
    }
    lab::clean_up_on_interrupt()?;
    let out = &mut io::stdout();
    let shown = if args.ipsec { ipsec::show(out) } else { show(args, out) };
    if shown.is_err() {
        lab::park_if_interrupted();
    }
    shown
}

/// The same again through sudo, in our place: signals, terminal and exit code are then its own.
pub fn as_root() -> Result<ExitCode> {
    let sudo = host::command("sudo").context("it makes network namespaces: run it as root, or install sudo")?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let demo = std::env::current_exe().context("finding the xtask program")?;
    Err(Command::new(sudo).arg("-E").arg(demo).args(arguments).arg("--built").exec()).context("running sudo")
}

/// The demo. Everything that it makes goes when this returns, whatever comes of it.
fn show(args: &Args, out: &mut impl Write) -> Result<ExitCode> {
    let _alone = world::alone()?;
    let progress = Progress::start("creating the network", None);
    world::end_leftovers()?;
    let world = world::with_hub()?;
    let agent = world::start_agent(&world[HUB])?;
    drop(progress);
    writeln!(out, "\n{}", world::INTRODUCTION)?;

    let mut all_reached = true;
    for family in [Family::V4, Family::V6] {
        let progress = Progress::start(&format!("pinging all pairs over {family}"), None);
        let matrix = Matrix::measure(&world, family)?;
        drop(progress);
        writeln!(out, "{matrix}")?;
        all_reached &= matrix.complete();
    }
    if !all_reached {
        writeln!(out, "Some places do not reach each other. `vpnhub status`:\n\n{}", proof::status(&agent)?)?;
        return Ok(ExitCode::FAILURE);
    }

    let progress = Progress::start(&format!("flooding {} from {}", HANGZHOU.place, SHANGHAI.place), None);
    let mut flood = Flood::run(&world, args.frames)?;
    if flood.void {
        // A busy machine may lose a frame of millions in a queue; a hub that does not deliver loses some each time.
        progress.suspend(|| writeln!(out, "{} Once more:", flood.sentence()))?;
        flood = Flood::run(&world, args.frames)?;
    }
    drop(progress);
    writeln!(out, "{}\n", flood.sentence())?;
    ensure!(!flood.void, "the hub did not deliver all frames");

    writeln!(out, "`vpnhub status`:\n\n{}", proof::status(&agent)?)?;
    writeln!(out, "{}\n", proof::forwarded_in_xdp(&agent, &world[HUB], &flood)?)?;

    if !args.skip_comparison {
        rate::compare(&world, args.frames, args.rounds, out)?;
    }
    agent.stop()?;
    drop(world);
    writeln!(out, "Everything is removed again. To try things by hand: cargo xtask lab up")?;
    Ok(ExitCode::SUCCESS)
}

/// A whole number as people read it: 2,000,000.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<_> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (2_131_072, "2,131,072")] {
            assert_eq!(grouped(number), text);
        }
    }
}
