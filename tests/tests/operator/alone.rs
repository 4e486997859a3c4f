//! Full neighbour tables. The kernel has one for all namespaces, so these run where nothing else does.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv6Addr;
use std::time::Duration;

use hub_tests::lab::{
    AgentCommand, FrameSocket, HANGZHOU, HUB, HubConfig, Options, Rig, SHANGHAI, Site, Status, VPC, World, agent_binary,
};
use hub_tests::packet::Packet;

use crate::SITES;

const WAIT: Duration = Duration::from_secs(20);

/// Addresses of the VPC's link that no host has.
const STRANGERS: u16 = 30_000;
/// More than the kernel's default limit of neighbours, 1024 (`gc_thresh3`).
const PEERS: u32 = 1_200;

#[test]
#[ignore = "fills the kernel's neighbour table, which all namespaces share: cargo xtask vm-test"]
fn packets_to_very_many_unknown_hosts_are_counted_and_logged_a_few_times() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    let site = &rig.world["shanghai"];
    let socket = FrameSocket::open(site, &Site::device(0)).unwrap();
    let macs = [site.mac(&Site::device(0)).unwrap().0, rig.world[HUB].mac(&SHANGHAI.hub_device(0)).unwrap().0];
    let before = rig.agent.status().unwrap();
    let prefix = VPC.host6.to_bits() >> 64 << 64;
    for host in 0..STRANGERS {
        let unknown = Ipv6Addr::from_bits(prefix | 0xdead_0000 | u128::from(host));
        let packet = Packet::ipv6(SHANGHAI.host6(), unknown).udp(7000, 7000);
        socket.send(&packet.ethernet(macs[0], macs[1]).build()).unwrap();
    }
    let count = |status: &Status| status.since(&before, "shanghai", "passes/no_neighbour");
    rig.agent.wait_for_status(WAIT, |status| count(status) == u64::from(STRANGERS)).unwrap();
    let log = rig.agent.log();
    let lines = log.lines().filter(|line| line.contains("WARN")).count();
    assert!(lines < 50, "{lines} lines:\n{log}");
    // Others are served meanwhile.
    rig.world[HUB].set_link(&HANGZHOU.hub_device(0), false).unwrap();
    rig.agent.wait_for_status(WAIT, |status| status.connection("hangzhou")["state"] == "down").unwrap();
    rig.stop().unwrap();
}

#[test]
#[ignore = "fills the kernel's neighbour table, which all namespaces share: cargo xtask vm-test"]
fn more_peers_than_the_neighbour_table_holds_are_reported_with_the_sysctl_to_raise() {
    let world = World::three_offices(&Options::default()).unwrap();
    let device = SHANGHAI.hub_device(0);
    world[HUB].ip(&format!("addr add 100.64.0.1/16 dev {device}")).unwrap();
    let offices = HubConfig::offices(&SITES).to_string();
    let mut text = offices.replacen("[gateway]\n", &format!("[gateway]\nmax_connections = {}\n", PEERS + 10), 1);
    for peer in 0..PEERS {
        let [_, _, high, low] = peer.to_be_bytes();
        write!(
            text,
            "\n[customer_gateway.p{peer}]\naddress = \"198.18.{high}.{low}\"\n\
             [connection.p{peer}]\ncustomer_gateway = \"p{peer}\"\ninterface = \"{device}\"\n\
             peer = \"100.64.{}.{low}\"\nlocal_cidrs = [\"192.168.0.0/24\"]\nremote_cidrs = [\"100.65.{high}.{low}/32\"]\n",
            high + 1,
        )
        .unwrap();
    }
    let agent = AgentCommand::new(agent_binary()).start_with(&world[HUB], &text).unwrap();
    let full = |line: &&str| line.contains("neighbour table is full");
    let reported = || Ok(agent.log().lines().find(full).map(str::to_owned));
    let line = hub_tests::lab::retry("the full table is not reported", reported).unwrap();
    assert!(line.contains("net.ipv4.neigh.default.gc_thresh3"), "{line}");
    let lines = agent.log().lines().filter(full).count();
    assert!(lines < 50, "{lines} lines");
    // With fewer peers all are resolved.
    fs::write(agent.config(), offices).unwrap();
    let output = agent.cli(&["reload"]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    agent.stop().unwrap();
}
