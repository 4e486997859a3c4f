//! `bench`: the benches of vpnhub-bench in worlds that it makes itself.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{
    build, process,
    setup::{self, host},
    vm,
};

/// Measures forwarding, stage by stage too, how it scales, failover, changes and restarts under load, or updates of what was
/// just built.
///
/// All of it is in network namespaces of this host, which are removed at the end, also on Ctrl-C; ipsec and spread boot
/// a virtual machine. Needs root, otherwise uses sudo after the build. benches/README.md describes the method and how to
/// read the results.
///
/// Exits with 0 when there is a result, whether targets are reached or not.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask bench forward --quick\n  cargo xtask bench lookup --quick\n  \
                        cargo xtask bench ipsec --attachments 2 --tcp 0\n  \
                        cargo xtask bench failover\n  cargo xtask bench failover --prefixes 10 --runs 10\n  \
                        cargo xtask bench change --seconds 5\n  cargo xtask bench outlive --times 5\n  \
                        cargo xtask bench update --json update.json\n  \
                        cargo xtask bench failover -- --help")]
pub struct Args {
    /// Name of the benchmark
    #[arg(value_enum)]
    name: Name,
    /// Its options: see `cargo xtask bench NAME -- --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    args: Vec<OsString>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Name {
    /// Cost of a frame by forwarder (the hub at XDP and TC, the kernel's own ones), interfaces, routes and destinations
    Forward,
    /// Cost of each stage of the hub's program: programs of increasing length, from an empty one to the whole hub
    Lookup,
    /// Whether a frame costs more with more next hops, connections or selectors, and in generic mode
    Scale,
    /// TCP throughput through the hub, and through the kernel's own forwarding (installs iperf3)
    Tcp,
    /// Throughput and latency (RFC 2544) by the kernel's packet generator, if the kernel has it
    Pktgen,
    /// Instructions of a packet through the kernel's ESP, in a virtual machine with Debian's kernel
    Ipsec,
    /// ESP of several tunnels from one receive queue on two CPUs, in a virtual machine with Debian's kernel
    Spread,
    /// How long traffic is lost when a tunnel with a standby fails
    Failover,
    /// Whether many changes under load lose a frame
    Change,
    /// Whether killing, stopping or replacing the agent under load loses a frame
    Outlive,
    /// How fast an agent with many routes starts, reloads and changes one
    Update,
    /// Load, answers and failover of an agent with very many tunnels (installs strongSwan)
    Tunnels,
    /// How long traffic stops when one of two hubs ends, and whether a drained one loses a packet (installs BIRD, strongSwan)
    TwoHubs,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    match args.name {
        Name::Tcp => drop(setup::commands(&[setup::commands::IPERF3])?),
        Name::Tunnels => setup::strongswan()?,
        Name::TwoHubs => {
            setup::strongswan()?;
            setup::routing_daemons()?;
        }
        _ => {}
    }
    let name = match args.name {
        Name::Forward => "forward",
        Name::Lookup => "lookup",
        Name::Scale => "scale",
        Name::Tcp => "tcp",
        Name::Pktgen => "pktgen",
        // Help needs no virtual machine.
        Name::Ipsec if !args.args.iter().any(|arg| arg == "--help" || arg == "-h") => {
            return vm::bench("ipsec", &args.args);
        }
        Name::Ipsec => "ipsec",
        Name::Spread if !args.args.iter().any(|arg| arg == "--help" || arg == "-h") => {
            return vm::bench_on_two_cpus("spread", &args.args);
        }
        Name::Spread => "spread",
        Name::Failover => "failover",
        Name::Change => "change",
        Name::Outlive => "outlive",
        Name::Update => "update",
        Name::Tunnels => "tunnels",
        Name::TwoHubs => "two-hubs",
    };
    vpnhub_bench(name, &args.args)
}

/// Sets up, builds, and runs a verb of vpnhub-bench as root. Comes back only when that is not possible.
pub fn vpnhub_bench(verb: &str, args: &[OsString]) -> Result<ExitCode> {
    setup::runtime()?;
    let built = build::run(&build::Args {})?;
    if built != ExitCode::SUCCESS {
        return Ok(built);
    }
    let bench = process::release_dir()?.join("vpnhub-bench");
    let mut command = if host::is_root() {
        Command::new(&bench)
    } else {
        let sudo =
            host::command("sudo").context("the kernel lets only root do this: run it as root, or install sudo")?;
        let mut command = Command::new(sudo);
        command.arg("-E").arg(&bench);
        command
    };
    // In our place: signals, terminal and exit code are the bench's own.
    Err(command.arg(verb).args(args).exec()).with_context(|| format!("running {}", bench.display()))
}
