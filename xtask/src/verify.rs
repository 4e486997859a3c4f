//! `verify`: the kernel's information about the kernel program that was just built.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::bench;

/// Loads the kernel programs and shows for each: instructions, machine code, the verifier's work, stack, maps.
///
/// Nothing is attached, and everything is unloaded again. Needs root, otherwise uses sudo after the build.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask verify\n  cargo xtask verify --json verify.json\n  \
                        cargo xtask verify target/release/ebpf/bpfel-unknown-none/release/bench-ebpf")]
pub struct Args {
    /// `--json FILE`, and objects other than the agent's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    args: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    bench::vpnhub_bench("verify", &args.args)
}
