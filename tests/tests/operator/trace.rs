//! `vpnhub trace` of a running agent: what it says of a packet is what happens on the wire.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use hub_tests::document::{Document, Varying};
use hub_tests::lab::{
    FrameSocket, HANGZHOU, HUB, HubConfig, NINGBO, Options, Rig, SHANGHAI, Scratch, Site, Status, VPC, World,
};
use serde_json::Value;

use crate::output::assert_schema;
use crate::{SITES, failure, stderr, stdout, vpnhub};

const PATIENCE: Duration = Duration::from_secs(10);

fn rig() -> Rig {
    rig_with(&[])
}

/// With more arguments of `run`.
fn rig_with(arguments: &[&str]) -> Rig {
    let world = World::three_offices(&Options::default().slow_path(true)).unwrap();
    let rig = Rig::start_in(world, &HubConfig::offices(&SITES), arguments).unwrap();
    rig.warm_up(&SITES).unwrap();
    rig
}

fn trace(rig: &Rig, args: &[&str]) -> Value {
    let trace = rig.agent.json(&[&["trace", "--in"], args].concat()).unwrap();
    assert_schema("trace", &trace);
    assert_eq!(trace["disagreements"], Value::Array(Vec::new()), "{trace:#}");
    trace
}

fn bytes(packet: &Value) -> Vec<u8> {
    hub_userspace::trace::hex::decode(packet["bytes"].as_str().unwrap()).unwrap()
}

/// The far end of a link: its place and device.
fn far_end(name: &str) -> (&str, String) {
    match name.strip_suffix("-2") {
        _ if name == "vpc" => (VPC.place, VPC.device.to_owned()),
        Some(site) => (site, Site::device(1)),
        None => (name, Site::device(0)),
    }
}

/// Sends the traced packet, and expects the traced one at the far end of the traced interface.
fn assert_arrives_as_traced(rig: &Rig, trace: &Value) {
    let socket = |name: &str| {
        let (place, device) = far_end(name);
        FrameSocket::open(&rig.world[place], &device).unwrap()
    };
    let egress = trace["verdict"]["egress"]["connection"].as_str().unwrap_or_else(|| panic!("{trace:#}"));
    let (from, to) = (socket(trace["ingress"]["name"].as_str().unwrap()), socket(egress));
    from.send(&bytes(&trace["packet"])).unwrap();
    let expected = bytes(&trace["after"]);
    to.expect(PATIENCE, |frame| frame == expected).unwrap();
}

#[test]
fn packet_arrives_as_it_was_traced() {
    arrives_as_traced(&[], "xdp");
}

#[test]
fn packet_arrives_as_it_was_traced_with_tc_only() {
    arrives_as_traced(&["--attach", "tc"], "tc");
}

/// Traces packets between all kinds of attachments, and then sends them.
fn arrives_as_traced(arguments: &[&str], hook: &str) {
    let rig = rig_with(arguments);
    let before = rig.agent.status().unwrap();
    let (sh, hz) = (SHANGHAI.hosts(), HANGZHOU.hosts());
    let mut traces = Vec::new();
    for family in [0, 1] {
        let (sh, hz) = (sh[family].to_string(), hz[family].to_string());
        let vpc = [VPC.host4.to_string(), VPC.host6.to_string()][family].clone();
        for (from, source, destination) in [("shanghai", &sh, &hz), ("hangzhou", &hz, &vpc), ("vpc", &vpc, &sh)] {
            for more in [&["--proto", "udp", "--len", "100"][..], &["--proto", "tcp", "--sport", "7"], &["--ttl", "2"]]
            {
                traces.push(trace(&rig, &[&[from, "--src", source, "--dst", destination], more].concat()));
            }
        }
    }
    // Traces count nothing. What is passed are also ARP and neighbour discovery.
    let after = rig.agent.status().unwrap();
    assert_eq!(before["drops"], after["drops"]);
    let connections = |status: &Status| status["connections"].as_array().unwrap().clone();
    for (before, after) in connections(&before).iter().zip(&connections(&after)) {
        for counter in ["rx_packets", "tx_packets"] {
            assert_eq!(before[counter], after[counter], "{counter} of {}", before["name"]);
        }
    }
    for trace in &traces {
        assert_eq!(trace["verdict"]["action"], "forward", "{trace:#}");
        assert_eq!(trace["programs"], serde_json::json!([{ "hook": hook, "action": "redirect" }]));
        assert_arrives_as_traced(&rig, trace);
    }
    let pins = rig.world[HUB].pins();
    assert!(pins.join("counters").exists() && !pins.join("trace").exists(), "{}", pins.display());
    rig.stop().unwrap();
}

