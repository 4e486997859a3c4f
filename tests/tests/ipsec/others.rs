//! `selectors = "xfrm"`: SAs and policies installed in the kernel by a third party, here `ip xfrm`, without an IKE
//! daemon.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hub_tests::lab::{
    HANGZHOU, HUB, HubConfig, NINGBO, Options, Rig, SHANGHAI, Status, UdpProbe, UdpReceiver, VPC, World, reach,
};

use crate::{Case, Needs};

pub const CASES: &[Case] =
    &[(Needs::KernelEspAlone, "kernel::foreign_xfrm_policies_admit_traffic_while_present", others)];

const DEVICE: &str = "xfrm-sh";
const IF_ID: u32 = 10;
const WAIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;
/// Number of refused packets, per family and kind.
const COUNT: u64 = 3;
/// The hub's policies: for a part of Shanghai's networks, and of the networks behind the hub for the VPC and Hangzhou,
/// not Ningbo.
const REMOTE: [&str; 2] = ["10.10.10.0/25", "fd00:10:10:10::/65"];
const LOCAL: [[&str; 2]; 2] = [["192.168.0.0/24", "fd00:192:168::/64"], ["10.10.20.0/24", "fd00:10:10:20::/64"]];

/// Any network, and the site's.
fn networks() -> [(&'static str, String); 2] {
    [("0.0.0.0/0", SHANGHAI.network4().to_string()), ("::/0", SHANGHAI.network6().to_string())]
}

/// `ip xfrm` in the hub and at the site, with their tunnel link as the underlay.
struct Tunnel<'a> {
    world: &'a World,
    hub: IpAddr,
    site: IpAddr,
}

impl Tunnel<'_> {
    fn of(world: &World) -> Tunnel<'_> {
        Tunnel { world, hub: SHANGHAI.hub4(0).into(), site: SHANGHAI.peer4(0).into() }
    }

    /// An SA, inbound or outbound from the hub's view.
    fn sa(&self, inbound: bool, number: u32) -> String {
        let (from, to) = if inbound { (self.site, self.hub) } else { (self.hub, self.site) };
        let key = "0x0102030405060708090a0b0c0d0e0f1011121314";
        format!(
            "src {from} dst {to} proto esp spi {spi} reqid {number} mode tunnel aead rfc4106(gcm(aes)) {key} 128 flag af-unspec",
            spi = 0x1000 + number + u32::from(inbound) * 0x100,
        )
    }

    fn template(&self, inbound: bool, number: u32) -> String {
        let (from, to) = if inbound { (self.site, self.hub) } else { (self.hub, self.site) };
        format!("tmpl src {from} dst {to} proto esp reqid {number} mode tunnel")
    }

    /// Adds both directions at both ends, with this request id.
    fn add_sas(&self, number: u32) {
        let lines = |more: &str| {
            [true, false].map(|inbound| format!("xfrm state add {}{more}\n", self.sa(inbound, number))).concat()
        };
        self.world[HUB].batch(&lines(&format!(" if_id {IF_ID}"))).unwrap();
        self.world["shanghai"].batch(&lines("")).unwrap();
    }

    /// Deletes only the hub's inbound SA with this request id.
    fn hub_loses_sa(&self, number: u32) {
        let spi = 0x1100 + number;
        let sa = format!("src {} dst {} proto esp spi {spi}", self.site, self.hub);
        self.world[HUB].ip(&format!("xfrm state delete {sa}")).unwrap();
    }

    fn hub_gets_sa(&self, number: u32) {
        self.world[HUB].ip(&format!("xfrm state add {} if_id {IF_ID}", self.sa(true, number))).unwrap();
    }

    /// The hub's inbound policies.
    fn hub_policies(&self, verb: &str) {
        let template = if verb == "add" { self.template(true, 1) } else { String::new() };
        let pairs = LOCAL.into_iter().flat_map(|local| REMOTE.into_iter().zip(local));
        let line = |((remote, local), direction): ((&str, &str), &str)| {
            format!("xfrm policy {verb} src {remote} dst {local} dir {direction} if_id {IF_ID} {template}\n")
        };
        let lines: String = pairs.flat_map(|pair| ["in", "fwd"].map(|direction| (pair, direction))).map(line).collect();
        self.world[HUB].batch(&lines).unwrap();
    }

    /// The hub's outbound policies, and all of the site's, which encrypts everything it sends.
    fn other_policies(&self) {
        let (inbound, outbound) = (self.template(true, 1), self.template(false, 1));
        let hub = networks()
            .map(|(any, own)| format!("xfrm policy add src {any} dst {own} dir out if_id {IF_ID} {outbound}\n"));
        let site = networks().map(|(any, own)| {
            format!(
                "xfrm policy add src {own} dst {any} dir out {inbound}\nxfrm policy add src {any} dst {own} dir in {outbound}\n"
            )
        });
        self.world[HUB].batch(&hub.concat()).unwrap();
        self.world["shanghai"].batch(&site.concat()).unwrap();
    }

    /// Makes the site send by its SA with this request id.
    fn site_sends_by(&self, number: u32) {
        let template = self.template(true, number);
        let line = |(any, own): (&str, String)| format!("xfrm policy update src {own} dst {any} dir out {template}\n");
        self.world["shanghai"].batch(&networks().map(line).concat()).unwrap();
    }
}

/// Receiving hosts: the VPC's, and Ningbo's, for both families.
struct Far {
    receivers: Vec<(SocketAddr, UdpReceiver)>,
}

