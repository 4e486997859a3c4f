//! The exit of the agent, and its next start.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use hub_tests::lab::{
    self, AgentCommand, HANGZHOU, HUB, HubConfig, Options, Ping, Rig, SHANGHAI, World, agent_binary, reach, retry,
};
use hub_userspace::datapath::{Claim, Instance};
use nix::sys::signal::Signal;

use crate::{SITES, traces, warm_hub};

#[test]
fn exit_by_sigterm_leaves_datapath() {
    goes_on(Signal::SIGTERM);
}

#[test]
fn exit_by_sigint_leaves_datapath() {
    goes_on(Signal::SIGINT);
}

/// Runs `cleanup` without an agent. Returns the exit code, stdout, and stderr.
fn cleanup(world: &World, output: &str) -> (Option<i32>, String, String) {
    let mut command = world[HUB].command(agent_binary());
    command.args(["--output", output, "cleanup", "--instance", &world[HUB].instance()]);
    let output = command.output().unwrap();
    let [said, complained] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), said.trim().to_owned(), complained.trim().to_owned())
}

/// Removes everything that agents have left.
fn clean_up(world: &World) {
    let (code, _, complaint) = cleanup(world, "table");
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    assert_eq!(traces(&world[HUB]), "");
}

fn goes_on(signal: Signal) {
    let rig = warm_hub(&HubConfig::offices(&SITES));
    let Rig { agent, world } = rig;
    let found = traces(&world[HUB]);
    for kind in ["route show", "-6 route show", "link: "] {
        assert!(found.contains(kind), "no {kind:?} among what the agent has made:\n{found}");
    }
    let socket = agent.socket();
    assert!(socket.exists());
    let scratch = agent.stop_with(signal).unwrap();
    assert!(!socket.exists(), "the socket's file stays");
    assert!(scratch.file("vpnhub.toml").exists());
    let lines = |text: &str| text.lines().filter(|line| !line.contains("neigh")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&traces(&world[HUB])), lines(&found), "programs and routes stay");
    for to in HANGZHOU.hosts() {
        reach(&world["shanghai"], to).unwrap();
    }
    clean_up(&world);
    // Nothing forwards any more.
    let report = Ping::new(HANGZHOU.host4().into()).timeout(Duration::from_millis(100)).run(&world["shanghai"]);
    assert_eq!(report.unwrap().received, 0);
}

#[test]
fn foreign_routes_rules_and_neighbours_stay() {
    let world = World::three_offices(&Options::default().slow_path(true)).unwrap();
    let others = "route add 10.10.10.0/24 via 169.254.10.2 dev tun-sh metric 50 proto static\n\
                  route add 203.0.113.0/24 via 192.168.0.10 dev vpc0 proto bird\n\
                  rule add iif tun-hz lookup 99 pref 900\n\
                  neigh add 192.168.0.99 lladdr 02:00:00:00:00:99 dev vpc0 nud permanent";
    world[HUB].batch(others).unwrap();
    let show = |world: &World| {
        ["route show table all", "-6 route show table all", "rule show", "-6 rule show", "neigh show nud permanent"]
            .map(|command| world[HUB].ip(command).unwrap())
    };
    // Addresses bring their routes after duplicate address detection.
    retry("an address stays tentative", || Ok(world[HUB].ip("-6 addr show tentative")?.is_empty().then_some(())))
        .unwrap();
    let before = show(&world);
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), &[]).unwrap();
    rig.warm_up(&SITES).unwrap();
    let Rig { agent, world } = rig;
    agent.stop().unwrap();
    clean_up(&world);
    assert_eq!(show(&world), before);
}

#[test]
fn crashed_agent_leaves_datapath_to_successor() {
    let Rig { agent, world } = warm_hub(&HubConfig::offices(&SITES).unpublished());
    // The agent does not wait until the kernel has everything.
    let before = retry("not every peer has its stand-in", || {
        let traces = traces(&world[HUB]);
        Ok((traces.matches("fe80::7670:6e68:7562").count() >= SITES.len()).then_some(traces))
    })
    .unwrap();
    let scratch = agent.kill().unwrap();
    let left = traces(&world[HUB]);
    for kind in ["link: ", "route show", "-6 route show"] {
        assert!(left.contains(kind), "no {kind:?} among what is left:\n{left}");
    }
    for to in HANGZHOU.hosts() {
        reach(&world["shanghai"], to).unwrap();
    }

    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
    for to in HANGZHOU.hosts() {
        reach(&world["shanghai"], to).unwrap();
    }
    let counted = agent.status().unwrap();
    assert!(lab::ping(&world["shanghai"], HANGZHOU.host4().into(), 3).unwrap().complete());
    assert_eq!(agent.status().unwrap().since(&counted, "hangzhou", "tx_packets"), 3);
    let rules = |text: &str| {
        let mut rules: Vec<String> = text.lines().filter(|line| !line.contains("link: ")).map(str::to_owned).collect();
        rules.sort_unstable();
        rules
    };
    assert_eq!(rules(&traces(&world[HUB])), rules(&before), "nothing is there twice");
    agent.stop().unwrap();
    clean_up(&world);
}

