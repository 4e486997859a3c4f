//! `cargo xtask lab`: the world of three offices as named network namespaces, to try things in by hand.
//!
//! They stay when this ends; `down` deletes them, by their exact names.

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
    /// Makes the namespaces, anew if they exist, and says what to do with them.
    Up {
        /// Let the hub's kernel forward too (ip_forward=1): for what VPN-Hub passes to it.
        #[arg(long)]
        slow_path: bool,
    },
    /// Deletes the namespaces.
    Down,
    /// Runs a command in a place: hub, vpc, shanghai, hangzhou or ningbo.
    Exec {
        place: String,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// Does what the verb says. `exec` does not come back: the command takes the place of this process, so that its exit
/// code is this one's.
///
/// # Errors
/// When this process may not, or the command does not exist.
pub fn run(verb: LabVerb) -> anyhow::Result<()> {
    match verb {
        LabVerb::Up { slow_path } => up(slow_path),
        LabVerb::Down => down(),
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

fn exec(place: &str, command: &[String]) -> anyhow::Result<()> {
    if !places().contains(&place) {
        bail!("there is no place {place:?}; the places are {}", places().join(", "));
    }
    let Some(namespace) = Namespace::open(&name(place))? else {
        bail!("the lab is not up: run `cargo xtask lab up` first");
    };
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

/// A process keeps its namespace, without a name, when that is deleted or made anew: it would seem to hang.
fn warn_of_processes() -> anyhow::Result<()> {
    for place in places() {
        if let Some(namespace) = Namespace::open(&name(place))? {
            for (id, process) in namespace.processes()? {
                eprintln!("warning: {process} (process {id}) runs in {} and stays in what was there", namespace.name());
            }
        }
    }
    Ok(())
}

fn description() -> String {
    let mut text = String::from("The lab is up:\n\n");
    let mut line = |place: &str, what: String| text += &format!("  {:<17} {what}\n", name(place));
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
Start the agent in the hub (cargo xtask build makes it):
  cargo xtask lab exec hub target/release/vpnhub run --config examples/three-offices.toml
Then, in another terminal, from Shanghai to Hangzhou and to the VPC:
  cargo xtask lab exec shanghai ping -c 3 {}
  cargo xtask lab exec shanghai ping -c 3 {}
Take the lab down:
  cargo xtask lab down
",
        HANGZHOU.host4(),
        VPC.host6,
    )
}
