//! The store beside a running agent: objects made by command, what is set aside, reloads to be confirmed, and hosts that
//! cannot be written to. Needs root: it makes network namespaces and mounts.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use hub_tests::lab::{Agent, AgentCommand, HUB, Options, Scratch, World, agent_binary};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
};
use serde_json::{Value, json};

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

/// Exit code and what it said, on stdout or stderr.
fn said(output: &Output) -> (Option<i32>, String) {
    let said = if output.status.success() { &output.stdout } else { &output.stderr };
    (output.status.code(), String::from_utf8_lossy(said).trim_end().to_owned())
}

fn cli(agent: &Agent, args: &str) -> (Option<i32>, String) {
    said(&agent.cli(&args.split(' ').collect::<Vec<_>>()).unwrap())
}

/// A command that must succeed: what it said.
fn done(agent: &Agent, args: &str) -> String {
    let (code, sentence) = cli(agent, args);
    assert_eq!(code, Some(0), "{args}: {sentence}");
    sentence
}

/// A command that must be refused: what it said.
fn refused(agent: &Agent, args: &str) -> String {
    let (code, sentence) = cli(agent, args);
    assert_eq!(code, Some(1), "{args}: {sentence}");
    sentence
}

/// A command with something on its standard input.
fn with_input(agent: &Agent, args: &[&str], input: &str) -> (Option<i32>, String) {
    let mut command = Command::new(agent_binary());
    command.arg("--socket").arg(agent.socket()).args(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    said(&child.wait_with_output().unwrap())
}

/// What is in force, as a file: it must load, and say the same again.
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

#[test]
fn connections_and_customer_gateways_are_made_changed_and_deleted_by_command() {
    let world = world();
    let agent = start(&world);
    done(&agent, "customer-gateway add nb --address 198.51.100.30");
    let (code, sentence) = with_input(&agent, &["connection", "add", "nb", "--from", "-"], NINGBO);
    assert_eq!((code, sentence.as_str()), (Some(0), "connection nb added"));
    let again = format!("[connection.nb]\n{NINGBO}");
    let (code, sentence) = with_input(&agent, &["connection", "add", "nb", "--from", "-"], &again);
    assert_eq!((code, sentence.as_str()), (Some(0), "nothing to change: already in effect"));
    let (code, sentence) = with_input(&agent, &["connection", "add", "nb", "--from", "-"], "x = [");
    assert!(code == Some(1) && sentence.contains("standard input") && sentence.contains("TOML"), "{sentence}");
    done(&agent, "route add 10.10.30.0/24 --next-hop nb");
    let attached = || world[HUB].ip("link show dev tun-nb").unwrap().contains("xdp");
    assert!(attached());
    assert_eq!(done(&agent, "connection set nb --up-delay 3s"), "connection nb (up_delay) changed");
    let object = agent.json(&["connection", "show", "nb"]).unwrap();
    assert_eq!((&object["origin"], &object["keys"]["up_delay"]), (&json!("store"), &json!("3s")));
    assert!(done(&agent, "connection show shanghai").contains("vpnhub.toml line 8\n[connection.shanghai]"));
    let listed = agent.json(&["customer-gateway", "list"]).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["origin"]), (&json!("nb"), &json!("store")));
    assert_eq!((&listed[1]["origin"], &listed[1]["line"]), (&json!("file"), &json!(5)));
    done(&agent, "connection down nb");

    let before = shown(&agent);
    assert!(before.contains("# store\n[connection.nb]") && before.contains("enabled = false"), "{before}");
    let agent = restart(&world, agent);
    assert_eq!(shown(&agent), before);
    assert!(attached());

    let sentence = refused(&agent, "connection delete nb");
    assert!(sentence.contains("route to 10.10.30.0/24 by nb could not stay in force"), "{sentence}");
    done(&agent, "route delete 10.10.30.0/24");
    assert_eq!(done(&agent, "connection delete nb"), "connection nb removed");
    assert_eq!(done(&agent, "customer-gateway delete nb"), "customer gateway nb removed");
    assert!(!attached());
    assert_eq!(fs::read_to_string(agent.config()).unwrap(), CONFIG);
    agent.stop().unwrap();
}

