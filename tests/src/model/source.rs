//! Source validation: martians, the hub's own addresses, the reverse path, and senders allowed to reach the hub itself.

use std::{cmp::Reverse, net::IpAddr};

use ipnet::IpNet;

use super::{
    Connection, Interface, ReversePath, Verdict, World,
    parse::{Packet, is_link_local, is_nobody},
    predict::{Account, Trail},
    prefix::contains,
    route::Target,
    selector::{Attachment, Side, from_site},
    world::connection_of,
};

impl World {
    /// Refuses martians, the broadcast address of a link (RFC 1122 section 3.2.1.3), and the hub's own addresses, which
    /// arrive from no interface.
    pub(super) fn refuse_impossible(&self, packet: &Packet, trail: &mut Trail) -> Result<(), Verdict> {
        if is_nobody(packet.source) {
            return Err(trail.spoofed("martian source"));
        }
        if self.is_hub(packet.source) {
            return Err(trail.spoofed("source of the hub"));
        }
        Ok(())
    }

    /// For a packet that does not leave its link: whether its source is allowed there.
    pub(super) fn admit_on_link(
        &self,
        attachment: &Attachment<'_>,
        packet: &Packet,
        own_source: IpAddr,
        reason: &str,
        trail: &mut Trail,
    ) -> Result<(), Verdict> {
        let source = packet.source;
        let of_any_link = source.is_ipv6() && is_link_local(source);
        if of_any_link || (reason == "multicast" && source.is_unspecified()) {
            trail.rules.push("on the link, by its kind");
            return Ok(());
        }
        let own = link_prefix(attachment.interface, source);
        let is_neighbour = match &attachment.side {
            Side::Vpc(_) => own.is_some() && self.site_link(source) <= own,
            Side::Sites(sites) => own.is_some() || sites.iter().any(|site| site.peer == Some(source)),
        };
        if is_neighbour && !self.is_hub(source) {
            trail.rules.push("on the link, a neighbour");
            return Ok(());
        }
        if is_nobody(source) || self.is_hub(source) {
            return Err(trail.spoofed("on the link, impossible"));
        }
        let admitted = match &attachment.side {
            Side::Vpc(_) => self.site_link(source) <= own && !self.leads_to_a_site(source),
            Side::Sites(sites) => {
                let sender = likeliest_sender(sites, own_source);
                self.is_hub(packet.destination) && sender.is_some_and(|sender| self.way_back(sender, source).is_ok())
            }
        };
        if !admitted {
            return Err(trail.spoofed("on the link, a stranger"));
        }
        trail.rules.push("on the link, admitted");
        Ok(())
    }

    /// Length of the longest link prefix of a site, or a `peer`, that contains an address.
    fn site_link(&self, address: IpAddr) -> Option<u8> {
        let full = if address.is_ipv4() { 32 } else { 128 };
        let of = |connection: &Connection| {
            let link = self.interface(&connection.interface).and_then(|interface| site_prefix(interface, address));
            link.max((connection.peer == Some(address)).then_some(full))
        };
        self.connections.iter().filter_map(of).max()
    }

    /// For a packet to the hub itself: attributes or refuses it. A packet that no selector with a reverse path allows
    /// is attributed like one that no selector allows.
    pub(super) fn admit_to_hub(
        &self,
        attachment: &Attachment<'_>,
        packet: &Packet,
        own_source: IpAddr,
        trail: &mut Trail,
    ) -> Result<(), Verdict> {
        match &attachment.side {
            Side::Vpc(vpc) => {
                let own = link_prefix(attachment.interface, packet.source);
                if self.site_link(packet.source) > own {
                    return Err(trail.spoofed("to the hub from the VPC, of a site's link"));
                }
                if self.leads_to_a_site(packet.source) {
                    return Err(trail.spoofed("to the hub from the VPC, routed to a site"));
                }
                let within = vpc.cidrs.iter().any(|cidr| contains(*cidr, packet.source));
                trail.rules.push(if within { "to the hub from the VPC" } else { "to the hub from behind the VPC" });
                Ok(())
            }
            Side::Sites(sites) => self.admit_site_to_hub(attachment, sites, packet, own_source, trail),
        }
    }

