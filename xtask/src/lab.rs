//! `cargo xtask lab`: the world of three offices as named network namespaces, to try things in by hand.
//!
//! They stay when this ends; `down` deletes them, by their exact names.

use std::fmt::Write;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;

use anyhow::{Context, bail};
use clap::Subcommand;
use hub_tests::lab::{self, HANGZHOU, HUB, NINGBO, Namespace, Options, SHANGHAI, Site, VPC, World};

/// Namespaces are named `vpnhub-PLACE`.
const PREFIX: &str = "vpnhub";
const SITES: [Site; 3] = [SHANGHAI, HANGZHOU, NINGBO];

/// A hub, a VPC and three offices in network namespaces, as examples/three-offices.toml has them.
#[derive(Debug, Subcommand)]
pub enum LabVerb {
    /// Creates the namespaces, replacing existing ones, and prints how to use them.
    Up {
        /// Let the hub's kernel forward packets that VPN-Hub passes to it.
        #[arg(long)]
        slow_path: bool,
    },
    /// Deletes the namespaces.
    Down,
    /// Pings from a place, without the host's `ping` command; fails unless all are answered.
    Ping {
        from: String,
        to: IpAddr,
        #[arg(long, short, default_value_t = 3)]
        count: u16,
    },
    /// Runs a command in a place: hub, vpc, shanghai, hangzhou or ningbo.
    Exec {
        place: String,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// Runs a verb. `exec` does not return: the command replaces this process, so that its exit
/// code is this one's.
///
/// # Errors
/// When this process may not, or the command does not exist.
pub fn run(verb: LabVerb) -> anyhow::Result<()> {
    match verb {
        LabVerb::Up { slow_path } => up(slow_path),
        LabVerb::Down => down(),
        LabVerb::Ping { from, to, count } => ping(&from, to, count),
        LabVerb::Exec { place, command } => exec(&place, &command),
    }
}

fn up(slow_path: bool) -> anyhow::Result<()> {
    lab::require_root()?;
    // An interrupt in the middle leaves nothing half made.
    lab::clean_up_on_interrupt()?;
    warn_of_processes()?;
    World::three_offices(&Options::default().fixed_names(PREFIX).slow_path(slow_path))?.keep();
    print!("{}", description());
    Ok(())
}

fn down() -> anyhow::Result<()> {
    warn_of_processes()?;
    for place in places() {
        Namespace::remove(&name(place))?;
    }
    Ok(())
}

fn ping(from: &str, to: IpAddr, count: u16) -> anyhow::Result<()> {
    let report = lab::ping(&open(from)?, to, count)?;
    let time = report.rtt_avg.map(|time| format!(", {:.3} ms on average", time.as_secs_f64() * 1000.0));
    println!("{to} answered {} of {} pings{}", report.received, report.sent, time.unwrap_or_default());
    anyhow::ensure!(report.complete(), "{} pings from {from} to {to} were lost", report.lost.len());
    Ok(())
}

fn open(place: &str) -> anyhow::Result<Namespace> {
    if !places().contains(&place) {
        bail!("there is no place {place:?}; the places are {}", places().join(", "));
    }
    Namespace::open(&name(place))?.context("the lab is not up: run `cargo xtask lab up` first")
}

fn exec(place: &str, command: &[String]) -> anyhow::Result<()> {
    let namespace = open(place)?;
    let (program, arguments) = command.split_first().context("a command is needed")?;
    let error = namespace.command(program).args(arguments).exec();
    Err(error).with_context(|| format!("running {program} in {place}"))
}

fn places() -> [&'static str; 5] {
    [HUB, VPC.place, "shanghai", "hangzhou", "ningbo"]
}

fn name(place: &str) -> String {
    format!("{PREFIX}-{place}")
}

/// A process keeps its namespace when the name is deleted or replaced, and would seem to hang.
fn warn_of_processes() -> anyhow::Result<()> {
    for place in places() {
        if let Some(namespace) = Namespace::open(&name(place))? {
            for (id, process) in namespace.processes()? {
                eprintln!(
                    "warning: {process} (process {id}) runs in {}, and stays in the old namespace",
                    namespace.name()
                );
            }
        }
    }
    Ok(())
}

fn description() -> String {
    let mut text = String::from("The lab is up:\n\n");
    let mut line =
        |place: &str, what: String| writeln!(text, "  {:<17} {what}", name(place)).expect("a string takes all");
    let devices: Vec<_> = SITES.iter().map(|site| site.hub_device(0)).collect();
    line(HUB, format!("the gateway: {} to the VPC, {} to the offices", VPC.hub_device, devices.join(", ")));
    line(VPC.place, format!("{}  {}", VPC.host4, VPC.host6));
    for site in SITES {
        line(
            &site.place,
            format!("{}  {}  (network {}, {})", site.host4(), site.host6(), site.network4(), site.network6()),
        );
    }
    text + &format!(
        "
Start the agent in the hub (built by cargo xtask build):
  cargo xtask lab exec hub target/release/vpnhub run --config examples/three-offices.toml
Then, in another terminal, from Shanghai to Hangzhou and to the VPC:
  cargo xtask lab ping shanghai {}
  cargo xtask lab ping shanghai {}
Take the lab down:
  cargo xtask lab down
",
        HANGZHOU.host4(),
        VPC.host6,
    )
}