#[test]
fn stored_objects_that_an_edited_file_conflicts_with_are_set_aside_and_come_back() {
    let world = world();
    let agent = start(&world);
    done(&agent, "customer-gateway add nb --address 198.51.100.30");
    assert_eq!(with_input(&agent, &["connection", "add", "nb", "--from", "-"], NINGBO).0, Some(0));
    done(&agent, "route add 10.10.30.0/24 --next-hop nb");
    let all = routes(&agent);
    let edited = CONFIG.replace("max_connections = 3", "max_connections = 1");
    fs::write(agent.config(), &edited).unwrap();
    let answer = agent.json(&["reload"]).unwrap();
    assert!(answer["warnings"].to_string().contains("set aside: connection nb: 2 connections"), "{answer}");
    let check = |agent: &Agent| {
        let status = agent.status().unwrap();
        let set_aside = status["set_aside"].as_array().unwrap();
        let names: Vec<_> = set_aside.iter().map(|found| (found["kind"].clone(), found["name"].clone())).collect();
        assert_eq!(names, [(json!("connection"), json!("nb")), (json!("route"), json!("10.10.30.0/24 nb"))]);
        assert!(set_aside[0]["reason"].as_str().unwrap().contains("max_connections allows 1"), "{set_aside:?}");
        assert!(done(agent, "status").contains("set aside: connection nb: 2 connections"));
        assert_eq!(routes(agent), ["10.10.10.0/24 shanghai"]);
        assert!(done(agent, "connection show nb").contains("set aside"));
        shown(agent);
    };
    check(&agent);
    // It keeps no agent from starting.
    let agent = restart(&world, agent);
    check(&agent);
    fs::write(agent.config(), CONFIG).unwrap();
    done(&agent, "reload");
    assert_eq!(agent.status().unwrap()["set_aside"], json!([]));
    assert_eq!(routes(&agent), all);
    agent.stop().unwrap();
}

const MORE: &str = "\n[[route]]\ndestination = \"10.10.11.0/24\"\nnext_hop = \"shanghai\"\n";

#[test]
fn reload_that_nobody_confirms_ends_by_itself() {
    let world = world();
    let agent = start(&world);
    done(&agent, "route add 10.10.12.0/24 --next-hop shanghai");
    let before = routes(&agent);
    let edited = CONFIG.to_owned() + MORE;
    fs::write(agent.config(), &edited).unwrap();
    assert!(done(&agent, "reload --confirm 1s").ends_with("for 1 s, unless `vpnhub confirm` keeps it"));
    let status = agent.wait_for_status(WAIT, |status| status["confirmation"]["state"] == "reverted").unwrap();
    assert_eq!(status["routes"].as_array().map(Vec::len), Some(2));
    assert_eq!(routes(&agent), before);
    assert!(done(&agent, "status").contains("the last reload was not confirmed"));
    assert!(refused(&agent, "confirm").contains("nothing to confirm"));
    assert_eq!(fs::read_to_string(agent.config()).unwrap(), edited);

    // Nor does another agent take it, until it is edited or reloaded.
    let agent = restart(&world, agent);
    assert_eq!(routes(&agent), before);
    assert!(agent.log().contains("the last reload was not confirmed"), "{}", agent.log());
    done(&agent, "reload");
    assert_eq!(routes(&agent).len(), 3);
    assert_eq!(agent.status().unwrap()["confirmation"], Value::Null);
    let agent = restart(&world, agent);
    assert_eq!(routes(&agent).len(), 3);
    agent.stop().unwrap();
}

#[test]
fn confirmed_reload_stays() {
    let world = world();
    let agent = start(&world);
    fs::write(agent.config(), CONFIG.to_owned() + MORE).unwrap();
    done(&agent, "reload --confirm 1h");
    assert_eq!(agent.status().unwrap()["confirmation"]["state"], "pending");
    assert_eq!(done(&agent, "confirm"), "confirmed: the configuration stays in force");
    assert_eq!(agent.status().unwrap()["confirmation"], Value::Null);
    let agent = restart(&world, agent);
    assert_eq!(routes(&agent).len(), 2);
    agent.stop().unwrap();
}

/// What it was restarted for may be the new configuration.
#[test]
fn agent_that_restarts_before_a_confirmation_goes_back() {
    let world = world();
    let agent = start(&world);
    fs::write(agent.config(), CONFIG.to_owned() + MORE).unwrap();
    done(&agent, "reload --confirm 1h");
    assert_eq!(routes(&agent).len(), 2);
    let agent = restart(&world, agent);
    assert_eq!(routes(&agent).len(), 1);
    assert_eq!(agent.status().unwrap()["confirmation"]["state"], "reverted");
    // An edit is the operator's word.
    fs::write(agent.config(), CONFIG.to_owned() + MORE + "# Edited.\n").unwrap();
    let agent = restart(&world, agent);
    assert_eq!(routes(&agent).len(), 2);
    assert_eq!(agent.status().unwrap()["confirmation"], Value::Null);
    agent.stop().unwrap();
}

