//! Interfaces that change while there is no agent.

use hub_tests::lab::{HANGZHOU, HUB, HubConfig, NINGBO, Rig, SHANGHAI, Site, World, reach};

use crate::{ENDS, SITES, start_again, warm_hub};

/// Recreates the link to Ningbo under its old index.
fn recreate(world: &World) {
    let hub = &world[HUB];
    let index = hub.ifindex("tun-nb").unwrap();
    hub.ip("link del tun-nb").unwrap();
    let (device, netns) = (Site::device(0), world["ningbo"].name());
    hub.ip(&format!("link add tun-nb index {index} mtu 1400 type veth peer name {device} mtu 1400 netns {netns}"))
        .unwrap();
    for (place, device, gro) in [(HUB, "tun-nb", false), ("ningbo", &device, true)] {
        world[place].disable_offloads(device).unwrap();
        world[place].set_gro(device, gro).unwrap();
    }
    let lines = format!(
        "addr add {}/30 dev tun-nb\naddr add fe80::1/64 dev tun-nb nodad\nlink set dev tun-nb up",
        NINGBO.hub4(0)
    );
    hub.batch(&lines).unwrap();
    let (host4, host6) = (NINGBO.host4(), NINGBO.host6());
    let lines = format!(
        "addr add {}/30 dev {device}\naddr add fe80::2/64 dev {device} nodad\nlink set dev {device} up\n\
         route replace default via {} dev {device} src {host4}\nroute replace ::/0 via fe80::1 dev {device} src {host6}",
        NINGBO.peer4(0),
        NINGBO.hub4(0),
    );
    world["ningbo"].batch(&lines).unwrap();
    assert_eq!(hub.ifindex("tun-nb").unwrap(), index);
}

#[test]
fn recreated_interface_with_same_index_is_attached() {
    for end in ENDS {
        let Rig { agent, world } = warm_hub();
        let scratch = end.end(agent);
        recreate(&world);
        let agent = start_again(&world, scratch);
        let status = agent.status().unwrap();
        assert_eq!(status.connection("ningbo")["attach"], "xdp-native", "{end:?}");
        for to in NINGBO.hosts() {
            reach(&world["shanghai"], to).unwrap();
        }
        agent.stop().unwrap();
    }
}

#[test]
fn unconfigured_interface_is_detached_at_start() {
    let Rig { agent, world } = warm_hub();
    let scratch = agent.kill().unwrap();
    std::fs::write(scratch.file("vpnhub.toml"), HubConfig::offices(&[SHANGHAI, HANGZHOU]).to_string()).unwrap();
    let agent = start_again(&world, scratch);
    let links = world[HUB].ip("-o link show").unwrap();
    let has_xdp =
        |device: &str| links.lines().any(|line| line.contains(&format!(" {device}@")) && line.contains("xdp"));
    assert!(has_xdp("tun-sh") && has_xdp("tun-hz") && !has_xdp("tun-nb"), "{links}");
    let pins = std::fs::read_dir(world[HUB].pins()).unwrap();
    let index = world[HUB].ifindex("tun-nb").unwrap();
    let left = pins.flatten().filter(|pin| pin.file_name().to_str().unwrap().ends_with(&format!("-{index}")));
    assert_eq!(left.count(), 0);
    agent.stop().unwrap();
}

/// An interface that one agent attaches in another way than the one before.
#[test]
fn attach_mode_change_replaces_previous_program() {
    let Rig { mut agent, world } = warm_hub();
    for (asked, attach) in
        [("tc", "tc"), ("generic", "xdp-generic"), ("auto", "xdp-native"), ("generic", "xdp-generic"), ("tc", "tc")]
    {
        let scratch = agent.kill().unwrap();
        let command = hub_tests::lab::AgentCommand::new(hub_tests::lab::agent_binary());
        agent = command.argument("--attach").argument(asked).start_in(&world[HUB], scratch).unwrap();
        let status = agent.status().unwrap();
        for site in &SITES {
            assert_eq!(status.connection(&site.place)["attach"], attach, "{asked}");
        }
        let links = world[HUB].ip("-o link show").unwrap();
        assert_eq!(links.contains("xdpgeneric"), asked == "generic", "{links}");
        if asked != "generic" {
            // Into a veth pair, generic XDP needs more than the lab's links provide.
            reach(&world["shanghai"], HANGZHOU.host4().into()).unwrap();
        }
    }
    agent.stop().unwrap();
}