#[test]
fn unneeded_leftovers_of_crash_are_removed_at_start() {
    let Rig { agent, world } = warm_hub(&HubConfig::offices(&SITES));
    let scratch = agent.kill().unwrap();
    fs::write(scratch.file("vpnhub.toml"), HubConfig::offices(&[SHANGHAI, HANGZHOU]).to_string()).unwrap();
    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
    let found = traces(&world[HUB]);
    for gone in ["10.10.30.0/24", "fd00:10:10:30::/64", "tun-nb"] {
        assert!(!found.contains(gone), "{gone} is still there:\n{found}");
    }
    agent.stop().unwrap();
    clean_up(&world);
}

#[test]
fn cleanup_removes_crash_leftovers_unless_agent_runs() {
    let Rig { agent, world } = warm_hub(&HubConfig::offices(&SITES));
    let (code, said, complaint) = cleanup(&world, "table");
    assert_eq!((code, said.as_str()), (Some(1), ""));
    assert!(complaint.starts_with("vpnhub: another agent runs in this network namespace"), "{complaint}");
    for to in HANGZHOU.hosts() {
        reach(&world["shanghai"], to).unwrap();
    }
    agent.kill().unwrap();
    assert!(traces(&world[HUB]).contains("route show"));
    let (code, said, complaint) = cleanup(&world, "table");
    assert_eq!((code, complaint.as_str()), (Some(0), ""));
    let count = said.strip_prefix("removed: ").and_then(|rest| {
        // Four interfaces, each with XDP and TC.
        rest.strip_suffix(" routes, rules and neighbours; 8 programs on interfaces; the nftables table")
    });
    assert!(count.and_then(|count| count.parse::<u32>().ok()).is_some_and(|count| count >= 6), "{said}");
    assert_eq!(traces(&world[HUB]), "");
    assert_eq!(cleanup(&world, "table").1, "nothing to remove");
    assert_eq!(
        cleanup(&world, "json").1,
        r#"{"interfaces":[],"routes":0,"policies":0,"programs":0,"table":false,"receive_queues":0}"#
    );
}

/// Tunnels may be up by then.
#[test]
fn start_that_fails_leaves_sites_blocked() {
    let world = World::three_offices(&Options::default().slow_path(true)).unwrap();
    let hub = &world[HUB];
    for site in [SHANGHAI, HANGZHOU] {
        let (network, peer, device) = (site.network4(), site.peer4(0), site.hub_device(0));
        hub.ip(&format!("route add {network} via {peer} dev {device}")).unwrap();
    }
    let reaches = || {
        let ping = Ping::new(HANGZHOU.host4().into()).timeout(Duration::from_millis(500));
        ping.run(&world["shanghai"]).unwrap().received > 0
    };
    assert!(reaches(), "the kernel forwards by its own routes");

    // This makes the directory, and mounts bpffs where it is missing.
    let instance: Instance = hub.instance().parse().unwrap();
    hub.enter(|| drop(Claim::new(&instance).unwrap())).unwrap();
    let obstacle = Obstacle::put(hub.pins().join("tables-new"));
    let command = AgentCommand::new(agent_binary());
    let fail = || {
        let error = command.start_with(hub, &HubConfig::offices(&SITES).to_string()).unwrap_err().to_string();
        assert!(error.contains("tables-new") && error.contains("the nftables table inet vpnhub stays"), "{error}");
        assert!(!reaches());
    };
    fail();
    // The table without its rules is no protection.
    assert!(hub.command("nft").args(["flush", "table", "inet", "vpnhub"]).status().unwrap().success());
    assert!(reaches());
    fail();
    assert_eq!(traces(hub).lines().filter(|line| !line.starts_with("link: ")).collect::<Vec<_>>(), [""; 0]);
    drop(obstacle);
    assert_eq!(cleanup(&world, "table").1, "removed: the nftables table");
    assert!(reaches());
}

/// A mount where the agent wants to put its tables.
struct Obstacle(PathBuf);

impl Obstacle {
    fn put(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "obstacle"]).arg(&path).status().unwrap();
        assert!(mounted.success());
        Self(path)
    }
}

impl Drop for Obstacle {
    fn drop(&mut self) {
        let removed = Command::new("umount").arg(&self.0).status();
        assert!(removed.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}
