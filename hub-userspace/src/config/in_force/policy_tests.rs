//! Policy routes by command.

use super::{
    tests::{FILE, World, connection},
    *,
};

fn prefix(text: &str) -> ipnet::IpNet {
    text.parse().expect(text)
}

fn policy(source: &str, destination: &str, next_hop: Option<&str>) -> PolicyRouteChange {
    PolicyRouteChange {
        source: prefix(source),
        destination: prefix(destination),
        next_hop: next_hop.map(str::to_owned),
        priority: None,
        weight: None,
        publish: None,
    }
}

fn put(change: PolicyRouteChange, mode: PutMode) -> ObjectChange {
    ObjectChange::PutPolicyRoute(change, mode)
}

fn world() -> World {
    let mut world = World::new(&FILE.replace("max_connections = 4", "max_connections = 4\nmax_policy_routes = 2"));
    world.change(&connection("b", "tun-b", "10.2.0.0/16")).expect("it fits");
    world
}

#[test]
fn policy_route_is_added_changed_and_deleted_by_command() {
    let mut world = world();
    let ways = ("10.1.0.0/16", "10.2.0.0/16");
    world.change(&put(policy(ways.0, ways.1, Some("b")), PutMode::Add)).expect("it fits");
    let [found] = world.config.policy_routes.as_slice() else { panic!("one policy route") };
    assert_eq!((found.priority, found.weight, found.publish, found.next_hop.as_str()), (10, 100, false, "b"));
    world.check();
    // Without the next hop, because there is one only.
    let change = PolicyRouteChange { priority: Some(5), ..policy(ways.0, ways.1, None) };
    world.change(&put(change, PutMode::Merge)).expect("it fits");
    let change = PolicyRouteChange { weight: Some(0), ..policy(ways.0, ways.1, None) };
    world.change(&put(change, PutMode::Merge)).expect("it fits");
    assert_eq!((world.config.policy_routes[0].priority, world.config.policy_routes[0].weight), (5, 0));
    let refused = world.change(&put(policy(ways.0, ways.1, Some("b")), PutMode::Add)).expect_err("it exists");
    assert!(refused.contains("already exists") && refused.contains("vpnhub policy-route set"), "{refused}");
    world.change(&put(policy(ways.0, ways.1, Some("b")), PutMode::Replace)).expect("it fits");
    assert_eq!((world.config.policy_routes[0].priority, world.config.policy_routes[0].weight), (10, 100));
    world.change(&put(policy(ways.0, ways.1, Some("a")), PutMode::Add)).expect("it fits");
    let refused = world.change(&ObjectChange::DeletePolicyRoute(policy(ways.0, ways.1, None))).expect_err("which one");
    assert!(refused.contains("choose one with --next-hop: a, b"), "{refused}");
    world.check();
    for next_hop in [Some("a"), None] {
        world.change(&ObjectChange::DeletePolicyRoute(policy(ways.0, ways.1, next_hop))).expect("it is there");
    }
    assert_eq!(world.config.policy_routes, []);
    let refused = world.change(&ObjectChange::DeletePolicyRoute(policy(ways.0, ways.1, None))).expect_err("gone");
    assert!(refused.contains("there is no policy route from 10.1.0.0/16 to 10.2.0.0/16"), "{refused}");
    world.check();
}

#[test]
fn policy_route_of_command_obeys_rules_of_files() {
    let mut world = world();
    for (change, message) in [
        (policy("10.1.0.0/16", "fd00::/8", Some("a")), "not of one IP version"),
        (policy("10.1.0.0/16", "0.0.0.0/0", Some("a")), "allow_default_route"),
        (policy("10.1.0.0/16", "10.2.0.0/16", Some("c")), "there is no connection"),
        (policy("10.1.0.0/16", "10.2.0.0/16", None), "needs a next hop"),
    ] {
        let refused = world.change(&put(change, PutMode::Add)).expect_err(message);
        assert!(refused.contains(message), "{refused}");
    }
    for source in ["10.1.0.0/17", "0.0.0.0/0"] {
        world.change(&put(policy(source, "10.2.0.0/16", Some("b")), PutMode::Add)).expect("it fits");
    }
    let refused = world.change(&put(policy("10.9.0.0/16", "10.2.0.0/16", Some("b")), PutMode::Add)).expect_err("full");
    assert!(refused.contains("3 policy routes, and gateway.max_policy_routes allows 2"), "{refused}");
    // A smaller quota in the file sets the newest one aside.
    world.edit(&FILE.replace("max_connections = 4", "max_connections = 4\nmax_policy_routes = 1"));
    let [(name, reason)] = &world.set_aside()[..] else { panic!("{:?}", world.set_aside()) };
    assert_eq!(name, "policy_route 0.0.0.0/0 10.2.0.0/16 b");
    assert!(reason.contains("max_policy_routes allows 1"), "{reason}");
    world.check();
    // So does the same one in the file.
    let same = "[[policy_route]]\nsource = \"10.1.0.0/17\"\ndestination = \"10.2.0.0/16\"\nnext_hop = \"a\"\n";
    world.edit(&format!("{FILE}{same}"));
    assert_eq!(world.config.policy_routes.len(), 3);
    let change = PolicyRouteChange { weight: Some(1), ..policy("10.1.0.0/17", "10.2.0.0/16", Some("a")) };
    let refused = world.change(&put(change, PutMode::Merge)).expect_err("it is the file's");
    assert!(refused.contains("is defined in /etc/vpnhub.toml line"), "{refused}");
    world.check();
}
