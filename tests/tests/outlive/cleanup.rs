//! A datapath without an agent can be read and removed; two datapaths do not interfere.

use std::fs;
use std::process::Output;

use hub_tests::lab::{
    AgentCommand, FdStore, HANGZHOU, HUB, HubConfig, Options, Ping, Rig, SHANGHAI, World, agent_binary, reach, retry,
};
use hub_userspace::datapath::{Instance, running};

use crate::{PORT, SITES, WAIT, Wire, probe, warm_hub};

fn cleanup(world: &World) -> Output {
    let mut command = world[HUB].command(agent_binary());
    command.args(["cleanup", "--instance", &world[HUB].instance()]).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).trim().to_owned()
}

fn forwards(world: &World) -> bool {
    let ping = Ping::new(HANGZHOU.host4().into()).timeout(std::time::Duration::from_millis(200));
    ping.run(&world["shanghai"]).unwrap().received > 0
}

#[test]
fn cleanup_without_agent_removes_whole_datapath() {
    let Rig { agent, world } = warm_hub();
    let pins = world[HUB].pins();
    assert!(pins.join("counters").exists(), "{}", pins.display());
    let refused = cleanup(&world);
    assert!(!refused.status.success() && said(&refused).contains("another agent runs"), "{}", said(&refused));
    agent.kill().unwrap();
    assert!(forwards(&world));
    let done = cleanup(&world);
    assert!(done.status.success(), "{}", said(&done));
    // Four interfaces, each with XDP and TC.
    assert!(said(&done).contains("; 8 programs on interfaces"), "{}", said(&done));
    assert!(!pins.exists());
    let links = world[HUB].ip("-d link show").unwrap();
    assert!(!links.contains("xdp"), "{links}");
    assert!(!forwards(&world), "no TC program is left either");
    assert_eq!(said(&cleanup(&world)), "nothing to remove");
}

#[test]
fn datapath_without_agent_is_readable() {
    let Rig { agent, world } = warm_hub();
    let (sender, receiver) = (Wire::open(&world, &SHANGHAI, 0), Wire::open(&world, &HANGZHOU, 0));
    let before = agent.status().unwrap();
    agent.kill().unwrap();
    for port in 1..=20 {
        sender.send(probe(SHANGHAI.host4().into(), HANGZHOU.host4().into(), (port, PORT)));
        assert_eq!(receiver.receive(WAIT), Some((port, PORT)));
    }
    let instance: Instance = world[HUB].instance().parse().unwrap();
    let found = world[HUB].enter(|| running(&instance)).unwrap().unwrap().unwrap();
    let mut interfaces: Vec<(&str, &str)> =
        found.interfaces.iter().map(|interface| (interface.name.as_deref().unwrap(), interface.mode)).collect();
    interfaces.sort_unstable();
    assert_eq!(interfaces, ["tun-hz", "tun-nb", "tun-sh", "vpc0"].map(|name| (name, "xdp-native")));
    let grown = |name: &str| {
        let counters = &found.connections[name].counters;
        let since = |path| before.counter(name, path);
        (counters.rx_packets - since("rx_packets"), counters.tx_packets - since("tx_packets"))
    };
    assert_eq!((grown("shanghai"), grown("hangzhou"), grown("ningbo")), ((20, 0), (0, 20), (0, 0)));
    let state = found.connections["shanghai"].state.unwrap();
    assert_eq!(state.state, hub_userspace::connection::state::State::Up);
}

