//! A destination behind two connections, one of them IPsec: its traffic when the tunnel ends.
//!
//! The other is a leased line, so the link of arrival identifies the path.

use hub_tests::lab::{Esp, HubConfig, IpsecLab, IpsecOptions, Ping, SHANGHAI, Site, Status, VPC, reach};

use crate::{Case, Needs};

pub const CASES: &[Case] = &[
    (Needs::StrongSwan, "userspace::failover::sa_deleted_by_site_fails_over_at_once", || {
        deleted(Esp::Userspace, [100, 0]);
    }),
    (Needs::StrongSwan, "userspace::failover::silent_site_fails_over_after_dead_peer_detection", || {
        silent(Esp::Userspace, [100, 0]);
    }),
    (Needs::StrongSwan, "userspace::failover::shared_traffic_moves_to_remaining_tunnel", || {
        deleted(Esp::Userspace, [50, 50]);
    }),
];

const STANDBY: &str = "shanghai-2";

fn start(esp: Esp, weights: [u8; 2]) -> IpsecLab {
    let options = IpsecOptions::new(esp).leased_line(&SHANGHAI).impatient();
    let lab = IpsecLab::start(&options, |config: HubConfig| config.second_link(&SHANGHAI, weights)).unwrap();
    for to in SHANGHAI.hosts() {
        reach(&lab.world[VPC.place], to).unwrap();
    }
    lab
}

/// How many of these pings, one flow each, reach Shanghai by its leased line.
fn by_leased_line(lab: &IpsecLab) -> u64 {
    let shanghai = &lab.world["shanghai"];
    let before = shanghai.counters(&Site::device(1)).unwrap().rx_packets;
    for address in 1..=50 {
        let report = Ping::new(SHANGHAI.nth4(address).into()).run(&lab.world[VPC.place]).unwrap();
        assert!(report.complete(), "{address}: {report:?}\n{:#?}", lab.agent.status());
    }
    shanghai.counters(&Site::device(1)).unwrap().rx_packets - before
}

fn assert_on_standby(lab: &IpsecLab, status: &Status) {
    // A site's daemon reports the end of a tunnel before it removes the tunnel's routes: until then, its answers are
    // lost.
    for to in [VPC.host4.into(), VPC.host6.into()] {
        reach(lab.office("shanghai").place(), to).unwrap();
    }
    assert_eq!(status.connection(STANDBY)["state"], "up");
    assert!((status.share("10.10.10.0/24", STANDBY) - 1.0).abs() < 1e-9, "{status:#?}");
    // Every one of them: answers return by the same path.
    assert!(by_leased_line(lab) >= 50);
    for to in SHANGHAI.hosts() {
        reach(lab.office("hangzhou").place(), to).unwrap();
    }
}

fn assert_shared(lab: &IpsecLab, weights: [u8; 2]) {
    let by_line = by_leased_line(lab);
    match weights {
        // Apart from the kernel's own traffic on the link.
        [_, 0] => assert!(by_line < 10, "{by_line} of 50 came by the leased line"),
        _ => assert!((10..45).contains(&by_line), "{by_line} of 50 came by the leased line"),
    }
}

fn is_down(status: &Status) -> bool {
    status.connection("shanghai")["state"] == "down"
}

pub fn deleted(esp: Esp, weights: [u8; 2]) {
    let lab = start(esp, weights);
    assert_shared(&lab, weights);
    lab.office("shanghai").terminate().unwrap();
    let status = lab.wait_for_status(is_down).unwrap();
    assert_on_standby(&lab, &status);

    lab.office("shanghai").initiate().unwrap();
    lab.wait_until_up().unwrap();
    assert_shared(&lab, weights);
    lab.stop().unwrap();
}

fn silent(esp: Esp, weights: [u8; 2]) {
    let mut lab = start(esp, weights);
    assert_shared(&lab, weights);
    let office = lab.offices.iter_mut().find(|office| office.site == SHANGHAI).unwrap();
    office.charon.kill().unwrap();
    let status = lab.wait_for_status(is_down).unwrap();
    let reason = status.connection("shanghai")["state_reason"].as_str().unwrap();
    assert!(reason.contains("does not answer"), "{reason}");
    assert_on_standby(&lab, &status);

    let office = lab.offices.iter_mut().find(|office| office.site == SHANGHAI).unwrap();
    office.charon.start_again().unwrap();
    office.charon.wait_until_ready().unwrap();
    office.charon.swanctl(&["--load-all"]).unwrap();
    lab.wait_until_up().unwrap();
    assert_shared(&lab, weights);
    lab.stop().unwrap();
}
