//! Routes that sites announce by BGP through kernel ESP, with FRR at the hub and at two sites.

use std::fmt::Write as _;
use std::net::IpAddr;

use hub_tests::lab::{
    Esp, Frr, HANGZHOU, HubConfig, IpsecLab, IpsecOptions, Ping, SHANGHAI, Site, VPC, reach, retry_within,
};
use serde_json::Value;

use crate::{Case, Needs};

pub const CASES: &[Case] =
    &[(Needs::KernelEspAndFrr, "kernel::learned::networks_announced_by_frr_come_fail_over_and_go", announced)];

pub const SITES: [(Site, u32); 2] = [(SHANGHAI, 65010), (HANGZHOU, 65020)];
pub const NETWORK4: &str = "10.50.0.0/24";
pub const NETWORK6: &str = "fd00:50::/64";
/// The number of the hub's system.
pub const HUB_NUMBER: u32 = 65000;
/// BGP in a virtual machine.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Both sites may have any network: traffic selectors are not learned.
pub fn hub(mut config: HubConfig) -> HubConfig {
    (config.learn, config.services) = (Some("table = 254\nprotocols = [\"bgp\"]"), Some("[\"icmp\", \"tcp/179\"]"));
    for (site, _) in &SITES {
        config.connection(&site.place).remote_cidrs = ["0.0.0.0/0", "::/0"].map(str::to_owned).to_vec();
    }
    config
}

/// A session of each IP version, between addresses inside the tunnel.
fn sessions(own: [IpAddr; 2], peers: &[([IpAddr; 2], u32)]) -> String {
    let mut text = String::new();
    for (family, index) in [("ipv4", 0), ("ipv6", 1)] {
        for (peer, number) in peers.iter().map(|(peer, number)| (peer[index], number)) {
            writeln!(
                text,
                " neighbor {peer} remote-as {number}\n neighbor {peer} ebgp-multihop 4\n neighbor {peer} update-source {}\n \
                 neighbor {peer} timers 3 9\n neighbor {peer} timers connect 1",
                own[index]
            )
            .unwrap();
        }
        writeln!(text, " address-family {family} unicast").unwrap();
        for (peer, _) in peers {
            writeln!(text, "  neighbor {} activate", peer[index]).unwrap();
        }
        text += " exit-address-family\n";
    }
    text
}

fn router(number: u32, own: [IpAddr; 2], sessions: &str, more: &str) -> String {
    format!(
        "router bgp {number}\n bgp router-id {}\n no bgp default ipv4-unicast\n no bgp ebgp-requires-policy\n no bgp \
         network import-check\n bgp bestpath as-path multipath-relax\n{sessions}{more}!\n",
        own[0]
    )
}

/// The learned routes as `DESTINATION NEXT_HOP SHARE`, in percent.
pub fn learned(lab: &IpsecLab) -> Vec<String> {
    let routes = lab.agent.json(&["route", "list", "--learned"]).unwrap();
    let text = |route: &Value| {
        let word = |key: &str| route[key].as_str().unwrap().to_owned();
        format!("{} {} {:.0}", word("destination"), word("next_hop"), route["share"].as_f64().unwrap() * 100.0)
    };
    routes.as_array().unwrap().iter().map(text).collect()
}

fn wait_for(lab: &IpsecLab, hub: &Frr, what: &str, mut accept: impl FnMut(&[String]) -> bool) {
    retry_within(PATIENCE, what, || Ok(accept(&learned(lab)).then_some(()))).unwrap_or_else(|error| {
        let asked = hub.ask("show bgp ipv4 unicast\nshow bgp ipv6 unicast\nshow ip route\nshow ipv6 route");
        panic!("{error:#}\n{:?}\n{}\n{}", learned(lab), asked.unwrap_or_default(), lab.diagnosis())
    });
}

