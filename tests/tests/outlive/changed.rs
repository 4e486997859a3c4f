//! Configuration changes made while no agent runs take effect when the next one has started.

use std::fs;

use hub_tests::lab::{
    Agent, AgentCommand, HANGZHOU, HUB, HubConfig, NINGBO, Namespace, Options, Rig, RouteConfig, SHANGHAI, Scratch,
    Site, World, agent_binary,
};

use crate::{ENDS, End, PORT, SITES, WAIT, Wire, probe, start_again, stream::Stream};

/// Addresses of Hangzhou's site, routed separately from its network.
const MOVED: &str = "10.10.20.128/25";
/// The same for Shanghai.
const REMOVED: &str = "10.10.10.64/26";
/// The same for Ningbo.
const ADDED: &str = "10.10.30.32/27";

/// The three offices, and Hangzhou's second link.
fn config(routes: &[(&str, &str)]) -> String {
    let mut config = HubConfig::offices(&SITES).second_link(&HANGZHOU, [100, 0]);
    config.routes.extend(routes.iter().map(|(destination, next_hop)| RouteConfig {
        destination: (*destination).to_owned(),
        next_hop: (*next_hop).to_owned(),
        weight: 100,
        publish: true,
    }));
    config.to_string()
}

/// The kernel's routes to a prefix: interfaces of the published ones, and the number of the agent's others.
fn kernel_routes(hub: &Namespace, prefix: &str) -> (Vec<String>, usize) {
    let published = hub.ip(&format!("route show table all exact {prefix} proto 118")).unwrap();
    let device = |line: &str| Some(line.split_once(" dev ")?.1.split_whitespace().next()?.to_owned());
    let internal = hub.ip(&format!("route show table all exact {prefix} proto 119")).unwrap();
    (published.lines().filter_map(device).collect(), internal.lines().count())
}

/// The link of a site on which a packet arrives.
fn arrives(rig: &Rig, site: &Site, links: &[u8], host: u8, ports: (u16, u16)) -> u8 {
    let sender = Wire::open(&rig.world, &SHANGHAI, 0);
    let receivers: Vec<(u8, Wire)> = links.iter().map(|link| (*link, Wire::open(&rig.world, site, *link))).collect();
    sender.send(probe(SHANGHAI.host4().into(), site.nth4(host).into(), ports));
    for _ in 0..WAIT.as_millis() / 20 {
        for (link, receiver) in &receivers {
            if receiver.receive(std::time::Duration::from_millis(10)) == Some(ports) {
                return *link;
            }
        }
    }
    panic!("the packet to {} arrives nowhere", site.nth4(host));
}

fn rewrite(agent: Agent, end: End, text: &str) -> Scratch {
    let scratch = end.end(agent);
    fs::write(scratch.file("vpnhub.toml"), text).unwrap();
    scratch
}

#[test]
fn routes_changed_without_agent_apply_at_start() {
    let before = config(&[(MOVED, "hangzhou"), (REMOVED, "shanghai")]);
    let after = config(&[(MOVED, "hangzhou-2"), (ADDED, "ningbo")]);
    for end in ENDS {
        let options = Options::default().second_link("hangzhou");
        let world = World::three_offices(&options).unwrap();
        let agent = AgentCommand::new(agent_binary()).start_with(&world[HUB], &before).unwrap();
        let mut rig = Rig { agent, world };
        rig.warm_up(&SITES).unwrap();
        assert_eq!(arrives(&rig, &HANGZHOU, &[0, 1], 200, (1, PORT)), 0);
        assert_eq!(kernel_routes(&rig.world[HUB], MOVED), (vec!["tun-hz".to_owned()], 1));
        assert_eq!(kernel_routes(&rig.world[HUB], REMOVED), (vec!["tun-sh".to_owned()], 1));
        assert_eq!(kernel_routes(&rig.world[HUB], ADDED), (vec![], 0));

        // Hangzhou's network itself keeps its route: none of its packets is lost.
        let Rig { agent, world } = rig;
        let (agent, sent, arrived) = Stream::during(&world, |stream| {
            stream.wait_for(100);
            let scratch = rewrite(agent, end, &after);
            stream.wait_for(1000);
            let agent = start_again(&world, scratch);
            stream.wait_for(100);
            agent
        });
        assert_eq!(u64::try_from(arrived.len()).unwrap(), sent, "{end:?}: of {sent} packets");
        rig = Rig { agent, world };

        assert_eq!(arrives(&rig, &HANGZHOU, &[0, 1], 200, (2, PORT)), 1, "{end:?}");
        assert_eq!(arrives(&rig, &HANGZHOU, &[0, 1], 100, (3, PORT)), 0, "{end:?}");
        assert_eq!(arrives(&rig, &NINGBO, &[0], 40, (4, PORT)), 0, "{end:?}");
        assert_eq!(kernel_routes(&rig.world[HUB], MOVED), (vec!["tun-hz2".to_owned()], 1), "{end:?}");
        assert_eq!(kernel_routes(&rig.world[HUB], REMOVED), (vec![], 0), "{end:?}");
        assert_eq!(kernel_routes(&rig.world[HUB], ADDED), (vec!["tun-nb".to_owned()], 1), "{end:?}");
        let status = rig.agent.status().unwrap();
        let routes: Vec<&str> =
            status["routes"].as_array().unwrap().iter().filter_map(|route| route["destination"].as_str()).collect();
        assert!(routes.contains(&ADDED) && !routes.contains(&REMOVED), "{routes:?}");
        rig.stop().unwrap();
    }
}
