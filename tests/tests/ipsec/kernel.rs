//! ESP in the kernel, one xfrm interface per connection.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use hub_tests::lab::{
    Esp, HANGZHOU, HUB, HubConfig, IpsecLab, IpsecOptions, NINGBO, Namespace, SHANGHAI, Status, UdpProbe, VPC_SIDE,
    agent_binary, output, udp_probe,
};

use serde_json::Value;

use crate::cases::{all_pairs, assert_all_reach, ended_by_the_site, rekeyed};
use crate::{Case, Needs, dynamic::at, failover, restart};

pub const CASES: &[Case] = &[
    (Needs::KernelEsp, "kernel::all_pairs_reach_each_other_without_kernel_forwarding", || {
        all_pairs(Esp::Kernel);
    }),
    (Needs::KernelEsp, "kernel::rekeying_loses_no_packet_and_never_reports_down", || rekeyed(Esp::Kernel)),
    (Needs::KernelEsp, "kernel::tunnel_ended_by_site_is_reported_and_returns", || {
        ended_by_the_site(Esp::Kernel);
    }),
    (Needs::KernelEsp, "kernel::spoofed_source_is_dropped_and_counted", spoofed),
    (Needs::KernelEsp, "kernel::site_behind_nat_is_reached_over_udp", behind_nat),
    (Needs::KernelEsp, "kernel::sites_behind_one_nat_are_reached_with_xdp_spread", spread_by_xdp),
    (Needs::KernelEsp, "kernel::failover::sa_deleted_by_site_fails_over_at_once", || {
        failover::deleted(Esp::Kernel, [100, 0]);
    }),
    (
        Needs::KernelEsp,
        "kernel::restarted_agent_adopts_interfaces_and_tunnels_stay_up",
        restart::tunnels_live_through_it,
    ),
    (Needs::KernelEsp, "kernel::pktgen_bench_over_veth_measures_hub", pktgen),
];

fn two_sites() -> IpsecOptions {
    IpsecOptions::new(Esp::Kernel).sites([SHANGHAI, NINGBO])
}

/// The request id of a place's SA towards the hub, which links policies to it.
fn request_id(place: &Namespace) -> String {
    let states = place.ip(&format!("xfrm state list src {} dst 203.0.113.1", SHANGHAI.public4())).unwrap();
    let mut words = states.split_whitespace().skip_while(|word| *word != "reqid");
    words.nth(1).unwrap_or_else(|| panic!("no SA in {states}")).to_owned()
}

fn spoofed() {
    let lab = IpsecLab::start(&two_sites(), |config: HubConfig| config).unwrap();
    assert_all_reach(&lab);
    let (shanghai, ningbo) = (lab.office("shanghai").place(), lab.office("ningbo").place());
    // The site's own kernel is made to encrypt a foreign source.
    let (own, foreign) = (SHANGHAI.nth4(1), HANGZHOU.nth4(9));
    shanghai.ip(&format!("addr add {foreign}/32 dev lo")).unwrap();
    let template = format!("tmpl src {} dst 203.0.113.1 proto esp mode tunnel reqid", SHANGHAI.public4());
    let policy = format!("xfrm policy add src {foreign} dst {} dir out {template}", NINGBO.network4());
    shanghai.ip(&format!("{policy} {}", request_id(shanghai))).unwrap();

    let before = lab.agent.status().unwrap();
    let send = |source: IpAddr, timeout| {
        let to = SocketAddr::new(NINGBO.host4().into(), 7000);
        let probe = UdpProbe::new(SocketAddr::new(source, 7001), to).size(100);
        udp_probe(shanghai, ningbo, &probe, timeout).unwrap()
    };
    let count = 5;
    for _ in 0..count {
        let arrived = send(foreign.into(), Duration::from_millis(200));
        assert!(arrived.is_none(), "{arrived:?}");
    }
    // Another packet arrives, so it was dropped for its source.
    assert!(send(own.into(), Duration::from_secs(10)).is_some());
    let after = lab.agent.status().unwrap();
    let dropped = after.since(&before, "shanghai", "drops/spoofed_source");
    let hangzhous = |status: &Status| status["drops"]["spoofed_source"].as_u64().unwrap();
    assert_eq!((dropped, hangzhous(&after) - hangzhous(&before)), (count, count), "{:#}", *after);
    // `trace` says the same of both.
    let trace = |source: IpAddr| {
        let addresses = [source.to_string(), NINGBO.host4().to_string()];
        let of = ["trace", "--in", "shanghai", "--src", &addresses[0], "--dst", &addresses[1]];
        let trace =
            lab.agent.json(&[&of[..], &["--proto", "udp", "--sport", "7001", "--dport", "7000"]].concat()).unwrap();
        assert_eq!(trace["disagreements"], Value::Array(Vec::new()), "{trace:#}");
        assert_eq!(trace["ingress"]["ethernet"], false, "{trace:#}");
        let verdict = &trace["verdict"];
        ["action", "reason"]
            .map(|key| verdict[key].clone())
            .map(|value| value.as_str().unwrap_or("-").to_owned())
            .join(" ")
            + " "
            + verdict["egress"]["connection"].as_str().unwrap_or("-")
    };
    assert_eq!(trace(foreign.into()), "drop spoofed_source -");
    assert_eq!(trace(own.into()), "forward - ningbo");
    lab.stop().unwrap();
}

fn behind_nat() {
    let options = two_sites().behind_nat(&SHANGHAI);
    let lab = IpsecLab::start(&options, |config: HubConfig| config).unwrap();
    assert_all_reach(&lab);
    let states = lab.world[HUB].ip("xfrm state").unwrap();
    assert!(states.contains("encap type espinudp"), "{states}");
    assert_eq!(lab.agent.status().unwrap().connection(VPC_SIDE)["attach"], "tc", "XDP could send nowhere");
    lab.stop().unwrap();
}

/// SAs with NAT-T of one pair of addresses: `status` says that RPS does not distribute them, and XDP does.
fn spread_by_xdp() {
    let options = two_sites().behind_nat(&SHANGHAI).behind_nat(&NINGBO);
    let lab = IpsecLab::start(&options, |config| at(at(config, &SHANGHAI, "any"), &NINGBO, "any")).unwrap();
    assert_all_reach(&lab);
    let config = fs::read_to_string(lab.agent.config()).unwrap();
    let underlay = |spread: &str| {
        fs::write(lab.agent.config(), format!("{config}[underlay.wan0]\nspread = \"{spread}\"\n")).unwrap();
        let reloaded = lab.agent.cli(&["reload"]).unwrap();
        assert!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
        lab.agent.status().unwrap()["underlays"][0].clone()
    };
    let hint = underlay("rps")["spread_hint"].as_str().map(str::to_owned);
    assert!(hint.as_ref().is_some_and(|hint| hint.starts_with("2 connections use NAT-T from")), "{hint:?}");
    let status = underlay("xdp");
    assert_eq!((&status["spread_in_force"], &status["spread_hint"]), (&"xdp-native".into(), &Value::Null), "{status}");
    assert_all_reach(&lab);
    let status = underlay("off");
    assert_eq!(status["spread_in_force"], Value::Null);
    assert_all_reach(&lab);
    lab.stop().unwrap();
}

fn pktgen() {
    let bench = agent_binary().with_file_name("vpnhub-bench");
    let arguments = "pktgen --packet-bytes 60 --rounds 1 --seconds 1 --resolution 30 --loss 5";
    let said = output(Command::new(bench).args(arguments.split(' '))).unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{text}{}", String::from_utf8_lossy(&said.stderr));
    assert!(text.contains("hub"), "{text}");
}
