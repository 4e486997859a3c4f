//! Two sites with the same LAN, which the hub knows by different prefixes, and a third one: everything works in both
//! directions, whether the program or the kernel sends it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aya::programs::{SchedClassifier, TcAttachType};
use hub_tests::lab::{
    AgentCommand, FrameSocket, HANGZHOU, HUB, HubConfig, NINGBO, Options, Ping, Rig, SHANGHAI, Site, Status, TcpPair,
    UdpProbe, UdpReceiver, VPC, World, agent_binary, reach, retry,
};
use hub_tests::packet::{View, verify_checksums};

use crate::{SITES, WAIT, quoted_destination};

/// The LANs of Shanghai and of Hangzhou, which the hub knows by each site's network of [`Site`].
const LANS: [&str; 2] = ["192.168.1.0/24", "fd99:1::/64"];
/// The program at egress.
const EGRESS: &str = "vpnhub_egress";
/// The host that sends, in the LAN and at the hub.
const HOST: u8 = 7;

/// A place with the addresses of its host: its own, and those by which others know it.
struct Host {
    place: &'static str,
    own: [IpAddr; 2],
    known: [IpAddr; 2],
}

fn hosts() -> [Host; 4] {
    let translated = |site: &Site, place| Host {
        place,
        own: ["192.168.1.7".parse().unwrap(), "fd99:1::7".parse().unwrap()],
        known: [site.nth4(HOST).into(), site.nth6(HOST.into()).into()],
    };
    let vpc = [VPC.host4.into(), VPC.host6.into()];
    [
        translated(&SHANGHAI, "shanghai"),
        translated(&HANGZHOU, "hangzhou"),
        Host { place: "ningbo", own: NINGBO.hosts(), known: NINGBO.hosts() },
        Host { place: VPC.place, own: vpc, known: vpc },
    ]
}

/// The offices, in which two have the same LAN instead of a network of their own.
fn rig(arguments: &[&str], hub_mtu: u32) -> Rig {
    let world = World::three_offices(&Options::default().slow_path(true)).unwrap();
    let mut config = HubConfig::offices(&SITES);
    for site in [&SHANGHAI, &HANGZHOU] {
        let (hub4, host) = (site.hub4(0), &world[&site.place]);
        host.batch(&format!(
            "addr add 192.168.1.7/32 dev lo\naddr add fd99:1::7/128 dev lo nodad\n\
             addr del {own4}/32 dev lo\naddr del {own6}/128 dev lo\n\
             route del local {network4} dev lo\nroute del local {network6} dev lo\n\
             route add local {lan4} dev lo\nroute add local {lan6} dev lo\n\
             route replace default via {hub4} dev wan0 src 192.168.1.7 metric 100\n\
             route replace ::/0 via fe80::1 dev wan0 src fd99:1::7 metric 100\n",
            own4 = site.host4(),
            own6 = site.host6(),
            network4 = site.network4(),
            network6 = site.network6(),
            lan4 = LANS[0],
            lan6 = LANS[1],
        ))
        .unwrap();
        let connection = config.connection(&site.place);
        connection.remote_cidrs = LANS.map(str::to_owned).into();
        let at_hub = [site.network4().to_string(), site.network6().to_string()];
        connection.translate = LANS.map(str::to_owned).into_iter().zip(at_hub).map(<[String; 2]>::from).collect();
    }
    world[HUB].ip(&format!("link set dev tun-hz mtu {hub_mtu}")).unwrap();
    let rig = Rig::start_in(world, &config, arguments).unwrap();
    for host in hosts() {
        for vpc in [VPC.host4, VPC.hub4].map(IpAddr::from).into_iter().chain([VPC.host6, VPC.hub6].map(IpAddr::from)) {
            if host.place != VPC.place {
                reach(&rig.world[host.place], vpc).unwrap();
            }
        }
    }
    rig
}

/// Each ordered pair of different hosts, by family.
fn pairs() -> Vec<(Host, Host, usize)> {
    let mut pairs = Vec::new();
    for from in 0..4 {
        for to in (0..4).filter(|to| *to != from) {
            for family in 0..2 {
                let [from, to] = [from, to].map(|index| hosts().into_iter().nth(index).expect("one of four"));
                pairs.push((from, to, family));
            }
        }
    }
    pairs
}

