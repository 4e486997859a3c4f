//! The agent's inputs for a [`World`] of the reference model.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    time::Duration,
};

use hub_tests::model::{self as reference, Interface, World};
use hub_userspace::{
    config::{
        Role,
        model::{
            self, Config, Connection, CustomerGateway, DEFAULT_VICI_SOCKET, Gateway, MssClamp, ReversePath, Route,
            SelectorSource, Service, Vpc,
        },
        policy_routes::PolicyRoute,
        segments::{self, Segment},
        translate::{Translation, Translations},
    },
    connection::state::{State, States},
    kernel::netlink::{HostState, Link},
    policy::{
        ports::{Ports, ProtoPorts},
        selectors::{Negotiated, NegotiatedSelectors, Pair},
    },
};

/// The agent's configuration, host and states for a world.
pub fn inputs(world: &World) -> (Config, HostState, States) {
    let mut host = HostState::default();
    for interface in &world.interfaces {
        host.links.insert(link(interface));
        host.addresses.insert(interface.index, interface.addresses.iter().copied().collect());
        let neighbours = interface.neighbours.iter().map(|(address, mac)| ((interface.index, *address), *mac));
        host.neighbours.extend(neighbours.collect::<HashMap<_, _>>());
        host.gateways.extend(interface.gateways.iter().map(|(prefix, via)| ((interface.index, *prefix), *via)));
    }
    let connections = world.connections.iter().map(|connection| {
        let value = Connection {
            customer_gateway: "anybody".into(),
            segment: connection.segment.clone().unwrap_or_else(|| segments::DEFAULT.to_owned()),
            enabled: true,
            interface: connection.interface.clone(),
            peer: connection.peer,
            local_cidrs: connection.locals.clone(),
            remote_cidrs: connection.remotes.clone(),
            translate: translations(connection),
            health_check: None,
            up_delay: Duration::ZERO,
            ipsec: None,
            selectors: SelectorSource::File,
            reverse_path: match connection.reverse_path {
                reference::ReversePath::Strict => ReversePath::Strict,
                reference::ReversePath::Off => ReversePath::Off,
            },
            mss_clamp: match connection.mss_clamp {
                reference::MssClamp::Auto => MssClamp::Auto,
                reference::MssClamp::Off => MssClamp::Off,
                reference::MssClamp::Bytes(bytes) => MssClamp::Bytes(bytes),
            },
            tunnel_weight: connection.tunnel_weight,
        };
        (connection.name.clone(), value)
    });
    let routes = world.routes.iter().map(|route| Route {
        destination: route.destination,
        next_hop: route.next_hop.clone(),
        weight: route.weight,
        publish: false,
    });
    let policy_routes = world.policy_routes.iter().map(|route| PolicyRoute {
        source: route.source,
        destination: route.destination,
        next_hop: route.next_hop.clone(),
        priority: route.priority,
        weight: route.weight,
        publish: false,
    });
    let vpc = world.vpc.as_ref();
    let vpc = vpc.map(|vpc| Vpc { interface: vpc.interface.clone(), cidrs: vpc.cidrs.clone(), publish_table: 254 });
    let gateway = Gateway {
        name: "hub".into(),
        max_connections: world.connections.len(),
        max_policy_routes: world.policy_routes.len(),
        spoke_to_spoke: world.spoke_to_spoke,
        allow_default_route: true,
        address: None,
        vici_socket: DEFAULT_VICI_SOCKET.into(),
        services: Service::defaults(),
        role_at_boot: Role::Active,
    };
    let anybody = CustomerGateway { address: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)).into() };
    let config = Config {
        gateway,
        dataplane: model::DataplaneSettings::default(),
        metrics: None,
        learn: None,
        vpc,
        underlays: BTreeMap::new(),
        segments: world.segments.iter().map(segment).collect(),
        customer_gateways: BTreeMap::from([("anybody".into(), anybody)]),
        connections: connections.collect(),
        routes: routes.collect(),
        policy_routes: policy_routes.collect(),
        role: Role::Active,
        provenance: std::sync::Arc::default(),
    };
    let state = |up| if up { State::Up } else { State::Down };
    let states = world.connections.iter().map(|connection| (connection.name.clone(), state(connection.up))).collect();
    (config, host, states)
}

fn segment(segment: &reference::Segment) -> (String, Segment) {
    (segment.name.clone(), Segment { reaches: segment.reaches.clone() })
}

fn translations(connection: &reference::Connection) -> Translations {
    connection.translations.iter().map(|(site, hub)| Translation { site: *site, hub: *hub }).collect()
}

/// The agent's knowledge of the SAs.
pub fn negotiated(world: &World) -> Negotiated {
    let ports = |ports: &RangeInclusive<u16>| Ports { first: *ports.start(), last: *ports.end() };
    let pair = |pair: &reference::Pair| {
        let limit =
            ProtoPorts { protocol: pair.protocol, remote: ports(&pair.remote_ports), local: ports(&pair.local_ports) };
        Pair { remote: pair.remote, local: pair.local, limit }
    };
    let known = world.connections.iter().filter_map(|connection| {
        let known = connection.agreement.as_ref()?;
        let agreed = NegotiatedSelectors {
            pairs: known.pairs.iter().map(pair).collect(),
            on_demand: known.on_demand,
            is_cut: false,
        };
        Some((connection.name.clone(), agreed))
    });
    known.collect()
}

fn link(interface: &Interface) -> Link {
    Link {
        index: interface.index,
        name: interface.name.clone(),
        kind: Some("veth".into()),
        ethernet: interface.ethernet,
        mac: interface.ethernet.then_some(interface.mac),
        mtu: interface.mtu,
        admin_up: interface.up,
        running: interface.up,
        vlan: interface.vlan,
        if_id: None,
        port_kind: None,
    }
}