#[test]
fn changes_are_in_the_audit_log_and_backups_bring_them_back() {
    let world = world();
    let agent = start(&world);
    done(&agent, "route add 10.10.12.0/24 --next-hop shanghai --weight 7");
    done(&agent, "route set 10.10.12.0/24 --weight 8");
    done(&agent, "connection down shanghai");
    let backup = agent.config().with_file_name("backup");
    let command = format!("store backup {}", backup.display());
    done(&agent, &command);
    assert!(refused(&agent, &command).contains("File exists"));
    done(&agent, "route delete 10.10.12.0/24");
    let log = agent.json(&["store", "audit"]).unwrap();
    let entries: Vec<_> = log.as_array().unwrap().iter().map(|entry| (&entry["uid"], &entry["action"], &entry["before"], &entry["after"])).collect();
    let keys = |weight| json!({ "weight": weight, "publish": false });
    assert_eq!(
        entries,
        [
            (&json!(0), &json!("route add"), &Value::Null, &keys(7)),
            (&json!(0), &json!("route set"), &keys(7), &keys(8)),
            (&json!(0), &json!("connection down"), &json!("up"), &json!("down")),
            (&json!(0), &json!("route delete"), &keys(8), &Value::Null),
        ]
    );
    assert_eq!(log[3]["object"], "route to 10.10.12.0/24 by shanghai");
    let scratch = agent.stop_with(Signal::SIGTERM).unwrap();

    // Without an agent, and back in place.
    let instance = world[HUB].instance();
    let (state, other) = (scratch.file("state"), scratch.file("other-backup"));
    let offline = Command::new(agent_binary())
        .args(["--socket", "/nowhere", "store", "backup"])
        .arg(&other)
        .arg("--state")
        .arg(&state)
        .args(["--instance", &instance])
        .output()
        .unwrap();
    assert!(offline.status.success(), "{offline:?}");
    fs::copy(&backup, state.join(&instance).join("store.redb")).unwrap();
    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
    assert_eq!(routes(&agent).len(), 2);
    assert_eq!(agent.status().unwrap()["connections"][0]["state"], "admin_down");
    agent.stop().unwrap();
}

#[test]
fn included_files_are_read_in_the_order_of_their_names() {
    let world = world();
    let scratch = Scratch::new().unwrap();
    fs::create_dir(scratch.file("routes.d")).unwrap();
    let route = |n| format!("[[route]]\ndestination = \"10.10.{n}.0/24\"\nnext_hop = \"shanghai\"\n");
    fs::write(scratch.file("routes.d/20.toml"), route(12)).unwrap();
    fs::write(scratch.file("routes.d/10.toml"), route(11)).unwrap();
    fs::write(scratch.file("routes.d/.hidden.toml"), "x").unwrap();
    fs::write(scratch.file("vpnhub.toml"), format!("include = [\"routes.d/*.toml\"]\n{CONFIG}")).unwrap();
    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
    assert_eq!(routes(&agent), ["10.10.10.0/24 shanghai", "10.10.11.0/24 shanghai", "10.10.12.0/24 shanghai"]);
    assert!(refused(&agent, "route delete 10.10.12.0/24").contains("routes.d/20.toml line 1"));
    fs::write(agent.config().with_file_name("routes.d/30.toml"), route(13)).unwrap();
    assert!(done(&agent, "reload").contains("route to 10.10.13.0/24 by shanghai added"));
    fs::write(agent.config().with_file_name("routes.d/30.toml"), "x = 1\n").unwrap();
    assert!(refused(&agent, "reload").contains("routes.d/30.toml:1:1: error: unknown key \"x\""));
    agent.stop().unwrap();
}

/// Has a thread with mounts of its own do it.
fn with_own_mounts(work: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        work();
    });
    thread.join().unwrap();
}

fn tmpfs(at: &Path, options: &str) {
    fs::create_dir_all(at).unwrap();
    mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
}

fn remount_read_only(at: &Path) {
    let none: Option<&str> = None;
    mount(none, at, none, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none).unwrap();
}