pub fn arrivals(lab: &IpsecLab, hosts: impl Iterator<Item = u8>) -> [u64; 2] {
    let count = |status: &hub_tests::lab::Status| SITES.map(|(site, _)| status.counter(&site.place, "tx_packets"));
    let before = count(&lab.agent.status().unwrap());
    for last in hosts {
        let to: IpAddr = format!("10.50.0.{last}").parse().unwrap();
        let report = Ping::new(to).run(&lab.world[VPC.place]).unwrap();
        assert!(report.complete(), "{to}: {report:?}\n{}", lab.diagnosis());
    }
    let after = count(&lab.agent.status().unwrap());
    [after[0] - before[0], after[1] - before[1]]
}

fn announced() {
    let options = IpsecOptions::new(Esp::Kernel).sites(SITES.map(|(site, _)| site));
    let lab = IpsecLab::start(&options, hub).unwrap();
    for (site, _) in &SITES {
        let place = lab.office(&site.place).place();
        for network in [NETWORK4, NETWORK6] {
            place.ip(&format!("route add local {network} dev lo")).unwrap();
        }
        for to in site.hosts() {
            reach(&lab.world[VPC.place], to).unwrap();
        }
    }
    let own = [IpAddr::from(VPC.hub4), VPC.hub6.into()];
    let peers = SITES.map(|(site, number)| (site.hosts(), number));
    let conf = router(HUB_NUMBER, own, &sessions(own, &peers), "");
    let hub = Frr::start(&lab.world[hub_tests::lab::HUB], &lab.folder().join("frr-hub"), &conf).unwrap();
    let start = |(site, number): &(Site, u32)| {
        let networks = format!(
            " address-family ipv4 unicast\n  network {NETWORK4}\n exit-address-family\n address-family ipv6 unicast\n  \
             network {NETWORK6}\n exit-address-family\n"
        );
        let conf = router(*number, site.hosts(), &sessions(site.hosts(), &[(own, HUB_NUMBER)]), &networks);
        let folder = lab.folder().join(format!("frr-{}", site.place));
        Frr::start(lab.office(&site.place).place(), &folder, &conf).unwrap()
    };
    let sites = SITES.each_ref().map(start);

    // They come.
    let halves = ["hangzhou", "shanghai"].map(|name| format!("{NETWORK4} {name} 50"));
    let has_ipv6 = |routes: &[String]| routes.iter().any(|route| route.starts_with(NETWORK6));
    wait_for(&lab, &hub, "the networks do not come", |routes| routes.starts_with(&halves) && has_ipv6(routes));
    reach(&lab.world[VPC.place], "10.50.0.1".parse().unwrap()).unwrap();
    reach(&lab.world[VPC.place], "fd00:50::1".parse().unwrap()).unwrap();
    let [by_shanghai, by_hangzhou] = arrivals(&lab, 1..=30);
    assert!(by_shanghai >= 5 && by_hangzhou >= 5, "{by_shanghai} and {by_hangzhou} of 30 flows");

    // They fail over: with the SA, before BGP has noticed.
    lab.office("shanghai").terminate().unwrap();
    let all = format!("{NETWORK4} hangzhou 100");
    wait_for(&lab, &hub, "the network does not fail over", |routes| routes.contains(&all));
    assert_eq!(arrivals(&lab, 1..=30)[0], 0);
    lab.office("shanghai").initiate().unwrap();
    wait_for(&lab, &hub, "the network does not come back", |routes| routes.starts_with(&halves));

    // They go.
    let [shanghai, hangzhou] = &sites;
    let family = |number: u32, family: &str, line: &str| {
        format!("configure terminal\nrouter bgp {number}\naddress-family {family} unicast\n{line}")
    };
    hangzhou.ask(&family(65020, "ipv4", &format!("no network {NETWORK4}"))).unwrap();
    let all = format!("{NETWORK4} shanghai 100");
    wait_for(&lab, &hub, "hangzhou's route stays", |routes| routes.first() == Some(&all));
    assert_eq!(arrivals(&lab, 1..=10)[1], 0);
    shanghai.ask(&family(65010, "ipv4", &format!("no network {NETWORK4}"))).unwrap();
    wait_for(&lab, &hub, "shanghai's route stays", |routes| routes.iter().all(|route| route.starts_with(NETWORK6)));
    drop(sites);
    wait_for(&lab, &hub, "the routes of ended daemons stay", <[String]>::is_empty);
    lab.stop().unwrap();
}
