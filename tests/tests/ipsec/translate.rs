//! Translation at real tunnels: two sites that the hub knows by other addresses than their own. The SAs have the sites'
//! own addresses; what the hub's kernel forwards, answers and sends itself does not.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use hub_tests::lab::{
    Bird, Esp, HUB, HubConfig, IpsecLab, IpsecOptions, NINGBO, Namespace, Ping, SHANGHAI, Site, TcpPair, UdpProbe, VPC,
    reach, retry,
};

use crate::{Case, Needs};

pub const CASES: &[Case] = &[
    (Needs::StrongSwan, "userspace::translated_sites_reach_each_other", || translated(Esp::Userspace)),
    (Needs::KernelEsp, "kernel::translated_sites_reach_each_other", || translated(Esp::Kernel)),
    (Needs::Bird, "userspace::translated_site_announces_routes_by_bgp", || announces_routes(Esp::Userspace)),
    (Needs::KernelEspAndBird, "kernel::translated_site_announces_routes_by_bgp", || announces_routes(Esp::Kernel)),
];

const SITES: [Site; 2] = [SHANGHAI, NINGBO];
/// No tunnel of the lab has more.
const TOO_LONG: usize = 1480;

/// The network of a site as the hub knows it: 10.10.1N.0/24 and `fd00:201:10:N::/64`.
fn at_hub(own: &str) -> String {
    own.replacen("10.10.", "10.10.1", 1).replacen("fd00:10:", "fd00:201:", 1)
}

fn known(own: IpAddr) -> IpAddr {
    at_hub(&own.to_string()).parse().unwrap()
}

fn configure(mut config: HubConfig) -> HubConfig {
    for connection in &mut config.connections {
        let own = connection.remote_cidrs.clone();
        connection.translate = own.into_iter().map(|own| [own.clone(), at_hub(&own)]).collect();
    }
    for route in &mut config.routes {
        route.destination = at_hub(&route.destination);
    }
    config
}

fn translated(esp: Esp) {
    let lab = IpsecLab::start(&IpsecOptions::new(esp).sites(SITES), configure).unwrap();
    // It answers what it would forward.
    lab.world[HUB].sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]).unwrap();
    let [shanghai, ningbo] = ["shanghai", "ningbo"].map(|place| lab.office(place).place());
    let vpc = &lab.world[VPC.place];
    for (site, place) in SITES.iter().zip([shanghai, ningbo]) {
        for (own, host) in site.hosts().into_iter().zip([IpAddr::from(VPC.host4), VPC.host6.into()]) {
            reach(place, host).unwrap_or_else(|error| panic!("{error:#}\n{}", lab.diagnosis()));
            reach(vpc, known(own)).unwrap();
        }
    }
    for ((from, own), (to, far)) in [
        ((shanghai, SHANGHAI.hosts()), (ningbo, NINGBO.hosts())),
        ((ningbo, NINGBO.hosts()), (shanghai, SHANGHAI.hosts())),
    ] {
        for (own, far) in own.into_iter().zip(far) {
            assert!(Ping::new(known(far)).source(own).run(from).unwrap().complete(), "{own} to {far}");
            let mut stream = TcpPair::open_translated(from, Some(own), to, [known(far), far]).unwrap();
            stream.transfer(200_000, 3).unwrap();
            refused_at_far_end(from, own, known(far));
            expires_at_hub(from, own, known(far));
        }
    }
    for (own, far) in SHANGHAI.hosts().into_iter().zip(NINGBO.hosts()) {
        too_long_for_the_tunnel(vpc, known(far));
        let source = if own.is_ipv4() { IpAddr::from(VPC.hub4) } else { VPC.hub6.into() };
        for own in [own, far] {
            let ping = Ping::new(known(own)).source(source).run(&lab.world[HUB]).unwrap();
            assert!(ping.complete(), "{own} from the hub itself");
        }
    }
    resolves_unknown_neighbour(&lab, shanghai);
    lab.stop().unwrap();
}

/// The VPC's hosts of these addresses are not known to the hub yet: its kernel resolves and forwards to them.
fn resolves_unknown_neighbour(lab: &IpsecLab, from: &Namespace) {
    let before = lab.agent.status().unwrap();
    for (own, host, length) in [
        (SHANGHAI.host4().into(), IpAddr::from([192, 168, 0, 77]), 24),
        (SHANGHAI.host6().into(), "fd00:192:168::77".parse().unwrap(), 64),
    ] {
        lab.world[VPC.place].ip(&format!("addr add {host}/{length} dev {} nodad", VPC.device)).unwrap();
        assert!(Ping::new(host).source(own).run(from).unwrap().complete(), "{own} to {host}");
    }
    let passed = lab.agent.status().unwrap().since(&before, "shanghai", "passes/no_neighbour");
    assert!(passed >= 2, "{passed} packets to unknown neighbours");
}

