//! The tunnels of a standby hub, with strongSwan.

use hub_tests::lab::{
    Agent, AgentCommand, Charon, CharonOptions, End, Esp, HUB, HUB_PUBLIC, HubConfig, INTERNET, IpsecLab, IpsecOptions,
    Link, Namespace, PlaceSpec, SHANGHAI, Scratch, VPC, agent_binary, reach, retry,
};

/// The other hub's place, and the links' ends towards it.
const OTHER: &str = "other";
const TO_HUB: &str = "to-hub";
const TO_OTHER: &str = "to-other";
const SECOND: &str = "eth1";

fn start() -> IpsecLab {
    let options = IpsecOptions::new(Esp::Userspace).sites([SHANGHAI]).hub_begins().impatient();
    let lab = IpsecLab::start(&options, |config: HubConfig| config).unwrap();
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
    let up = |status: &hub_tests::lab::Status| status.connection("shanghai")["state"] == "up";
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

/// Moves the hub's addresses, as keepalived does: from the link that one hub has to that of the other.
fn move_addresses(lab: &IpsecLab, to_other: bool) {
    let [(public_down, public_up), (vpc_down, vpc_up)] = match to_other {
        true => [(TO_HUB, TO_OTHER), (VPC.device, SECOND)],
        false => [(TO_OTHER, TO_HUB), (SECOND, VPC.device)],
    };
    lab.world[INTERNET].batch(&format!("link set {public_down} down\nlink set {public_up} up\n")).unwrap();
    let default = format!("route replace default via {} dev {vpc_up}", VPC.hub4);
    lab.world[VPC.place].batch(&format!("link set {vpc_down} down\nlink set {vpc_up} up\n{default}\n")).unwrap();
}

pub fn takes_over() {
    let mut lab = start();
    let internet = std::net::Ipv4Addr::from(u32::from(HUB_PUBLIC) ^ 1);
    lab.world.add_place(&PlaceSpec::new(OTHER)).unwrap();
    for link in [
        Link::new(
            End::new(OTHER, "wan0").address(format_args!("{HUB_PUBLIC}/31")),
            End::new(INTERNET, TO_OTHER).address(format_args!("{internet}/31")),
        ),
        Link::new(
            End::new(OTHER, VPC.hub_device).address(format_args!("{}/24", VPC.hub4)),
            End::new(VPC.place, SECOND).address(format_args!("{}/24", VPC.host4)).receives_redirects(),
        ),
    ] {
        lab.world.add_link(link).unwrap();
    }
    move_addresses(&lab, false);
    let place = &lab.world[OTHER];
    place.batch(&format!("route add default via {internet}\naddr add 10.10.0.1/32 dev lo\n")).unwrap();
    // kernel-libipsec needs an address in each local selector.
    place.ip("addr add fd00::1/128 dev lo nodad").unwrap();
    let files = Scratch::new().unwrap();
    let charon = Charon::start(place, &files.file("charon"), CharonOptions::new(Esp::Userspace).impatient()).unwrap();
    charon.wait_until_ready().unwrap();
    let config = std::fs::read_to_string(lab.agent.config()).unwrap();
    let config = config
        .replace(&lab.hub.socket().display().to_string(), &charon.socket().display().to_string())
        .replacen("[gateway]\n", "[gateway]\nrole_at_boot = \"standby\"\n", 1);
    let other = AgentCommand::new(agent_binary()).start_with(place, &config).unwrap();
    assert_eq!(other.status().unwrap()["gateway"]["role"], "standby");
    assert!(has_nothing(&charon) && published(place).is_empty());
    reach(&lab.world[VPC.place], SHANGHAI.host4().into()).unwrap();

    // There and back.
    for to_other in [true, false] {
        let (from, to) = if to_other { (&lab.agent, &other) } else { (&other, &lab.agent) };
        from.json(&["standby"]).unwrap();
        move_addresses(&lab, to_other);
        to.json(&["active"]).unwrap();
        wait_until_up(to);
        reach(&lab.world[VPC.place], SHANGHAI.host4().into()).unwrap();
        reach(&lab.world["shanghai"], VPC.host4.into()).unwrap();
        let (from, to) = if to_other { (&lab.hub, &charon) } else { (&charon, &lab.hub) };
        assert!(has_nothing(from) && !has_nothing(to));
    }
    other.stop().unwrap();
    lab.stop().unwrap();
}
