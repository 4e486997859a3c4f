//! WireGuard and GRE as attachments: sites and VPC reach one another between any kinds of interface, through TC. The
//! hub's kernel does not forward. Needs a kernel with these tunnels: `cargo xtask vm-test` boots one.

#[path = "../harness/mod.rs"]
mod harness;

use std::net::IpAddr;
use std::process::{Command, ExitCode};

use hub_tests::lab::{
    HANGZHOU, HUB, HubConfig, NINGBO, Namespace, Options, Ping, Rig, SHANGHAI, Scratch, Site, Status, VPC, VPC_SIDE,
    World, output, tcp_transfer, unique_prefix,
};

static SITES: [Site; 3] = [SHANGHAI, HANGZHOU, NINGBO];
/// The sites' tunnels, with these names at both ends; each runs over the site's link to the hub.
const DEVICES: [&str; 3] = ["wg-sh", "gre-hz", "gre6-nb"];
const MTU: u16 = 1300;
const PINGS: u16 = 3;
/// Size of each ping's ICMP message; its packet is 28 bytes longer with IPv4 and 48 with IPv6.
const PAYLOAD: u16 = 1000;
const STREAM: u64 = 256 << 10;

fn main() -> ExitCode {
    let lacking = lacking();
    let cases: [(&str, fn()); 2] = [
        ("all_pairs_reach_each_other_and_are_counted", all_pairs),
        ("tcp_streams_between_all_interface_kinds_arrive_intact", streams),
    ];
    harness::run(cases.into_iter().map(|(name, run)| (lacking.clone(), name, run)))
}

/// The missing requirement here, in a few words.
fn lacking() -> Option<String> {
    let Ok(place) = Namespace::create(&unique_prefix()) else { return Some("needs root".to_owned()) };
    let kinds = [
        ("WireGuard", "type wireguard"),
        ("GRE", "type gre local 192.0.2.1 remote 192.0.2.2"),
        ("GRE over IPv6", "type ip6gre local 2001:db8::1 remote 2001:db8::2"),
    ];
    if let Some((kind, _)) =
        kinds.iter().find(|(_, kind)| place.batch(&format!("link add probe0 {kind}\nlink del probe0\n")).is_err())
    {
        return Some(format!("needs {kind} in the kernel: cargo xtask vm-test"));
    }
    output(Command::new("wg").arg("--version")).is_err().then(|| "needs wg (Debian: wireguard-tools)".to_owned())
}

/// The offices, each behind another kind of tunnel, with the agent in the hub. `gre` has the options of GRE over IPv4.
fn start(gre: &str) -> Rig {
    let world = World::three_offices(&Options::default()).unwrap();
    wireguard(&world, &SHANGHAI, DEVICES[0]);
    let [hub, site] = [HANGZHOU.hub4(0), HANGZHOU.peer4(0)];
    tunnel(
        &world,
        &HANGZHOU,
        DEVICES[1],
        [&format!("type gre local {hub} remote {site} {gre}"), &format!("type gre local {site} remote {hub} {gre}")],
    );
    for (place, device, address) in
        [(HUB, NINGBO.hub_device(0), "fd01::1/64"), (&*NINGBO.place, Site::device(0), "fd01::2/64")]
    {
        world[place].ip(&format!("addr add {address} dev {device} nodad")).unwrap();
    }
    let ip6gre = |local, remote| format!("type ip6gre local fd01::{local} remote fd01::{remote}");
    tunnel(&world, &NINGBO, DEVICES[2], [&ip6gre(1, 2), &ip6gre(2, 1)]);

    let mut config = HubConfig::offices(&SITES);
    for (connection, device) in config.connections.iter_mut().zip(DEVICES) {
        device.clone_into(&mut connection.interface);
        connection.peer = None;
    }
    let rig = Rig::start_in(world, &config, &[]).unwrap();
    rig.warm_up(&SITES).unwrap();
    rig
}

/// Creates devices of these kinds at the hub and at the site, which sends everything through it.
fn tunnel(world: &World, site: &Site, device: &str, [hub, at_site]: [&str; 2]) {
    let up = format!("link set dev {device} mtu {MTU} up\n");
    world[HUB].batch(&format!("link add {device} {hub}\n{up}")).unwrap();
    // Preferred to the routes by the link itself.
    let routes =
        [format!("default dev {device} src {}", site.host4()), format!("::/0 dev {device} src {}", site.host6())];
    let routes = routes.map(|route| format!("route add {route} metric 50\n")).concat();
    world[&site.place].batch(&format!("link add {device} {at_site}\n{up}{routes}")).unwrap();
}

