//! The text of a scrape.

use std::collections::BTreeSet;

use hub_common::Reason;
use hub_tests::exposition::{Exposition, TextFormat};
use hub_userspace::observe::metrics::{FAMILIES, Family, Format, Kind, Scrape, encode};

use crate::numbers::{NAMES, count, scrape};

/// Numbers of a test are exact in binary.
fn assert_value(text: &Exposition, name: &str, labels: &[(&str, &str)], expected: f64) {
    let value = text.value(name, labels);
    assert!((value - expected).abs() < f64::EPSILON, "{name} {labels:?}: {value} instead of {expected}");
}

fn prometheus(scrape: Scrape) -> Exposition {
    Exposition::parse(&encode(scrape, Format::Prometheus), TextFormat::Prometheus).unwrap()
}

pub fn every_series() {
    let text = prometheus(scrape());
    let names: Vec<String> = text.families.iter().map(|family| family.name.clone()).collect();
    assert_eq!(names, FAMILIES.each_ref().map(Family::full_name));
    for (read, family) in text.families.iter().zip(&FAMILIES) {
        let kind = if family.kind == Kind::Counter { "counter" } else { "gauge" };
        assert_eq!((read.kind.as_str(), read.help.as_str()), (kind, family.help));
        let labels: BTreeSet<&str> = family.labels.iter().copied().collect();
        let mut series = 0;
        for (found, _) in text.of(&read.name) {
            assert_eq!(found.keys().map(String::as_str).collect::<BTreeSet<_>>(), labels, "{}", read.name);
            series += 1;
        }
        assert!(series > 0, "{} has no series", read.name);
    }
    // Of every connection, up or not.
    let reasons = |drops: bool| Reason::ALL.into_iter().filter(move |reason| reason.is_drop() == drops);
    for name in NAMES {
        let connection = ("connection", name);
        for metric in [
            "vpnhub_connection_up",
            "vpnhub_connection_admin_up",
            "vpnhub_connection_state_changes_total",
            "vpnhub_receive_packets_total",
            "vpnhub_receive_bytes_total",
            "vpnhub_transmit_packets_total",
            "vpnhub_transmit_bytes_total",
        ] {
            text.value(metric, &[connection]);
        }
        for (metric, drops) in [("vpnhub_drops_total", true), ("vpnhub_passes_total", false)] {
            reasons(drops).for_each(|reason| _ = text.value(metric, &[connection, ("reason", reason.name())]));
            assert!(reasons(!drops).all(|reason| text.get(metric, &[connection, ("reason", reason.name())]).is_none()));
        }
    }
}

pub fn open_metrics() {
    let open = Exposition::parse(&encode(scrape(), Format::OpenMetrics), TextFormat::OpenMetrics).unwrap();
    let plain = prometheus(scrape());
    assert_eq!(open.series.keys().collect::<Vec<_>>(), plain.series.keys().collect::<Vec<_>>());
    for (key, value) in &open.series {
        assert_eq!(value.to_bits(), plain.series[key].to_bits(), "{key:?}");
    }
    for (family, plain) in open.families.iter().zip(&plain.families) {
        assert_eq!((&family.name, &family.help), (&plain.name, &plain.help));
        let unit = ["bytes", "seconds"].into_iter().find(|unit| family.name.contains(&format!("_{unit}")));
        assert_eq!(family.unit.as_deref(), unit, "{}", family.name);
    }
    assert_eq!(open.families[0].kind, "info");
}