#[test]
fn trace_names_the_object_that_answers() {
    let rig = rig();
    let added = rig.agent.cli(&["route", "add", "10.10.30.128/25", "--next-hop", "ningbo"]).unwrap();
    assert!(added.status.success(), "{}", stderr(&added));
    let file = rig.agent.config();
    let line_of = |wanted: &str| {
        let text = fs::read_to_string(&file).unwrap();
        text.lines().position(|line| line == wanted).unwrap() + 1
    };
    let origins = |trace: &Value, stage: &str| -> Vec<Value> {
        let stages = trace["stages"].as_array().unwrap();
        let stage = stages.iter().find(|other| other["stage"] == stage).unwrap();
        let lookups = stage["lookups"].as_array().unwrap().iter();
        lookups.flat_map(|lookup| lookup["origins"].as_array().unwrap().clone()).collect()
    };
    let from_store = trace(&rig, &["shanghai", "--src", "10.10.10.1", "--dst", "10.10.30.129"]);
    let route = &origins(&from_store, "route")[0];
    assert_eq!((&route["object"], &route["origin"]), (&"route 10.10.30.128/25 to ningbo".into(), &"store".into()));
    let from_file = trace(&rig, &["shanghai", "--src", "10.10.10.1", "--dst", "10.10.30.1"]);
    let route = &origins(&from_file, "route")[0];
    assert_eq!((&route["object"], &route["origin"]), (&"route 10.10.30.0/24 to ningbo".into(), &"file".into()));
    let selector = origins(&from_file, "selector");
    let selector = selector.iter().find(|origin| origin["object"] == "connection shanghai").unwrap();
    assert_eq!(selector["origin"], "file");
    assert_eq!(selector["line"], line_of("[connection.shanghai]"));
    rig.stop().unwrap();
}

#[test]
fn trace_says_what_the_kernel_does_with_a_passed_packet() {
    let rig = rig();
    let rows: [(&[&str], &str, &str, Value); 5] = [
        (&["--dst", "10.10.20.1", "--ttl", "1"], "ttl_expired", "rewrite", "hangzhou".into()),
        (&["--dst", "10.10.20.1", "--proto", "udp", "--len", "1501"], "too_big", "rewrite", "hangzhou".into()),
        (&["--dst", "192.168.0.1"], "to_hub", "selector", Value::Null),
        (&["--dst", "192.168.0.1", "--proto", "tcp"], "to_hub", "selector", Value::Null),
        (&["--dst", "10.99.0.1"], "no_route", "route", Value::Null),
    ];
    for (args, reason, stage, next_hop) in rows {
        let trace = trace(&rig, &[&["shanghai", "--src", "10.10.10.1"], args].concat());
        assert_eq!((&trace["verdict"]["action"], &trace["verdict"]["reason"]), (&"pass".into(), &reason.into()));
        assert_eq!((&trace["verdict"]["stage"], &trace["slow_path"]["next_hop"]), (&stage.into(), &next_hop));
    }
    let trace = trace(&rig, &["shanghai", "--src", "10.10.20.9", "--dst", "10.10.30.1"]);
    assert_eq!((&trace["verdict"]["reason"], &trace["after"]), (&"spoofed_source".into(), &Value::Null));
    rig.stop().unwrap();
}

