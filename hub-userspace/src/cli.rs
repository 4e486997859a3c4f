//! The command line.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tracing_subscriber::EnvFilter;

use crate::{
    agent::Agent,
    api::{Client, Socket},
    config::check::{self, Format},
    dataplane::Mode,
    view,
};

/// Forwards the decrypted traffic of many IPsec connections to one another, at line rate.
#[derive(Debug, Parser)]
#[command(name = "vpnhub", version, max_term_width = 100)]
pub struct Cli {
    /// Control socket of the agent.
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/vpnhub/vpnhub.sock")]
    socket: PathBuf,
    /// How results are written.
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent in the foreground: loads the kernel program, attaches it, serves the socket.
    Run {
        /// Configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// How to attach to interfaces.
        #[arg(long, value_enum, default_value_t = Mode::Auto)]
        xdp: Mode,
    },
    /// Says all that is wrong with a configuration file; applies nothing.
    Check {
        /// Configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Shows gateway, connections with their counters, and routes with their effective share.
    Status,
    /// Destination routes.
    #[command(subcommand)]
    Route(RouteCommand),
}

#[derive(Debug, Subcommand)]
enum RouteCommand {
    /// Lists the routes with their effective share.
    List,
}

/// Runs the command; an error is one sentence on standard error and exit status 1.
pub async fn run(cli: Cli) -> ExitCode {
    match execute(cli).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("vpnhub: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(cli: Cli) -> Result<ExitCode> {
    let text = match cli.command {
        Command::Run { config, xdp } => {
            Box::pin(serve(config, xdp, cli.socket)).await?;
            String::new()
        }
        Command::Check { config } => {
            let format = if cli.output == Output::Json { Format::Json } else { Format::Table };
            let outcome = check::run(&config, format);
            print!("{}", outcome.stdout);
            return Ok(ExitCode::from(outcome.exit_code));
        }
        Command::Status => {
            let status = Client::new(&cli.socket)?.status().await?;
            if cli.output == Output::Json { json(&status)? } else { view::status(&status) }
        }
        Command::Route(RouteCommand::List) => {
            let routes = Client::new(&cli.socket)?.routes().await?;
            if cli.output == Output::Json { json(&routes)? } else { view::routes(&routes) }
        }
    };
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    Ok(serde_json::to_string(value)? + "\n")
}

/// The agent's life: until SIGINT or SIGTERM.
async fn serve(config: PathBuf, xdp: Mode, socket: PathBuf) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    // From here on a signal ends the agent, but not half-way through its start.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;

    let mut socket = Socket::open(&socket)?;
    let agent = Box::pin(Agent::start(config, xdp)).await?;
    let (sender, requests) = mpsc::channel(16);
    socket.serve(sender);
    notify(&[NotifyState::Ready]);
    let shutdown = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        notify(&[NotifyState::Stopping]);
    };
    Box::pin(agent.run(requests, shutdown)).await
}

/// Tells systemd, if it is listening.
fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("systemd not notified: {error}");
    }
}
