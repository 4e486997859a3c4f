//! `vpnhub`: the agent and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    hub_userspace::cli::main()
}