#[test]
fn trace_says_why_a_flow_has_its_next_hop() {
    let options = Options::default().slow_path(true).second_link("shanghai");
    let config = HubConfig::offices(&SITES).second_link(&SHANGHAI, [100, 50]);
    let rig = Rig::start(&options, &config).unwrap();
    rig.warm_up(&SITES).unwrap();
    let mut next_hops = BTreeSet::new();
    for port in 1..=16 {
        let args = ["hangzhou", "--src", "10.10.20.1", "--dst", "10.10.10.1", "--proto", "udp", "--sport"];
        let trace = trace(&rig, &[&args[..], &[&port.to_string()]].concat());
        let egress = trace["verdict"]["egress"]["connection"].as_str().unwrap().to_owned();
        let bucket = trace["stages"][4]["lookups"][0]["found"].as_str().unwrap();
        assert_eq!(bucket, format!("{egress}'s; buckets by weight: shanghai 171, shanghai-2 85"));
        assert_arrives_as_traced(&rig, &trace);
        next_hops.insert(egress);
    }
    assert_eq!(next_hops, BTreeSet::from(["shanghai".to_owned(), "shanghai-2".to_owned()]));
    rig.stop().unwrap();
}

#[test]
fn traces_are_those_of_the_manual() {
    let rig = rig();
    let link = |site: &Site, end: u8| {
        let (place, device) = if end == 1 { (HUB, site.hub_device(0)) } else { (&*site.place, Site::device(0)) };
        rig.world[place].mac(&device).unwrap().to_string()
    };
    // Link addresses as the manual has them.
    let links = [(SHANGHAI, 1), (SHANGHAI, 2), (HANGZHOU, 1), (HANGZHOU, 2)].map(|(site, end)| link(&site, end));
    let named = ["02:00:00:00:02:01", "02:00:00:00:02:02", "02:00:00:00:03:01", "02:00:00:00:03:02"];
    let scratch = Scratch::new().unwrap();
    let office = scratch.file("office.pcap");
    let packets = [
        &["--src", "10.10.10.1", "--dst", "10.10.20.1"][..],
        &["--src", "10.10.10.1", "--dst", "10.10.20.1"],
        &["--src", "10.10.10.2", "--dst", "10.10.30.1", "--proto", "tcp"],
        &["--src", "10.10.20.9", "--dst", "10.10.30.1"],
        &["--src", "10.10.10.1", "--dst", "10.10.20.1", "--ttl", "1"],
    ];
    let packets = packets.map(|packet| trace(&rig, &[&["shanghai"], packet].concat()));
    fs::write(&office, capture_of(&packets)).unwrap();
    let mut manual = Document::open("docs/operations.md").unwrap();
    for command in [
        "vpnhub trace --in shanghai --src 10.10.20.9 --dst 10.10.30.1",
        "vpnhub trace --in shanghai --src 10.10.10.1 --dst 10.10.20.1 --proto tcp",
        "vpnhub trace --in shanghai --pcap office.pcap",
    ] {
        let run = |command: &str| {
            let command = command.replace("office.pcap", office.to_str().unwrap());
            let arguments: Vec<&str> = command.split(' ').skip(1).collect();
            let text = stdout(&rig.agent.cli(&arguments)?);
            let text = text.replace(&rig.agent.config().display().to_string(), "/etc/vpnhub/vpnhub.toml");
            Ok(links.iter().zip(named).fold(text, |text, (link, name)| text.replace(link, name)))
        };
        manual.check_session(command, Varying::Times, run).unwrap_or_else(|error| panic!("{error:#}"));
    }
    rig.stop().unwrap();
}

/// A capture in the format pcap of the packets of traces, on Ethernet.
fn capture_of(traces: &[Value]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut file = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1]);
    for trace in traces {
        let packet = bytes(&trace["packet"]);
        let length = u32::try_from(packet.len()).unwrap();
        file.extend(words(&[0, 0, length, length]));
        file.extend(packet);
    }
    file
}

