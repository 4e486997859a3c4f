//! The command line.

mod background;
mod cleanup;
mod cpu_table;
mod diagnose;
mod keys;
mod log;
mod objects;
mod packets;
mod pcapng;
mod policy_routes;
mod run;
mod status;
mod store;
pub mod table;
mod top;
mod trace;
mod trace_table;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;

use self::{
    background::report_suppressed,
    log::LogFormat,
    objects::{ConnectionCommand, CustomerGatewayCommand, RouteCommand, SegmentCommand},
    packets::{CaptureArgs, MonitorArgs},
    policy_routes::PolicyRouteCommand,
    run::serve,
    store::StoreCommand,
    top::TopArgs,
    trace::TraceArguments,
};
use crate::{
    agent::{guard, process},
    api::Client,
    config::{
        Config,
        check::{self, CheckFormat},
        load, parse_duration,
    },
    config_manager::{Changed, InitialConfig},
    datapath::{AttachMode, Instance},
    peer_config,
    rate_limit::LogLimit,
    store::{DEFAULT_DIRECTORY, StoreError},
};

/// Forwarding agent for a VPN hub.
#[derive(Debug, Parser)]
#[command(name = "vpnhub", version, max_term_width = 100)]
pub struct Cli {
    /// Control socket of the agent.
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/vpnhub/vpnhub.sock")]
    socket: PathBuf,
    /// Output format.
    #[arg(long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    #[command(subcommand)]
    command: Command,
}

