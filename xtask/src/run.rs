//! `run`: the agent that was just built.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{build, process, setup::host};

/// Verbs of vpnhub that ask for no rights: they read files only.
const UNPRIVILEGED: [&str; 7] = ["check", "peer-config", "help", "--help", "-h", "--version", "-V"];

/// Builds vpnhub and runs it with the arguments after `--`, as root where the verb needs that.
///
/// For example: cargo xtask run -- check --config examples/three-offices.toml
#[derive(clap::Args)]
pub struct Args {
    /// Arguments of vpnhub
    #[arg(last = true)]
    args: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let built = build::run(&build::Args {})?;
    if built != ExitCode::SUCCESS {
        return Ok(built);
    }
    let vpnhub = process::release_dir()?.join("vpnhub");
    let mut command = if host::is_root() || !needs_root(&args.args) {
        Command::new(&vpnhub)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("-E").arg(&vpnhub);
        sudo
    };
    // In our place: signals, terminal and exit code are vpnhub's own.
    Err(command.args(&args.args).exec()).with_context(|| format!("running {}", vpnhub.display()))
}

fn needs_root(args: &[OsString]) -> bool {
    !args.is_empty() && !args.iter().any(|arg| UNPRIVILEGED.iter().any(|verb| arg == verb))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verb_touching_kernel_or_agent_needs_root() {
        for (args, expected) in [
            (&[][..], false),
            (&["--version"], false),
            (&["--output", "json", "check", "--config", "x"], false),
            (&["route", "--help"], false),
            (&["run", "--config", "x"], true),
            (&["--output", "json", "status"], true),
        ] {
            let args: Vec<OsString> = args.iter().map(Into::into).collect();
            assert_eq!(needs_root(&args), expected, "{args:?}");
        }
    }
}
