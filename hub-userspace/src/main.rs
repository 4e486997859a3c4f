//! `vpnhub`: the agent and its command line.

use std::process::ExitCode;

use clap::Parser as _;
use hub_userspace::cli;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    cli::run(cli::Cli::parse()).await
}
