//! Neighbours: `net/core/neighbour.c`.

use std::net::IpAddr;

use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::family_of;
use crate::kernel::netlink::{PROTOCOL, plan::KernelNeighbour};

/// The message that creates or replaces a neighbour.
pub fn neighbour(neighbour: &KernelNeighbour) -> NeighbourMessage {
    let mut message = bare_neighbour(neighbour.key());
    message.attributes.push(NeighbourAttribute::Protocol(PROTOCOL.into()));
    match neighbour {
        KernelNeighbour::Managed { .. } => {
            message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        }
        KernelNeighbour::Permanent { mac, .. } => {
            message.header.state = NeighbourState::Permanent;
            message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        }
    }
    message
}

/// The message that queries or deletes one neighbour.
pub fn bare_neighbour((ifindex, address): (u32, IpAddr)) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(address);
    message.header.ifindex = ifindex;
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

/// The message that makes the kernel use, and so probe, a dumped neighbour; `None` if the kernel has confirmed it or is
/// already probing.
pub fn neighbour_use(shown: &NeighbourMessage) -> Option<NeighbourMessage> {
    let mut message = bare_neighbour(read_neighbour_key(shown)?);
    message.header.state = match shown.header.state {
        NeighbourState::Stale => NeighbourState::Stale,
        NeighbourState::None | NeighbourState::Failed => NeighbourState::None,
        _ => return None,
    };
    // The kernel clears the flags that are not repeated (`neigh_update_flags`).
    message.header.flags = NeighbourFlags::Use | (shown.header.flags & NeighbourFlags::ExtLearned);
    let managed = ext_flags(shown) & NeighbourExtFlags::Managed;
    message.attributes.push(NeighbourAttribute::ExtFlags(managed));
    Some(message)
}

pub fn read_neighbour_key(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some((*v4).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some((*v6).into()),
        _ => None,
    })?;
    Some((message.header.ifindex, address))
}

pub fn ext_flags(message: &NeighbourMessage) -> NeighbourExtFlags {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::ExtFlags(flags) => Some(*flags),
            _ => None,
        })
        .unwrap_or_default()
}

/// Whether the kernel keeps it reachable even without traffic.
pub fn is_managed(message: &NeighbourMessage) -> bool {
    ext_flags(message).contains(NeighbourExtFlags::Managed)
}

/// The link address, when it has 6 bytes.
pub fn neighbour_mac(message: &NeighbourMessage) -> Option<[u8; 6]> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok(),
        _ => None,
    })
}

pub fn read_neighbour(message: &NeighbourMessage) -> Option<KernelNeighbour> {
    let (ifindex, address) = read_neighbour_key(message)?;
    if is_managed(message) {
        return Some(KernelNeighbour::Managed { ifindex, address });
    }
    let mac = neighbour_mac(message)?;
    (message.header.state == NeighbourState::Permanent).then_some(KernelNeighbour::Permanent { ifindex, address, mac })
}
