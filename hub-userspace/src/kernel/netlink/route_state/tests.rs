use super::{
    super::{METRIC, plan::KernelNextHop},
    *,
};

fn key(destination: &str) -> RouteKey {
    RouteKey { table: 1180, destination: destination.parse().unwrap(), metric: METRIC }
}

fn through(ifindex: u32) -> RouteAction {
    RouteAction::Unicast {
        next_hops: vec![KernelNextHop { ifindex, via: None, onlink: false, weight: 1 }],
        source: None,
    }
}

fn refusal() -> Refusal {
    Refusal { errno: 100, detail: None }
}

/// The route state after a dump of these routes.
fn read(routes: &[(RouteKey, RouteAction)]) -> RouteState {
    let mut route_state = RouteState::default();
    read_again(&mut route_state, routes);
    route_state
}

fn read_again(route_state: &mut RouteState, routes: &[(RouteKey, RouteAction)]) {
    route_state.begin_reading();
    for (key, action) in routes {
        route_state.note(*key, Some(action.clone()));
    }
    route_state.conclude(true);
}

fn want(route_state: &mut RouteState, key: RouteKey, action: RouteAction) {
    route_state.want(key, Some(Arc::new(action)));
}

/// Makes all due changes, as a kernel that accepts everything; returns the keys added, replaced and deleted.
fn write_all(route_state: &mut RouteState) -> [Vec<RouteKey>; 3] {
    let [mut added, mut replaced] = [Vec::new(), Vec::new()];
    for write in route_state.next_writes(usize::MAX) {
        if write.replaces {
            replaced.push(write.key);
        } else {
            added.push(write.key);
        }
        route_state.written(write);
    }
    let deleted = route_state.next_deletions(usize::MAX);
    for key in &deleted {
        route_state.deleted(*key);
    }
    assert!(!route_state.is_due());
    [added, replaced, deleted]
}

const NOTHING: [Vec<RouteKey>; 3] = [Vec::new(), Vec::new(), Vec::new()];

#[test]
fn route_entry_takes_44_bytes() {
    assert_eq!(size_of::<RouteKey>() + size_of::<RouteEntry>(), 44);
}

#[test]
fn desired_route_in_kernel_is_not_rewritten() {
    let mut route_state = read(&[(key("10.0.0.0/8"), through(1)), (key("2001:db8::/32"), RouteAction::Unreachable)]);
    assert!(route_state.is_due(), "not wanted so far");
    want(&mut route_state, key("10.0.0.0/8"), through(1));
    want(&mut route_state, key("2001:db8::/32"), RouteAction::Unreachable);
    assert_eq!(write_all(&mut route_state), NOTHING);
}

#[test]
fn route_action_is_normalised_before_comparison() {
    let weighted = RouteAction::Unicast {
        next_hops: vec![KernelNextHop { ifindex: 1, via: None, onlink: false, weight: 70 }],
        source: None,
    };
    let mut route_state = read(&[(key("10.0.0.0/8"), through(1))]);
    want(&mut route_state, key("10.0.0.0/8"), weighted);
    assert_eq!(write_all(&mut route_state), NOTHING);
}

#[test]
fn routes_are_written_by_table_destination_and_metric() {
    let kept = key("10.1.0.0/16");
    let [replaced, gone, fresh] = ["10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"].map(key);
    let elsewhere = RouteKey { table: 254, ..kept };
    let other_metric = RouteKey { metric: 7, ..kept };
    let mut route_state = read(&[
        (kept, RouteAction::Unreachable),
        (replaced, through(1)),
        (gone, through(1)),
        (other_metric, RouteAction::Unreachable),
    ]);
    let desired = [
        (kept, RouteAction::Unreachable),
        (replaced, through(2)),
        (fresh, RouteAction::Unreachable),
        (elsewhere, RouteAction::Unreachable),
    ];
    for (key, action) in desired {
        want(&mut route_state, key, action);
    }
    assert_eq!(write_all(&mut route_state), [vec![elsewhere, fresh], vec![replaced], vec![other_metric, gone]]);
    assert_eq!(route_state.routes.len(), 4);
}

#[test]
fn empty_desired_state_deletes_all_routes() {
    let [held, unwritten, surplus] = ["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16"].map(key);
    let mut route_state = read(&[(held, through(1)), (surplus, through(1))]);
    want(&mut route_state, held, through(2));
    want(&mut route_state, unwritten, through(1));
    route_state.want_nothing();
    assert_eq!(write_all(&mut route_state), [vec![], vec![], vec![held, surplus]]);
    assert!(route_state.routes.is_empty());
}

