use super::{diagnose, faults, healthy, only, with_status};
use crate::{
    api_types::status::{Reasons, WithoutAgent},
    diagnose::{
        diagnose_connection,
        facts::{DatapathFacts, Facts, HostFacts, IkeFacts, MemoryFacts, NeighbourFacts, NetworkFacts},
    },
    kernel::netlink::{Family, ForeignRule},
};

type Change = Box<dyn FnOnce(&mut HostFacts)>;

fn with_host(change: impl FnOnce(&mut HostFacts)) -> Vec<String> {
    let mut facts = healthy();
    change(&mut facts.host);
    faults(&diagnose(&facts))
}

fn with_network(change: impl FnOnce(&mut NetworkFacts)) -> Vec<String> {
    with_host(|host| change(host.network.as_mut().expect("it has one")))
}

#[test]
fn kernel_before_6_1_is_an_error() {
    for (release, expected) in [
        ("5.15.0", Some("error kernel kernel")),
        ("6.0.19-generic", Some("error kernel kernel")),
        ("6.1.0", None),
        ("6.18.44-x", None),
        ("7.0", None),
        ("unknown", Some("warning kernel kernel")),
        ("", Some("warning kernel kernel")),
    ] {
        let found = with_host(|host| host.kernel = Some(release.to_owned()));
        assert_eq!(found, Vec::from_iter(expected), "{release}");
    }
}

#[test]
fn settings_of_the_kernel_are_judged() {
    let memory = |available| Some(MemoryFacts { total: 100_000, available });
    let cases: [(Change, Option<&str>); 10] = [
        (Box::new(|host| host.jit = Some(0)), Some("warning bpf_jit net.core.bpf_jit_enable")),
        (Box::new(|host| host.jit = Some(2)), None),
        (Box::new(|host| host.has_btf = false), Some("error btf BTF")),
        (Box::new(|host| host.missing_bpf = Some(vec!["LPM tries"])), Some("error bpf_features BPF")),
        (Box::new(|host| host.missing_bpf = None), None),
        (Box::new(|host| host.is_synchronized = Some(false)), Some("warning clock clock")),
        (Box::new(move |host| host.memory = memory(4_999)), Some("warning memory memory")),
        (Box::new(move |host| host.memory = memory(5_000)), None),
        (Box::new(move |host| host.memory = memory(0)), Some("warning memory memory")),
        (Box::new(|host| host.network = None), Some("warning not_checked diagnosis")),
    ];
    for (number, (change, expected)) in cases.into_iter().enumerate() {
        assert_eq!(with_host(change), Vec::from_iter(expected), "{number}");
    }
}

#[test]
fn forwarding_that_is_off_is_a_warning_for_each_family() {
    for (forwarding, expected) in [
        ([Some(false), Some(true)], &["warning forwarding net.ipv4.ip_forward"][..]),
        ([Some(true), Some(false)], &["warning forwarding net.ipv6.conf.all.forwarding"]),
        ([None, None], &[]),
    ] {
        assert_eq!(with_network(|network| network.forwarding = forwarding), expected, "{forwarding:?}");
    }
}

#[test]
fn neighbour_table_is_a_warning_above_80_percent_and_an_error_when_full() {
    let subject = "neighbour_table net.ipv6.neigh.default.gc_thresh3";
    for (entries, expected) in
        [(0, None), (800, None), (801, Some("warning")), (999, Some("warning")), (1000, Some("error"))]
    {
        let table = Some(NeighbourFacts { entries, limit: 1000 });
        let found = with_network(|network| network.neighbours[1] = table);
        assert_eq!(found, Vec::from_iter(expected.map(|severity| format!("{severity} {subject}"))), "{entries}");
    }
}

#[test]
fn rules_of_others_are_warnings_and_charons_has_its_own() {
    let rule = |family, priority, table| ForeignRule { family, priority, table };
    let charons = [rule(Family::V4, 220, 220), rule(Family::V6, 220, 220)];
    for (rules, expected) in [
        (&charons[..], &["warning ip_rules ip rule 220"][..]),
        (&[rule(Family::V4, 220, 100)], &["warning ip_rules ip rule"]),
        (&[charons[0], rule(Family::V6, 1000, 0)], &["warning ip_rules ip rule 220", "warning ip_rules ip rule"]),
    ] {
        assert_eq!(with_network(|network| network.rules = rules.to_vec()), expected, "{rules:?}");
    }
}

