//! Hosts with read-only storage, and damaged stores.

use std::{fs, io::Write as _, path::Path, thread};

use hub_tests::lab::{Agent, AgentCommand, HUB, Scratch, agent_binary};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
};
use serde_json::json;

use super::{CONFIG, MORE, cli, done, refused, restart, routes, start, world};

/// Runs `work` on a thread with its own mounts.
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

/// The store's problem in the status, the same in JSON and in the table.
fn store_problem(agent: &Agent) -> Option<String> {
    let status = agent.status().unwrap();
    let (path, problem) = (status["store"]["path"].as_str().unwrap(), status["store"]["problem"].as_str());
    assert!(path.ends_with("/store.redb"), "{path}");
    let table = done(agent, "status");
    match problem {
        Some(problem) => assert!(table.contains(&format!("store {path}: {problem}; changes are refused")), "{table}"),
        None => assert!(!table.contains("store.redb"), "{table}"),
    }
    problem.map(str::to_owned)
}

#[test]
fn agent_with_read_only_etc_accepts_changes() {
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
fn agent_with_read_only_store_starts_and_rejects_changes() {
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
        let problem = store_problem(&agent).unwrap();
        assert!(problem.contains("Read-only file system") && problem.contains("restart the agent"), "{problem}");
        // The files are still read.
        fs::write(agent.config(), CONFIG.to_owned() + MORE).unwrap();
        done(&agent, "reload");
        assert_eq!(routes(&agent).len(), 3);
        agent.stop().unwrap();
        umount2(&state, MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn full_disk_rejects_changes_until_space_is_free() {
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
        assert_eq!(store_problem(&agent), None);
        // The file has some room of its own, which the audit log fills.
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
        let problem = store_problem(&agent).unwrap();
        assert!(problem.starts_with("cannot be ") && problem.contains("make room on its file system"), "{problem}");
        let weight = |agent: &Agent| agent.json(&["route", "show", "10.10.12.0/24"]).unwrap()[0]["weight"].clone();
        let expected = json!((made - 1) % 100);
        assert_eq!(weight(&agent), expected);
        let agent = restart(&world, agent);
        assert_eq!(weight(&agent), expected);
        fs::remove_file(&filler).unwrap();
        done(&agent, "route set 10.10.12.0/24 --publish true");
        assert_eq!(store_problem(&agent), None);
        let agent = restart(&world, agent);
        assert_eq!(agent.json(&["route", "show", "10.10.12.0/24"]).unwrap()[0]["publish"], true);
        agent.stop().unwrap();
        umount2(&state, MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn damaged_store_prevents_start_with_remedy() {
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
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = text.lines().last().unwrap_or_default();
    assert!(output.status.code() == Some(1) && last.contains("is damaged"), "{text}");
    assert!(last.contains("copy a backup over it, or move it away"), "{text}");
    fs::write(&file, good).unwrap();
    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
    assert_eq!(routes(&agent).len(), 2);
    agent.stop().unwrap();
}
