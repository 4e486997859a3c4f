//! Stages 5 to 7: bucket, next hop, and what is written to the packet.

use std::{collections::BTreeMap, net::IpAddr};

use hub_common::maps::{BUCKET_INDEX, GROUP_BUCKETS, Neighbour, NextHop, VPC};

use super::{Direction, EgressTables, Explainer, Ip, Object, Paired, Stage, Target, mac, rib, state_name};
use crate::{
    config::segments,
    routing::{members::weight_text, rib::Members},
};

impl Explainer<'_> {
    pub(super) fn next_hop(&mut self, ip: &Ip, source: IpAddr, segment: u32, target: &Target) -> Option<()> {
        let (first, mask, members) = self.group(target)?;
        let hash = ip.flow_hash(source);
        let bucket = first + (hash & mask);
        let next_hop = self.bucket(bucket);
        let (key, found) = match (mask, members, next_hop) {
            (0, _, Some(next_hop)) => {
                ("the only one".to_owned(), format!("next hop {}", self.name(next_hop.connection)))
            }
            (_, Some(members), Some(next_hop)) => {
                let key = format!("flow hash {hash:#010x}, bucket {} of {}", hash & mask, mask + 1);
                (key, self.why(first, &members, next_hop))
            }
            _ => (bucket.to_string(), "no next hop".to_owned()),
        };
        self.add(Stage::NextHop, "bucket", key, found);
        let next_hop = next_hop?;
        if next_hop.segments >> segment & 1 == 0 {
            self.isolated(ip, &next_hop);
            return None;
        }
        self.made.next_hop = Some(next_hop);
        self.egress_selector(ip, source, &next_hop)?;
        self.made.egress_admits = true;
        let interface = self.egress_interface(&next_hop);
        let is_up = next_hop.flags & NextHop::UP != 0;
        let found = match (is_up, next_hop.ifindex) {
            (true, _) => "up",
            (false, 0) => "does not exist",
            (false, _) => "down",
        };
        self.add(Stage::NextHop, "interface", interface.clone(), found);
        if !is_up {
            return None;
        }
        self.rewrite(ip, &next_hop, &interface);
        Some(())
    }

    /// First bucket and mask of a route's group, and its members if there are several.
    fn group(&self, target: &Target) -> Option<(u32, u32, Option<Members>)> {
        let ids = self.view.ids;
        match target {
            Target::Hub => None,
            Target::Vpc { gateway } => Some((ids.egress.router(gateway)?, 0, None)),
            Target::Connections(members) => match members.keys().next() {
                Some(only) if members.len() == 1 => Some((ids.policy.connections.get(only)?, 0, None)),
                _ => Some((ids.egress.first_bucket(members)?, GROUP_BUCKETS - 1, Some((**members).clone()))),
            },
        }
    }

    fn bucket(&self, bucket: u32) -> Option<NextHop> {
        let EgressTables { buckets, next_hops, .. } = &self.view.tables.egress;
        let value = buckets.get(bucket as usize).filter(|value| **value != EgressTables::NOWHERE)?;
        next_hops.get(&(value & BUCKET_INDEX)).copied()
    }

    /// Why a bucket is whose.
    fn why(&mut self, first: u32, members: &Members, next_hop: NextHop) -> String {
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for bucket in first..first + GROUP_BUCKETS {
            if let Some(owner) = self.bucket(bucket) {
                *counts.entry(owner.connection).or_default() += 1;
            }
        }
        let mut of = |slot: u32| self.name(slot);
        let shares: Vec<String> = counts.iter().map(|(slot, count)| format!("{} {count}", of(*slot))).collect();
        let owner = of(next_hop.connection);
        let states = self.view.inputs.states;
        let active: Vec<&str> = rib::active(members, states).into_iter().map(|(name, _)| name).collect();
        let others = members.keys().filter(|name| !active.contains(&name.as_str()));
        let others: Vec<String> = others
            .map(|name| {
                format!(
                    "{name} has none: weight {}, {}",
                    weight_text(name, members[name]),
                    state_name(states.get(name))
                )
            })
            .collect();
        let others = if others.is_empty() { String::new() } else { format!("; {}", others.join(", ")) };
        format!("{owner}'s; buckets by weight: {}{others}", shares.join(", "))
    }

    fn egress_selector(&mut self, ip: &Ip, source: IpAddr, next_hop: &NextHop) -> Option<()> {
        let name = self.name(next_hop.connection);
        let key = format!("{} in the remotes of {name}", ip.destination);
        let Some((prefix, remote)) = self.view.remote(ip.destination, next_hop.scope) else {
            let objects = self.connection(next_hop.connection);
            let found = "in none of them";
            self.with(Stage::NextHop, "egress: destination's selector", key, found, objects);
            return None;
        };
        let objects = self.connection(next_hop.connection);
        self.with(Stage::NextHop, "egress: destination's selector", key, prefix.to_string(), objects);
        let paired = self.view.paired(remote, source, ip.transport(), Direction::ToSite);
        if !matches!(paired, Paired::Any(_)) {
            self.paired(Stage::NextHop, source, remote, paired);
        }
        paired.owner().map(|_| ())
    }

    /// Which segments do not reach each other.
    fn isolated(&mut self, ip: &Ip, next_hop: &NextHop) {
        let sender = self.made.admitted_by.map(|slot| self.segment(slot)).unwrap_or_default();
        let (config, receiver) = (self.view.inputs.config, self.segment(next_hop.connection));
        let is_by_gateway =
            !config.gateway.spoke_to_spoke && ![&sender, &receiver].contains(&&segments::VPC.to_owned());
        let found = match is_by_gateway {
            true => "spoke_to_spoke = false: sites reach only the VPC".to_owned(),
            false => format!("{} and {} do not reach each other", side(&sender), side(&receiver)),
        };
        self.add(Stage::Route, "isolation", ip.destination.to_string(), found);
    }

    /// The segment of the connection of a slot.
    fn segment(&self, slot: u32) -> String {
        let connection = self.view.inputs.config.connections.get(&self.view.name(slot));
        match slot {
            VPC => segments::VPC.to_owned(),
            _ => connection.map_or_else(|| segments::DEFAULT.to_owned(), |connection| connection.segment.clone()),
        }
    }

    fn egress_interface(&self, next_hop: &NextHop) -> String {
        if next_hop.ifindex != 0 {
            return self.view.interface(next_hop.ifindex);
        }
        let config = self.view.inputs.config;
        let connection = config.connections.get(&self.view.name(next_hop.connection));
        let name = match next_hop.connection {
            VPC => config.vpc.as_ref().map(|vpc| vpc.interface.clone()),
            _ => connection.map(|connection| connection.interface.clone()),
        };
        name.unwrap_or_default()
    }

    fn rewrite(&mut self, ip: &Ip, next_hop: &NextHop, interface: &str) {
        let stage = Stage::Rewrite;
        if next_hop.flags & NextHop::TC != 0 {
            self.add(stage, "way out", interface, "XDP cannot send to it: TC does");
        }
        let ttl = if ip.hop_limit <= 1 { "expires" } else { "goes on with one less" };
        self.add(stage, "ttl", ip.hop_limit.to_string(), ttl);
        let fits = if ip.length <= next_hop.mtu as usize { "fits" } else { "does not fit" };
        let found = format!("{fits} the MTU of {interface}, {}", next_hop.mtu);
        self.add(stage, "length", format!("{} bytes", ip.length), found);
        if ip.has_options {
            self.add(stage, "options", "IP header", "only TC forwards packets with them");
        }
        if let Some(mss) = ip.mss() {
            self.mss(ip, mss, next_hop);
        }
        self.neighbour(ip, next_hop, interface);
        if next_hop.translations != 0 {
            self.translate_back(ip, next_hop);
        }
        let found = format!("port {}", next_hop.port);
        self.add(Stage::Redirect, "device", interface, found);
    }

    fn mss(&mut self, ip: &Ip, mss: u16, next_hop: &NextHop) {
        let limits = &self.view.tables.policy.mss_limits;
        let limit = |slot: u32| {
            let limits = limits.get(&slot)?;
            Some(if ip.source.is_ipv4() { limits.v4 } else { limits.v6 }).filter(|limit| *limit != 0)
        };
        let both = [self.made.admitted_by.and_then(limit), limit(next_hop.connection)];
        let found = match both.into_iter().flatten().min() {
            Some(limit) if limit < mss => format!("lowered to {limit}"),
            Some(limit) => format!("below the limit of {limit}"),
            None => "no limit".to_owned(),
        };
        self.add(Stage::Rewrite, "mss", mss.to_string(), found);
    }

    fn neighbour(&mut self, ip: &Ip, next_hop: &NextHop, interface: &str) {
        let stage = Stage::Rewrite;
        if next_hop.flags & NextHop::ETHERNET == 0 {
            self.add(stage, "neighbour", interface, "the link has no header");
        } else if next_hop.flags & NextHop::ON_LINK != 0 {
            let address = match ip.destination {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            let bits = address.to_bits();
            let address = [(bits >> 64) as u64, bits as u64].map(u64::to_be);
            let family = if ip.destination.is_ipv4() { 4 } else { 6 };
            let key = Neighbour { address, ifindex: next_hop.ifindex, family };
            let found = match self.view.tables.neighbours.get(&key) {
                Some(found) => mac(found.mac),
                None => "not known: the kernel resolves it".to_owned(),
            };
            self.add(stage, "neighbour", format!("{} on {interface}", ip.destination), found);
        } else {
            let [first, second, _] = next_hop.addresses.map(u32::to_ne_bytes);
            let peer = [first[0], first[1], first[2], first[3], second[0], second[1]];
            let found = match next_hop.flags & NextHop::RESOLVED {
                0 => "not known: the kernel resolves it".to_owned(),
                _ => mac(peer),
            };
            self.add(stage, "neighbour", format!("peer on {interface}"), found);
        }
    }

    fn translate_back(&mut self, ip: &Ip, next_hop: &NextHop) {
        let name = self.name(next_hop.connection);
        let connection = self.view.inputs.config.connections.get(&name);
        let site = connection.and_then(|connection| connection.translate.to_site(ip.destination));
        let found = match site {
            Some(site) if site != ip.destination => format!("{site} at the site"),
            _ => "in no translation".to_owned(),
        };
        let object = Object::Connection { name, negotiated: false };
        self.with(Stage::Rewrite, "destination", ip.destination.to_string(), found, vec![object]);
    }
}

/// A segment in the words of a message.
fn side(segment: &str) -> String {
    if segment == segments::VPC { "the VPC".to_owned() } else { format!("segment {segment}") }
}
