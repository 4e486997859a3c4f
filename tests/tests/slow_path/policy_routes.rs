//! Packets of policy routes that the program leaves to the kernel take the same next hop, and their answers go back.

use std::fmt::Write as _;
use std::net::IpAddr;

use hub_tests::lab::{FrameSocket, HANGZHOU, HUB, HubConfig, NINGBO, Options, Rig, SHANGHAI, World};
use hub_tests::packet::{Packet, View};

use crate::{SITES, WAIT, datagram, hosts, icmp_error, warm_hub};

/// The MTU of Ningbo's link: above the minimum of IPv6.
const MTU: u32 = 1300;

/// Shanghai's packets to Hangzhou go to Ningbo, whose selectors admit all addresses.
fn by_source() -> HubConfig {
    let mut config = HubConfig::offices(&SITES);
    config.connection("ningbo").remote_cidrs = vec!["0.0.0.0/0".into(), "::/0".into()];
    let prefixes = [
        (SHANGHAI.network4().to_string(), HANGZHOU.network4().to_string()),
        (SHANGHAI.network6().to_string(), HANGZHOU.network6().to_string()),
    ];
    for (source, destination) in prefixes {
        let text = &mut config.sections;
        writeln!(text, "[[policy_route]]\nsource = \"{source}\"\ndestination = \"{destination}\"").unwrap();
        writeln!(text, "next_hop = \"ningbo\"\n").unwrap();
    }
    config
}

fn to(destination: IpAddr) -> impl Fn(&[u8]) -> bool {
    move |frame: &[u8]| View::ethernet(frame).is_ok_and(|view| view.destination == destination)
}

fn rig() -> Rig {
    let world = World::three_offices(&Options::default().slow_path(true)).unwrap();
    world[HUB].ip(&format!("link set dev tun-nb mtu {MTU}")).unwrap();
    let rig = Rig::start_in(world, &by_source(), &[]).unwrap();
    rig.warm_up(&SITES).unwrap();
    rig
}

#[test]
fn fragments_made_by_kernel_take_next_hop_of_policy_route() {
    let rig = rig();
    let (arrivals, elsewhere) = (
        FrameSocket::open(&rig.world["ningbo"], "wan0").unwrap(),
        FrameSocket::open(&rig.world["hangzhou"], "wan0").unwrap(),
    );
    // A frame, because the kernel's sockets forbid fragments.
    let shanghai = FrameSocket::open(&rig.world["shanghai"], "wan0").unwrap();
    let macs = [rig.world["shanghai"].mac("wan0").unwrap(), rig.world[HUB].mac("tun-sh").unwrap()];
    let destination = IpAddr::from(HANGZHOU.host4());
    // Twice: the kernel may resolve its neighbour first.
    for size in [100, 1340] {
        let packet = Packet::ipv4(SHANGHAI.host4(), HANGZHOU.host4()).identification(7).udp(5000, 6000).payload(size);
        shanghai.send(&packet.ethernet(macs[0], macs[1]).build()).unwrap();
        let frame = arrivals.expect(WAIT, to(destination)).unwrap();
        assert_eq!(View::ethernet(&frame.bytes).unwrap().fragment, size > 1300, "{} bytes", frame.bytes.len());
    }
    arrivals.expect(WAIT, to(destination)).expect("the second fragment");
    let status = rig.agent.status().unwrap();
    assert!(status.counter("shanghai", "passes/too_big") >= 1);
    // The control: what does not match the policy route arrives in Hangzhou.
    let [(other, _), _] = hosts(&NINGBO, &HANGZHOU);
    datagram(other, destination).size(33).send(&rig.world["ningbo"]).unwrap();
    let frame = elsewhere.expect(WAIT, to(destination)).unwrap();
    assert_eq!(View::ethernet(&frame.bytes).unwrap().source, other, "the first packet that comes to Hangzhou");
    rig.stop().unwrap();
}

#[test]
fn icmp_errors_about_packets_of_policy_route_come_back_to_their_sender() {
    let rig = rig();
    let shanghai = FrameSocket::open(&rig.world["shanghai"], "wan0").unwrap();
    for (from, destination) in hosts(&SHANGHAI, &HANGZHOU) {
        datagram(from, destination).size(1340).dont_fragment().send(&rig.world["shanghai"]).unwrap();
        let error = icmp_error(&shanghai, [(3, 4), (2, 0)], destination);
        // The MTU of the policy route's next hop.
        assert_eq!(View::ethernet(&error).unwrap().reported_mtu(), Some(MTU));
        datagram(from, destination).hops(1).size(20).send(&rig.world["shanghai"]).unwrap();
        icmp_error(&shanghai, [(11, 0), (3, 0)], destination);
    }
    rig.stop().unwrap();
}

#[test]
fn rules_and_tables_come_and_go_with_policy_routes() {
    let rig = warm_hub(&by_source());
    let hub = &rig.world[HUB];
    for family in ["-4", "-6"] {
        let rules = hub.ip(&format!("{family} rule show")).unwrap();
        let ours: Vec<&str> = rules.lines().filter(|line| line.starts_with("11")).collect();
        let [own, marked, end] = ours.as_slice() else { panic!("three rules: {rules}") };
        assert!(own.starts_with("1178:") && own.contains("iif lo goto 1180"), "{own}");
        assert!(
            marked.starts_with("1179:") && marked.contains("fwmark") && marked.contains("lookup 11800"),
            "{marked}"
        );
        assert!(end.starts_with("1180:") && end.contains("nop"), "{end}");
        let table = marked.split_whitespace().skip_while(|word| *word != "lookup").nth(1).unwrap();
        let routes = hub.ip(&format!("{family} route show table {table}")).unwrap();
        assert!(routes.contains("dev tun-nb") && routes.contains("unreachable default"), "{routes}");
    }
    let arguments = [SHANGHAI.network4().to_string(), HANGZHOU.network4().to_string()];
    let [source, destination] = arguments.each_ref().map(String::as_str);
    // Those of the file are changed there.
    rig.agent.json(&["policy-route", "delete", source, destination]).expect_err("it is the file's");
    let file = rig.agent.config();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&by_source().sections, "")).unwrap();
    rig.agent.json(&["reload"]).unwrap();
    for family in ["-4", "-6"] {
        let rules = hub.ip(&format!("{family} rule show")).unwrap();
        assert!(!rules.lines().any(|line| line.starts_with("11")), "{rules}");
    }
    // By command, and published.
    let add = ["policy-route", "add", source, "10.77.0.0/16", "--next-hop", "ningbo", "--publish"];
    rig.agent.json(&add).unwrap();
    let published = hub.ip("route show table main proto 118 10.77.0.0/16").unwrap();
    assert!(published.contains("dev tun-nb"), "{published}");
    let shown = rig.agent.status().unwrap();
    assert_eq!(shown.0["policy_routes"][0]["share"], 1.0, "{shown:?}");
    rig.agent.json(&["policy-route", "delete", source, "10.77.0.0/16"]).unwrap();
    assert_eq!(hub.ip("route show table main 10.77.0.0/16").unwrap(), "");
    rig.stop().unwrap();
}
