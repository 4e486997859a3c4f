//! The store with a running agent. Needs root: it creates network namespaces and mounts.

mod confirm;
mod host;
mod objects;

use std::{
    fs,
    io::Write as _,
    process::{Command, Output, Stdio},
    time::Duration,
};

use hub_tests::lab::{Agent, AgentCommand, HUB, Options, World, agent_binary};

const WAIT: Duration = Duration::from_secs(10);

const CONFIG: &str = "\
[gateway]
name = \"hub\"
max_connections = 3

[customer_gateway.office]
address = \"198.51.100.10\"

[connection.shanghai]
customer_gateway = \"office\"
interface = \"tun-sh\"
peer = \"169.254.10.2\"
local_cidrs = [\"0.0.0.0/0\"]
remote_cidrs = [\"10.10.10.0/24\"]

[[route]]
destination = \"10.10.10.0/24\"
next_hop = \"shanghai\"
";

const NINGBO: &str = "\
customer_gateway = \"nb\"
interface = \"tun-nb\"
peer = \"169.254.30.2\"
local_cidrs = [\"0.0.0.0/0\"]
remote_cidrs = [\"10.10.30.0/24\"]
";

fn world() -> World {
    World::three_offices(&Options::default()).unwrap()
}

fn start(world: &World) -> Agent {
    AgentCommand::new(agent_binary()).start_with(&world[HUB], CONFIG).unwrap()
}

/// Kills the agent, and starts another with its files.
fn restart(world: &World, agent: Agent) -> Agent {
    AgentCommand::new(agent_binary()).start_in(&world[HUB], agent.kill().unwrap()).unwrap()
}

/// Exit code, and stdout or stderr.
fn said(output: &Output) -> (Option<i32>, String) {
    let said = if output.status.success() { &output.stdout } else { &output.stderr };
    (output.status.code(), String::from_utf8_lossy(said).trim_end().to_owned())
}

fn cli(agent: &Agent, args: &str) -> (Option<i32>, String) {
    said(&agent.cli(&args.split(' ').collect::<Vec<_>>()).unwrap())
}

/// The output of a command, which must succeed.
fn done(agent: &Agent, args: &str) -> String {
    let (code, sentence) = cli(agent, args);
    assert_eq!(code, Some(0), "{args}: {sentence}");
    sentence
}

/// The error of a command, which must be refused.
fn refused(agent: &Agent, args: &str) -> String {
    let (code, sentence) = cli(agent, args);
    assert_eq!(code, Some(1), "{args}: {sentence}");
    sentence
}

/// Runs a command with this standard input.
fn with_input(agent: &Agent, args: &[&str], input: &str) -> (Option<i32>, String) {
    let mut command = Command::new(agent_binary());
    command.arg("--socket").arg(agent.socket()).args(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    said(&child.wait_with_output().unwrap())
}

/// The active configuration as a file: it must load, and give the same output again.
fn shown(agent: &Agent) -> String {
    let text = done(agent, "config show") + "\n";
    let file = agent.config().with_file_name("shown.toml");
    fs::write(&file, &text).unwrap();
    let checked = Command::new(agent_binary()).args(["check", "--config"]).arg(&file).output().unwrap();
    assert!(checked.status.success(), "{}\n{text}", String::from_utf8_lossy(&checked.stdout));
    text
}

fn routes(agent: &Agent) -> Vec<String> {
    let status = agent.status().unwrap();
    let routes = status["routes"].as_array().unwrap().iter();
    routes.map(|route| format!("{} {}", route["destination"], route["next_hop"]).replace('"', "")).collect()
}

/// An additional route in the file.
const MORE: &str = "\n[[route]]\ndestination = \"10.10.11.0/24\"\nnext_hop = \"shanghai\"\n";