pub fn values() {
    let text = prometheus(scrape());
    let [up, down, plain] = NAMES.map(|name| [("connection", name)]);
    assert_value(&text, "vpnhub_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    for (metric, values) in [
        ("vpnhub_connection_up", [1.0, 0.0, 0.0]),
        ("vpnhub_connection_admin_up", [1.0, 1.0, 0.0]),
        ("vpnhub_connection_state_changes_total", [5.0, 9.0, 0.0]),
        ("vpnhub_receive_packets_total", [1_000_001.0, 2_000_001.0, 3_000_001.0]),
        ("vpnhub_receive_bytes_total", [1_000_002.0, 2_000_002.0, 3_000_002.0]),
        ("vpnhub_transmit_packets_total", [1_000_003.0, 2_000_003.0, 3_000_003.0]),
        ("vpnhub_transmit_bytes_total", [1_000_004.0, 2_000_004.0, 3_000_004.0]),
    ] {
        for (labels, value) in [up, down, plain].iter().zip(values) {
            assert_value(&text, metric, labels, value);
        }
    }
    for (metric, values) in [
        ("vpnhub_ike_up", [1.0, 0.0]),
        ("vpnhub_child_sas", [2.0, 0.0]),
        ("vpnhub_rekeys_total", [6.0, 0.0]),
        ("vpnhub_health_up", [0.5, 0.0]),
        ("vpnhub_health_probes_sent_total", [70.0, 71.0]),
        ("vpnhub_health_probes_lost_total", [8.0, 71.0]),
    ] {
        for (labels, value) in [up, down].iter().zip(values) {
            assert_value(&text, metric, labels, value);
        }
    }
    assert_value(&text, "vpnhub_health_round_trip_seconds", &up, 0.025);
    assert!(text.value("vpnhub_health_round_trip_seconds", &down).is_nan());
    let tables = [("vpnhub", up.to_vec(), 1), ("vpnhub_vpc", Vec::new(), 4), ("vpnhub_unattributed", Vec::new(), 5)];
    for (prefix, labels, base) in tables {
        for reason in Reason::ALL {
            let metric = format!("{prefix}_{}_total", if reason.is_drop() { "drops" } else { "passes" });
            let labels: Vec<_> = labels.iter().copied().chain([("reason", reason.name())]).collect();
            #[expect(clippy::cast_precision_loss, reason = "some millions")]
            assert_value(&text, &metric, &labels, count(base, reason) as f64);
        }
    }
    for (metric, value) in [
        ("vpnhub_vpc_receive_packets_total", 4_000_001.0),
        ("vpnhub_vpc_receive_bytes_total", 4_000_002.0),
        ("vpnhub_vpc_transmit_packets_total", 4_000_003.0),
        ("vpnhub_vpc_transmit_bytes_total", 4_000_004.0),
        ("vpnhub_route_shares_omitted", 12.0),
        ("vpnhub_objects_set_aside", 2.0),
        ("vpnhub_config_last_reload_success", 1.0),
        ("process_cpu_seconds_total", 1.5),
        ("process_resident_memory_bytes", f64::from(80 << 20)),
        ("process_virtual_memory_bytes", f64::from(1 << 30)),
        ("process_open_fds", 40.0),
        ("process_max_fds", 1024.0),
        ("process_start_time_seconds", 1.75e9),
    ] {
        assert_value(&text, metric, &[], value);
    }
    for (role, value) in [("active", 0.0), ("withdrawn", 1.0), ("standby", 0.0)] {
        assert_value(&text, "vpnhub_role", &[("role", role)], value);
    }
    for destination in ["10.10.10.0/24", "fd00:10::/64"] {
        for (next_hop, share) in [("ningbo", 0.25), ("shanghai", 0.75)] {
            let labels = [("destination", destination), ("next_hop", next_hop)];
            assert_value(&text, "vpnhub_route_share", &labels, share);
        }
    }
    // 256 CPUs have series of their own: 2^(CPU mod 32) packets each.
    for (cpu, packets) in [("0", 1.0), ("255", 2_147_483_648.0), ("other", 4_294_967_295.0 + 4_095.0)] {
        assert_value(&text, "vpnhub_cpu_packets_total", &[("cpu", cpu)], packets);
    }
    assert_eq!(text.of("vpnhub_cpu_packets_total").count(), 257);
    for (cpu, interrupts) in [("0", 11.0), ("3", 12.0)] {
        assert_value(&text, "vpnhub_underlay_interrupts_total", &[("interface", "eth0"), ("cpu", cpu)], interrupts);
    }
    assert_value(&text, "vpnhub_routes", &[("origin", "file")], 30.0);
    assert_value(&text, "vpnhub_routes", &[("origin", "store")], 4.0);
    assert_value(&text, "vpnhub_quota_used", &[("quota", "connections")], 3.0);
    assert_value(&text, "vpnhub_quota_limit", &[("quota", "connections")], 10.0);
}

pub fn escaping() {
    for name in ["a\"b", "a\\", "a\nb", "a} 1", "杭州", ""] {
        for (format, text_format) in
            [(Format::Prometheus, TextFormat::Prometheus), (Format::OpenMetrics, TextFormat::OpenMetrics)]
        {
            let mut scrape = scrape();
            name.clone_into(&mut scrape.connections[0].name);
            let text = Exposition::parse(&encode(scrape, format), text_format).unwrap();
            assert_value(&text, "vpnhub_connection_up", &[("connection", name)], 1.0);
        }
    }
}

pub fn optional_series() {
    let text = prometheus(scrape());
    for metric in [
        "vpnhub_ike_up",
        "vpnhub_child_sas",
        "vpnhub_rekeys_total",
        "vpnhub_health_up",
        "vpnhub_health_round_trip_seconds",
        "vpnhub_health_probes_sent_total",
        "vpnhub_health_probes_lost_total",
    ] {
        let with: BTreeSet<&str> = text.of(metric).map(|(labels, _)| labels["connection"].as_str()).collect();
        assert_eq!(with, NAMES[..2].iter().copied().collect(), "{metric}");
    }
}

pub fn empty() {
    let text = prometheus(Scrape::default());
    assert_eq!(text.families.len(), FAMILIES.len());
    assert_value(&text, "vpnhub_config_last_reload_success", &[], 0.0);
    assert!(text.of("vpnhub_connection_up").next().is_none());
    Exposition::parse(&encode(Scrape::default(), Format::OpenMetrics), TextFormat::OpenMetrics).unwrap();
}

pub fn negotiation() {
    // The first is that of Prometheus 2.
    let open = [
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
         text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "application/openmetrics-text; version=1.0.0; charset=utf-8",
        "text/plain;q=0.2, Application/OpenMetrics-Text;q=0.3",
    ];
    let plain = [
        "",
        "*/*",
        "text/plain",
        "application/openmetrics-text;q=0",
        "text/html, application/json",
        "text/plain;q=0.9, application/openmetrics-text;q=0.3",
        "application/openmetrics-text-2",
        ";;,,q=1",
    ];
    for accept in open {
        assert_eq!(Format::preferred(accept), Format::OpenMetrics, "{accept}");
    }
    for accept in plain {
        assert_eq!(Format::preferred(accept), Format::Prometheus, "{accept}");
    }
}
