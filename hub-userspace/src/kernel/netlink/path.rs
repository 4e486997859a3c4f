//! The kernel's routes to single addresses, as `ip route get` shows them, with the MTU of the path if it is known.

use std::net::IpAddr;

use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric},
};

use super::{NetlinkError, socket::Requests, wire::family_of};

/// A route to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// The interface by which packets leave.
    pub ifindex: u32,
    /// The MTU of a "fragmentation needed" of a router on the path, or of the route itself; `None`: that of the interface.
    pub mtu: Option<u32>,
}

/// Looks up routes in the calling thread's network namespace. Needs no privileges.
pub struct Paths(Requests);

impl Paths {
    /// # Errors
    /// When there is no netlink socket.
    pub fn open() -> Result<Self, NetlinkError> {
        Requests::open().map(Self)
    }

    /// `None`: there is no route. `from`: the packets' own address, if it is one of this host; `interface`: the one that
    /// they must leave by.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub async fn to(
        &mut self,
        to: IpAddr,
        from: Option<IpAddr>,
        interface: Option<u32>,
    ) -> Result<Option<Path>, NetlinkError> {
        let what = "looking up a route";
        let from = from.filter(|from| from.is_ipv4() == to.is_ipv4());
        let request = |from| RouteNetlinkMessage::GetRoute(request(to, from, interface));
        let mut answer = self.0.get(what, request(from)).await?;
        if answer.is_err() && from.is_some() {
            // NAT before this host: its public address is none of its own.
            answer = self.0.get(what, request(None)).await?;
        }
        Ok(answer.ok().and_then(|answer| match answer {
            RouteNetlinkMessage::NewRoute(message) => path(&message),
            _ => None,
        }))
    }
}

fn request(to: IpAddr, from: Option<IpAddr>, interface: Option<u32>) -> RouteMessage {
    let length = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(to);
    message.header.destination_prefix_length = length(to);
    message.attributes.push(RouteAttribute::Destination(address(to)));
    if let Some(from) = from {
        message.header.source_prefix_length = length(from);
        message.attributes.push(RouteAttribute::Source(address(from)));
    }
    message.attributes.extend(interface.map(RouteAttribute::Oif));
    message
}

fn address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

fn path(message: &RouteMessage) -> Option<Path> {
    let (mut ifindex, mut mtu) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(Path { ifindex: ifindex?, mtu })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_has_interface_and_learned_mtu() {
        let mut message = RouteMessage::default();
        assert_eq!(path(&message), None);
        message.attributes.push(RouteAttribute::Oif(7));
        assert_eq!(path(&message), Some(Path { ifindex: 7, mtu: None }));
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Hoplimit(3), RouteMetric::Mtu(1300)]));
        assert_eq!(path(&message), Some(Path { ifindex: 7, mtu: Some(1300) }));
    }

    #[tokio::test]
    async fn loopback_address_leaves_by_the_loopback_device() {
        let mut paths = Paths::open().expect("a socket");
        let to = IpAddr::from([127, 0, 0, 1]);
        let found = paths.to(to, None, None).await.expect("an answer");
        assert_eq!(found.map(|path| path.ifindex), Some(1));
        // An address of nobody as the source is left out.
        let from = Some(IpAddr::from([198, 51, 100, 77]));
        assert_eq!(paths.to(to, from, None).await.expect("an answer").map(|path| path.ifindex), Some(1));
    }
}
