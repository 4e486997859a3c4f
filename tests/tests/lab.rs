//! The lab itself: its worlds carry traffic, its helpers measure correctly, and nothing of it is left behind.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hub_tests::lab::{
    self, AgentCommand, FrameSocket, HANGZHOU, HUB, NINGBO, Namespace, Options, Ping, PlaceSpec, SHANGHAI, Scratch,
    Site, TcpPair, Tun, UdpProbe, VPC, World,
};
use hub_tests::packet::{Packet, View, number, verify_checksums};

const WAIT: Duration = Duration::from_secs(2);
const SITES: [Site; 3] = [SHANGHAI, HANGZHOU, NINGBO];

/// A world in which only the hub's kernel forwards.
fn kernel_world() -> World {
    let world = World::three_offices(&Options::default().slow_path(true)).unwrap();
    let mut routes = String::new();
    for site in SITES {
        let device = site.hub_device(0);
        writeln!(routes, "route add {} via {} dev {device}", site.network4(), site.peer4(0)).unwrap();
        writeln!(routes, "route add {} via fe80::2 dev {device}", site.network6()).unwrap();
    }
    world[HUB].batch(&routes).unwrap();
    world
}

#[test]
fn all_pairs_through_hub_kernel_reach_each_other() {
    let world = kernel_world();
    let mut hosts: Vec<(&str, [IpAddr; 2])> = vec![(VPC.place, [VPC.host4.into(), VPC.host6.into()])];
    let names = SITES.map(|site| site.place.into_owned());
    hosts.extend(names.iter().zip(&SITES).map(|(name, site)| (name.as_str(), site.hosts())));
    thread::scope(|scope| {
        for (from, _) in &hosts {
            for (to, address) in hosts.iter().flat_map(|(to, both)| both.iter().map(move |address| (to, *address))) {
                let world = &world;
                scope.spawn(move || {
                    let report = lab::ping(&world[from], address, 2).unwrap();
                    assert!(report.complete(), "{from} to {to} {address}: {report:?}");
                    assert!(report.rtt_min <= report.rtt_avg && report.rtt_avg <= report.rtt_max);
                });
            }
        }
    });
}

#[test]
fn hub_without_slow_path_forwards_nothing() {
    let world = World::three_offices(&Options::default()).unwrap();
    let ping = |to: IpAddr| Ping::new(to).timeout(Duration::from_millis(300)).run(&world["shanghai"]).unwrap();
    for to in HANGZHOU.hosts() {
        assert_eq!(ping(to).received, 0);
    }
    // The hub itself answers.
    assert_eq!(ping(SHANGHAI.hub4(0).into()).received, 1);
}

#[test]
fn tcp_transfer_arrives_intact() {
    let world = kernel_world();
    for to in HANGZHOU.hosts() {
        let transfer = lab::tcp_transfer(&world["shanghai"], &world["hangzhou"], to, 10 << 20, 42).unwrap();
        assert_eq!(transfer.bytes, 10 << 20);
        // 1400 less the headers, and less 12 bytes of timestamps.
        assert_eq!(transfer.mss, if to.is_ipv4() { 1348 } else { 1328 });
    }
}

#[test]
fn tcp_pair_is_reusable_with_chosen_source() {
    let world = kernel_world();
    let source = SHANGHAI.nth4(77).into();
    let mut pair = TcpPair::open(&world["shanghai"], Some(source), &world[VPC.place], VPC.host4.into()).unwrap();
    assert_eq!(pair.server.peer_addr().unwrap().ip(), source);
    for seed in 0..3 {
        pair.transfer(100_000, seed).unwrap();
    }
}

#[test]
fn udp_probe_arrives_with_one_hop_less() {
    let world = kernel_world();
    let cases: [(IpAddr, IpAddr); 2] =
        [(SHANGHAI.nth4(9).into(), NINGBO.nth4(200).into()), (SHANGHAI.nth6(9).into(), NINGBO.nth6(200).into())];
    for (from, to) in cases {
        let (from, to) = (SocketAddr::new(from, 5000), SocketAddr::new(to, 6000));
        let probe = UdpProbe::new(from, to).hops(7).dont_fragment().size(1300);
        let datagram = lab::udp_probe(&world["shanghai"], &world["ningbo"], &probe, WAIT).unwrap().unwrap();
        assert_eq!((datagram.from, datagram.hops, datagram.payload.len()), (from, 6, 1300));
        // The TTL expires at the hub.
        assert_eq!(
            lab::udp_probe(&world["shanghai"], &world["ningbo"], &probe.hops(1), Duration::from_millis(300)).unwrap(),
            None
        );
    }
}

