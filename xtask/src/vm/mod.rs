//! `vm`, `vm-test`: a Debian kernel in a virtual machine, for what this host's kernel may lack.

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
use guest::{Guest, quoted};
use kernel::Kernel;

mod guest;
mod initramfs;
mod kernel;

/// Commands, and the Debian package of each. The guest runs the host's programs, so what its tests need is here, too.
const COMMANDS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("modprobe", "kmod"),
    ("depmod", "kmod"),
    ("nft", "nftables"),
    ("wg", "wireguard-tools"),
];
/// In MiB.
const MEMORY: u32 = 1024;

/// Runs a command in a virtual machine with Debian's kernel.
///
/// The guest has this host's files, read-only: what it writes is gone with it. It has no network. Fetches the kernel and
/// QEMU first if need be; nothing of the kernel is installed. Booting takes a quarter of a minute (QEMU emulates the CPU).
///
/// For example: cargo xtask vm -- uname -a
#[derive(clap::Args)]
pub struct Args {
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
    /// After so many seconds the guest is ended
    #[arg(long, default_value_t = 600)]
    limit: u64,
}

/// Runs the tests that need ESP and xfrm interfaces, WireGuard and GRE in the kernel, or Debian 12's kernel, in a virtual machine with that.
///
/// Real strongSwan at a hub and at its sites, with the kernel's IPsec; other tunnels; and the agent's forwarding tests once more. A few minutes.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask vm-test\n  cargo xtask vm-test -- kernel::rekeyings --nocapture")]
pub struct TestArgs {
    /// What the test programs take: instead of all, those of these names
    #[arg(last = true, value_name = "ARG")]
    args: Vec<OsString>,
    /// After so many seconds the guest is ended
    #[arg(long, default_value_t = 900)]
    limit: u64,
}

/// A test program, what of it is run where nothing is asked for, and with which look-up.
const SUITES: [(&str, &str, &str); 6] = [
    // What Linux 6.1 does in its own way, clsact; and of the streams those that take no hundred starts: each takes a while there.
    ("outlive", "interfaces:: stream::without stream::connections --test-threads 2", "compiled"),
    ("hunt", "beyond_policy_through --ignored --test-threads 1", "compiled"),
    ("ipsec", "kernel:: --test-threads 2", "compiled"),
    ("tunnels", "--test-threads 2", "compiled"),
    ("forward", "pairs:: frames:: layer3:: --test-threads 2 --include-ignored", "compiled"),
    ("forward", "pairs:: frames:: layer3:: --test-threads 2 --include-ignored", "lpm"),
];

pub fn run(args: &Args) -> Result<ExitCode> {
    let (kernel, busybox) = prepare()?;
    let words: Vec<String> = args.command.iter().map(|word| quoted(Path::new(word))).collect::<Result<_>>()?;
    boot(&kernel, &busybox, &words.join(" "), args.limit)
}

pub fn test(args: &TestArgs) -> Result<ExitCode> {
    setup::strongswan()?;
    let (kernel, busybox) = prepare()?;
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
    boot(&kernel, &busybox, &(script + "exit $failed\n"), args.limit)
}

/// What the machine is made of, installed and fetched where it is missing.
fn prepare() -> Result<(Kernel, PathBuf)> {
    if !cfg!(target_arch = "x86_64") {
        bail!("the virtual machine is made for x86-64 hosts only");
    }
    if !apt::available() {
        bail!("the kernel is Debian's, and this host has no apt");
    }
    let cache = setup::commands(&COMMANDS)?;
    let busybox = setup::static_busybox()?;
    Ok((Kernel::ensure(&cache)?, busybox))
}

fn boot(kernel: &Kernel, busybox: &Path, script: &str, limit: u64) -> Result<ExitCode> {
    eprintln!("booting Linux {} under QEMU (15 s to the first command)", kernel.release);
    let agent = process::release_dir()?.join("vpnhub");
    let environment = [("VPNHUB_BINARY", agent.as_path()), ("RUST_BACKTRACE", Path::new("0"))];
    Guest { kernel, script, environment: &environment, memory: MEMORY, limit: Duration::from_secs(limit) }.run(busybox)
}
