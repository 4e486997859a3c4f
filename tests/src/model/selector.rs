//! Who may send what: (remote, local) pairs of prefixes.

use std::{cmp::Reverse, net::IpAddr};

use ipnet::IpNet;

use super::{
    Account, Connection, Interface, Verdict, Vpc, World,
    parse::{Packet, is_nobody},
    prefix::{contains, same_family},
};

/// An interface whose packets are the hub's business, and whose they can be.
pub struct Attachment<'a> {
    pub interface: &'a Interface,
    side: Side<'a>,
}

enum Side<'a> {
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

    /// Whether the way out may carry the packet: its site's side is then the destination.
    pub(super) fn admits_egress(&self, account: &Account, packet: &Packet) -> bool {
        match account {
            Account::Connection(name) => pairs(self.connection(name))
                .iter()
                .any(|(remote, local)| contains(*remote, packet.destination) && contains(*local, packet.source)),
            Account::Vpc => self.vpc.iter().any(|vpc| in_any(&vpc.cidrs, packet.destination)),
            Account::Unattributed => unreachable!("no route leads there"),
        }
    }
}

impl Attachment<'_> {
    /// Who pays for a packet before its source has told more.
    pub fn account(&self) -> Account {
        match &self.side {
            Side::Vpc(_) => Account::Vpc,
            Side::Sites(sites) => match sites.as_slice() {
                [only] => Account::Connection(only.name.clone()),
                _ => Account::Unattributed,
            },
        }
    }

    /// Tells whose packet it is. Where several connections could have sent it, the longest remote prefix has the first
    /// say, then the first name.
    pub fn admit(&self, packet: &Packet, account: &mut Account) -> Result<(), Verdict> {
        if is_nobody(packet.source) {
            return Err(Verdict::Drop("spoofed_source"));
        }
        let sites = match &self.side {
            Side::Vpc(vpc) if in_any(&vpc.cidrs, packet.source) => return Ok(()),
            Side::Vpc(_) => return Err(Verdict::Drop("spoofed_source")),
            Side::Sites(sites) => sites,
        };
        let mut candidates = Vec::new();
        for site in sites {
            for (remote, local) in pairs(site) {
                if contains(remote, packet.source) {
                    candidates.push((Reverse(remote.prefix_len()), &site.name, local));
                }
            }
        }
        candidates.sort_by_key(|(length, name, _)| (*length, *name));
        let Some((_, likeliest, _)) = candidates.first() else { return Err(Verdict::Drop("spoofed_source")) };
        let sender = candidates.iter().find(|(_, _, local)| contains(*local, packet.destination));
        let payer = sender.map_or(likeliest, |(_, name, _)| name);
        *account = Account::Connection((*payer).clone());
        if sender.is_some() { Ok(()) } else { Err(Verdict::Drop("selector_mismatch")) }
    }
}

/// Every remote prefix with every local one of its family.
fn pairs(connection: &Connection) -> Vec<(IpNet, IpNet)> {
    let mut pairs = Vec::new();
    for remote in &connection.remotes {
        for local in &connection.locals {
            if same_family(*remote, *local) {
                pairs.push((*remote, *local));
            }
        }
    }
    pairs
}

fn in_any(prefixes: &[IpNet], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| contains(*prefix, address))
}
