//! The ten questions of docs/operations.md: each command is run, and prints what the document shows.

#[path = "../harness/mod.rs"]
mod harness;

mod board;
mod offices;
mod prometheus;
mod tunnel;

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use hub_tests::board::BoardLab;
use hub_tests::document::{Document, Varying};
use hub_tests::lab::{Agent, Charon, HUB, Prometheus, World, agent_binary};

/// The full time passes only on failure.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

fn main() -> ExitCode {
    let cases: [harness::Case; 4] = [
        (Prometheus::missing(), "questions_about_three_offices", offices::questions),
        (Charon::missing(), "question_about_a_tunnel", tunnel::question),
        (BoardLab::missing(), "every_query_of_the_board_has_data", board::queries),
        (None, "every_question_is_asked", every_question),
    ];
    harness::run(cases.into_iter())
}

fn every_question() {
    let document = Document::open("docs/operations.md").unwrap();
    let mut asked = [offices::ASKED, tunnel::ASKED].concat();
    let mut documented: Vec<_> = document.headings("### ").collect();
    asked.sort_unstable();
    documented.sort_unstable();
    assert_eq!(documented, asked, "headings of third level in docs/operations.md");
    assert_eq!(asked.len(), 10);
}

/// An operator's shell at the hub.
struct Shell<'s> {
    agent: &'s Agent,
    world: &'s World,
    document: Document,
}

impl<'s> Shell<'s> {
    fn new(agent: &'s Agent, world: &'s World) -> Self {
        Self { agent, world, document: Document::open("docs/operations.md").unwrap() }
    }

    /// Runs the example below a heading.
    fn ask(&mut self, heading: &str, varying: Varying) {
        let Self { agent, world, document } = self;
        document
            .check(heading, varying, |command| output(agent, world, command))
            .unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// The command, to be run in the hub's network namespace.
    fn command(agent: &Agent, world: &World, command: &str) -> Command {
        // The journal has what the agent writes to standard error.
        const NAMES: &str = "vpnhub() { \"$VPNHUB\" --socket \"$SOCKET\" \"$@\"; }\njournalctl() { cat \"$LOG\"; }\n\
                             exec 2>&1\n";
        let mut shell = world[HUB].command("sh");
        shell.args(["-c", &format!("{NAMES}{command}")]).env("VPNHUB", agent_binary());
        shell.env("SOCKET", agent.socket()).env("LOG", agent.config().with_file_name("agent.log"));
        if let Some(tool) = hub_tests::tools::promtool() {
            let path = std::env::var("PATH").unwrap_or_default();
            let folder = tool.parent().map(|folder| folder.display().to_string()).unwrap_or_default();
            shell.env("PATH", format!("{path}:{folder}"));
        }
        shell
    }
}

/// What the command prints, errors and warnings included. The configuration's place is the usual one.
fn output(agent: &Agent, world: &World, command: &str) -> Result<String> {
    let output = Shell::command(agent, world, command).output().context("running sh")?;
    let text = String::from_utf8(output.stdout).context("its output")?;
    Ok(text.replace(&agent.config().display().to_string(), "/etc/vpnhub/vpnhub.toml"))
}
