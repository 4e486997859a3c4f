//! Reasons for which the agent refuses to start: one sentence, exit code 1, and no change to the host.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Output;
use std::{fs, io};

use hub_tests::lab::{HUB, HubConfig, Namespace, Options, PlaceSpec, Rig, Scratch, World, agent_binary, reach};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use crate::{SITES, failure, stderr, vpnhub};

/// The user and group "nobody", the same in every distribution.
const NOBODY: u32 = 65_534;

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs `vpnhub --socket … run --config …` with files of a directory: it must exit by itself.
fn run(place: &Namespace, scratch: &Scratch) -> Output {
    let (socket, config) = (scratch.file("other.sock"), scratch.file("vpnhub.toml"));
    let state = scratch.file("other-state");
    vpnhub(place, &["--socket", path(&socket), "run", "--config", path(&config), "--state", path(&state)])
}

fn assert_untouched(hub: &Namespace) {
    assert!(!hub.ip("-o link show").unwrap().contains("xdp"));
    assert!(!hub.ip("rule show").unwrap().contains("1180"));
    assert_eq!(hub.ip("route show table all proto 118").unwrap(), "");
}

#[test]
fn second_agent_on_same_socket_is_rejected() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    let (socket, config) = (rig.agent.socket(), rig.agent.config());
    let state = socket.with_file_name("other-state");
    let second = vpnhub(
        &rig.world[HUB],
        &["--socket", path(&socket), "run", "--config", path(&config), "--state", path(&state)],
    );
    let message = failure(&second);
    assert!(message.contains(&format!("another agent answers on {}", socket.display())), "{message}");
    // The first agent is unaffected.
    assert!(socket.exists());
    reach(&rig.world["shanghai"], SITES[1].host4().into()).unwrap();
    rig.stop().unwrap();
}

#[test]
fn second_agent_in_same_namespace_is_rejected() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    let scratch = Scratch::new().unwrap();
    fs::copy(rig.agent.config(), scratch.file("vpnhub.toml")).unwrap();
    let message = failure(&run(&rig.world[HUB], &scratch));
    assert!(message.contains("another agent runs in this network namespace"), "{message}");
    assert!(!scratch.file("other.sock").exists(), "its socket stays behind");
    rig.warm_up(&SITES).unwrap();
    let routes = rig.world[HUB].ip("route show table all proto 118").unwrap();
    assert!(routes.contains("10.10.10.0/24"), "{routes}");
    rig.stop().unwrap();
}

#[test]
fn unprivileged_user_cannot_hold_lock_or_read_agent() {
    let world = World::three_offices(&Options::default()).unwrap();
    // The lock's former name, which any user could take.
    let taken = world[HUB].enter(|| {
        let address = SocketAddr::from_abstract_name("vpnhub/agent").unwrap();
        UnixDatagram::bind_addr(&address).unwrap()
    });
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), &[]).unwrap();
    for path in ["/run/vpnhub/lock".to_owned(), format!("/proc/{}/maps", rig.agent.pid())] {
        let output = as_nobody(&rig.world[HUB], Path::new("head"), &["-c", "1", &path]);
        assert!(stderr(&output).contains("Permission denied"), "{path}: {}", stderr(&output));
    }
    let limits = fs::read_to_string(format!("/proc/{}/limits", rig.agent.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    drop(taken);
    rig.stop().unwrap();
}

/// Switches to the user nobody after entering the place.
fn as_nobody(place: &Namespace, binary: &Path, args: &[&str]) -> Output {
    let mut command = place.command(binary);
    let become_nobody = || {
        setgroups(&[])?;
        setgid(Gid::from_raw(NOBODY))?;
        setuid(Uid::from_raw(NOBODY)).map_err(io::Error::from)
    };
    // SAFETY: between fork and exec; the three are bare system calls and allocate nothing.
    unsafe { command.pre_exec(become_nobody) };
    command.args(args).output().unwrap()
}

#[test]
fn run_without_privileges_reports_remedy() {
    let world = World::three_offices(&Options::default()).unwrap();
    let scratch = Scratch::new().unwrap();
    // In a directory to which nobody has access.
    let binary = scratch.executable(agent_binary(), "vpnhub").unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let config = scratch.file("vpnhub.toml");
    fs::write(&config, HubConfig::offices(&SITES).to_string()).unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let socket = scratch.file("vpnhub.sock");
    let state = scratch.file("state");
    let run = ["--socket", path(&socket), "run", "--config", path(&config), "--state", path(&state)];

    let message = failure(&as_nobody(&world[HUB], &binary, &run));
    assert!(message.contains("run as root"), "{message}");
    assert!(!socket.exists());
    assert_untouched(&world[HUB]);

    // Nor may it create its socket in any directory.
    let message = failure(&as_nobody(&world[HUB], &binary, &["run", "--config", path(&config)]));
    assert!(message.contains("/run/vpnhub"), "{message}");

    // Checking a file needs no rights; an unreadable file is reported as such.
    let checked = as_nobody(&world[HUB], &binary, &["check", "--config", path(&config)]);
    assert_eq!(checked.status.code(), Some(0), "{}", stderr(&checked));
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let message = failure(&as_nobody(&world[HUB], &binary, &run));
    assert!(message.contains("no permission to read the file"), "{message}");
}

#[test]
fn unprivileged_status_query_is_rejected() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    let socket = rig.agent.socket();
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let scratch = Scratch::new().unwrap();
    let binary = scratch.executable(agent_binary(), "vpnhub").unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for command in ["status", "diagnose"] {
        let message = failure(&as_nobody(&rig.world[HUB], &binary, &["--socket", path(&socket), command]));
        assert!(message.contains("no access to") && message.contains(path(&socket)), "{message}");
    }
    rig.stop().unwrap();
}

