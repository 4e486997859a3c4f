//! Tests of the equipment: all frames through a hub are counted, and wrong ones are detected. Needs root.

use std::{
    io::{BufRead as _, BufReader},
    net::UdpSocket,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use hub_tests::lab::Namespace;
use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_vpnhub-bench");
const FRAMES: u64 = 300_000;

/// Site a - hub - site b, with the hub's kernel forwarding.
struct World {
    a: Namespace,
    hub: Namespace,
    b: Namespace,
}

impl World {
    /// `name` distinguishes the tests of this file.
    fn new(name: &str) -> Self {
        let make = |place| Namespace::create(&format!("vhb-{}-{name}-{place}", std::process::id())).unwrap();
        let world = Self { a: make("a"), hub: make("h"), b: make("b") };
        for place in [&world.a, &world.hub, &world.b] {
            place.sysctl(&[("ipv6/conf/default/accept_dad", "0")]).unwrap();
        }
        world.hub.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]).unwrap();
        world.hub.sysctl(&[("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/default/rp_filter", "0")]).unwrap();
        let link = |device: &str, number: u8, place: &Namespace| {
            format!(
                "link add {device} mtu 1400 address 02:00:00:00:{number:02x}:01 type veth \
                 peer name wan0 netns {} mtu 1400 address 02:00:00:00:{number:02x}:02\n",
                place.name()
            )
        };
        let lines = link("site-a", 1, &world.a)
            + &link("site-b", 2, &world.b)
            + "link set site-a up\n\
               link set site-b up\n\
               address add 169.254.1.1/30 dev site-a\n\
               address add 169.254.2.1/30 dev site-b\n\
               route add 10.10.10.0/24 via 169.254.1.2\n\
               route add 10.10.20.0/24 via 169.254.2.2\n\
               route add fd00:20::/64 via fe80::2 dev site-b\n\
               neighbour add 169.254.2.2 dev site-b lladdr 02:00:00:00:02:02\n\
               neighbour add fe80::2 dev site-b lladdr 02:00:00:00:02:02\n";
        world.hub.batch(&lines).unwrap();
        world.a.batch("link set wan0 up\n").unwrap();
        world.b.batch("link set wan0 up\n").unwrap();
        world
    }

    /// Runs a flood from a to b: IPv4 by default.
    fn flood(&self, options: &[(&str, &str)]) -> Output {
        let frames = FRAMES.to_string();
        let usual = [
            ("--from", self.a.name()),
            ("--from-device", "wan0"),
            ("--to", self.b.name()),
            ("--to-device", "wan0"),
            ("--gateway-mac", "02:00:00:00:01:01"),
            ("--source", "10.10.10.1"),
            ("--destination", "10.10.20.0/24"),
            ("--frames", &frames),
        ];
        let usual = usual.iter().filter(|(usual, _)| options.iter().all(|(option, _)| usual != option));
        let mut command = Command::new(BENCH);
        command.args(["flood", "--json"]);
        for (option, value) in usual.chain(options) {
            // As one word: a flag has no value.
            command.arg(if value.is_empty() { (*option).to_owned() } else { format!("{option}={value}") });
        }
        command.output().unwrap()
    }

    fn report(&self, options: &[(&str, &str)]) -> Value {
        let output = self.flood(options);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{options:?}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Attaches a program to the hub's device towards a, until the value is dropped.
    fn attach(&self, program: &str, more: &[&str]) -> Attached {
        let mut command = Command::new(BENCH);
        command.args([program, "--in", self.hub.name(), "--device", "site-a"]).args(more);
        let mut attached = Attached(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(attached.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("is attached"), "{program} says {line:?}");
        attached
    }
}

struct Attached(Child);

impl Drop for Attached {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const IPV6: [(&str, &str); 2] = [("--source", "fd00:10::1"), ("--destination", "fd00:20::/64")];

fn all_arrive(report: &Value) {
    assert_eq!(report["sent"], FRAMES);
    assert_eq!(report["received"], FRAMES);
    assert_eq!(report["garbled"], 0);
    assert_eq!(report["void"], false);
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
    assert!(report["packets_per_second"].as_f64().unwrap() > 0.0);
}

#[test]
fn flood_through_kernel_forwarding_loses_no_frame() {
    let world = World::new("kernel");
    // A veth takes redirected frames with GRO, or with a program.
    world.hub.set_gro("site-a", true).unwrap();
    for bytes in ["64", "512", "1414"] {
        all_arrive(&world.report(&[("--bytes", bytes)]));
    }
    for bytes in ["72", "1414"] {
        let one = [("--bytes", bytes), ("--flows", "1"), ("--destinations", "1")];
        all_arrive(&world.report(&[&IPV6[..], &one].concat()));
    }
    world.hub.set_gro("site-a", false).unwrap();
    let _pass = world.attach("pass", &[]);
    all_arrive(&world.report(&[]));
}

#[test]
fn flood_with_stray_packets_loses_no_frame() {
    let world = World::new("stray");
    let _pass = world.attach("pass", &[]);
    world.a.batch("address add 169.254.1.2/30 dev wan0\n").unwrap();
    let socket = world.a.enter(|| UdpSocket::bind("169.254.1.2:0")).unwrap().unwrap();
    let (_stop, stopped) = mpsc::channel::<()>();
    thread::spawn(move || {
        while stopped.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout) {
            // To the hub itself, where there is no listener.
            socket.send_to(b"stray", "169.254.1.1:9").ok();
        }
    });
    all_arrive(&world.report(&[]));
}

#[test]
fn flood_with_unrewritten_frames_is_void() {
    let world = World::new("garbled");
    let _bare = world.attach("bare", &["--out-device", "site-b"]);
    for options in [vec![("--bytes", "64")], [&IPV6[..], &[("--bytes", "72")]].concat()] {
        // Neither MACs nor TTL are what they must be.
        let report = world.report(&options);
        assert_eq!((&report["received"], &report["garbled"]), (&FRAMES.into(), &FRAMES.into()));
        assert_eq!(report["void"], true);
        // And all else is.
        all_arrive(&world.report(&[&options[..], &[("--untouched", "")]].concat()));
    }
}

#[test]
fn flood_without_route_ends_as_void() {
    let world = World::new("lost");
    world.hub.set_gro("site-a", true).unwrap();
    world.hub.batch("route del 10.10.20.0/24\n").unwrap();
    let report = world.report(&[]);
    assert_eq!((&report["received"], &report["void"]), (&0.into(), &true.into()));
}

#[test]
fn flood_argument_error_names_remedy() {
    let world = World::new("error");
    for (option, value, say) in [
        ("--from", "vhb-none", "no network namespace vhb-none"),
        ("--to-device", "none0", "-brief link"),
        ("--bytes", "40", "60 to 3072"),
        ("--source", "fd00::1", "one is IPv4, one IPv6"),
    ] {
        let output = world.flood(&[(option, value)]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(say), "{option} {value}: {stderr}");
    }
    let _pass = world.attach("pass", &[]);
    let output = Command::new(BENCH).args(["pass", "--in", world.hub.name(), "--device", "site-a"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("has an XDP program already"));
}
