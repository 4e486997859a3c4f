//! Routes to translated sites' own IPv6 prefixes, for xfrm interfaces.
//!
//! Such an interface looks up a route to the destination of a packet that comes without one, as from the program, and
//! drops the packet if there is none (`xfrmi_xmit`, `net/xfrm/xfrm_interface_core.c`). The address is the site's own by
//! then, and no other route needs to have it. For IPv4 the kernel takes a destination without a route as on-link.
//!
//! Any route satisfies the interface, which encrypts by its SA whatever the route says. So several sites with one prefix
//! share a route. The nftables table lets nobody else use it.

use std::{collections::BTreeMap, sync::Arc};

use ipnet::IpNet;

use crate::{
    fib::Inputs,
    kernel::netlink::{KernelNextHop, MAIN_TABLE, OWN_PREFIX_METRIC, RouteAction, RouteKey},
};

/// By prefix.
pub type OwnPrefixes = BTreeMap<IpNet, Arc<RouteAction>>;

/// The routes for the interfaces that are up.
pub fn own_prefixes(inputs: Inputs<'_>) -> OwnPrefixes {
    let mut next_hops = BTreeMap::<IpNet, Vec<KernelNextHop>>::new();
    let connections = inputs.config.connections.values();
    for connection in connections.filter(|connection| !connection.translate.is_empty()) {
        let is_xfrm = |kind: &str| kind == "xfrm";
        let link = inputs.host.link(&connection.interface).filter(|link| link.is_up());
        let Some(link) = link.filter(|link| link.kind.as_deref().is_some_and(is_xfrm)) else { continue };
        for translation in &connection.translate {
            if matches!(translation.site, IpNet::V6(_)) {
                let hop = KernelNextHop { ifindex: link.index, via: None, onlink: false, weight: 1 };
                next_hops.entry(translation.site).or_default().push(hop);
            }
        }
    }
    let route = |(prefix, next_hops)| (prefix, Arc::new(RouteAction::Unicast { next_hops, source: None }.normalised()));
    next_hops.into_iter().map(route).collect()
}

pub const fn own_prefix_key(destination: IpNet) -> RouteKey {
    RouteKey { table: MAIN_TABLE, destination, metric: OWN_PREFIX_METRIC }
}