#[test]
fn missing_configuration_is_reported() {
    let world = World::builder().place(PlaceSpec::new("host")).build().unwrap();
    let scratch = Scratch::new().unwrap();
    let message = failure(&run(&world["host"], &scratch));
    assert!(message.contains("vpnhub.toml: error: there is no such file"), "{message}");
    fs::create_dir(scratch.file("vpnhub.toml")).unwrap();
    let message = failure(&run(&world["host"], &scratch));
    assert!(message.contains("vpnhub.toml: error: this is a directory"), "{message}");
    assert!(!scratch.file("other.sock").exists());
}

#[test]
fn invalid_configuration_reports_all_mistakes() {
    let world = World::three_offices(&Options::default()).unwrap();
    let scratch = Scratch::new().unwrap();
    let mut config = HubConfig::offices(&SITES);
    config.routes[0].weight = 200;
    config.routes[1].next_hop = "shangai".into();
    config.connection("ningbo").interface = "a-name-that-is-too-long".into();
    fs::write(scratch.file("vpnhub.toml"), config.to_string()).unwrap();
    let output = run(&world[HUB], &scratch);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    for mistake in ["200", "shangai", "a-name-that-is-too-long"] {
        let lines = message.lines().filter(|line| line.contains(mistake) && line.contains("vpnhub.toml:"));
        assert_eq!(lines.count(), 1, "{mistake}:\n{message}");
    }
    assert!(!message.contains("backtrace") && !message.contains("panicked"), "{message}");
    assert_untouched(&world[HUB]);
    assert!(!scratch.file("other.sock").exists());
}

#[test]
fn commands_without_agent_report_missing_agent() {
    let world = World::builder().place(PlaceSpec::new("host")).build().unwrap();
    let scratch = Scratch::new().unwrap();
    let socket = scratch.file("vpnhub.sock");
    for command in [&["status"][..], &["route", "list"], &["--output", "json", "status"]] {
        let args = [&["--socket", path(&socket)], command].concat();
        let message = failure(&vpnhub(&world["host"], &args));
        assert!(message.contains(&format!("no agent answers on {}", socket.display())), "{message}");
    }
    // A crashed agent left its file.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let message = failure(&vpnhub(&world["host"], &["--socket", path(&socket), "status"]));
    assert!(message.contains("no agent answers on"), "{message}");
}

#[test]
fn bad_usage_exits_with_2() {
    let world = World::builder().place(PlaceSpec::new("host")).build().unwrap();
    for args in [&["frobnicate"][..], &["run"], &["--output", "xml", "status"], &["status", "extra"], &[]] {
        let output = vpnhub(&world["host"], args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("--help"), "{args:?}: {}", stderr(&output));
    }
    for args in [&["--help"][..], &["--version"], &["run", "--help"]] {
        assert_eq!(vpnhub(&world["host"], args).status.code(), Some(0), "{args:?}");
    }
}
