//! The commands, without routing daemon and strongSwan.

use hub_tests::lab::{
    AgentCommand, HUB, HubConfig, Namespace, Options, Rig, SHANGHAI, VPC, World, agent_binary, reach,
};
use serde_json::Value;

/// Published routes of the kernel.
fn published(hub: &Namespace) -> usize {
    hub.ip("route show proto 118").unwrap().lines().count() + hub.ip("-6 route show proto 118").unwrap().lines().count()
}

fn role(status: &Value) -> &str {
    status["gateway"]["role"].as_str().unwrap()
}

pub fn survives() {
    let options = Options::default().sites([SHANGHAI]);
    let Rig { mut agent, world } = Rig::start(&options, &HubConfig::offices(&[SHANGHAI])).unwrap();
    let hub = &world[HUB];
    let command = AgentCommand::new(agent_binary());
    assert_eq!((role(&agent.status().unwrap()), published(hub)), ("active", 2));
    let rows: [(&[&str], &str, usize); 4] = [
        (&["standby", "--keep-tunnels"], "withdrawn", 0),
        (&["standby"], "standby", 0),
        (&["active"], "active", 2),
        (&["standby", "--drain", "1s"], "standby", 0),
    ];
    for (arguments, expected, routes) in rows {
        for changed in [true, false] {
            let answer = agent.json(arguments).unwrap();
            assert_eq!(answer["changed"], changed, "{arguments:?}: {answer}");
            let status = agent.status().unwrap();
            assert_eq!((role(&status), published(hub)), (expected, routes), "{arguments:?}");
        }
        // The datapath stays, and the kernel knows the way.
        reach(&world["shanghai"], VPC.host4.into()).unwrap();
        agent = command.start_in(hub, agent.kill().unwrap()).unwrap();
        let status = agent.status().unwrap();
        assert_eq!((role(&status), published(hub)), (expected, routes), "{arguments:?}, then a restart");
        reach(&world["shanghai"], VPC.host4.into()).unwrap();
    }
    // A reload changes no role.
    agent.json(&["reload"]).unwrap();
    agent.json(&["route", "add", "10.10.10.128/25", "--next-hop", "shanghai", "--publish"]).unwrap();
    assert_eq!((role(&agent.status().unwrap()), published(hub)), ("standby", 0));
    let text = String::from_utf8(agent.cli(&["status"]).unwrap().stdout).unwrap();
    assert!(text.contains("this hub is standby"), "{text}");
    let text = String::from_utf8(agent.cli(&["diagnose"]).unwrap().stdout).unwrap();
    assert!(text.contains("`vpnhub active` to use it again"), "{text}");
    let audit = agent.json(&["store", "audit"]).unwrap().to_string();
    assert!(audit.contains("withdrawn") && audit.contains("standby"), "{audit}");
    agent.stop().unwrap();
}

pub fn boots_as_standby() {
    let world = World::three_offices(&Options::default().sites([SHANGHAI])).unwrap();
    let text = HubConfig::offices(&[SHANGHAI]).to_string();
    let text = text.replacen("[gateway]\n", "[gateway]\nrole_at_boot = \"standby\"\n", 1);
    let command = AgentCommand::new(agent_binary());
    let agent = command.start_with(&world[HUB], &text).unwrap();
    assert_eq!((role(&agent.status().unwrap()), published(&world[HUB])), ("standby", 0));
    let text = String::from_utf8(agent.cli(&["diagnose"]).unwrap().stdout).unwrap();
    assert!(!text.contains("to use it again"), "it is meant to be standby: {text}");
    agent.json(&["active"]).unwrap();
    // In the same boot an agent that restarts goes on.
    let agent = command.start_in(&world[HUB], agent.kill().unwrap()).unwrap();
    assert_eq!((role(&agent.status().unwrap()), published(&world[HUB])), ("active", 2));
    agent.stop().unwrap();
}