fn everything_arrives(arguments: &[&str]) {
    let rig = rig(arguments, 1400);
    for (from, to, family) in pairs() {
        let (near, far) = (&rig.world[from.place], &rig.world[to.place]);
        let what = format!("{} to {} by {}", from.place, to.place, to.known[family]);
        for size in [56, 1301] {
            let ping = Ping::new(to.known[family]).size(size).run(near).unwrap();
            assert!(ping.complete(), "ping of {size} bytes, {what}");
        }
        // In fragments. The VPC's host first learns the tunnel's MTU from an error.
        retry(&format!("ping of 3000 bytes, {what}"), || {
            let ping = Ping::new(to.known[family]).size(3000).timeout(Duration::from_millis(200)).run(near)?;
            Ok(ping.complete().then_some(()))
        })
        .unwrap();
        let receiver = UdpReceiver::bind(far, SocketAddr::new(to.own[family], 6000)).unwrap();
        let known = SocketAddr::new(to.known[family], 6000);
        let probe = UdpProbe::new(SocketAddr::new(from.own[family], 5000), known).size(333);
        probe.send(near).unwrap();
        let datagram = receiver.receive(WAIT).unwrap().unwrap_or_else(|| panic!("UDP, {what}"));
        assert_eq!(datagram.from, SocketAddr::new(from.known[family], 5000), "{what}");
        let mut stream = TcpPair::open_translated(near, None, far, [to.known[family], to.own[family]]).expect(&what);
        stream.transfer(300_000, 7).expect(&what);
    }
    let status = rig.agent.status().unwrap();
    for site in &SITES {
        let drops = status.connection(&site.place)["drops"].as_object().unwrap();
        assert!(drops.values().all(|count| count == 0), "{}: {drops:?}", site.place);
    }
    rig.stop().unwrap();
}

#[test]
fn equal_lans_reach_each_other_through_native_xdp() {
    everything_arrives(&[]);
}

#[test]
fn equal_lans_reach_each_other_through_generic_xdp() {
    everything_arrives(&["--attach", "generic"]);
}

#[test]
fn equal_lans_reach_each_other_through_tc() {
    everything_arrives(&["--attach", "tc"]);
}

/// Errors of the hub's kernel and of the far site, about packets that the program translated: each gets to the sender,
/// with the addresses that the sender knows.
fn errors_get_home(arguments: &[&str]) {
    const TIME_EXCEEDED: [(u8, u8); 2] = [(11, 0), (3, 0)];
    const TOO_BIG: [(u8, u8); 2] = [(3, 4), (2, 0)];
    const PORT_UNREACHABLE: [(u8, u8); 2] = [(3, 3), (1, 4)];
    let rig = rig(arguments, 1300);
    let [shanghai, hangzhou, _, vpc] = hosts();
    for (from, to, family) in
        [(&shanghai, &hangzhou, 0), (&shanghai, &hangzhou, 1), (&vpc, &hangzhou, 0), (&vpc, &hangzhou, 1)]
    {
        let near = &rig.world[from.place];
        let device = if from.place == VPC.place { VPC.device } else { "wan0" };
        let answers = FrameSocket::open(near, device).unwrap();
        let probe = UdpProbe::new(SocketAddr::new(from.own[family], 5000), SocketAddr::new(to.known[family], 9));
        let sent = [
            (probe.clone().hops(1).size(64), TIME_EXCEEDED),
            (probe.clone().size(1340).dont_fragment(), TOO_BIG),
            (probe.clone().size(64), PORT_UNREACHABLE),
        ];
        for (probe, kinds) in sent {
            probe.send(near).unwrap();
            let is_error = |view: &View<'_>| {
                view.icmp() == Some(kinds[family]) && quoted_destination(view) == Some(to.known[family])
            };
            let error = answers.expect(WAIT, |frame| View::ethernet(frame).is_ok_and(|view| is_error(&view))).unwrap();
            verify_checksums(&error.bytes).unwrap();
            let view = View::ethernet(&error.bytes).unwrap();
            assert_eq!(view.destination, from.own[family]);
            assert_eq!(quoted_source(&view), Some(from.own[family]), "{kinds:?}");
            match kinds {
                TOO_BIG => assert_eq!(view.reported_mtu(), Some(1300)),
                PORT_UNREACHABLE => assert_eq!(view.source, to.known[family]),
                _ => {}
            }
        }
    }
    rig.stop().unwrap();
}