impl Far {
    fn open(world: &World, place: &str, hosts: [IpAddr; 2]) -> Self {
        let bind = |host| {
            let to = SocketAddr::new(host, PORT);
            (to, UdpReceiver::bind(&world[place], to).unwrap())
        };
        Self { receivers: hosts.map(bind).into() }
    }

    fn send(&self, world: &World, sources: [IpAddr; 2], text: &str) {
        for (source, (to, _)) in sources.into_iter().zip(&self.receivers) {
            let probe = UdpProbe::new(SocketAddr::new(source, PORT), *to).payload(text);
            drop(probe.send(&world["shanghai"]).unwrap());
        }
    }

    /// Expects this as the next arrival.
    fn expect(&self, sources: [IpAddr; 2], text: &str) {
        for (source, (to, receiver)) in sources.into_iter().zip(&self.receivers) {
            let datagram = receiver.receive(WAIT).unwrap().unwrap_or_else(|| panic!("{text}: nothing came to {to}"));
            assert_eq!((datagram.from.ip(), datagram.payload), (source, text.as_bytes().to_vec()));
        }
    }
}

fn admitted() -> [IpAddr; 2] {
    [SHANGHAI.nth4(9).into(), SHANGHAI.nth6(9).into()]
}

/// Sources of Shanghai outside every policy.
fn beyond() -> [IpAddr; 2] {
    [SHANGHAI.nth4(200).into(), SHANGHAI.nth6(1 << 63 | 9).into()]
}

fn is(state: &'static str) -> impl Fn(&Status) -> bool {
    move |status: &Status| status.connection("shanghai")["state"] == state
}

fn others() {
    let world = World::three_offices(&Options::default()).unwrap();
    let hub = format!(
        "link add {DEVICE} type xfrm dev {} if_id {IF_ID}\nlink set dev {DEVICE} mtu 1300 up\n",
        SHANGHAI.hub_device
    );
    world[HUB].batch(&hub).unwrap();
    let mut config = HubConfig::offices(&[SHANGHAI, HANGZHOU, NINGBO]);
    let connection = config.connection("shanghai");
    connection.interface = DEVICE.into();
    connection.peer = None;
    connection.selectors = Some("xfrm");
    connection.up_delay = Some("0s".into());
    let rig = Rig::start_in(world, &config, &[]).unwrap();
    let (world, agent) = (&rig.world, &rig.agent);
    rig.warm_up(&[HANGZHOU, NINGBO]).unwrap();
    let tunnel = Tunnel::of(world);
    let vpc = Far::open(world, VPC.place, [VPC.host4.into(), VPC.host6.into()]);
    let ningbo = Far::open(world, "ningbo", NINGBO.hosts());

    let status = agent.wait_for_status(WAIT, is("down")).unwrap();
    assert_eq!(status.connection("shanghai")["state_reason"], "the kernel has no policy with an SA for it");
    tunnel.other_policies();
    tunnel.add_sas(1);
    tunnel.add_sas(2);
    assert!(is("down")(&agent.status().unwrap()), "SAs without a policy admit nothing");
    tunnel.hub_policies("add");
    agent.wait_for_status(WAIT, is("up")).unwrap();
    // To the site and back, from Ethernet.
    for to in SHANGHAI.hosts() {
        reach(&world[VPC.place], to).unwrap();
        reach(&world["hangzhou"], to).unwrap();
    }
    vpc.send(world, admitted(), "within");
    vpc.expect(admitted(), "within");

    // Each violates the policies in one way, and none arrives before the next allowed packet.
    let before = agent.status().unwrap();
    for _ in 0..COUNT {
        vpc.send(world, beyond(), "from outside");
        ningbo.send(world, admitted(), "to outside");
    }
    let dropped = |since: &Status, reason: &'static str| {
        let since = since.counter("shanghai", &format!("drops/{reason}"));
        move |status: &Status| status.counter("shanghai", &format!("drops/{reason}")) - since
    };
    let (spoofed, mismatched) = (dropped(&before, "spoofed_source"), dropped(&before, "selector_mismatch"));
    let status = agent.wait_for_status(WAIT, |status| spoofed(status) + mismatched(status) >= 4 * COUNT).unwrap();
    assert_eq!((spoofed(&status), mismatched(&status)), (2 * COUNT, 2 * COUNT), "{:#}", *status);

    // Without the policies, without their SA, and with everything restored.
    let refused = |what: &str| {
        let before = agent.wait_for_status(WAIT, is("down")).unwrap();
        let spoofed = dropped(&before, "spoofed_source");
        for _ in 0..COUNT {
            vpc.send(world, admitted(), what);
        }
        let status = agent.wait_for_status(WAIT, |status| spoofed(status) >= 2 * COUNT).unwrap();
        assert_eq!(spoofed(&status), 2 * COUNT, "{what}: {:#}", *status);
    };
    let delivered = |what: &str| {
        agent.wait_for_status(WAIT, is("up")).unwrap();
        vpc.send(world, admitted(), what);
        vpc.expect(admitted(), what);
    };
    tunnel.hub_policies("delete");
    refused("without policies");
    tunnel.hub_policies("add");
    delivered("with policies again");
    // The kernel still decrypts the site's traffic, by another SA.
    tunnel.site_sends_by(2);
    delivered("by another SA");
    tunnel.hub_loses_sa(1);
    refused("without the policies' SA");
    tunnel.hub_gets_sa(1);
    delivered("with the SA again");
    rig.stop().unwrap();
}
