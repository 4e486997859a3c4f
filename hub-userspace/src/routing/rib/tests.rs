use super::*;
use crate::{connection::state::State, routing::members::Weight};

#[test]
fn standby_carries_traffic_when_no_active_member_is_up() {
    let members: Members = [("a", 100), ("b", 50), ("s", 0), ("t", 0)].map(|(n, w)| (n.into(), Weight::from(w))).into();
    let table: [(&str, &[(&str, u32)]); 6] = [
        ("a b s t", &[("a", 100), ("b", 50)]),
        ("b s", &[("b", 50)]),
        ("s t", &[("s", 1), ("t", 1)]),
        ("t", &[("t", 1)]),
        ("", &[("a", 100), ("b", 50)]),
        ("a", &[("a", 100)]),
    ];
    for (up, expected) in table {
        let states: States = members
            .keys()
            .map(|name| (name.clone(), if up.contains(name.as_str()) { State::Up } else { State::Down }))
            .collect();
        assert_eq!(active(&members, &states), expected, "up: {up:?}");
    }
}

#[test]
fn held_down_member_carries_traffic_only_as_last_resort() {
    let members =
        Members::from([("a".to_owned(), 100.into()), ("b".to_owned(), 100.into()), ("s".to_owned(), 0.into())]);
    let states = |b, s| States::from([("a".to_owned(), State::Down), ("b".to_owned(), b), ("s".to_owned(), s)]);
    assert_eq!(active(&members, &states(State::HoldDown, State::Up)), [("s", 1)]);
    assert_eq!(active(&members, &states(State::HoldDown, State::Down)), [("b", 100)]);
    assert_eq!(active(&members, &states(State::Down, State::HoldDown)), [("s", 1)]);
}

#[test]
fn degraded_member_carries_traffic_only_without_healthy_one() {
    use State::{Degraded, Down, HoldDown, Up};
    type Row<'a> = ([State; 3], &'a [(&'a str, u32)]);
    let members = Members::from([("a".to_owned(), 75.into()), ("b".to_owned(), 25.into()), ("s".to_owned(), 0.into())]);
    let table: [Row<'_>; 8] = [
        ([Degraded, Up, Up], &[("b", 25)]),
        ([Degraded, Degraded, Up], &[("s", 1)]),
        ([Degraded, Down, Up], &[("s", 1)]),
        // All degraded: as if none were.
        ([Degraded, Degraded, Degraded], &[("a", 75), ("b", 25)]),
        ([Degraded, Degraded, Down], &[("a", 75), ("b", 25)]),
        ([Down, Down, Degraded], &[("s", 1)]),
        ([Degraded, HoldDown, HoldDown], &[("a", 75)]),
        ([Down, HoldDown, Degraded], &[("s", 1)]),
    ];
    for (states, expected) in table {
        let named: States = ["a", "b", "s"].map(str::to_owned).into_iter().zip(states).collect();
        assert_eq!(active(&members, &named), expected, "{states:?}");
    }
}

#[test]
fn lone_standby_when_down_still_gets_traffic() {
    let members = Members::from([("s".to_owned(), 0.into())]);
    assert_eq!(active(&members, &States::from([("s".to_owned(), State::Down)])), [("s", 1)]);
}

#[test]
fn drained_connection_carries_nothing_while_another_is_up() {
    let members = Members::from([("a".to_owned(), 100.into()), ("b".to_owned(), 1.into())]);
    let states = States::from([("a".to_owned(), State::AdminDown), ("b".to_owned(), State::Up)]);
    assert_eq!(active(&members, &states), [("b", 1)]);
}

#[test]
fn change_of_one_connection_affects_its_groups_only() {
    let destination = |number: u8| IpNet::new_assert([10, number, 0, 0].into(), 16);
    let route = |number, next_hop: &str| Route {
        destination: destination(number),
        next_hop: next_hop.to_owned(),
        weight: 100,
        publish: false,
    };
    let mut rib = Rib::default();
    let routes = (0..100).flat_map(|site| [route(site, &format!("c{site}")), route(100 + site, &format!("c{site}"))]);
    let added = routes.chain([route(200, "c7"), route(200, "c8")]).collect();
    rib.change(&Routes { added, ..Routes::default() });
    rib.take_changed();
    let of = |rib: &Rib, names: &[&str], destinations| {
        let names = Affected::Some(names.iter().map(|name| (*name).to_owned()).collect());
        let AffectedGroups::Some { connections, groups, gone } = rib.affected_groups(&names, destinations) else {
            panic!("all groups are affected");
        };
        let names = |groups: BTreeSet<Arc<Members>>| -> Vec<String> {
            groups.iter().map(|members| members.keys().cloned().collect::<Vec<_>>().join("+")).collect()
        };
        (connections.into_iter().collect::<Vec<_>>().join(" "), names(groups), names(gone))
    };
    assert_eq!(of(&rib, &["c5"], true), ("c5".into(), vec!["c5".into()], vec![]));
    assert_eq!(of(&rib, &["c7"], true), ("c7".into(), vec!["c7".into(), "c7+c8".into()], vec![]));
    // A group without destinations is gone; its members may have lost their last route.
    rib.change(&Routes { removed: vec![route(200, "c8")], ..Routes::default() });
    let groups = vec!["c7".into(), "c8".into()];
    assert_eq!(of(&rib, &[], true), ("c7 c8".into(), groups, vec!["c7+c8".into()]));
    assert_eq!(of(&rib, &[], false), (String::new(), vec![], vec![]));
}
