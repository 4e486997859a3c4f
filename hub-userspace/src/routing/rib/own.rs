//! The hub's own destinations: its addresses, and the prefixes of the VPC.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};
use prefix_trie::joint::JointPrefixMap;

use super::Target;
use crate::{config::model::Vpc, kernel::netlink::HostState};

pub(super) fn own(vpc: Option<&Vpc>, host: &HostState) -> BTreeMap<IpNet, Target> {
    let mut own = BTreeMap::new();
    if let Some(vpc) = vpc {
        add_vpc(&mut own, vpc, host);
    }
    add_hub(&mut own, host);
    own
}

/// The VPC's prefixes follow the kernel's own routes of the VPC interface: parts of a prefix may lie behind different
/// routers.
fn add_vpc(own: &mut BTreeMap<IpNet, Target>, vpc: &Vpc, host: &HostState) {
    let ifindex = host.link(&vpc.interface).map(|link| link.index);
    let routed =
        ifindex.into_iter().flat_map(|index| host.gateways_of(index)).map(|(prefix, gateway)| (prefix, Some(gateway)));
    let on_link = ifindex.into_iter().flat_map(|index| host.addresses_of(index)).map(|address| (address.trunc(), None));
    let kernel: JointPrefixMap<IpNet, Option<IpAddr>> = routed.chain(on_link).collect();
    for cidr in &vpc.cidrs {
        let gateway = kernel.get_lpm(cidr).and_then(|(_, gateway)| *gateway);
        own.insert(*cidr, Target::Vpc { gateway });
        for (prefix, gateway) in kernel.children(cidr) {
            own.insert(prefix, Target::Vpc { gateway: *gateway });
        }
    }
}

fn add_hub(own: &mut BTreeMap<IpNet, Target>, host: &HostState) {
    for address in host.addresses.values().flatten() {
        own.insert(IpNet::from(address.addr()), Target::Hub);
        if let IpNet::V4(net) = *address
            && let Some(broadcast) = directed_broadcast(net)
        {
            own.insert(IpNet::from(IpAddr::V4(broadcast)), Target::Hub);
        }
    }
}

/// The directed broadcast address of a link; /31 and /32 links have none (RFC 3021).
fn directed_broadcast(net: Ipv4Net) -> Option<Ipv4Addr> {
    (net.prefix_len() < 31).then(|| net.broadcast())
}
