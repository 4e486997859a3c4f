//! Stages 1 and 2: the frame, and the source as the hub knows it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hub_common::maps::{Attachment, VPC, Vlan};

use super::{Explainer, Frame, Ip, Object, Stage, is_multicast, mac};

impl Explainer<'_> {
    pub(super) fn parse(&mut self, frame: &Frame) -> Option<Attachment> {
        let interface = self.view.interface(self.ifindex);
        let Some(attachment) = self.view.tables.policy.attachments.get(&self.ifindex).copied() else {
            self.add(Stage::Parse, "attachment", interface, "not an attachment");
            return None;
        };
        let of = match attachment.connection {
            0 => "of several connections".to_owned(),
            VPC => "of the VPC".to_owned(),
            slot => format!("of connection {}", self.name(slot)),
        };
        let kind = if attachment.flags & Attachment::ETHERNET == 0 { "without link header" } else { "Ethernet" };
        self.add(Stage::Parse, "attachment", interface, format!("{of}, {kind}"));
        let belongs_here = self.vlan(frame) && self.link_address(frame, &attachment);
        self.add(Stage::Parse, "packet", "headers", frame.summary());
        if let Some(protocol) = frame.taken_for {
            let found = if frame.is_taken_right() { "as its headers say" } else { "its headers say something else" };
            self.add(Stage::Parse, "protocol", format!("{protocol:#06x}"), found);
        }
        (belongs_here && frame.is_taken_right()).then_some(attachment)
    }

    /// Whether the frame's VLAN has no interface of its own. As in the kernel, the outermost non-zero VLAN id counts.
    fn vlan(&mut self, frame: &Frame) -> bool {
        let Some(id) = frame.tags.iter().find(|id| **id != 0) else { return true };
        let own = self.view.tables.policy.vlans.get(&Vlan { ifindex: self.ifindex, id: u32::from(*id) });
        let found = match own {
            Some(own) => format!("belongs to {}", self.view.interface(*own)),
            None => "has no interface of its own".to_owned(),
        };
        self.add(Stage::Parse, "VLAN", id.to_string(), found);
        own.is_none()
    }

    /// Whether the frame is addressed to the hub. One to a group must have a packet to a group.
    fn link_address(&mut self, frame: &Frame, attachment: &Attachment) -> bool {
        let Some((destination, _)) = frame.macs else { return true };
        let (found, is_for_hub) = match destination {
            own if own == attachment.mac => ("the interface's own", true),
            [first, ..] if first & 1 != 0 => {
                let to_group = |ip: &Ip| is_multicast(ip.destination);
                ("multicast or broadcast", frame.ip.as_ref().is_none_or(to_group))
            }
            _ => ("another host's", false),
        };
        self.add(Stage::Parse, "link address", mac(destination), found);
        is_for_hub
    }

    /// The source as the hub knows it.
    pub(super) fn translate(&mut self, ip: &Ip, attachment: &Attachment) -> IpAddr {
        let source = ip.source;
        if attachment.translations == 0 {
            return source;
        }
        let interface = self.view.interface(self.ifindex);
        let config = self.view.inputs.config;
        let on_it = config.connections.iter().filter(|(_, connection)| connection.interface == interface);
        let all: Vec<_> = on_it.flat_map(|(name, found)| found.translate.iter().map(move |one| (name, one))).collect();
        let (mut to_hub, mut is_at_hub) = (None, false);
        for (name, translation) in all {
            if let Some(net) = translation.part_at_hub(source.into()) {
                to_hub = Some((name.clone(), *translation, net.addr()));
            }
            is_at_hub |= translation.hub.contains(&source);
        }
        let key = source.to_string();
        match to_hub {
            Some((name, translation, address)) => {
                let found = format!("{} is {} at the hub: {address}", translation.site, translation.hub);
                let object = Object::Connection { name, negotiated: false };
                self.with(Stage::Translate, "source", key, found, vec![object]);
                address
            }
            None if is_at_hub => {
                let found = "an address at the hub of another host of the site: a site cannot send from it";
                self.add(Stage::Translate, "source", key, found);
                match source {
                    IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                }
            }
            None => {
                self.add(Stage::Translate, "source", key, "in no translation");
                source
            }
        }
    }
}
