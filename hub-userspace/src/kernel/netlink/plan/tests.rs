use super::*;

fn hop(ifindex: u32, via: Option<&str>, weight: u8) -> KernelNextHop {
    let via = via.map(|via| via.parse().unwrap());
    KernelNextHop { ifindex, via, onlink: false, weight }
}

fn unicast(next_hops: &[KernelNextHop]) -> RouteAction {
    RouteAction::Unicast { next_hops: next_hops.to_vec(), source: None }
}

#[test]
fn next_hops_are_normalised_before_comparison() {
    let cases = [
        (
            "order does not matter",
            unicast(&[hop(2, None, 3), hop(1, None, 1)]),
            unicast(&[hop(1, None, 1), hop(2, None, 3)]),
        ),
        ("a single one has no weight", unicast(&[hop(1, None, 70)]), unicast(&[hop(1, None, 1)])),
        (
            "equal ones add up",
            unicast(&[hop(1, None, 2), hop(1, None, 3), hop(2, None, 1)]),
            unicast(&[hop(1, None, 5), hop(2, None, 1)]),
        ),
        (
            "no share is the least share",
            unicast(&[hop(1, None, 0), hop(2, None, 9)]),
            unicast(&[hop(1, None, 1), hop(2, None, 9)]),
        ),
        ("nothing to normalise", RouteAction::Unreachable, RouteAction::Unreachable),
    ];
    for (case, from, to) in cases {
        assert_eq!(from.normalised(), to, "{case}");
        assert_eq!(to.normalised(), to, "{case}: stable");
    }
}

#[test]
fn weight_sum_of_equal_next_hops_is_capped() {
    let many = unicast(&[hop(1, None, 100), hop(1, None, 100), hop(1, None, 100), hop(2, None, 1)]);
    assert_eq!(many.normalised(), unicast(&[hop(1, None, 255), hop(2, None, 1)]));
}

#[test]
fn onlink_without_gateway_is_dropped() {
    let onlink = |via: Option<&str>| KernelNextHop { onlink: true, ..hop(1, via, 1) };
    assert_eq!(unicast(&[onlink(None)]).normalised(), unicast(&[hop(1, None, 1)]));
    let via = unicast(&[onlink(Some("10.0.0.1"))]);
    assert_eq!(via.normalised(), via);
}

#[test]
fn neighbour_plan_leaves_foreign_entries_alone() {
    let address = |last: u8| IpAddr::from([10, 0, 0, last]);
    let managed = |last: u8| KernelNeighbour::Managed { ifindex: 1, address: address(last) };
    let fixed = |last: u8, mac: u8| KernelNeighbour::Permanent { ifindex: 1, address: address(last), mac: [mac; 6] };
    let key = |last: u8| (1, address(last));
    let existing = Existing {
        neighbours: [
            (key(1), Some(managed(1))),
            (key(2), Some(fixed(2, 2))),
            (key(3), None),
            (key(9), Some(managed(9))),
        ]
        .into(),
        foreign: [(key(5), Some([5; 6])), (key(6), Some([6; 6])), (key(7), Some([7; 6]))].into(),
        rules: Vec::new(),
    };
    let desired = [managed(1), managed(2), managed(3), managed(4), managed(5), fixed(6, 6), fixed(7, 8)];
    let difference = existing.neighbours_to(&desired.into());
    assert_eq!(difference.to_set, [managed(2), managed(3), managed(4)]);
    assert_eq!(difference.to_delete, [key(9)]);
    assert_eq!(difference.taken, [fixed(7, 8)]);
}

#[test]
fn route_key_displays_destination_and_table() {
    let route = RouteKey { table: 254, destination: "10.0.0.0/8".parse().unwrap(), metric: 1180 };
    assert_eq!(route.to_string(), "route 10.0.0.0/8 in table 254");
}