/// Time for tasks to end. A task that validates a large file may take longer, and is not waited for.
const END_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
enum Command {
    /// Runs the agent in the foreground: loads the kernel program, attaches it, serves the socket.
    Run {
        /// Configuration file. It is read, never written.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Directory of stores: commands write to DIR/INSTANCE.
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
        state: PathBuf,
        /// How to attach to interfaces.
        #[arg(long, alias = "xdp", value_enum, default_value_t = AttachMode::Auto)]
        attach: AttachMode,
        /// Name of this agent's datapath, 1 to 64 of a-z 0-9 -. The datapath outlives the agent, and the next agent
        /// with this name takes it over. Agents in several network namespaces of a host need different names.
        #[arg(long, value_name = "NAME", default_value_t = Instance::default())]
        instance: Instance,
        /// Records all events into a new file, for a bug report: names, addresses and the configuration, no secrets.
        /// If FILE exists, into FILE.1 to FILE.9.
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
        /// Format of the log on standard error.
        #[arg(long, value_enum, default_value_t = LogFormat::Text)]
        log_format: LogFormat,
        /// Creates the nftables table without an owner, as on kernels before 6.9.
        #[arg(long, hide = true)]
        plain_table: bool,
    },
    /// Reports all errors in a configuration file; applies nothing.
    Check {
        /// Configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Shows gateway, connections with their counters, and routes with their effective share. Without an agent, shows
    /// the running datapath.
    Status {
        /// Instance of the datapath, if no agent runs.
        #[arg(long, value_name = "NAME", default_value_t = Instance::default())]
        instance: Instance,
    },
    /// Checks the host, the interfaces, the configuration and every connection, and says what to do. Exits with 1 if
    /// it finds an error. Without an agent, checks the host and the running datapath.
    Diagnose {
        /// Check only this connection.
        #[arg(value_name = "CONN")]
        connection: Option<String>,
        /// Instance of the datapath, if no agent runs.
        #[arg(long, value_name = "NAME", default_value_t = Instance::default())]
        instance: Instance,
    },
    /// Runs a packet through the loaded program, and explains each stage and the verdict. Changes nothing.
    Trace(TraceArguments),
    /// Destination routes.
    #[command(subcommand)]
    Route(RouteCommand),
    /// Policy routes: by source and destination, before all destination routes.
    #[command(subcommand)]
    PolicyRoute(PolicyRouteCommand),
    /// Connections and their administrative state.
    #[command(subcommand)]
    Connection(ConnectionCommand),
    /// Customer gateways.
    #[command(subcommand)]
    CustomerGateway(CustomerGatewayCommand),
    /// Segments: groups of connections, and what each reaches.
    #[command(subcommand)]
    Segment(SegmentCommand),
    /// The configuration in force.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The store, which holds the objects made by command.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Reloads the configuration files and applies the differences.
    Reload {
        /// Revert after this time, such as 60s, unless `vpnhub confirm` comes first.
        #[arg(long, value_name = "TIME", value_parser = confirm_time)]
        confirm: Option<Duration>,
    },
    /// Confirms a `reload --confirm`.
    Confirm,
    /// Makes this hub active, of several for the same sites: strongSwan gets its tunnels, and its routes are published.
    /// Nothing changes if it is active.
    Active {
        /// Publish the routes when all tunnels are up that this hub initiates, after this time at the latest, such as 5s.
        #[arg(long, value_name = "TIME", value_parser = role_time)]
        wait: Option<Duration>,
    },
    /// Makes this hub standby, of several for the same sites: withdraws its published routes, then has strongSwan unload
    /// its tunnels. The datapath stays. Nothing changes if it is standby.
    Standby {
        /// Unload the tunnels this time after the routes are withdrawn, such as 10s: others may still send traffic here.
        #[arg(long, value_name = "TIME", value_parser = role_time, conflicts_with = "keep_tunnels")]
        drain: Option<Duration>,
        /// Only withdraw the routes.
        #[arg(long)]
        keep_tunnels: bool,
    },
    /// Prints the configuration for the device at a connection's site.
    PeerConfig {
        #[arg(value_name = "NAME")]
        connection: String,
        /// Format of the device.
        #[arg(long, value_enum)]
        format: peer_config::Format,
        /// Use this file instead of the configuration in force.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Include the secret instead of a placeholder.
        #[arg(long)]
        with_secret: bool,
    },
    /// Shows the state of every connection, then each change with its reason, until interrupted. With `--packets`, shows
    /// packets that the kernel program drops or passes to the kernel instead.
    Monitor(MonitorArgs),
    /// Shows the connections live: states, rates, shares, drops, round trips and loss. With `--once`, prints one table.
    Top(TopArgs),
    /// Writes packets that the kernel program drops or passes to the kernel to a file for Wireshark, until interrupted.
    /// Needs root.
    Capture(CaptureArgs),
    /// Blocks forwarding from and to the sites of a configuration, at boot, until an agent runs.
    Protect {
        /// Configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Directory of stores: also blocks the sites of connections made by command.
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
        state: PathBuf,
        /// Instance of the store.
        #[arg(long, value_name = "NAME", default_value_t = Instance::default())]
        instance: Instance,
    },
    /// Uninstalls: removes the datapath, xfrm interfaces, routes, rules and neighbours left by agents.
    #[command(visible_alias = "unload")]
    Cleanup {
        /// Instance of the datapath.
        #[arg(long, value_name = "NAME", default_value_t = Instance::default())]
        instance: Instance,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints the configuration in force as a configuration file, with each object's origin as a comment.
    Show,
}

/// Whole seconds, from 1 s to 1 h.
fn confirm_time(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    let time = parse_duration(text).filter(|time| range.contains(time) && time.subsec_nanos() == 0);
    time.ok_or_else(|| "write whole seconds, from 1s to 1h".to_owned())
}

/// Whole seconds, up to 1 h.
fn role_time(text: &str) -> Result<Duration, String> {
    let range = Duration::ZERO..=Duration::from_secs(3600);
    let time = parse_duration(text).filter(|time| range.contains(time) && time.subsec_nanos() == 0);
    time.ok_or_else(|| "write whole seconds, up to 1h".to_owned())
}

/// Runs the command of the process's arguments. An error is printed as one sentence on standard error, with exit status
/// 1.
///
/// Here, not in the binary: a caller of an async function compiles that function and all that it awaits once more.
pub fn main() -> ExitCode {
    process::return_freed_memory();
    let cli = Cli::parse();
    // Before the first thread, which inherits it. `prepare` warns if it cannot be done.
    if matches!(cli.command, Command::Run { .. }) {
        drop(crate::background::be_urgent());
    }
    let run = || -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.context("cannot start threads")?;
        let result = runtime.block_on(execute(cli));
        runtime.shutdown_timeout(END_WITHIN);
        result
    };
    run().unwrap_or_else(|error| {
        eprintln!("vpnhub: {error:#}");
        ExitCode::FAILURE
    })
}

async fn execute(cli: Cli) -> Result<ExitCode> {
    let client = Client::new(&cli.socket);
    let text = match cli.command {
        Command::Run { config, state, attach, instance, record, log_format, plain_table } => {
            let limit = LogLimit::default();
            log::start(log_format, limit.clone());
            tokio::spawn(report_suppressed(limit));
            Box::pin(serve(&config, &state, attach, &instance, record.as_deref(), plain_table, cli.socket)).await?;
            String::new()
        }
        Command::Check { config } => {
            let format = if cli.output == Output::Json { CheckFormat::Json } else { CheckFormat::Table };
            let outcome = check::run(&config, format);
            print!("{}", outcome.stdout);
            return Ok(ExitCode::from(outcome.exit_code));
        }
        Command::Status { instance } => status::text(&client, &cli.socket, &instance, cli.output).await?,
        Command::Diagnose { connection, instance } => {
            let found = diagnose::run(&client, &cli.socket, &instance, connection.as_deref(), cli.output);
            let (text, code) = Box::pin(found).await?;
            print!("{text}");
            return Ok(code);
        }
        Command::Trace(arguments) => trace::run(&client, arguments, cli.output).await?,
        Command::Route(command) => objects::route(command, &client, cli.output).await?,
        Command::PolicyRoute(command) => policy_routes::run(command, &client, cli.output).await?,
        Command::Connection(command) => objects::connection(command, &client, cli.output).await?,
        Command::Segment(command) => objects::segment(command, &client, cli.output).await?,
        Command::CustomerGateway(command) => objects::customer_gateway(command, &client, cli.output).await?,
        Command::Config(ConfigCommand::Show) => client.config().await?,
        Command::Store(command) => store::run(command, &cli.socket, cli.output).await?,
        Command::PeerConfig { connection, format, config: None, with_secret } => {
            client.peer_config(&connection, format, with_secret).await?
        }
        Command::PeerConfig { connection, format, config: Some(file), with_secret } => {
            peer_config::render(&load(&file)?.config, &connection, format, with_secret)?
        }
        Command::Monitor(arguments) => packets::monitor(&client, arguments, cli.output).await?,
        Command::Top(arguments) => Box::pin(top::run(client, arguments, cli.output)).await?,
        Command::Capture(arguments) => packets::capture(&client, arguments).await?,
        Command::Protect { config, state, instance } => {
            match guard::protect(&in_force(&config, &state, &instance)?).await? {
                true => "forwarding from and to the sites is blocked until the agent runs\n".to_owned(),
                false => "nothing to change: already in effect\n".to_owned(),
            }
        }
        Command::Cleanup { instance } => cleanup::run(&instance, cli.output).await?,
        Command::Reload { confirm } => changed(&client.reload(confirm).await?, cli.output)?,
        Command::Active { wait } => changed(&client.active(wait.unwrap_or_default()).await?, cli.output)?,
        Command::Standby { keep_tunnels: true, .. } => changed(&client.withdraw().await?, cli.output)?,
        Command::Standby { drain, .. } => changed(&client.standby(drain.unwrap_or_default()).await?, cli.output)?,
        Command::Confirm => changed(&client.confirm().await?, cli.output)?,
    };
    print!("{}", printable(text));
    Ok(ExitCode::SUCCESS)
}

/// Without characters that a terminal acts upon: tables contain names and identities that peers choose.
fn printable(text: String) -> String {
    let acts = |one: char| one.is_control() && !matches!(one, '\n' | '\t');
    if text.contains(acts) { text.replace(acts, "\u{fffd}") } else { text }
}

/// The configuration that an agent would start with. If the store cannot be read, that of the files only: a running
/// agent has already closed the other sites.
fn in_force(config: &Path, state: &Path, instance: &Instance) -> Result<Config> {
    match InitialConfig::open(config, state, instance.as_str()) {
        Ok(mut start) => Ok(start.take_config()),
        Err(error) if error.is::<StoreError>() => {
            eprintln!("vpnhub: objects of the store are not included: {error}");
            Ok(load(config)?.config)
        }
        Err(error) => Err(error),
    }
}

fn json(value: &(impl Serialize + ?Sized)) -> Result<String> {
    Ok(serde_json::to_string(value)? + "\n")
}

/// An answer in the requested format.
fn printed<T: Serialize + ?Sized>(answer: &T, table: impl FnOnce(&T) -> String, output: Output) -> Result<String> {
    match output {
        Output::Json => json(answer),
        Output::Table => Ok(table(answer)),
    }
}

/// The answer to a change. Warnings go to standard error, to keep standard output parsable.
fn changed(changed: &Changed, output: Output) -> Result<String> {
    if output == Output::Json {
        return json(changed);
    }
    for warning in &changed.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(changed.message.clone() + "\n")
}