#[test]
fn route_missing_from_partial_dump_is_replaced() {
    let [shown, passed_over, unwanted, fresh] = ["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16"].map(key);
    let mut route_state = read(&[shown, passed_over, unwanted].map(|key| (key, through(1))));
    for key in [shown, passed_over, fresh] {
        want(&mut route_state, key, through(1));
    }
    route_state.begin_reading();
    route_state.note(shown, Some(through(1)));
    route_state.conclude(false);
    assert!(!route_state.is_whole());
    assert_eq!(write_all(&mut route_state), [vec![fresh], vec![passed_over], vec![unwanted]]);

    read_again(&mut route_state, &[(shown, through(1))]);
    assert!(route_state.is_whole());
    assert_eq!(write_all(&mut route_state), [vec![passed_over, fresh], vec![], vec![]], "a whole one counts alone");
}

#[test]
fn route_seen_in_any_partial_dump_is_not_added() {
    let [first, last, none] = ["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16"].map(key);
    let mut route_state = RouteState::default();
    for key in [first, last, none] {
        want(&mut route_state, key, through(1));
    }
    for shown in [[first, last].as_slice(), &[last]] {
        route_state.begin_reading();
        for key in shown {
            route_state.note(*key, Some(through(1)));
        }
    }
    route_state.conclude(false);
    assert_eq!(write_all(&mut route_state), [vec![none], vec![first], vec![]]);
}

#[test]
fn writes_before_first_dump_are_not_due() {
    let mut route_state = RouteState::default();
    want(&mut route_state, key("10.0.0.0/8"), through(1));
    assert!(!route_state.is_known() && !route_state.is_due());
    route_state.want(key("10.0.0.0/8"), None);
    read_again(&mut route_state, &[]);
    assert!(route_state.is_known() && !route_state.is_due());
    assert!(route_state.routes.is_empty());
}

#[test]
fn last_of_several_desired_actions_is_written() {
    let (one, other) = (key("10.0.0.0/8"), key("10.1.0.0/16"));
    let mut route_state = read(&[(one, through(1))]);
    want(&mut route_state, one, through(2));
    want(&mut route_state, one, through(1));
    want(&mut route_state, other, through(1));
    route_state.want(other, None);
    assert_eq!(write_all(&mut route_state), NOTHING, "as before");

    route_state.want(one, None);
    want(&mut route_state, one, through(3));
    want(&mut route_state, other, through(1));
    want(&mut route_state, other, through(2));
    let writes = route_state.next_writes(1);
    assert_eq!(writes, [RouteWrite { key: one, action: Arc::new(through(3)), replaces: true }]);
    let writes = route_state.next_writes(5);
    assert_eq!(writes, [RouteWrite { key: other, action: Arc::new(through(2)), replaces: false }]);
}

#[test]
fn unknown_or_duplicate_kernel_route_is_replaced() {
    let (strange, twice) = (key("10.0.0.0/8"), key("10.1.0.0/16"));
    let mut route_state = RouteState::default();
    want(&mut route_state, strange, RouteAction::Unreachable);
    want(&mut route_state, twice, RouteAction::Unreachable);
    route_state.begin_reading();
    route_state.note(strange, None);
    route_state.note(twice, Some(RouteAction::Unreachable));
    route_state.note(twice, Some(RouteAction::Unreachable));
    route_state.conclude(true);
    assert_eq!(write_all(&mut route_state), [vec![], vec![strange, twice], vec![]]);
}

#[test]
fn next_dump_adds_missing_and_deletes_surplus_routes() {
    let [stays, missing, surplus] = ["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16"].map(key);
    let mut route_state = read(&[]);
    want(&mut route_state, stays, through(1));
    want(&mut route_state, missing, through(1));
    write_all(&mut route_state);
    read_again(&mut route_state, &[(stays, through(1)), (surplus, through(1))]);
    assert_eq!(write_all(&mut route_state), [vec![missing], vec![], vec![surplus]]);
}

#[test]
fn refused_route_is_retried_at_next_dump_or_change() {
    let one = key("10.0.0.0/8");
    let mut route_state = read(&[]);
    want(&mut route_state, one, through(1));
    let refuse = |route_state: &mut RouteState| {
        let [write] = route_state.next_writes(9).try_into().unwrap();
        route_state.refused(write.key, refusal());
        assert!(!route_state.is_due());
        assert_eq!(route_state.refusals().collect::<Vec<_>>(), [(&one, &refusal())]);
    };
    refuse(&mut route_state);
    want(&mut route_state, one, through(1));
    assert!(!route_state.is_due(), "the same wish");
    read_again(&mut route_state, &[]);
    refuse(&mut route_state);
    want(&mut route_state, one, through(2));
    refuse(&mut route_state);
    route_state.want(one, None);
    assert!(!route_state.is_due() && route_state.refusals().next().is_none() && route_state.routes.is_empty());
}

#[test]
fn equal_kernel_actions_share_one_allocation() {
    let action = Arc::new(through(1));
    let mut route_state = RouteState::default();
    let keys = ["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16"].map(key);
    for key in keys {
        route_state.want(key, Some(Arc::clone(&action)));
    }
    read_again(&mut route_state, &keys.map(|key| (key, through(1))));
    assert_eq!(Arc::strong_count(&action), 1 + 2 * keys.len());
}
