//! Questions to a [`HostState`].

use std::net::IpAddr;

use ipnet::IpNet;

use super::{HostState, Link};

impl HostState {
    /// The interface of this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// Addresses of an interface, with their prefix lengths, host bits kept.
    pub fn addresses_of(&self, ifindex: u32) -> impl Iterator<Item = IpNet> {
        self.addresses.get(&ifindex).into_iter().flatten().copied()
    }

    /// The kernel's routes through routers on an interface.
    pub fn gateways_of(&self, ifindex: u32) -> impl Iterator<Item = (IpNet, IpAddr)> {
        self.gateways.iter().filter(move |((index, _), _)| *index == ifindex).map(|((_, prefix), via)| (*prefix, *via))
    }
}

impl Link {
    /// Carries packets now.
    pub fn is_up(&self) -> bool {
        self.admin_up && self.running
    }
}