#[test]
fn own_rules_are_in_order_and_their_cost_is_said() {
    for (has_own_rules, says_cost) in [(false, false), (true, true)] {
        let mut facts = healthy();
        facts.host.network.as_mut().expect("it has one").has_own_rules = has_own_rules;
        let diagnosis = diagnose(&facts);
        assert!(faults(&diagnosis).is_empty());
        let found = diagnosis.findings.iter().find(|finding| finding.subject == "ip rule").expect("it is checked");
        assert_eq!(found.message.contains("policy routes"), says_cost, "{}", found.message);
    }
}

#[test]
fn rules_of_others_are_listed_up_to_five() {
    let mut facts = healthy();
    let network = facts.host.network.as_mut().expect("it has one");
    network.rules = (1..=7).map(|priority| ForeignRule { family: Family::V6, priority, table: 254 }).collect();
    let diagnosis = diagnose(&facts);
    let message = &only(&diagnosis, "ip_rules").message;
    assert!(message.starts_with("7 rules of other processes (IPv6; priority 1, 2, 3, 4, 5, ...)"), "{message}");
}

#[test]
fn missing_nftables_table_is_an_error() {
    assert_eq!(with_network(|network| network.has_table = Some(false)), ["error nftables_table nftables"]);
    // Without the permission to read it, the agent's report decides.
    let unreadable = |facts: &mut Facts| facts.host.network.as_mut().expect("it has one").has_table = None;
    let mut facts = with_status(|status| status["kernel_drops"] = serde_json::json!({}));
    unreadable(&mut facts);
    assert_eq!(faults(&diagnose(&facts)), ["error nftables_table nftables"]);
    let mut facts = healthy();
    unreadable(&mut facts);
    assert_eq!(faults(&diagnose(&facts)), [""; 0]);
}

#[test]
fn strongswan_that_does_not_listen_is_an_error() {
    for (ike, expected) in [
        (IkeFacts::Listens, None),
        (IkeFacts::Unknown, None),
        (IkeFacts::Silent("/run/charon.vici: No such file".to_owned()), Some("error ike_daemon strongSwan")),
    ] {
        let mut facts = healthy();
        facts.config.as_mut().expect("it has one").ike = Some(ike);
        assert_eq!(faults(&diagnose(&facts)), Vec::from_iter(expected));
    }
}

#[test]
fn without_agent_host_and_datapath_are_judged() {
    let running = || {
        DatapathFacts::Running(WithoutAgent {
            agent: false,
            interfaces: Vec::new(),
            connections: Vec::new(),
            drops: Reasons::new(),
            passes: Reasons::new(),
        })
    };
    let without = |datapath, has_table| {
        let no_agent = Some("no agent answers on /run/x: start one with `vpnhub run`".to_owned());
        let mut facts = Facts { no_agent, datapath, host: healthy().host, ..Facts::default() };
        facts.host.network.as_mut().expect("it has one").has_table = Some(has_table);
        facts
    };
    let facts = without(running(), true);
    let diagnosis = diagnose(&facts);
    assert_eq!(faults(&diagnosis), ["error agent agent", "warning datapath datapath"]);
    assert!(!diagnosis.agent);
    assert_eq!(only(&diagnosis, "agent").message, "no agent answers on /run/x");
    let found = faults(&diagnose(&without(running(), false)));
    assert_eq!(found, ["error agent agent", "error nftables_table nftables", "warning datapath datapath"]);
    let unknown = faults(&diagnose(&without(DatapathFacts::Unknown, true)));
    assert_eq!(unknown, ["error agent agent"]);
    // Nothing is installed: no table is needed.
    assert_eq!(
        faults(&diagnose(&without(DatapathFacts::Missing, false))),
        ["error agent agent", "error datapath datapath"]
    );
    let error = diagnose_connection(&facts, "a").expect_err("nothing is known of it");
    assert!(error.to_string().starts_with("no agent answers"), "{error}");
}

#[test]
fn checks_that_could_not_be_made_are_warnings() {
    let facts = Facts { unchecked: vec!["one".to_owned(), "two".to_owned()], ..healthy() };
    assert_eq!(faults(&diagnose(&facts)), ["warning not_checked diagnosis"; 2]);
}
