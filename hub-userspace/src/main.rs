//! `vpnhub`: the agent and its command line.

use std::{process::ExitCode, time::Duration};

use clap::Parser as _;
use hub_userspace::cli;

/// Time for tasks to end. A task that validates a large file may take longer, and is not waited for.
const END_WITHIN: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(cli::run(cli::Cli::parse()));
            runtime.shutdown_timeout(END_WITHIN);
            code
        }
        Err(error) => {
            eprintln!("vpnhub: cannot start threads: {error}");
            ExitCode::FAILURE
        }
    }
}
