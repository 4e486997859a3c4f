//! Queries of a [`HostState`].

use std::net::IpAddr;

use ipnet::IpNet;

use super::{HostState, Link};

impl HostState {
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.named(name)
    }

    /// Addresses of an interface, with prefix length and host bits.
    pub fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = IpNet> {
        self.addresses.get(&ifindex).into_iter().flatten().copied()
    }

    /// Whether an address can be the source of the hub's packets.
    pub fn is_usable(&self, ifindex: u32, address: IpNet) -> bool {
        !self.tentative.contains_key(&(ifindex, address))
    }

    /// Whether a neighbour that the kernel resolves for us does not answer.
    pub fn has_failed(&self, ifindex: u32, address: IpAddr) -> bool {
        self.failed.contains_key(&(ifindex, address))
    }

    /// The kernel's routes via gateways on an interface.
    pub fn gateways_of(&self, ifindex: u32) -> impl Iterator<Item = (IpNet, IpAddr)> {
        let of_interface = self.gateways.range((ifindex, IpNet::default())..);
        of_interface.take_while(move |((index, _), _)| *index == ifindex).map(|((_, prefix), via)| (*prefix, *via))
    }
}

impl Link {
    /// Whether it carries packets now.
    pub fn is_up(&self) -> bool {
        self.admin_up && self.running
    }

    /// Whether it is a port of a bridge, which takes the packets that the program leaves to the kernel.
    pub fn is_bridge_port(&self) -> bool {
        self.port_kind.as_deref() == Some("bridge")
    }
}