#[test]
fn frame_is_captured_as_sent() {
    let world = World::three_offices(&Options::default()).unwrap();
    let sender = FrameSocket::open(&world["shanghai"], "wan0").unwrap();
    let receiver = FrameSocket::open(&world[HUB], "tun-sh").unwrap();
    let (from, to) = (world["shanghai"].mac("wan0").unwrap(), world[HUB].mac("tun-sh").unwrap());
    let plain = Packet::ipv4(SHANGHAI.host4(), HANGZHOU.host4()).udp(1, 2).payload(64).ethernet(from, to);
    let tagged = plain.clone().vlan(100);
    let double = plain.clone().qinq(200, 100);
    for frame in [plain, tagged, double].map(|packet| packet.build()) {
        sender.send(&frame).unwrap();
        let captured = receiver.expect(WAIT, |bytes| View::ethernet(bytes).is_ok_and(|v| v.ports() == Some((1, 2))));
        assert_eq!(captured.unwrap().bytes, frame);
    }
    assert_eq!(receiver.find(Duration::from_millis(50), |bytes| bytes.len() == 1).unwrap(), None);
}

#[test]
fn kernel_segments_have_complete_checksums() {
    let world = kernel_world();
    let hub = FrameSocket::open(&world[HUB], "tun-sh").unwrap();
    let office = FrameSocket::open(&world["hangzhou"], "wan0").unwrap();
    lab::tcp_transfer(&world["shanghai"], &world["hangzhou"], HANGZHOU.host4().into(), 100_000, 1).unwrap();
    lab::tcp_transfer(&world["shanghai"], &world["hangzhou"], HANGZHOU.host6().into(), 100_000, 1).unwrap();
    // The office's GRO merges segments and leaves their checksum open; single segments arrive unchanged.
    for (socket, merges) in [(hub, false), (office, true)] {
        let frames = socket.collect(Duration::from_millis(50)).unwrap();
        let segments: Vec<_> = frames
            .iter()
            .filter(|frame| View::ethernet(&frame.bytes).is_ok_and(|view| view.protocol == number::TCP))
            .collect();
        assert!(segments.len() >= 10, "{} segments", segments.len());
        for frame in segments {
            if !(merges && frame.checksum_pending) {
                assert!(!frame.checksum_pending);
                assert!(frame.bytes.len() <= 1414, "{} bytes: an offload is on", frame.bytes.len());
                verify_checksums(&frame.bytes).unwrap();
            }
        }
    }
}

#[test]
fn kernel_packet_too_big_error_is_captured() {
    let world = kernel_world();
    world[HUB].ip("link set dev tun-hz mtu 1300").unwrap();
    let answers = FrameSocket::open(&world["shanghai"], "wan0").unwrap();
    for (from, to, kind) in [
        (SHANGHAI.host4().into(), HANGZHOU.host4().into(), (3, 4)),
        (SHANGHAI.host6().into(), HANGZHOU.host6().into(), (2, 0)),
    ] {
        let (from, to) = (SocketAddr::new(from, 5000), SocketAddr::new(to, 6000));
        UdpProbe::new(from, to).dont_fragment().size(1340).send(&world["shanghai"]).unwrap();
        let error = answers.expect(WAIT, |bytes| View::ethernet(bytes).is_ok_and(|view| view.icmp() == Some(kind)));
        let error = error.unwrap();
        verify_checksums(&error.bytes).unwrap();
        assert_eq!(View::ethernet(&error.bytes).unwrap().reported_mtu(), Some(1300));
    }
}

#[test]
fn site_with_two_links_fails_over_to_second() {
    let world = World::three_offices(&Options::default().slow_path(true).second_link("shanghai")).unwrap();
    world[HUB].batch("route add 10.10.10.0/24 via 169.254.11.2 dev tun-sh2").unwrap();
    let ping = || lab::ping(&world[VPC.place], SHANGHAI.host4().into(), 2).unwrap();
    assert!(ping().complete());
    let before = world["shanghai"].counters("wan1").unwrap();
    world[HUB].set_link("tun-sh", false).unwrap();
    world["shanghai"].notice_carrier("wan0").unwrap();
    assert!(ping().complete());
    let after = world["shanghai"].counters("wan1").unwrap();
    assert!(after.tx_packets >= before.tx_packets + 2, "{before:?} {after:?}");
}

