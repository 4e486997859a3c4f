//! `vm`, `vm-test`: a Debian kernel in a virtual machine, for features that this host's kernel may lack.

use std::{
    ffi::OsString,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    build, process,
    setup::{self, apt},
    test,
};
use guest::{Guest, Machine, quoted};
use kernel::{Kernel, METAPACKAGE};

pub use bench::{bench, bench_on_two_cpus};

mod bench;
mod guest;
pub mod initramfs;
mod kernel;

/// Commands, and the Debian package of each. The guest runs the host's programs, so this includes the commands that its tests need.
const COMMANDS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("modprobe", "kmod"),
    ("depmod", "kmod"),
    setup::commands::NFT,
    ("wg", "wireguard-tools"),
];
/// In MiB.
const MEMORY: u32 = 1024;

/// Runs a command in a virtual machine with Debian's kernel.
///
/// The guest has this host's files, read-only; its writes are lost when it ends. It has no network. Fetches the kernel
/// and QEMU first if they are missing; the kernel is not installed. Booting takes a quarter of a minute (QEMU emulates
/// the CPU).
///
/// For example: cargo xtask vm -- uname -a
#[derive(clap::Args)]
pub struct Args {
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
    /// Limit in seconds, after which the guest is ended
    #[arg(long, default_value_t = 600)]
    limit: u64,
    /// One CPU whose clock counts instructions, one a nanosecond: times are repeatable to 0.1 %
    #[arg(long)]
    count_instructions: bool,
    /// Package that depends on the kernel to boot, such as linux-image-6.12-amd64
    #[arg(long, value_name = "PACKAGE", default_value = METAPACKAGE)]
    kernel: String,
}

/// Runs the tests that need ESP and xfrm interfaces, WireGuard and GRE in the kernel, or Debian 12's kernel, in a
/// virtual machine.
///
/// Real strongSwan at a hub and at its sites, with the kernel's IPsec; other tunnels; and the agent's forwarding tests once more. A few minutes.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask vm-test\n  cargo xtask vm-test -- kernel::rekeying --nocapture")]
pub struct TestArgs {
    /// Arguments of the test programs: filters by test name
    #[arg(last = true, value_name = "ARG")]
    args: Vec<OsString>,
    /// Limit in seconds, after which the guest is ended
    #[arg(long, default_value_t = 1500)]
    limit: u64,
    /// Package that depends on the kernel to boot, such as linux-image-6.12-amd64
    #[arg(long, value_name = "PACKAGE", default_value = METAPACKAGE)]
    kernel: String,
}

/// A test program, its default arguments, and its look-up.
const SUITES: [(&str, &str, &str); 11] = [
    // Linux 6.1 uses clsact. Of the streams, only those without a hundred starts, because a start is slow there.
    ("outlive", "interfaces:: stream::spoofed stream::connections --test-threads 2", "compiled"),
    ("hunt", "random_packets_by --ignored --test-threads 1", "compiled"),
    ("ipsec", "kernel:: --test-threads 2", "compiled"),
    ("tunnels", "--test-threads 2", "compiled"),
    ("forward", "pairs:: frames:: layer3:: --test-threads 2 --include-ignored", "compiled"),
    ("forward", "pairs:: frames:: layer3:: --test-threads 2 --include-ignored", "lpm"),
    ("spread", "--test-threads 1 --include-ignored", "compiled"),
    // They fill the kernel's neighbour table, change settings of all namespaces, or need a NIC of the guest.
    ("operator", "alone --ignored --test-threads 1", "compiled"),
    // Records of packets by clsact and native XDP. The guest is too slow for floods.
    ("packets", "filters:: reasons:: clients::filters --test-threads 1", "compiled"),
    // Linux 6.1 does not show what a veth takes.
    ("operator", "diagnose::healthy replies_ vlan_tags --include-ignored --test-threads 1", "compiled"),
    ("agent", "ipsec_bench --ignored", "compiled"),
];

pub fn run(args: &Args) -> Result<ExitCode> {
    let (kernel, busybox) = prepare(&args.kernel)?;
    let words: Vec<String> = args.command.iter().map(|word| quoted(Path::new(word))).collect::<Result<_>>()?;
    let machine = if args.count_instructions { Machine::Counting } else { Machine::Fast };
    boot(&kernel, &busybox, machine, &words.join(" "), args.limit)
}

pub fn test(args: &TestArgs) -> Result<ExitCode> {
    setup::strongswan()?;
    setup::routing_daemons()?;
    let (kernel, busybox) = prepare(&args.kernel)?;
    let built = build::run(&build::Args {})?;
    if built != ExitCode::SUCCESS {
        return Ok(built);
    }
    let words: Vec<String> = args.args.iter().map(|word| quoted(Path::new(word))).collect::<Result<_>>()?;
    let mut script = "failed=0\n".to_owned();
    for (name, usual, lookup) in SUITES {
        let program = quoted(&test::program(name)?)?;
        let arguments = if words.is_empty() { usual.to_owned() } else { words.join(" ") };
        let run = format!("VPNHUB_TEST_LOOKUP={lookup} {program} {arguments} --color never || failed=1");
        writeln!(script, "echo; echo '-- {name}, look-up {lookup}'\n{run}")?;
    }
    boot(&kernel, &busybox, Machine::Fast, &(script + "exit $failed\n"), args.limit)
}

/// The parts of the virtual machine, installed and downloaded if missing.
fn prepare(metapackage: &str) -> Result<(Kernel, PathBuf)> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the virtual machine supports x86-64 hosts only");
    }
    if !apt::available() {
        bail!("the kernel is Debian's, and this host has no apt");
    }
    let cache = setup::commands(&COMMANDS)?;
    let busybox = setup::static_busybox()?;
    Ok((Kernel::ensure(&cache, metapackage)?, busybox))
}

fn boot(kernel: &Kernel, busybox: &Path, machine: Machine, script: &str, limit: u64) -> Result<ExitCode> {
    eprintln!("booting Linux {} under QEMU (15 s to the first command)", kernel.release);
    let agent = process::release_dir()?.join("vpnhub");
    let environment = [("VPNHUB_BINARY", agent.as_path()), ("RUST_BACKTRACE", Path::new("0"))];
    let limit = Duration::from_secs(limit);
    Guest { kernel, machine, script, environment: &environment, memory: MEMORY, limit, result: None }.run(busybox)
}