fn wireguard(world: &World, site: &Site, device: &str) {
    let scratch = Scratch::new().unwrap();
    let [hub, there] = [HUB, &*site.place].map(|place| {
        let key = scratch.file(place);
        let script = format!("umask 077; wg genkey > {0}; wg pubkey < {0}", key.display());
        let said = output(Command::new("sh").args(["-c", &script])).unwrap();
        (key, String::from_utf8(said.stdout).unwrap().trim().to_owned())
    });
    tunnel(world, site, device, ["type wireguard"; 2]);
    let ends = [(HUB, &hub.0, &there.1, site.peer4(0)), (&*site.place, &there.0, &hub.1, site.hub4(0))];
    for (place, key, peer, endpoint) in ends {
        let mut wg = world[place].command("wg");
        wg.args(["set", device, "listen-port", "51820", "private-key"]).arg(key);
        wg.args(["peer", peer, "allowed-ips", "0.0.0.0/0,::/0", "endpoint", &format!("{endpoint}:51820")]);
        let said = output(&mut wg).unwrap();
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    }
}

/// Name in status, place, addresses.
fn places() -> Vec<(String, String, [IpAddr; 2])> {
    let sites = SITES.iter().map(|site| (site.place.to_string(), site.place.to_string(), site.hosts()));
    sites.chain([(VPC_SIDE.to_owned(), VPC.place.to_owned(), [VPC.host4.into(), VPC.host6.into()])]).collect()
}

/// GRE with every optional header field.
fn all_pairs() {
    let rig = start("key 7 csum seq");
    let places = places();
    let before = rig.agent.status().unwrap();
    for site in &SITES {
        let connection = before.connection(&site.place);
        assert_eq!(connection["attach"], "tc", "{connection:#}");
        assert_eq!(connection["attach_reason"], "a layer-3 interface: XDP cannot send to it");
    }
    let vpc = before.connection(VPC_SIDE);
    assert_eq!(vpc["attach"], "tc");
    assert_eq!(vpc["attach_reason"], "no other attachment that XDP could send to");
    for (_, from, own) in &places {
        for (_, to, addresses) in places.iter().filter(|(_, to, _)| to != from) {
            for (source, target) in own.iter().zip(addresses) {
                let ping = Ping::new(*target).source(*source).count(PINGS).size(PAYLOAD.into());
                let report = ping.run(&rig.world[from]).unwrap();
                assert!(report.complete(), "{from} to {to}, {target}: {report:?}\n{:#?}", rig.agent.status());
            }
        }
    }
    let after = rig.agent.status().unwrap();
    // Each place sends to the three others, and answers them: as much in as out, for each family.
    let packets = u64::from(PINGS) * 3 * 2;
    let bytes = packets * u64::from(PAYLOAD + 28 + PAYLOAD + 48);
    for (name, ..) in &places {
        for (path, value) in
            [("rx_packets", 2 * packets), ("tx_packets", 2 * packets), ("rx_bytes", bytes), ("tx_bytes", bytes)]
        {
            assert_eq!(after.since(&before, name, path), value, "{name} {path}");
        }
    }
    assert_none_dropped(&after);
    rig.stop().unwrap();
}

fn assert_none_dropped(status: &Status) {
    let drops = status["drops"].as_object().unwrap();
    assert!(drops.values().all(|count| *count == 0), "{drops:#?}");
}

/// TCP with packets of several segments, far longer than an MTU, between interfaces with segmentation offload.
fn streams() {
    let rig = start("");
    let places = places();
    let mut seed = 1;
    for (_, from, _) in &places {
        for (_, to, addresses) in places.iter().filter(|(_, to, _)| to != from) {
            // One family in each direction.
            let family = usize::from(from < to);
            let (from, to) = (&rig.world[from], &rig.world[to]);
            let transfer = tcp_transfer(from, to, addresses[family], STREAM, seed);
            transfer.unwrap_or_else(|error| panic!("{} to {}: {error:#}", from.name(), to.name()));
            seed += 1;
        }
    }
    assert_none_dropped(&rig.agent.status().unwrap());
    rig.stop().unwrap();
}
