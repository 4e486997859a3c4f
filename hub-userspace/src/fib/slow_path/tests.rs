use std::collections::BTreeSet;

use super::*;
use crate::{
    config::{
        self, Role,
        model::{Route, Vpc},
    },
    connection::state::{State, States},
    kernel::netlink::HostState,
    policy::selectors::Negotiated,
};

/// Two connections with interfaces and peers, one with an interface that needs none.
fn configuration() -> Config {
    let connection = |name: &str, interface: &str, peer: &str| {
        format!(
            "[connection.{name}]\ncustomer_gateway = \"site\"\ninterface = \"{interface}\"\n{peer}\n\
             local_cidrs = [\"0.0.0.0/0\"]\nremote_cidrs = [\"10.10.0.0/16\"]\n"
        )
    };
    let text = [
        "[gateway]\nname = \"hub\"\n[customer_gateway.site]\naddress = \"198.51.100.10\"\n".to_owned(),
        connection("a", "eth5", "peer = \"10.5.0.2\""),
        connection("b", "eth3", "peer = \"10.3.0.2\""),
        connection("c", "tun7", ""),
    ];
    config::parse(&text.concat()).unwrap().0
}

fn host() -> HostState {
    let link = |index: u32, name: &str, ethernet| Link {
        index,
        name: name.to_owned(),
        ethernet,
        mtu: 1500,
        admin_up: true,
        running: true,
        ..Link::default()
    };
    let links = [link(5, "eth5", true), link(3, "eth3", true), link(7, "tun7", false)];
    let mut host = HostState::default();
    host.links = links.into_iter().collect();
    host
}

fn all_up() -> States {
    ["a", "b", "c"].map(|name| (name.to_owned(), State::Up)).into()
}

fn members(of: &[(&str, u8)]) -> Members {
    of.iter().map(|(name, weight)| ((*name).to_owned(), (*weight).into())).collect()
}

fn hop(ifindex: u32, via: Option<&str>, weight: u8) -> KernelNextHop {
    KernelNextHop { ifindex, via: via.map(|via| via.parse().unwrap()), onlink: via.is_some(), weight }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn route_action_lists_active_members_in_kernel_form() {
    let (config, host, states) = (configuration(), host(), all_up());
    let inputs = Inputs {
        config: &config,
        host: &host,
        states: &states,
        negotiated: &Negotiated::new(),
        tc_only: &BTreeSet::new(),
    };
    let next_hops =
        |members: &[(&str, u8)], family| match action(inputs, &Sources::of(inputs), &self::members(members), family) {
            Some(RouteAction::Unicast { next_hops, .. }) => next_hops,
            other => panic!("{other:?}"),
        };
    let two = next_hops(&[("a", 30), ("b", 70), ("c", 0)], Family::V4);
    assert_eq!(two, [hop(3, Some("10.3.0.2"), 70), hop(5, Some("10.5.0.2"), 30)], "in order of their interfaces");
    assert_eq!(next_hops(&[("c", 40)], Family::V4), [hop(7, None, 1)], "no weight");
    assert_eq!(next_hops(&[("a", 1)], Family::V6), [hop(5, Some("fe80::7670:6e68:7562"), 1)], "stands for the peer");
}

#[test]
fn route_action_excludes_members_with_dead_interface() {
    let (config, mut host, states) = (configuration(), host(), all_up());
    host.links.remove(&3);
    host.links.change(7, |link| link.running = false);
    let inputs = Inputs {
        config: &config,
        host: &host,
        states: &states,
        negotiated: &Negotiated::new(),
        tc_only: &BTreeSet::new(),
    };
    let action = |of: &[(&str, u8)]| action(inputs, &Sources::of(inputs), &members(of), Family::V4);
    let one = RouteAction::Unicast { next_hops: vec![hop(5, Some("10.5.0.2"), 1)], source: None };
    assert_eq!(action(&[("a", 1), ("b", 1), ("c", 1)]), Some(one));
    assert_eq!(action(&[("b", 1), ("c", 1)]), None);
}

#[test]
fn destination_has_same_route_keys_in_every_state() {
    let destination = net("10.10.10.0/24");
    let through = Arc::new(RouteAction::Unicast { next_hops: vec![hop(5, None, 1)], source: None });
    let (own, backstop, none) = (Some(&through), Some(&*BACKSTOP), None::<&Arc<RouteAction>>);
    let [here, elsewhere] = [254, 100];
    let rows = [
        ("not published", Some(false), here, own, [own, backstop, none]),
        ("published", Some(true), here, own, [none, backstop, own]),
        ("published, but revoked", Some(true), here, own, [own, backstop, none]),
        ("published, but withdrawn", Some(true), here, own, [own, backstop, none]),
        ("published elsewhere, but standby", Some(true), elsewhere, own, [own, backstop, none]),
        ("published elsewhere", Some(true), elsewhere, own, [own, backstop, own]),
        ("published, but down", Some(true), here, none, [none, backstop, none]),
        ("down", Some(false), here, none, [none, backstop, none]),
        ("of nobody", None, here, own, [none; ENTRIES]),
    ];
    for (case, published, table, action, expected) in rows {
        let mut config = configuration();
        config.vpc = Some(Vpc { interface: "vpc0".to_owned(), cidrs: Vec::new(), publish_table: table });
        config.routes = published
            .map(|publish| Route { destination, next_hop: "a".to_owned(), weight: 100, publish })
            .into_iter()
            .collect();
        config.role = match () {
            () if case.ends_with("withdrawn") => Role::Withdrawn,
            () if case.ends_with("standby") => Role::Standby,
            () => Role::Active,
        };
        let rib = Rib::build(&config, &HostState::default());
        let keys = [(254, INTERNAL_METRIC), (254, BACKSTOP_METRIC), (table, METRIC)].map(|(table, metric)| RouteKey {
            table,
            destination,
            metric,
        });
        let entries = entries_of(destination, &rib, &config, table, |_| GroupAction {
            action: action.cloned(),
            is_revoked: case.ends_with("revoked"),
        });
        assert_eq!(entries.clone().map(|(key, _)| key), keys, "{case}");
        assert_eq!(entries.each_ref().map(|(_, action)| action.as_ref()), expected, "{case}");
    }
}