/// The source of the packet that an ICMP error quotes.
fn quoted_source(error: &View<'_>) -> Option<IpAddr> {
    let quoted = error.payload();
    match quoted.first()? >> 4 {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(quoted.get(12..16)?).ok()?)),
        6 => Some(IpAddr::from(<[u8; 16]>::try_from(quoted.get(8..24)?).ok()?)),
        _ => None,
    }
}

#[test]
fn errors_about_translated_packets_get_home_with_xdp() {
    errors_get_home(&[]);
}

#[test]
fn errors_about_translated_packets_get_home_with_tc() {
    errors_get_home(&["--attach", "tc"]);
}

/// The hub's own packets: to the address at the hub, and answered there.
#[test]
fn hub_reaches_translated_sites_and_restarts_go_unnoticed() {
    let Rig { agent, world } = rig(&["--attach", "tc"], 1400);
    let all_answer = |when: &str| {
        let [shanghai, hangzhou, ..] = hosts();
        for known in shanghai.known.into_iter().chain(hangzhou.known) {
            let source = if known.is_ipv4() { IpAddr::from(VPC.hub4) } else { IpAddr::from(VPC.hub6) };
            let ping = Ping::new(known).source(source).run(&world[HUB]).unwrap();
            assert!(ping.complete(), "{known} from the hub, {when}");
            assert!(Ping::new(known).run(&world[VPC.place]).unwrap().complete(), "{known}, {when}");
        }
        for known in hangzhou.known {
            assert!(Ping::new(known).run(&world[shanghai.place]).unwrap().complete(), "{known}, {when}");
        }
    };
    all_answer("at first");
    let scratch = agent.kill().unwrap();
    all_answer("without an agent");
    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
    all_answer("with the next agent");
    agent.stop().unwrap();
}

/// Probes leave for the address at the hub, like all packets of the hub, and their replies come from it.
#[test]
fn health_check_of_translated_host_is_answered() {
    let [shanghai, ..] = hosts();
    for (source, destination) in [IpAddr::from(VPC.hub4), VPC.hub6.into()].into_iter().zip(shanghai.known) {
        let rig = rig(&[], 1400);
        let check = format!(
            "health_check = {{ source = \"{source}\", destination = \"{destination}\", interval = \"100ms\", retries = 3 }}\n"
        );
        let section = "[connection.shanghai]\n";
        let config = std::fs::read_to_string(rig.agent.config()).unwrap();
        std::fs::write(rig.agent.config(), config.replacen(section, &format!("{section}{check}"), 1)).unwrap();
        assert!(rig.agent.cli(&["reload"]).unwrap().status.success());
        let is_healthy = |status: &Status| {
            let health = &status.connection("shanghai")["health"];
            health["received"].as_u64().is_some_and(|received| received > 2)
        };
        rig.agent.wait_for_status(WAIT, is_healthy).unwrap();
        rig.stop().unwrap();
    }
}

/// A configuration without translations takes the program at egress away.
#[test]
fn translations_end_with_a_reload() {
    let rig = rig(&[], 1400);
    let filters = || rig.world[HUB].command("tc").args(["filter", "show", "dev", "tun-hz", "egress"]).output().unwrap();
    let has_filter = || String::from_utf8(filters().stdout).unwrap().contains(EGRESS);
    let links = || rig.world[HUB].enter(|| SchedClassifier::query_tcx("tun-hz", TcAttachType::Egress)).unwrap();
    // Linux before 6.6 has no TCX.
    let has_link = || links().is_ok_and(|(_, programs)| programs.iter().any(|one| one.name_as_str() == Some(EGRESS)));
    assert_ne!(has_filter(), has_link(), "one of both");
    std::fs::write(rig.agent.config(), HubConfig::offices(&SITES).to_string()).unwrap();
    assert!(rig.agent.cli(&["reload"]).unwrap().status.success());
    // A link is detached in the background.
    retry("the program stays", || Ok((!has_filter() && !has_link()).then_some(()))).unwrap();
    rig.stop().unwrap();
}