    fn admit_site_to_hub(
        &self,
        attachment: &Attachment<'_>,
        sites: &[&Connection],
        packet: &Packet,
        own_source: IpAddr,
        trail: &mut Trail,
    ) -> Result<(), Verdict> {
        let source = packet.source;
        let mut refusal = "to the hub, outside of the selectors";
        if let Some(sender) = likeliest_sender(sites, own_source) {
            match self.way_back(sender, source) {
                Ok(()) => {
                    trail.account = Account::Connection(sender.name.clone());
                    trail.rules.push("to the hub by a selector");
                    return Ok(());
                }
                Err(_) => refusal = "to the hub, no way back",
            }
        }
        if is_link_traffic(attachment.interface, sites, source, packet.destination) {
            trail.rules.push("to the hub on its link");
            return Ok(());
        }
        Err(trail.spoofed(refusal))
    }

    /// For a packet attributed by selectors: a site's source must be routed to the site.
    pub(super) fn check_reverse_path(&self, source: IpAddr, trail: &mut Trail) -> Result<(), Verdict> {
        let Account::Connection(name) = &trail.account else { return Ok(()) };
        let connection = self.connection(name);
        if let Err(rule) = self.way_back(connection, source) {
            return Err(trail.spoofed(rule));
        }
        if self.is_member(connection, source).is_err() {
            trail.rules.push("no way back, and none asked for");
        }
        Ok(())
    }

    fn way_back(&self, connection: &Connection, source: IpAddr) -> Result<(), &'static str> {
        match connection.reverse_path {
            ReversePath::Off => Ok(()),
            ReversePath::Strict => self.is_member(connection, source),
        }
    }

    /// Whether the connection is a next hop of the longest destination that contains an address; if not, the error
    /// names the route's target.
    fn is_member(&self, connection: &Connection, source: IpAddr) -> Result<(), &'static str> {
        match self.target(source) {
            None => Err("no way back"),
            Some(Target::Vpc { .. }) => Err("way back to the VPC"),
            Some(Target::Routes(routes)) if routes.iter().all(|route| route.next_hop != connection_of(connection)) => {
                Err("way back to another site")
            }
            Some(Target::Routes(_) | Target::Policy(_)) => Ok(()),
        }
    }

    /// Whether the longest prefix that contains an address is a site's. The default route does not identify an owner.
    fn leads_to_a_site(&self, address: IpAddr) -> bool {
        match self.target(address) {
            Some(Target::Routes(routes)) => routes[0].destination.prefix_len() > 0,
            _ => false,
        }
    }
}

/// The connection with the longest remote prefix that contains a source, for any destination; ties go to the first
/// name.
fn likeliest_sender<'a>(sites: &[&'a Connection], source: IpAddr) -> Option<&'a Connection> {
    let lengths = sites.iter().filter_map(|site| {
        let around = from_site(site).into_iter().map(|pair| pair.remote).filter(|remote| contains(*remote, source));
        Some((around.map(|remote| remote.prefix_len()).max()?, *site))
    });
    lengths.min_by_key(|(length, site)| (Reverse(*length), &site.name)).map(|(_, site)| site)
}

/// Length of the longest of an interface's own prefixes that contains an address; a single address is no link.
fn link_prefix(interface: &Interface, address: IpAddr) -> Option<u8> {
    let links = interface.addresses.iter().filter(|own| own.prefix_len() < own.max_prefix_len());
    links.filter(|own| contains(own.trunc(), address)).map(IpNet::prefix_len).max()
}

/// Like [`link_prefix`], for a site's interface, in the check of the VPC's side: single addresses are the hub's.
fn site_prefix(interface: &Interface, address: IpAddr) -> Option<u8> {
    interface.addresses.iter().filter(|own| contains(own.trunc(), address)).map(IpNet::prefix_len).max()
}

/// Traffic between the two ends of a link: probes, routing daemons.
fn is_link_traffic(interface: &Interface, sites: &[&Connection], source: IpAddr, destination: IpAddr) -> bool {
    let on_link = interface.addresses.iter().any(|own| contains(own.trunc(), source));
    let peer = sites.iter().any(|site| site.peer == Some(source));
    interface.is_own(destination) && (on_link || peer)
}