/// A BGP session between the hub's BIRD, which knows the site by its address at the hub, and the site's, for each IP
/// version: of IPv4 the site connects, of IPv6 the hub. The site's routes arrive.
fn announces_routes(esp: Esp) {
    let services = |config| HubConfig { services: Some("[\"icmp\", \"tcp/179\"]"), ..configure(config) };
    let lab = IpsecLab::start(&IpsecOptions::new(esp).sites([SHANGHAI]), services).unwrap();
    let site = lab.office("shanghai").place();
    let [own4, own6] = SHANGHAI.hosts();
    let (hub4, hub6) = (VPC.hub4, VPC.hub6);
    let session = |family: &str, own: IpAddr, numbers: [u16; 2], other: IpAddr, passive: bool, channel: &str| {
        let [number, other_number] = numbers;
        format!(
            "protocol bgp over_{family} {{ local {own} as {number}; neighbor {other} as {other_number}; multihop;\n\
             connect delay time 1; connect retry time 1; error wait time 1, 2; passive {};\n\
             {family} {{ {channel} }}; }}\n",
            if passive { "on" } else { "off" }
        )
    };
    let at_hub = [
        format!("router id {hub4};\nprotocol device {{}}\n"),
        session("ipv4", hub4.into(), [65000, 65010], known(own4), true, "import all; export none;"),
        session("ipv6", hub6.into(), [65000, 65010], known(own6), false, "import all; export none;"),
    ];
    let at_site = [
        format!("router id {own4};\nprotocol device {{}}\n"),
        "protocol static { ipv4; route 10.99.0.0/24 blackhole; }\n".to_owned(),
        "protocol static { ipv6; route fd00:99::/64 blackhole; }\n".to_owned(),
        session("ipv4", own4, [65010, 65000], hub4.into(), false, "import none; export all;"),
        session("ipv6", own6, [65010, 65000], hub6.into(), true, "import none; export all;"),
    ];
    let hub = Bird::start(&lab.world[HUB], &lab.folder().join("bird-hub"), &at_hub.concat()).unwrap();
    let _site = Bird::start(site, &lab.folder().join("bird-site"), &at_site.concat()).unwrap();
    for (session, route) in [("ipv4", "10.99.0.0/24"), ("ipv6", "fd00:99::/64")] {
        let arrived = || Ok(hub.ask(&format!("show route protocol over_{session}"))?.contains(route).then_some(()));
        retry(&format!("{route} does not arrive"), arrived).unwrap_or_else(|error| {
            panic!("{error:#}\n{}\n{}", hub.ask("show protocols all").unwrap(), lab.diagnosis())
        });
    }
    lab.stop().unwrap();
}

/// A closed port of the far site: its error comes back through both translations to the socket.
fn refused_at_far_end(from: &Namespace, own: IpAddr, to: IpAddr) {
    let socket = from.enter(|| UdpSocket::bind(SocketAddr::new(own, 0))).unwrap().unwrap();
    socket.connect(SocketAddr::new(to, 9)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    retry(&format!("{to} does not refuse"), || {
        // A site sends few errors per second. The error may also be reported at the next sending.
        let refused = socket.send(&[0; 32]).and_then(|_| socket.recv(&mut [0; 32]));
        Ok(matches!(refused, Err(error) if error.kind() == ErrorKind::ConnectionRefused).then_some(()))
    })
    .unwrap();
}

/// The hub's kernel answers a packet whose TTL ends there, and the site's kernel takes the answer: it counts only those
/// with right checksums.
fn expires_at_hub(from: &Namespace, own: IpAddr, to: IpAddr) {
    let before = times_exceeded(from, own.is_ipv6());
    retry(&format!("no TTL to {to} expires"), || {
        UdpProbe::new(SocketAddr::new(own, 0), SocketAddr::new(to, 33_434)).hops(1).send(from)?;
        Ok((times_exceeded(from, own.is_ipv6()) > before).then_some(()))
    })
    .unwrap();
}

/// Errors "time exceeded" that a place has received.
fn times_exceeded(place: &Namespace, v6: bool) -> u64 {
    let file = if v6 { "/proc/net/snmp6" } else { "/proc/net/snmp" };
    let output = place.command("cat").arg(file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    if v6 {
        let line = text.lines().find(|line| line.starts_with("Icmp6InTimeExcds")).expect("the kernel has IPv6");
        return line.split_whitespace().nth(1).unwrap().parse().unwrap();
    }
    let mut lines = text.lines().filter(|line| line.starts_with("Icmp: "));
    let mut words = || lines.next().expect("names and numbers").split_whitespace().collect::<Vec<_>>();
    let (names, numbers) = (words(), words());
    let at = names.iter().position(|name| *name == "InTimeExcds").expect("a counter of ICMP");
    numbers[at].parse().unwrap()
}

/// The kernel of the hub reports the tunnel's MTU: the VPC's host knows it afterwards.
fn too_long_for_the_tunnel(vpc: &Namespace, to: IpAddr) {
    let known_mtu = || vpc.ip(&format!("route get {to}")).unwrap();
    retry(&format!("no MTU is known for {to}"), || {
        let ping = Ping::new(to).size(TOO_LONG - 48).dont_fragment().timeout(Duration::from_millis(200)).run(vpc);
        // Once the MTU is known, it cannot be sent any more.
        Ok((ping.is_err() || known_mtu().contains("mtu 1")).then_some(()))
    })
    .unwrap();
    assert!(known_mtu().contains(" mtu 1"), "{}", known_mtu());
}
