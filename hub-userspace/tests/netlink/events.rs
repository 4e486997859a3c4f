//! The kernel's events about routes, rules and neighbours, in their order.

use std::{net::IpAddr, pin::Pin};

use futures_util::{Stream, StreamExt as _};
use ipnet::IpNet;
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::NetlinkPayload,
    packet_route::{
        RouteNetlinkMessage,
        neighbour::{NeighbourAddress, NeighbourAttribute},
        route::{RouteAddress, RouteAttribute, RouteMessage},
    },
    sys::AsyncSocket as _,
};

use crate::lab::ip;

/// A change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Added or replaced, with the interface if there is only one.
    Route(IpNet, Option<u32>),
    RouteGone(IpNet),
    Rule,
    RuleGone,
    Neighbour(IpAddr),
    NeighbourGone(IpAddr),
}

/// Changes since its creation, for IPv4 only.
pub struct Events(Pin<Box<dyn Stream<Item = Event>>>);

impl Events {
    pub fn listen() -> Self {
        let groups = [MulticastGroup::Ipv4Route, MulticastGroup::Ipv4Rule, MulticastGroup::Neigh];
        let (mut connection, _, messages) = new_multicast_connection(&groups).unwrap();
        let socket = connection.socket_mut().socket_ref();
        rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, 64 << 20).unwrap();
        tokio::spawn(connection);
        Self(
            messages
                .filter_map(async |(message, _)| match message.payload {
                    NetlinkPayload::InnerMessage(message) => event(&message),
                    other => panic!("events were lost: {other:?}"),
                })
                .boxed_local(),
        )
    }

    pub async fn next(&mut self) -> Event {
        self.0.next().await.unwrap()
    }

    /// All events so far.
    pub async fn until_now(&mut self) -> Vec<Event> {
        let marker: IpNet = "203.0.113.0/24".parse().unwrap();
        ip(&format!("route add unreachable {marker} table 99"));
        ip(&format!("route del {marker} table 99"));
        let mut events = Vec::new();
        loop {
            match self.next().await {
                Event::Route(destination, _) if destination == marker => {}
                Event::RouteGone(destination) if destination == marker => return events,
                event => events.push(event),
            }
        }
    }
}

fn event(message: &RouteNetlinkMessage) -> Option<Event> {
    use RouteNetlinkMessage::{DelNeighbour, DelRoute, DelRule, NewNeighbour, NewRoute, NewRule};
    Some(match message {
        NewRoute(route) => Event::Route(destination(route)?, interface(route)),
        DelRoute(route) => Event::RouteGone(destination(route)?),
        NewRule(_) => Event::Rule,
        DelRule(_) => Event::RuleGone,
        NewNeighbour(neighbour) => Event::Neighbour(address(&neighbour.attributes)?),
        DelNeighbour(neighbour) => Event::NeighbourGone(address(&neighbour.attributes)?),
        _ => return None,
    })
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

fn interface(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(*ifindex),
        _ => None,
    })
}

fn address(attributes: &[NeighbourAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        _ => None,
    })
}
