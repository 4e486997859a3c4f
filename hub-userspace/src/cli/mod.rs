//! The command line.

mod objects;
mod store;
pub mod table;

use std::{
    io::{self, IsTerminal as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use sd_notify::NotifyState;
use serde::Serialize;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
};
use tracing_subscriber::EnvFilter;

use self::{
    objects::{ConnectionCommand, CustomerGatewayCommand, RouteCommand},
    store::StoreCommand,
};
use crate::{
    agent::{Agent, Recording, cleanup, guard, process},
    api::{AppState, Client, Socket, router},
    api_types::{event::ConnectionEvent, status::WithoutAgent},
    config::{
        Config,
        check::{self, CheckFormat},
        load, parse_duration,
    },
    config_manager::{ChangeRequest, Changed, ConfigChange, ConfigManager, InitialConfig},
    datapath::{self, AttachMode, Instance},
    peer_config,
    store::{DEFAULT_DIRECTORY, StoreError},
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
#[expect(clippy::large_enum_variant, reason = "there is one in a process")]
enum Command {
    /// Runs the agent in the foreground: loads the kernel program, attaches it, serves the socket.
    Run {
        /// Configuration file. It is read, never written.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Directory of stores: what commands change is kept in DIR/INSTANCE.
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
        state: PathBuf,
        /// How to attach to interfaces.
        #[arg(long, alias = "xdp", value_enum, default_value_t = AttachMode::Auto)]
        attach: AttachMode,
        /// Name of this agent's datapath, which goes on without it and which the next agent of this name takes over: 1 to 64 of
        /// a-z 0-9 -. Agents in several network namespaces of a host need one each.
        #[arg(long, value_name = "NAME", default_value_t = Instance::default())]
        instance: Instance,
        /// Records all that happens to the agent into a new file, for a report of a bug: names, addresses and the
        /// configuration, no secrets. Where there is one already, into FILE.1 to FILE.9.
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
        /// Has the nftables table belong to nobody, as on kernels before 6.9.
        #[arg(long, hide = true)]
        plain_table: bool,
    },
    /// Says all that is wrong with a configuration file; applies nothing.
    Check {
        /// Configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Shows gateway, connections with their counters, and routes with their effective share; without an agent, what the
    /// datapath in the kernel does by itself.
    Status {
        /// Whose datapath, where no agent runs.
        #[arg(long, value_name = "NAME", default_value_t = Instance::default())]
        instance: Instance,
    },
    /// Destination routes.
    #[command(subcommand)]
    Route(RouteCommand),
    /// Connections and their administrative state.
    #[command(subcommand)]
    Connection(ConnectionCommand),
    /// Customer gateways.
    #[command(subcommand)]
    CustomerGateway(CustomerGatewayCommand),
    /// The configuration in force.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The store, which has what commands change.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Has the agent read its configuration files again and apply what is different.
    Reload {
        /// Go back to what was in force before after this time, such as 60s, unless `vpnhub confirm` comes first.
        #[arg(long, value_name = "TIME", value_parser = confirm_time)]
        confirm: Option<Duration>,
    },
    /// Keeps what `reload --confirm` has put in force.
    Confirm,
    /// Prints what the site of a connection loads into its device.
    PeerConfig {
        #[arg(value_name = "NAME")]
        connection: String,
        /// What the device reads.
        #[arg(long, value_enum)]
        format: peer_config::Format,
        /// Of this file, instead of what the agent has in force.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// With the secret in it, instead of a placeholder.
        #[arg(long)]
        with_secret: bool,
    },
    /// Shows how the connections are, then each change of a state as it happens, with the reason, until interrupted.
    Monitor,
    /// Before an agent runs, at boot: has the kernel forward nothing from or to the sites of a configuration. The agent goes
    /// on from there.
    Protect {
        /// Configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Directory of stores: the sites of connections made by command are closed, too.
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DIRECTORY)]
        state: PathBuf,
        /// Whose store.
        #[arg(long, value_name = "NAME", default_value_t = Instance::default())]
        instance: Instance,
    },
    /// Where no agent runs any more: removes the datapath that goes on without it, the xfrm interfaces that agents have made, and
    /// their routes, rules and neighbours.
    #[command(visible_alias = "unload")]
    Cleanup {
        /// Whose datapath.
        #[arg(long, value_name = "NAME", default_value_t = Instance::default())]
        instance: Instance,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints what is in force as a configuration file, with the origin of each object as a comment.
    Show,
}

/// Whole seconds, from 1 s to 1 h.
fn confirm_time(text: &str) -> Result<Duration, String> {
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    let time = parse_duration(text).filter(|time| range.contains(time) && time.subsec_nanos() == 0);
    time.ok_or_else(|| "write whole seconds, from 1s to 1h".to_owned())
}

/// Runs the command. An error is printed as one sentence on standard error, with exit status 1.
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
    let client = Client::new(&cli.socket);
    let text = match cli.command {
        Command::Run { config, state, attach, instance, record, plain_table } => {
            Box::pin(serve(&config, &state, attach, &instance, record.as_deref(), plain_table, cli.socket)).await?;
            String::new()
        }
        Command::Check { config } => {
            let format = if cli.output == Output::Json { CheckFormat::Json } else { CheckFormat::Table };
            let outcome = check::run(&config, format);
            print!("{}", outcome.stdout);
            return Ok(ExitCode::from(outcome.exit_code));
        }
        Command::Status { instance } => match (client.status().await, running(&cli.socket, &instance)) {
            (Ok(status), _) => printed(&status, table::status, cli.output)?,
            (Err(_), Some(status)) => printed(&status, table::without_agent, cli.output)?,
            (Err(error), None) => return Err(error),
        },
        Command::Route(command) => objects::route(command, &client, cli.output).await?,
        Command::Connection(command) => objects::connection(command, &client, cli.output).await?,
        Command::CustomerGateway(command) => objects::customer_gateway(command, &client, cli.output).await?,
        Command::Config(ConfigCommand::Show) => client.config().await?,
        Command::Store(command) => store::run(command, &cli.socket, cli.output).await?,
        Command::PeerConfig { connection, format, config: None, with_secret } => {
            client.peer_config(&connection, format, with_secret).await?
        }
        Command::PeerConfig { connection, format, config: Some(file), with_secret } => {
            peer_config::render(&load(&file)?.config, &connection, format, with_secret)?
        }
        Command::Monitor => {
            let show = |event: &ConnectionEvent| {
                let text = printed(event, table::event, cli.output)?;
                // Flush immediately, also into a pipe. Handle its end as an error instead of panicking.
                let mut out = io::stdout().lock();
                out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("nobody reads the events any more")
            };
            client.follow(show).await?;
            String::new()
        }
        Command::Protect { config, state, instance } => {
            match guard::protect(&in_force(&config, &state, &instance)?).await? {
                true => "the sites' interfaces are closed until the agent runs\n".to_owned(),
                false => "nothing to change: already in effect\n".to_owned(),
            }
        }
        Command::Cleanup { instance } => {
            let removed = cleanup::remove(&instance).await?;
            printed(&removed, |removed| format!("{removed}\n"), cli.output)?
        }
        Command::Reload { confirm } => changed(&client.reload(confirm).await?, cli.output)?,
        Command::Confirm => changed(&client.confirm().await?, cli.output)?,
    };
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// The configuration that an agent would start with. If the store cannot be read, that of the files only: a running
/// agent has already closed the other sites.
fn in_force(config: &Path, state: &Path, instance: &Instance) -> Result<Config> {
    match InitialConfig::open(config, state, instance.as_str()) {
        Ok(mut start) => Ok(start.take_config()),
        Err(error) if error.is::<StoreError>() => {
            eprintln!("vpnhub: without the objects of the store: {error}");
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

/// The running datapath, if nobody listens on the agent's socket.
fn running(socket: &Path, instance: &Instance) -> Option<WithoutAgent> {
    if UnixStream::connect(socket).is_ok() {
        return None;
    }
    datapath::running(instance).ok().flatten().map(Into::into)
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

/// Runs the agent until SIGINT or SIGTERM.
async fn serve(
    config: &Path,
    state: &Path,
    attach: AttachMode,
    instance: &Instance,
    record: Option<&Path>,
    plain_table: bool,
    socket: PathBuf,
) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
    // From here on a signal ends the agent, but not in the middle of its start.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;

    process::prepare();
    let mut socket = Socket::open(&socket)?;
    let mut start = InitialConfig::open(config, state, instance.as_str())?;
    start.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let recording = record.map(Recording::create).transpose()?;
    let agent = Box::pin(Agent::start(start.take_config(), attach, instance, plain_table, recording)).await?;
    let (sender, requests) = mpsc::channel(16);
    let (orders, taken) = mpsc::channel(16);
    let manager = ConfigManager::new(start, sender.clone());
    let store = manager.write_state();
    tokio::spawn(manager.run(taken));
    socket.serve(router(AppState { agent: sender, changes: orders.clone(), events: agent.events(), store }));
    tokio::spawn(reload_on(hangup, orders));
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

/// Reloads the files at each SIGHUP.
async fn reload_on(mut hangup: Signal, orders: mpsc::Sender<ChangeRequest>) {
    while hangup.recv().await.is_some() {
        let reloading = NotifyState::monotonic_usec_now().map(|now| vec![NotifyState::Reloading, now]);
        notify(&reloading.unwrap_or_default());
        let (sender, answer) = oneshot::channel();
        if orders
            .send(ChangeRequest::Change { change: ConfigChange::Reload(None), uid: None, answer: sender })
            .await
            .is_err()
        {
            return;
        }
        match answer.await {
            Ok(Ok(changed)) => {
                changed.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                tracing::info!("SIGHUP: {}", changed.message);
            }
            Ok(Err(error)) => error.to_string().lines().for_each(|line| tracing::error!("SIGHUP: {line}")),
            Err(_) => return,
        }
        notify(&[NotifyState::Ready]);
    }
}

/// Notifies systemd, if it listens.
fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("systemd not notified: {error}");
    }
}
