//! Rules that lead to our table.

use hub_userspace::netlink::{Family, KernelRule, Report, RouteAction, RuleMatch, TABLE};
use serde_json::json;

use crate::lab::{Plan, Planned, count, in_namespace, ip, only, route, routes};

fn interface(family: Family, name: &str) -> KernelRule {
    KernelRule { family, what: RuleMatch::Interface(name.to_owned()) }
}

fn rules(rules: impl IntoIterator<Item = KernelRule>) -> Plan {
    Plan { rules: rules.into_iter().collect(), ..Plan::default() }
}

fn done(added: usize, deleted: usize) -> Report {
    Report { added, deleted, ..Report::default() }
}

#[test]
fn rules_are_in_the_kernel_as_planned() {
    in_namespace(async |lab| {
        lab.veth("tun-sh", "far").await;
        let keeper = Planned::start();
        let icmp = |family| KernelRule { family, what: RuleMatch::LocalIcmp };
        let plan = rules([
            interface(Family::V4, "tun-sh"),
            interface(Family::V4, "not-there-yet"),
            interface(Family::V6, "tun-sh"),
            icmp(Family::V4),
            icmp(Family::V6),
        ]);
        assert_eq!(keeper.keep(&plan).await, done(5, 0));
        let icmp_rules = [ip("-details rule show iif lo"), ip("-6 -details rule show iif lo")];
        assert!(icmp_rules.iter().all(|rules| only(rules, "iif", "lo")["suppress_prefixlen"] == 0), "{icmp_rules:?}");

        let v4 = ip("-details rule show pref 1180");
        assert_eq!(count(&v4), 3);
        let v6 = ip("-6 -details rule show pref 1180");
        assert_eq!(count(&v6), 2);
        for rule in v4.as_array().unwrap().iter().chain(v6.as_array().unwrap()) {
            assert_eq!((&rule["table"], &rule["protocol"]), (&json!("1180"), &json!("118")), "{rule}");
        }
        assert_eq!(only(&v4, "iif", "lo")["ipproto"], "icmp");
        assert_eq!(only(&v6, "iif", "lo")["ipproto"], "ipv6-icmp");
        only(&v4, "iif", "tun-sh");
        only(&v4, "iif", "not-there-yet");
        only(&v6, "iif", "tun-sh");

        assert!(keeper.keep(&plan).await.is_empty(), "a second time changes nothing");
        let fewer = rules([interface(Family::V4, "tun-sh"), icmp(Family::V6)]);
        assert_eq!(keeper.keep(&fewer).await, done(0, 3));
        only(&ip("rule show pref 1180"), "iif", "tun-sh");
        only(&ip("-6 rule show pref 1180"), "iif", "lo");
        assert_eq!(count(&ip("rule show pref 1180")), 1);
        assert_eq!(count(&ip("-6 rule show pref 1180")), 1);
    });
}

#[test]
fn link_local_packets_are_discarded_before_our_table_is_asked() {
    in_namespace(async |lab| {
        lab.veth("tun-sh", "far").await;
        let v4 = |what| KernelRule { family: Family::V4, what };
        let name = || "tun-sh".to_owned();
        let plan = rules([v4(RuleMatch::LinkLocalSource(name())), v4(RuleMatch::LinkLocalDestination(name()))]);
        let keeper = Planned::start();
        assert_eq!(keeper.keep(&plan).await, done(2, 0));
        let shown = ip("rule show pref 1179");
        assert_eq!(count(&shown), 2);
        for rule in shown.as_array().unwrap() {
            assert_eq!((&rule["iif"], &rule["action"]), (&json!("tun-sh"), &json!("blackhole")), "{rule}");
        }
        assert_eq!(only(&shown, "src", "169.254.0.0")["srclen"], 16);
        assert_eq!(only(&shown, "dst", "169.254.0.0")["dstlen"], 16);
        assert!(keeper.keep(&plan).await.is_empty(), "a second time changes nothing");
    });
}

#[test]
fn rules_of_others_are_not_touched_and_leftovers_of_ours_go() {
    in_namespace(async |_lab| {
        ip("rule add pref 1180 iif lo table 1180 protocol static");
        ip("rule add pref 500 to 10.0.0.0/8 table main");
        let before = [ip("-details rule show"), ip("-6 -details rule show")];
        for leftover in [
            "rule add pref 7 iif old table 1180 protocol 118",
            "rule add pref 1180 iif old fwmark 3 table 1180 protocol 118",
            "-6 rule add pref 1180 iif old table 99 protocol 118",
        ] {
            ip(leftover);
        }
        let keeper = Planned::start();
        let plan = rules([interface(Family::V4, "old")]);
        assert_eq!(keeper.keep(&plan).await, done(1, 3));
        only(&ip("rule show"), "iif", "old");
        assert_eq!(keeper.clear().await.unwrap(), done(0, 1));
        assert_eq!([ip("-details rule show"), ip("-6 -details rule show")], before);
    });
}

#[test]
fn a_throw_route_leaves_our_table_for_the_next_rule() {
    in_namespace(async |lab| {
        let near = lab.veth("near", "far").await;
        lab.address(near, "10.1.0.1/24").await;
        ip("route add 10.10.0.0/16 dev near");
        let plan = Plan {
            rules: [KernelRule { family: Family::V4, what: RuleMatch::LocalIcmp }].into(),
            ..routes([
                route(TABLE, "0.0.0.0/0", RouteAction::Unreachable),
                route(TABLE, "10.10.1.0/24", RouteAction::Throw),
            ])
        };
        let report = Planned::start().keep(&plan).await;
        assert_eq!((report.added, report.failures.len()), (3, 0));

        assert_eq!(ip("route get 10.10.1.1 ipproto icmp")[0]["dev"], "near");
        assert_eq!(ip("route get 10.10.2.1 ipproto udp")[0]["dev"], "near", "not ICMP");
        let refused =
            std::process::Command::new("ip").args(["route", "get", "10.10.2.1", "ipproto", "icmp"]).output().unwrap();
        let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(errors.contains("No route to host"), "{errors}");
    });
}
