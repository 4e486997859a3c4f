//! The tunnels of a standby hub, with strongSwan.

use hub_tests::lab::{
    Agent, Charon, HUB, IpsecLab, Namespace, SHANGHAI, StandbyPair, Status, VPC, agent_binary, reach, retry,
};

fn start() -> IpsecLab {
    let lab = IpsecLab::start(&StandbyPair::options(), |config| config).unwrap();
    reach(&lab.world[VPC.place], SHANGHAI.host4().into()).unwrap();
    lab
}

/// charon's connections and SAs: none has any.
fn has_nothing(charon: &Charon) -> bool {
    let connections = charon.swanctl(&["--list-conns"]).unwrap();
    let sas = charon.swanctl(&["--list-sas"]).unwrap();
    connections.trim().is_empty() && sas.trim().is_empty()
}

fn wait_until_up(agent: &Agent) {
    let up = |status: &Status| status.connection("shanghai")["state"] == "up";
    agent.wait_for_status(std::time::Duration::from_secs(60), up).unwrap();
}

fn published(hub: &Namespace) -> String {
    hub.ip("route show proto 118").unwrap()
}

pub fn one() {
    let lab = start();
    lab.agent.json(&["standby"]).unwrap();
    let status = lab
        .wait_for_status(|status| status.connection("shanghai")["state"] == "down" && has_nothing(&lab.hub))
        .unwrap();
    let reason = status.connection("shanghai")["state_reason"].as_str().unwrap();
    assert!(reason.starts_with("this hub is standby"), "{reason}");
    assert_eq!(published(&lab.world[HUB]), "");
    let diagnosis = lab.agent.json(&["diagnose", "shanghai"]).unwrap();
    assert_eq!(diagnosis["errors"], 0, "{diagnosis:#}");
    // It initiates nothing by command either.
    let refused = lab.agent.cli(&["connection", "renegotiate", "shanghai"]).unwrap();
    assert!(!refused.status.success());

    // Another connection of this charon is left alone, and an agent that starts again cleans up after another.
    let foreign = "connections { road { version = 2\n remote_addrs = 192.0.2.7\n local { auth = psk }\n remote { auth = psk } } }";
    lab.hub.load("road", foreign).unwrap();
    let leftover = foreign.replace("road", "vpnhub-gone");
    lab.hub.load("gone", &leftover).unwrap();
    let lab = lab.restart_agent().unwrap();
    retry("the leftover stays", || Ok((!lab.hub.swanctl(&["--list-conns"])?.contains("vpnhub-")).then_some(())))
        .unwrap();
    let status = lab.agent.status().unwrap();
    assert_eq!(status["gateway"]["role"], "standby");
    assert!(lab.hub.swanctl(&["--list-conns"]).unwrap().contains("road"));
    assert!(lab.hub.swanctl(&["--list-sas"]).unwrap().trim().is_empty());

    lab.agent.json(&["active", "--wait", "30s"]).unwrap();
    wait_until_up(&lab.agent);
    assert!(published(&lab.world[HUB]).contains(&SHANGHAI.network4().to_string()));
    reach(&lab.world[VPC.place], SHANGHAI.host4().into()).unwrap();
    lab.stop().unwrap();
}

pub fn takes_over() {
    let pair = StandbyPair::start(agent_binary()).unwrap();
    let StandbyPair { other, other_charon, lab, .. } = &pair;
    let place = &lab.world[StandbyPair::OTHER];
    assert_eq!(other.status().unwrap()["gateway"]["role"], "standby");
    assert!(has_nothing(other_charon) && published(place).is_empty());

    // There and back.
    for to_other in [true, false] {
        let (from, to) = if to_other { (&lab.agent, other) } else { (other, &lab.agent) };
        from.json(&["standby"]).unwrap();
        StandbyPair::move_addresses(&lab.world, to_other).unwrap();
        to.json(&["active"]).unwrap();
        wait_until_up(to);
        reach(&lab.world[VPC.place], SHANGHAI.host4().into()).unwrap();
        reach(&lab.world["shanghai"], VPC.host4.into()).unwrap();
        let (from, to) = if to_other { (&lab.hub, other_charon) } else { (other_charon, &lab.hub) };
        assert!(has_nothing(from) && !has_nothing(to));
    }
    let StandbyPair { other, lab, .. } = pair;
    other.stop().unwrap();
    lab.stop().unwrap();
}
