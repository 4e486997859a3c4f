//! Gateways of others' routes in the host state.

use super::*;

#[test]
fn gateways_come_from_foreign_single_hop_main_routes() {
    let mut multipath = route_message("10.1.0.0/16", 5, "10.5.0.2", 0);
    multipath.attributes.retain(|of| matches!(of, RouteAttribute::Destination(_)));
    multipath.attributes.push(RouteAttribute::MultiPath(vec![RouteNextHop::default(); 2]));
    let mut direct = route_message("10.1.0.0/16", 5, "10.5.0.2", 0);
    direct.attributes.retain(|of| !matches!(of, RouteAttribute::Gateway(_)));
    let mut elsewhere = route_message("10.1.0.0/16", 5, "10.5.0.2", 0);
    elsewhere.header.table = 100;
    let mut ours = route_message("10.1.0.0/16", 5, "10.5.0.2", 0);
    ours.header.protocol = 118.into();
    let mut blackhole = route_message("10.1.0.0/16", 5, "10.5.0.2", 0);
    blackhole.header.kind = RouteType::BlackHole;
    for message in [multipath, direct, elsewhere, ours, blackhole] {
        let mut state = busy_host();
        let before = state.clone();
        let event = RouteNetlinkMessage::NewRoute(message);
        assert_eq!(apply(&mut state, event), Changes::default());
        assert_eq!(state, before);
    }
    let mut state = busy_host();
    let changes = apply(&mut state, new_route("2001:db8::/32", 5, "fe80::1", 0));
    assert_eq!(changes, Changes { gateways: true, ..Changes::default() });
    assert_eq!(state.gateways[&(5, "2001:db8::/32".parse().unwrap())].to_string(), "fe80::1");
}

#[test]
fn lowest_metric_gateway_wins_and_next_takes_over() {
    let key = (5, "10.50.0.0/16".parse().unwrap());
    let mut state = busy_host();
    assert!(apply(&mut state, new_route("10.50.0.0/16", 5, "10.5.0.9", 100)).is_empty());
    assert_eq!(state.gateways[&key].to_string(), "10.5.0.2");
    assert!(apply(&mut state, del_route("10.50.0.0/16", 5, "10.5.0.2", 0)).gateways);
    assert_eq!(state.gateways[&key].to_string(), "10.5.0.9");
    assert!(apply(&mut state, del_route("10.50.0.0/16", 5, "10.5.0.9", 100)).gateways);
    assert!(!state.gateways.contains_key(&key));
}

#[test]
fn replaced_route_removes_gateway_of_old_interface() {
    let net: IpNet = "10.50.0.0/16".parse().unwrap();
    let mut state = busy_host();
    assert!(replace(&mut state, new_route("10.50.0.0/16", 6, "10.6.0.9", 0)).gateways);
    assert!(!state.gateways.contains_key(&(5, net)));
    assert_eq!(state.gateways[&(6, net)].to_string(), "10.6.0.9");

    let mut blackhole = route_message("10.50.0.0/16", 6, "10.6.0.9", 0);
    blackhole.header.kind = RouteType::BlackHole;
    assert!(replace(&mut state, RouteNetlinkMessage::NewRoute(blackhole)).gateways);
    assert!(!state.gateways.contains_key(&(6, net)));

    let mut state = busy_host();
    replace(&mut state, new_route("10.50.0.0/16", 6, "10.6.0.9", 50));
    assert!(state.gateways.contains_key(&(5, net)), "another metric's is another route");
}

#[test]
fn deletion_of_other_gateway_changes_nothing() {
    let mut state = busy_host();
    assert!(apply(&mut state, del_route("10.50.0.0/16", 5, "10.5.0.77", 0)).is_empty());
    assert_eq!(state.gateways.len(), 2);
}

#[test]
fn gateways_on_dead_links_are_forgotten() {
    let mut state = busy_host();
    state.links.change(5, |link| link.admin_up = false);
    state.links.remove(&6);
    state.forget_dead_gateways();
    assert!(state.gateways.is_empty() && state.metrics.is_empty());
}