#[test]
fn cleanup_removes_table_once_systemd_closes_its_socket() {
    let world = World::three_offices(&Options::default()).unwrap();
    let store = FdStore::open().unwrap();
    let config = HubConfig::offices(&SITES).to_string();
    let command = AgentCommand::new(agent_binary());
    let agent = store.command(command.clone()).start_with(&world[HUB], &config).unwrap();
    if agent.log().contains("has no owner") {
        println!("tables of this kernel have no owner: nothing to test");
        return agent.stop().unwrap();
    }
    assert_eq!(store.name().as_deref(), Some("vpnhub-nftables"));
    // An agent that stops before it has resolved the neighbours leaves them unknown, and the lab's hub has `ip_forward
    // = 0`.
    retry("not forwarded yet", || Ok(forwards(&world).then_some(()))).unwrap();
    let files = agent.stop_with(nix::sys::signal::Signal::SIGTERM).unwrap();
    let before = world[HUB].ip("route show").unwrap();
    let refused = cleanup(&world);
    let text = said(&refused);
    assert!(!refused.status.success() && text.contains("is owned by another process, of netlink port"), "{text}");
    assert!(text.contains("systemctl clean --what=fdstore vpnhub"), "{text}");
    assert_eq!(world[HUB].ip("route show").unwrap(), before, "nothing is removed");
    assert!(forwards(&world));
    // An agent other than the unit's, for example one started by hand.
    let error = command.start_in(&world[HUB], files).unwrap_err().to_string();
    assert!(error.contains("is owned by another process, of netlink port"), "{error}");
    assert!(forwards(&world), "the datapath goes on");
    store.clean();
    let done = cleanup(&world);
    assert!(done.status.success(), "{}", said(&done));
    assert!(!forwards(&world));

    // It leaves nothing in the store.
    let head = if config.contains("[dataplane]") { "" } else { "[dataplane]\n" };
    let config = format!("{head}{config}").replace("[dataplane]\n", "[dataplane]\non_stop = \"detach\"\n");
    let agent = store.command(command).start_with(&world[HUB], &config).unwrap();
    assert!(store.name().is_some());
    agent.stop().unwrap();
    retry("still held", || Ok(store.name().is_none().then_some(()))).unwrap();
    assert_eq!(said(&cleanup(&world)), "nothing to remove");
}

#[test]
fn instances_on_one_host_are_independent() {
    let [one, other] = [(); 2].map(|()| warm_hub());
    one.agent.kill().unwrap();
    assert!(cleanup(&one.world).status.success());
    assert!(!forwards(&one.world) && forwards(&other.world));
    other.agent.status().unwrap();
    let Rig { agent, world } = other;
    agent.kill().unwrap();
    // The same name in another network namespace, while the first datapath runs.
    let refused = one.world[HUB]
        .command(agent_binary())
        .args(["--socket", "/nonexistent/vpnhub.sock", "cleanup", "--instance", "Not valid"])
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    let taken = start_as(&one.world, &world[HUB].instance());
    assert!(taken.contains("is in another network namespace"), "{taken}");
    assert!(forwards(&world));
    // And another name in the same namespace.
    let taken = start_as(&world, &format!("{}-2", world[HUB].instance()));
    assert!(taken.contains("is in this network namespace"), "{taken}");
    assert!(!world[HUB].pins().with_file_name(format!("{}-2", world[HUB].instance())).exists());
    assert!(forwards(&world));
    assert!(cleanup(&world).status.success());
}

/// The reason why an agent of this instance does not start.
fn start_as(world: &World, instance: &str) -> String {
    let scratch = hub_tests::lab::Scratch::new().unwrap();
    fs::write(scratch.file("vpnhub.toml"), HubConfig::offices(&SITES).to_string()).unwrap();
    let mut command = world[HUB].command(agent_binary());
    command.arg("--socket").arg(scratch.file("vpnhub.sock")).arg("run").arg("--config");
    command.arg(scratch.file("vpnhub.toml")).args(["--instance", instance]);
    command.arg("--state").arg(scratch.file("state"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    said(&output)
}

#[test]
fn dropped_world_leaves_no_pins() {
    let Rig { agent, world } = warm_hub();
    let pins = world[HUB].pins();
    agent.stop().unwrap();
    assert!(pins.exists());
    for to in HANGZHOU.hosts() {
        reach(&world["shanghai"], to).unwrap();
    }
    drop(world);
    assert!(!pins.exists());
}