#[test]
fn world_accepts_new_places_and_links() {
    let mut world = World::three_offices(&Options::default()).unwrap();
    world.add_place(&PlaceSpec::new("branch").sysctl("ipv4/ip_default_ttl", "33")).unwrap();
    let ends = [(HUB, "tun-br", "10.99.0.1/30"), ("branch", "wan0", "10.99.0.2/30")]
        .map(|(place, device, address)| lab::End::new(place, device).address(address));
    let [hub, branch] = ends;
    world.add_link(lab::Link::new(hub, branch).mtu(1300)).unwrap();
    assert!(lab::ping(&world["branch"], "10.99.0.1".parse().unwrap(), 1).unwrap().complete());
    assert_eq!(world["branch"].read_sysctl("ipv4/ip_default_ttl").unwrap(), "33");
    let error = world.place("osaka").unwrap_err().to_string();
    assert_eq!(error, "there is no place \"osaka\" here; the places are hub, vpc, shanghai, hangzhou, ningbo, branch");
}

#[test]
fn tun_device_carries_raw_packets_both_ways() {
    let world = World::builder().place(PlaceSpec::new("host")).build().unwrap();
    let mut tun = Tun::create(&world["host"], "ipsec0").unwrap();
    world["host"].batch("addr add 10.8.0.1/24 dev ipsec0\nlink set dev ipsec0 up").unwrap();
    let request = Packet::ipv4("10.8.0.2", "10.8.0.1").echo(1, 1).payload(16).build();
    tun.send(&request).unwrap();
    let deadline = Instant::now() + WAIT;
    let answered = std::iter::from_fn(|| tun.receive(deadline.saturating_duration_since(Instant::now())).unwrap())
        .any(|packet| View::ip(&packet).is_ok_and(|view| view.icmp() == Some((0, 0)) && view.payload().len() == 16));
    assert!(answered);
}