#[test]
fn configuration_on_a_read_only_file_system_is_all_that_is_needed() {
    with_own_mounts(|| {
        let world = world();
        let scratch = Scratch::new().unwrap();
        let etc = scratch.file("etc");
        tmpfs(&etc, "size=1m,mode=700");
        fs::write(etc.join("vpnhub.toml"), CONFIG).unwrap();
        std::os::unix::fs::symlink(etc.join("vpnhub.toml"), scratch.file("vpnhub.toml")).unwrap();
        remount_read_only(&etc);
        let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
        done(&agent, "route add 10.10.12.0/24 --next-hop shanghai");
        done(&agent, "connection down shanghai");
        done(&agent, "reload");
        let agent = restart(&world, agent);
        assert_eq!(routes(&agent).len(), 2);
        agent.stop().unwrap();
        umount2(&etc, MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn agent_starts_with_a_store_that_cannot_be_written_and_refuses_changes() {
    with_own_mounts(|| {
        let world = world();
        let scratch = Scratch::new().unwrap();
        let state = scratch.file("state");
        tmpfs(&state, "size=8m,mode=700");
        fs::write(scratch.file("vpnhub.toml"), CONFIG).unwrap();
        let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
        done(&agent, "route add 10.10.12.0/24 --next-hop shanghai");
        let scratch = agent.kill().unwrap();
        remount_read_only(&state);
        let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
        assert_eq!(routes(&agent).len(), 2);
        assert!(agent.log().contains("changes are refused: Read-only file system"), "{}", agent.log());
        let sentence = refused(&agent, "route add 10.10.13.0/24 --next-hop shanghai");
        assert!(sentence.contains("Read-only file system") && sentence.contains("name another --state"), "{sentence}");
        assert_eq!(sentence.lines().count(), 1);
        // The files are read all the same.
        fs::write(agent.config(), CONFIG.to_owned() + MORE).unwrap();
        done(&agent, "reload");
        assert_eq!(routes(&agent).len(), 3);
        agent.stop().unwrap();
        umount2(&state, MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn full_disk_refuses_changes_until_there_is_room() {
    with_own_mounts(|| {
        let world = world();
        let scratch = Scratch::new().unwrap();
        let state = scratch.file("state");
        tmpfs(&state, "size=4m,mode=700");
        fs::write(scratch.file("vpnhub.toml"), CONFIG).unwrap();
        let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
        done(&agent, "route add 10.10.12.0/24 --next-hop shanghai");
        let filler = state.join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        drop(file);
        // The file has some room of its own; the audit log fills it.
        let mut made = 0;
        let sentence = loop {
            let (code, sentence) = cli(&agent, &format!("route set 10.10.12.0/24 --weight {}", made % 100));
            if code == Some(1) {
                break sentence;
            }
            made += 1;
            assert!(made < 20_000, "it is never full");
        };
        assert!(sentence.contains("make room on its file system") && sentence.lines().count() == 1, "{sentence}");
        let weight = |agent: &Agent| agent.json(&["route", "show", "10.10.12.0/24"]).unwrap()[0]["weight"].clone();
        let expected = json!((made - 1) % 100);
        assert_eq!(weight(&agent), expected);
        let agent = restart(&world, agent);
        assert_eq!(weight(&agent), expected);
        fs::remove_file(&filler).unwrap();
        done(&agent, "route set 10.10.12.0/24 --publish true");
        let agent = restart(&world, agent);
        assert_eq!(agent.json(&["route", "show", "10.10.12.0/24"]).unwrap()[0]["publish"], true);
        agent.stop().unwrap();
        umount2(&state, MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn damaged_store_keeps_the_agent_from_starting_with_the_way_out() {
    let world = world();
    let agent = start(&world);
    done(&agent, "route add 10.10.12.0/24 --next-hop shanghai");
    let scratch = agent.stop_with(Signal::SIGTERM).unwrap();
    let file = scratch.file("state").join(world[HUB].instance()).join("store.redb");
    let good = fs::read(&file).unwrap();
    fs::write(&file, [&good[..good.len() / 2], &vec![0xa5; good.len() - good.len() / 2]].concat()).unwrap();
    let mut command = world[HUB].command(agent_binary());
    command.arg("--socket").arg(scratch.file("other.sock")).arg("run").arg("--config").arg(scratch.file("vpnhub.toml"));
    command.arg("--state").arg(scratch.file("state")).args(["--instance", &world[HUB].instance()]);
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = told.lines().last().unwrap_or_default();
    assert!(output.status.code() == Some(1) && last.contains("is damaged"), "{told}");
    assert!(last.contains("copy a backup over it, or move it away"), "{told}");
    fs::write(&file, good).unwrap();
    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
    assert_eq!(routes(&agent).len(), 2);
    agent.stop().unwrap();
}
