//! Selectors: (remote, local) pairs of prefixes, some limited to a protocol and ports (RFC 4301 section 4.4.1.1).

use std::{cmp::Reverse, net::IpAddr, ops::RangeInclusive};

use ipnet::IpNet;

use super::{
    Account, Connection, Interface, Pair, Verdict, Vpc, World,
    parse::Packet,
    predict::Trail,
    prefix::{contains, same_family},
    translate::{View, counterpart},
};

/// An interface whose packets the hub handles, and their possible owners.
pub struct Attachment<'a> {
    pub interface: &'a Interface,
    pub(super) side: Side<'a>,
}

pub(super) enum Side<'a> {
    Vpc(&'a Vpc),
    /// By name; at least one.
    Sites(Vec<&'a Connection>),
}

impl World {
    pub(super) fn attachment(&self, index: u32) -> Option<Attachment<'_>> {
        let interface = self.interfaces.iter().find(|interface| interface.index == index)?;
        if let Some(vpc) = self.vpc.as_ref().filter(|vpc| vpc.interface == interface.name) {
            return Some(Attachment { interface, side: Side::Vpc(vpc) });
        }
        let carried = self.carried_by(interface);
        (!carried.is_empty()).then_some(Attachment { interface, side: Side::Sites(carried) })
    }

    /// Whether the egress may carry the packet; its site's side is then the destination.
    pub(super) fn admits_egress(&self, account: &Account, packet: &Packet) -> bool {
        match account {
            Account::Connection(name) => {
                let connection = self.connection(name);
                let hub = packet.source;
                let [hub_port, site_port] = packet.selector_ports;
                let site = counterpart(&connection.translations, packet.destination, View::Site);
                let Some(site) = site else { return false };
                to_site(connection).iter().any(|pair| {
                    contains(pair.remote, site) && contains(pair.local, hub) && suits(pair, packet, site_port, hub_port)
                })
            }
            Account::Vpc => self.vpc.iter().any(|vpc| in_any(&vpc.cidrs, packet.destination)),
            Account::Unattributed => unreachable!("no route leads there"),
        }
    }
}

impl Attachment<'_> {
    /// The owner of a packet's counters until its source identifies another.
    pub fn account(&self) -> Account {
        match &self.side {
            Side::Vpc(_) => Account::Vpc,
            Side::Sites(sites) => match sites.as_slice() {
                [only] => Account::Connection(only.name.clone()),
                _ => Account::Unattributed,
            },
        }
    }

    /// Attributes a packet. If several connections could have sent it, the longest remote prefix wins, then the first
    /// name.
    ///
    /// `own_source`: as the site knows it.
    pub(super) fn admit(&self, packet: &Packet, own_source: IpAddr, trail: &mut Trail) -> Result<(), Verdict> {
        let sites = match &self.side {
            Side::Vpc(vpc) if in_any(&vpc.cidrs, packet.source) => return Ok(()),
            Side::Vpc(_) => return Err(trail.spoofed("source outside of the VPC")),
            Side::Sites(sites) => sites,
        };
        let mut candidates = Vec::new();
        for site in sites {
            for pair in from_site(site) {
                if contains(pair.remote, own_source) {
                    candidates.push((Reverse(pair.remote.prefix_len()), &site.name, pair));
                }
            }
        }
        candidates.sort_by_key(|(length, name, _)| (*length, *name));
        let Some((_, likeliest, _)) = candidates.first() else {
            return Err(trail.spoofed("source outside of the selectors"));
        };
        let [site_port, hub_port] = packet.selector_ports;
        let sender = candidates
            .iter()
            .find(|(_, _, pair)| contains(pair.local, packet.destination) && suits(pair, packet, site_port, hub_port));
        let payer = sender.map_or(likeliest, |(_, name, _)| name);
        trail.account = Account::Connection((*payer).clone());
        if sender.is_some() { Ok(()) } else { Err(Verdict::Drop("selector_mismatch")) }
    }
}

/// Selectors for packets from a site: none without an SA.
pub(super) fn from_site(connection: &Connection) -> Vec<Pair> {
    match &connection.agreement {
        Some(agreement) => {
            agreement.pairs.iter().filter(|pair| same_family(pair.remote, pair.local)).cloned().collect()
        }
        None => of_prefixes(connection),
    }
}

/// Selectors for packets to a site: a packet that may trigger negotiation must get there.
fn to_site(connection: &Connection) -> Vec<Pair> {
    match &connection.agreement {
        None => of_prefixes(connection),
        Some(agreement) if agreement.pairs.is_empty() => of_prefixes(connection),
        Some(agreement) if agreement.on_demand => [from_site(connection), of_prefixes(connection)].concat(),
        Some(_) => from_site(connection),
    }
}

/// Every remote prefix paired with every local one of its family.
fn of_prefixes(connection: &Connection) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for remote in &connection.remotes {
        for local in &connection.locals {
            if same_family(*remote, *local) {
                let (remote, local) = (*remote, *local);
                pairs.push(Pair { remote, local, protocol: None, remote_ports: 0..=65535, local_ports: 0..=65535 });
            }
        }
    }
    pairs
}

/// Whether the pair matches the packet's protocol and ports. A packet that shows no ports matches only a pair of all
/// ports.
fn suits(pair: &Pair, packet: &Packet, site: Option<u16>, hub: Option<u16>) -> bool {
    let for_all = |ports: &RangeInclusive<u16>| *ports == (0..=65535);
    let port = |ports: &RangeInclusive<u16>, port: Option<u16>| {
        for_all(ports) || port.is_some_and(|port| ports.contains(&port))
    };
    pair.protocol.is_none_or(|protocol| protocol == packet.selector_protocol)
        && port(&pair.remote_ports, site)
        && port(&pair.local_ports, hub)
}

fn in_any(prefixes: &[IpNet], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| contains(*prefix, address))
}
