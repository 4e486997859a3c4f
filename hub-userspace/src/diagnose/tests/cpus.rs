use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{diagnose, faults, with_status};
use crate::diagnose::facts::CpuLoad;

/// The findings with this load by CPU, in packets a second, and these underlays, on a host with as many CPUs.
fn load(packets: &[u64], underlays: Value) -> (Vec<String>, String) {
    let mut facts = with_status(|status| {
        status["cpus"] = (0..packets.len()).map(|cpu| json!({ "cpu": cpu, "packets": 1_000_000 })).collect();
        status["underlays"] = underlays;
    });
    let packets_per_second: BTreeMap<u32, u64> = (0..).zip(packets.iter().copied()).collect();
    facts.cpu_load = Some(CpuLoad { packets_per_second });
    let diagnosis = diagnose(&facts);
    let found = diagnosis.findings.iter().find(|finding| json!(finding.code) == "cpu_load").expect("it is judged");
    (faults(&diagnosis), format!("{}; {}", found.message, found.action.as_deref().unwrap_or("ok")))
}

/// An underlay with a queue for each of two CPUs.
fn underlay(in_force: Option<&str>, hint: Option<&str>, interrupts: &[(u32, &str, u64)]) -> Value {
    let interrupt = |(irq, cpus, count): &(u32, &str, u64)| {
        let counts = if *count > 0 { json!([{ "cpu": 0, "interrupts": count }]) } else { json!([]) };
        json!({ "irq": irq, "name": "", "affinity": "0-1", "effective_affinity": cpus, "counts": counts })
    };
    let interrupts: Vec<Value> = interrupts.iter().map(interrupt).collect();
    json!([{
        "interface": "eth0", "spread": "auto", "spread_in_force": in_force, "spread_reason": null,
        "spread_hint": hint, "rx_queues": 2, "cpus": 2,
        "receive": { "queues": [], "interrupts": interrupts, "interrupt_count": interrupts.len() },
    }])
}

#[test]
fn one_cpu_with_almost_all_packets_is_reported() {
    for (packets, is_reported) in [
        (&[9_999, 0][..], false),
        (&[9_000, 1_000], true),
        (&[50_000, 5_600], false),
        (&[50_000, 5_500], true),
        (&[0, 90_000, 10, 10], true),
        (&[1_000_000], false),
        (&[40_000, 40_000, 40_000], false),
    ] {
        let (found, text) = load(packets, json!([]));
        let expected = if is_reported { &["warning cpu_load CPUs"][..] } else { &[] };
        assert_eq!(found, expected, "{packets:?}: {text}");
    }
    let (_, text) = load(&[0, 99_000, 500, 500], json!([]));
    assert!(text.starts_with("CPU 1 processes 99 % of 100000 packets a second, the 3 others almost none; "), "{text}");
}

#[test]
fn remedy_is_what_distributes_these_packets() {
    let uneven = [(38, "1", 9), (39, "1", 9), (40, "0", 0)];
    let even = [(38, "1", 9), (39, "0", 9)];
    for (underlays, expected) in [
        (json!([]), "name the interface on which ESP arrives as [underlay.INTERFACE]"),
        (underlay(None, None, &even), "write spread = \"rps\" in [underlay.eth0]"),
        (
            underlay(None, None, &uneven),
            "CPU 1 serves all interrupts of eth0: start irqbalance, or write other CPUs to \
         /proc/irq/N/smp_affinity_list, N being 38, 39; or write spread = \"rps\"",
        ),
        (underlay(None, None, &[(38, "1", 9)]), "write spread = \"rps\" in [underlay.eth0]"),
        (underlay(Some("rps"), Some("esp4_offload is loaded"), &uneven), "write spread = \"xdp\" in [underlay.eth0]"),
        (underlay(Some("rps"), None, &even), "the packets of an SA stay on one CPU"),
        (underlay(Some("xdp-native"), None, &even), "the packets of an SA stay on one CPU"),
    ] {
        let (_, text) = load(&[0, 50_000], underlays);
        let (_, action) = text.split_once("; ").expect("a message and an action");
        assert!(action.starts_with(expected), "{expected}: {action}");
    }
}

#[test]
fn load_that_is_unknown_is_not_judged() {
    let diagnosis = diagnose(&with_status(|_| {}));
    assert!(diagnosis.findings.iter().all(|finding| !finding.message.contains("packets a second")));
}
