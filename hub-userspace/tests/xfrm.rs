//! Follows the kernel's own IPsec policies, and creates xfrm interfaces, in a namespace. This kernel may not have ESP:
//! then there are no SAs, and parsing them is tested with bytes, next to the codec.

use std::{process::Command, sync::Arc, thread, time::Duration};

use hub_userspace::{
    ipsec::xfrm::{
        follow::{Policies, PolicyFollower},
        table::SaMatch,
        translated::{self, TranslatedPolicies},
        wire::Direction,
    },
    kernel::netlink::{HostFollower, Interfaces, XfrmLink, remove_interfaces},
};
use nix::sched::{CloneFlags, unshare};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

/// Runs `ip xfrm` here. Returns whether it succeeded.
fn ip_xfrm(arguments: &str) -> bool {
    let output = Command::new("ip").arg("xfrm").args(arguments.split(' ')).output().expect("iproute2 is installed");
    output.status.success()
}

fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let body = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs CAP_SYS_ADMIN: run the test as root");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    };
    thread::spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

async fn until(follower: &mut PolicyFollower, what: &str, is: impl Fn(&Policies) -> bool) -> Arc<Policies> {
    let found = async {
        while !is(&follower.view()) {
            follower.changed().await;
        }
        follower.view()
    };
    timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{what}: {:#?}", follower.view()))
}

fn policies(view: &Policies) -> usize {
    view.table.as_ref().map_or(0, |table| table.lists().policies.len())
}

#[test]
fn policies_and_sas_are_followed() {
    in_namespace(|| async {
        let mut follower = PolicyFollower::start();
        follower.want(true);
        let view = until(&mut follower, "read", |view| view.table.is_some()).await;
        assert_eq!((policies(&view), &view.problem), (0, &None));

        let selector = "src 10.10.10.0/24 dst 192.168.0.0/24 proto tcp sport 22 dir";
        let template = "tmpl src 198.51.100.10 dst 203.0.113.1 proto esp reqid 1 mode tunnel";
        assert!(ip_xfrm(&format!("policy add {selector} fwd {template}")));
        assert!(ip_xfrm("policy add src fd00:10::/64 dst fd00:c::/64 dir in action block"), "one that blocks");
        assert!(ip_xfrm("policy add src 10.9.0.0/24 dst 192.168.0.0/24 dir in"), "one without IPsec");
        let view = until(&mut follower, "a policy", |view| policies(view) > 0).await;
        let table = view.table.clone().unwrap();
        let [policy] = table.lists().policies.as_slice() else { panic!("{table:#?}") };
        assert_eq!((policy.direction, policy.protocol, policy.source.port), (Direction::Forward, 6, 22));
        assert_eq!(policy.source.prefix.to_string(), "10.10.10.0/24");
        let mark = SaMatch { if_id: None, site: "198.51.100.10".parse().ok() };
        assert!(table.pairs(&mark).is_empty(), "there is no SA");

        let state = "state add src 198.51.100.10 dst 203.0.113.1 proto esp spi 0xc1234567 reqid 1 mode tunnel \
                     aead rfc4106(gcm(aes)) 0x0123456789012345678901234567890123456789 128";
        if ip_xfrm(state) {
            let has_pair = |view: &Policies| view.table.as_ref().is_some_and(|table| !table.pairs(&mark).is_empty());
            let view = until(&mut follower, "an SA", has_pair).await;
            let pairs: Vec<String> =
                view.table.as_ref().unwrap().pairs(&mark).iter().map(ToString::to_string).collect();
            assert_eq!(pairs, ["10.10.10.0/24[tcp/22] === 192.168.0.0/24[tcp]"]);
            assert!(!format!("{view:?}").contains("0123456789"), "keys are not kept");
            assert!(ip_xfrm("state flush"));
            until(&mut follower, "no SA", |view| !has_pair(view)).await;
        } else {
            eprintln!("this kernel has no ESP: no SA was made");
        }

        // Many at once: even if events are lost, the existing policies are known.
        for network in 0..200 {
            assert!(ip_xfrm(&format!("policy add src 10.11.{network}.0/24 dst 192.168.0.0/24 dir in {template}")));
        }
        until(&mut follower, "201", |view| policies(view) == 201).await;
        assert!(ip_xfrm("policy flush"));
        until(&mut follower, "flushed", |view| policies(view) == 0).await;

        follower.want(false);
        until(&mut follower, "nobody wants to know", |view| view.table.is_none()).await;
    });
}

/// Whether an interface with this name exists here.
fn is_there(name: &str) -> bool {
    Command::new("ip").args(["link", "show", name]).output().expect("iproute2 is installed").status.success()
}

#[test]
fn xfrm_interfaces_are_created_and_removed_or_reported() {
    in_namespace(|| async {
        let links = |mtu| [("xf7".to_owned(), XfrmLink { if_id: 7, mtu, keeps_mtu: false })].into_iter().collect();
        let interfaces = Interfaces::start(links(1400)).await.unwrap();
        let (mut host, mut follower) = HostFollower::start().await.unwrap();
        match interfaces.problems().get("xf7") {
            Some(problem) => assert!(problem.contains("this kernel has no xfrm interfaces"), "{problem}"),
            None => assert!(is_there("xf7")),
        }
        let made = is_there("xf7");
        if made {
            let index = host.links.named("xf7").map(|link| link.index);
            interfaces.want(links(1320));
            let is_set = async {
                while host.links.named("xf7").is_none_or(|link| link.mtu != 1320) {
                    follower.changed(&mut host).await.unwrap();
                }
            };
            timeout(PATIENCE, is_set).await.expect("the MTU is set");
            assert_eq!(host.links.named("xf7").map(|link| link.index), index, "it is the same interface");
        }
        // The agent exits, and the interface stays; another agent does not need it.
        interfaces.end().await;
        assert_eq!(is_there("xf7"), made);
        assert_eq!(remove_interfaces().await.unwrap(), if made { vec!["xf7"] } else { vec![] });
        assert!(!is_there("xf7"));
    });
}

/// The policies of this namespace, a line each, without those that charon and others have.
fn own_policies() -> Vec<String> {
    let output = Command::new("ip").args(["-o", "xfrm", "policy"]).output().expect("iproute2 is installed");
    let text = String::from_utf8(output.stdout).unwrap();
    let words =
        |line: &str| line.replace('\\', " ").replace("ptype main", "").split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = text.lines().map(words);
    let mut own: Vec<String> = lines.filter(|line| line.contains("priority 4294967177")).collect();
    own.sort();
    own
}

#[test]
fn policies_for_translated_sources_are_added_restored_and_removed() {
    in_namespace(|| async {
        let sources = |prefixes: &[(u32, &str)]| {
            prefixes.iter().map(|(if_id, prefix)| (*if_id, prefix.parse().unwrap())).collect()
        };
        let foreign = "policy add src 10.201.1.0/24 dst 0.0.0.0/0 dir in if_id 8 \
                       tmpl src 198.51.100.10 dst 203.0.113.1 proto esp reqid 1 mode tunnel";
        assert!(ip_xfrm(&foreign.split_whitespace().collect::<Vec<_>>().join(" ")));
        let mut agent = TranslatedPolicies::default();
        let both = sources(&[(7, "10.201.1.0/24"), (7, "fd00:201:1::/64")]);
        agent.set(&both);
        let added = own_policies();
        let expected: Vec<String> = [("10.201.1.0/24", "0.0.0.0/0", "0.0.0.0"), ("fd00:201:1::/64", "::/0", "::")]
            .iter()
            .flat_map(|(source, any, end)| {
                ["fwd", "in"].map(|direction| {
                    format!(
                        "src {source} dst {any} dir {direction} priority 4294967177 tmpl src {end} dst {end} proto esp \
                         reqid 0 mode tunnel if_id 0x7"
                    )
                })
            })
            .collect();
        assert_eq!(added, expected);

        // The reader takes none of them for selectors of an SA.
        let mut follower = PolicyFollower::start();
        follower.want(true);
        let view = until(&mut follower, "read", |view| view.table.is_some()).await;
        assert_eq!(policies(&view), 1);

        // Another's policy for the same packets is left alone.
        let same = "src 10.203.1.0/24 dst 0.0.0.0/0 dir in if_id 7";
        let end = "tmpl src 198.51.100.10 dst 203.0.113.1 proto esp reqid 1 mode tunnel";
        assert!(ip_xfrm(&format!("policy add {same} {end}")));
        agent.set(&sources(&[(7, "10.201.1.0/24"), (7, "10.203.1.0/24"), (7, "fd00:201:1::/64")]));
        assert_eq!(own_policies().len(), added.len() + 1, "fwd has none");
        agent.set(&both);
        assert!(ip_xfrm(&format!("policy delete {same}")));

        // Another process removes them. A second agent finds those of the first.
        assert!(ip_xfrm("policy delete src fd00:201:1::/64 dst ::/0 dir in if_id 7"));
        agent.set(&both);
        assert_eq!(own_policies(), added);
        TranslatedPolicies::default().set(&sources(&[(9, "10.202.1.0/24")]));
        let left = own_policies();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(left.iter().all(|line| line.contains("10.202.1.0/24") && line.ends_with("if_id 0x9")), "{left:?}");
        assert_eq!(translated::remove_all().unwrap(), 2);
        assert_eq!(own_policies(), Vec::<String>::new());
        let view = until(&mut follower, "read", |view| view.table.is_some()).await;
        assert_eq!(policies(&view), 1, "another's policy stays");
    });
}