#[test]
fn commands_in_namespace_keep_host_mounts() {
    let world = World::builder().place(PlaceSpec::new("host")).build().unwrap();
    let here = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let inside = world["host"].enter(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
    assert_ne!(here, inside);
    let output = world["host"].command("readlink").args(["/proc/self/ns/net", "/proc/self/ns/mnt"]).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let mounts = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    assert_eq!(output, format!("{}\n{}\n", inside.display(), mounts.display()));
    let error = world["host"].batch("link set dev lo up\nlink set dev nowhere up").unwrap_err().to_string();
    assert!(error.starts_with("`ip link set dev nowhere up` in vh-"), "{error}");
}

#[test]
fn existing_namespace_is_not_taken_over() {
    let name = lab::unique_prefix();
    let first = Namespace::create(&name).unwrap();
    let error = Namespace::create(&name).unwrap_err().to_string();
    assert!(error.contains("exists already"), "{error}");
    let again = Namespace::open(&name).unwrap().unwrap();
    drop(again);
    assert!(exists(&name), "a value that did not make it must not delete it");
    drop(first);
    assert!(!exists(&name));
    assert!(Namespace::open(&name).unwrap().is_none());
    for wrong in ["", "..", "a/b"] {
        assert!(Namespace::create(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn dropped_world_leaves_no_namespace() {
    let world = World::three_offices(&Options::default()).unwrap();
    let names: Vec<_> = world.places().map(|(_, namespace)| namespace.name().to_owned()).collect();
    assert_eq!(names.len(), 5);
    assert!(names.iter().all(|name| exists(name)));
    drop(world);
    assert!(!names.iter().any(|name| exists(name)));
}

#[test]
fn panicking_test_leaves_no_namespace() {
    let (send, receive) = std::sync::mpsc::channel();
    let panicked = thread::spawn(move || {
        let world = World::builder().place(PlaceSpec::new("host")).build().unwrap();
        send.send(world["host"].name().to_owned()).unwrap();
        panic!("as a failing test does");
    });
    assert!(panicked.join().is_err());
    assert!(!exists(&receive.recv().unwrap()));
}

/// Run by the test below in a process of its own: makes a world and a fake agent, and waits for an interrupt.
#[test]
#[ignore = "only of use to interrupt_removes_lab_and_agent"]
fn helper_wait_to_be_interrupted() {
    lab::clean_up_on_interrupt().unwrap();
    let world = World::three_offices(&Options::default()).unwrap();
    let (agent, _script) = fake_agent(0, ":").unwrap();
    let running = agent.start_with(&world[HUB], "").unwrap();
    println!("\nMADE {} {}", running.pid(), running.config().parent().unwrap().display());
    for (_, namespace) in world.places() {
        println!("MADE {}", namespace.name());
    }
    println!("READY");
    thread::sleep(Duration::from_secs(60));
}

#[test]
fn interrupt_removes_lab_and_agent() {
    for signal in ["INT", "TERM"] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "helper_wait_to_be_interrupted"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
        let made: Vec<String> = lines
            .map(Result::unwrap)
            .take_while(|line| line != "READY")
            .filter_map(|line| line.strip_prefix("MADE ").map(str::to_owned))
            .collect();
        assert_eq!(made.len(), 6, "{made:?}");
        assert!(made[1..].iter().all(|name| exists(name)));
        let kill = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert!(!made[1..].iter().any(|name| exists(name)), "{made:?}");
        let (pid, directory) = made[0].split_once(' ').unwrap();
        assert!(!Path::new("/proc").join(pid).exists());
        assert!(!Path::new(directory).exists());
    }
}

/// A script in place of the agent, and its directory. For `run` it does `first` and waits for SIGTERM, at which it
/// exits with `code`. For `status` it answers as long as the running one is alive. A killed one leaves its socket,
/// which does not prove that the next one is ready.
fn fake_agent(code: u8, first: &str) -> anyhow::Result<(AgentCommand, Scratch)> {
    let scratch = Scratch::new()?;
    // --socket PATH run … | --socket PATH --output json status
    let script = format!(
        "#!/bin/sh\ncase \"$3\" in\nrun) trap 'exit {code}' TERM; echo started; {first}; echo $$ >\"$2\"; while :; do sleep 0.1; done;;\n*) test \"$5\" = status && kill -0 $(cat \"$2\") && echo '{{\"gateway\":{{\"name\":\"fake\"}}}}';;\nesac\n"
    );
    let text = scratch.file("script");
    std::fs::write(&text, script)?;
    let path = scratch.executable(&text, "vpnhub")?;
    Ok((AgentCommand::new(path).ready_within(WAIT), scratch))
}

#[test]
fn agent_is_started_queried_and_stopped() {
    let world = World::builder().place(PlaceSpec::new("host")).build().unwrap();
    let (command, _script) = fake_agent(0, ":").unwrap();
    let agent = command.start_with(&world["host"], "text").unwrap();
    assert_eq!(agent.status().unwrap()["gateway"]["name"], "fake");
    assert_eq!(std::fs::read_to_string(agent.config()).unwrap(), "text");
    assert_eq!(world["host"].processes().unwrap()[0].0, agent.pid());
    agent.stop().unwrap();

    // A crash leaves its files for the next one.
    let agent = command.start_with(&world["host"], "kept").unwrap();
    let pid = agent.pid();
    let agent = command.start_in(&world["host"], agent.kill().unwrap()).unwrap();
    assert_ne!(agent.pid(), pid);
    assert_eq!(std::fs::read_to_string(agent.config()).unwrap(), "kept");
    agent.stop().unwrap();
}

#[test]
fn agent_failure_is_reported_with_its_log() {
    let world = World::builder().place(PlaceSpec::new("host")).build().unwrap();
    let (command, _script) = fake_agent(0, "echo no such interface; exit 1").unwrap();
    let failed = command.start_with(&world["host"], "");
    let error = failed.unwrap_err().to_string();
    assert!(error.contains("exit status: 1") && error.contains("no such interface"), "{error}");

    let (command, _script) = fake_agent(3, ":").unwrap();
    let agent = command.start_with(&world["host"], "").unwrap();
    let error = agent.stop().unwrap_err().to_string();
    assert!(error.contains("exit status: 3 on SIGTERM") && error.contains("started"), "{error}");
}

fn exists(name: &str) -> bool {
    Path::new("/run/netns").join(name).exists()
}