#[test]
fn capture_is_summed_up_by_verdict() {
    let rig = rig();
    let packets = [
        trace(&rig, &["shanghai", "--src", "10.10.10.1", "--dst", "10.10.20.1"]),
        trace(&rig, &["shanghai", "--src", "10.10.10.2", "--dst", "10.10.20.1", "--proto", "udp"]),
        trace(&rig, &["shanghai", "--src", "10.10.20.9", "--dst", "10.10.30.1"]),
    ];
    let scratch = Scratch::new().unwrap();
    let path = scratch.file("three.pcap");
    fs::write(&path, capture_of(&packets)).unwrap();
    let path = path.to_str().unwrap();
    let result = rig.agent.json(&["trace", "--in", "shanghai", "--pcap", path]).unwrap();
    assert_schema("trace-pcap", &result);
    let verdicts = result["verdicts"].as_array().unwrap();
    let found: Vec<_> = verdicts
        .iter()
        .map(|verdict| (verdict["packets"].as_u64().unwrap(), &verdict["reason"], verdict["first"].as_u64().unwrap()))
        .collect();
    assert_eq!(found, [(2, &Value::Null, 1), (1, &"spoofed_source".into(), 3)]);
    let text = stdout(&rig.agent.cli(&["trace", "--in", "shanghai", "--pcap", path]).unwrap());
    assert!(text.starts_with("3 packets\n"), "{text}");
    assert!(text.contains("forward to hangzhou on tun-hz") && text.contains("drop: spoofed_source"), "{text}");
    rig.stop().unwrap();
}

#[test]
fn impossible_trace_is_refused_with_a_sentence() {
    let rig = rig();
    let refused = |args: &[&str]| failure(&rig.agent.cli(&[&["trace", "--in"], args].concat()).unwrap());
    let some = ["--src", "10.10.10.1", "--dst", "10.10.20.1"];
    let with = |first: &'static str, more: &[&'static str]| [&[first], &some[..], more].concat();
    let rows = [
        (
            with("beijing", &[]),
            "there is no connection \"beijing\"; help: a packet may come from hangzhou, ningbo, shanghai, vpc",
        ),
        (with("shanghai", &["--sport", "1"]), "protocol 1 has no ports"),
        (with("shanghai", &["--proto", "udp", "--len", "9000"]), "--len 9000 is too long for a test run in the kernel"),
        (with("shanghai", &["--proto", "tpc"]), "there is no protocol \"tpc\""),
        (vec!["shanghai", "--src", "10.10.10.1", "--dst", "fd00::1"], "--src and --dst are of different IP versions"),
        (vec!["shanghai", "--pcap", "/nowhere"], "cannot read /nowhere"),
        (vec!["shanghai", "--pcap", "/etc/hostname"], "not a capture"),
    ];
    for (args, sentence) in rows {
        let message = refused(&args);
        assert!(message.contains(sentence), "{args:?}: {message}");
    }
    rig.world[HUB].ip(&format!("link del {}", NINGBO.hub_device(0))).unwrap();
    rig.agent.wait_for_status(PATIENCE, |status| status.connection("ningbo")["state"] == "down").unwrap();
    let message = refused(&["ningbo", "--src", "10.10.30.1", "--dst", "10.10.20.1"]);
    assert!(message.contains("interface tun-nb of connection ningbo does not exist"), "{message}");
    let socket = rig.agent.socket();
    let args = ["--socket", socket.to_str().unwrap(), "trace", "--in", "shanghai"];
    let hub = rig.world[HUB].duplicate().unwrap();
    rig.agent.stop().unwrap();
    let message = failure(&vpnhub(&hub, &[&args[..], &some].concat()));
    assert!(message.contains("no agent answers on"), "{message}");
}
