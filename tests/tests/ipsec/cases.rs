//! Requirements for every ESP implementation: functions of it, so that both pass the same tests.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use hub_tests::lab::{Esp, HUB, HubConfig, IpsecLab, IpsecOptions, Ping, Status, VPC, reach};

use crate::{Case, Needs};

pub const USERSPACE: &[Case] = &[
    (Needs::StrongSwan, "userspace::all_pairs_reach_each_other_without_kernel_forwarding", || {
        all_pairs(Esp::Userspace);
    }),
    (Needs::StrongSwan, "userspace::rekeying_loses_no_packet_and_never_reports_down", || rekeyed(Esp::Userspace)),
    (Needs::StrongSwan, "userspace::tunnel_ended_by_site_is_reported_and_returns", || {
        ended_by_the_site(Esp::Userspace);
    }),
    (Needs::StrongSwan, "userspace::tunnels_initiated_by_hub_come_up", || hub_begins(Esp::Userspace)),
];

/// Interval between pings while tunnels are rekeyed.
const INTERVAL: Duration = Duration::from_millis(20);

fn unchanged(config: HubConfig) -> HubConfig {
    config
}

/// Places and addresses.
fn places(lab: &IpsecLab) -> Vec<(String, [IpAddr; 2])> {
    let offices = lab.offices.iter().map(|office| (office.site.place.to_string(), office.site.hosts()));
    offices.chain([(VPC.place.to_owned(), [VPC.host4.into(), VPC.host6.into()])]).collect()
}

pub fn all_pairs(esp: Esp) {
    let lab = IpsecLab::start(&IpsecOptions::new(esp), unchanged).unwrap();
    assert_all_reach(&lab);
    for (setting, value) in [("ipv4/ip_forward", "0"), ("ipv6/conf/all/forwarding", "0")] {
        assert_eq!(lab.world[HUB].read_sysctl(setting).unwrap(), value);
    }
    let status = lab.agent.status().unwrap();
    for office in &lab.offices {
        // It has pinged the others and answered them, for both families.
        for counter in ["rx_packets", "tx_packets"] {
            assert!(status.counter(&office.site.place, counter) >= 4 * 3 * 2, "{status:#?}");
        }
    }
    lab.stop().unwrap();
}

/// Every place pings every other, over both families; all are answered.
pub fn assert_all_reach(lab: &IpsecLab) {
    let places = places(lab);
    for (from, addresses) in &places {
        for (to, targets) in places.iter().filter(|(to, _)| to != from) {
            for (source, target) in addresses.iter().zip(targets) {
                let from = &lab.world[from];
                reach(from, *target).unwrap_or_else(|error| panic!("{error:#}\n{}", lab.diagnosis()));
                let report = Ping::new(*target).source(*source).count(4).run(from).unwrap();
                assert!(report.complete(), "{} to {to}: {report:?}\n{:#?}", from.name(), lab.agent.status());
            }
        }
    }
}

/// The SPIs of a connection's child SAs.
pub fn spis(status: &Status, connection: &str) -> Vec<String> {
    let children = status.connection(connection)["ipsec"]["children"].as_array().into_iter().flatten();
    children.filter_map(|child| child["spi_in"].as_str().map(str::to_owned)).collect()
}

pub fn rekeyed(esp: Esp) {
    let lab = IpsecLab::start(&IpsecOptions::new(esp), unchanged).unwrap();
    assert_all_reach(&lab);
    let [shanghai, hangzhou] = ["shanghai", "hangzhou"].map(|place| lab.office(place));
    let before = lab.agent.status().unwrap();
    let reports: Vec<_> = thread::scope(|scope| {
        let pings = |to: IpAddr| {
            let from = shanghai.place();
            scope.spawn(move || Ping::new(to).interval(INTERVAL).count(400).run(from).unwrap())
        };
        let traffic = hangzhou.site.hosts().map(pings);
        // From both ends, the child and the IKE SA.
        for (charon, arguments) in [
            (&shanghai.charon, ["--rekey", "--child", "shanghai"]),
            (&lab.hub, ["--rekey", "--child", "vpnhub-shanghai"]),
            (&lab.hub, ["--rekey", "--ike", "vpnhub-shanghai"]),
            (&hangzhou.charon, ["--rekey", "--ike", "hangzhou"]),
            (&lab.hub, ["--rekey", "--child", "vpnhub-hangzhou"]),
        ] {
            charon.swanctl(&arguments).unwrap();
            thread::sleep(Duration::from_millis(700));
        }
        traffic.map(|pings| pings.join().unwrap()).into_iter().collect()
    });
    for report in &reports {
        assert!(report.complete(), "{report:?}");
    }
    let after = lab
        .wait_for_status(|status| {
            ["shanghai", "hangzhou"].iter().all(|name| {
                let (was, is) = (spis(&before, name), spis(status, name));
                is.len() == 1 && was != is
            })
        })
        .unwrap();
    // Of both ends, child and IKE SAs.
    let metrics = lab.agent.metrics().unwrap();
    let of = |metric, name: &str| metrics.value(metric, &[("connection", name)]);
    for (name, rekeys) in [("shanghai", 3.0), ("hangzhou", 2.0), ("ningbo", 0.0)] {
        let found = ["vpnhub_rekeys_total", "vpnhub_ike_up", "vpnhub_child_sas"].map(|metric| of(metric, name));
        assert_eq!(found.map(f64::to_bits), [rekeys, 1.0, 1.0].map(f64::to_bits), "{name}: {found:?}");
    }
    for office in &lab.offices {
        let changes = after.since(&before, &office.site.place, "state_changes");
        assert_eq!(changes, 0, "{}: {:#}", office.site.place, *after);
    }
    lab.stop().unwrap();
}

pub fn ended_by_the_site(esp: Esp) {
    let lab = IpsecLab::start(&IpsecOptions::new(esp), unchanged).unwrap();
    assert_all_reach(&lab);
    let ningbo = lab.office("ningbo");
    let events = lab.agent.monitor().unwrap();
    ningbo.terminate().unwrap();
    let event = loop {
        let event = events.next(Duration::from_secs(10)).unwrap();
        if event["state"] == "down" {
            break event;
        }
    };
    assert_eq!(event["connection"], "ningbo");
    let status = lab.wait_for_status(|status| status.connection("ningbo")["state"] == "down").unwrap();
    let reason = status.connection("ningbo")["state_reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("the site has not initiated yet"), "{reason}");
    assert_eq!(spis(&status, "ningbo"), [""; 0]);
    let selectors = |status: &Status| status.connection("ningbo")["ipsec"]["selectors"].as_array().map(Vec::len);
    assert_eq!(selectors(&status), Some(0), "what its SAs were for is not admitted any more: {:#}", *status);
    // Nothing arrives there, and the others are unchanged.
    let lost = Ping::new(ningbo.site.host4().into()).count(3).timeout(Duration::from_millis(300));
    let report = lost.run(lab.office("shanghai").place()).unwrap();
    assert_eq!(report.received, 0, "{report:?}");
    reach(lab.office("shanghai").place(), lab.office("hangzhou").site.host4().into()).unwrap();

    ningbo.initiate().unwrap();
    lab.wait_until_up().unwrap();
    assert_all_reach(&lab);
    lab.stop().unwrap();
}

pub fn hub_begins(esp: Esp) {
    let lab = IpsecLab::prepare(&IpsecOptions::new(esp).hub_begins(), unchanged).unwrap();
    for office in &lab.offices {
        office.configure(&lab.agent).unwrap();
    }
    lab.wait_until_up().unwrap();
    assert_all_reach(&lab);
    lab.stop().unwrap();
}
