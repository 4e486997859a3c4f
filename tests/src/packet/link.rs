//! The link header: Ethernet, VLAN tags.

use super::build::Packet;
use super::literal::Literal;
use super::number::{SERVICE_VLAN, VLAN};
use crate::lab::Mac;

#[derive(Debug, Clone, Default)]
pub(super) struct LinkHeader {
    /// Source and destination; `None` for raw IP.
    pub macs: Option<(Mac, Mac)>,
    /// Tag protocol and tag control information, outermost first.
    pub tags: Vec<(u16, u16)>,
    pub ether_type: Option<u16>,
}

impl Packet {
    /// An Ethernet header. Without this (and without tags) the packet is raw IP.
    #[must_use]
    pub fn ethernet(mut self, source: impl Literal<Mac>, destination: impl Literal<Mac>) -> Self {
        self.link.macs = Some((source.value(), destination.value()));
        self
    }

    /// An 802.1Q tag with this VLAN number, inside those already there.
    #[must_use]
    pub fn vlan(self, id: u16) -> Self {
        self.tag(VLAN, id)
    }

    /// Two tags: 802.1ad outside, 802.1Q inside.
    #[must_use]
    pub fn qinq(self, outer: u16, inner: u16) -> Self {
        self.tag(SERVICE_VLAN, outer).tag(VLAN, inner)
    }

    /// A tag with any protocol and control information (priority in the top 3 bits, VLAN number in the low 12),
    /// inside those already there.
    #[must_use]
    pub fn tag(mut self, protocol: u16, control: u16) -> Self {
        self.link.tags.push((protocol, control));
        self
    }

    /// The innermost `EtherType`, right or wrong.
    #[must_use]
    pub fn ether_type(mut self, ether_type: u16) -> Self {
        self.link.ether_type = Some(ether_type);
        self
    }
}

impl LinkHeader {
    /// The header's bytes; none for raw IP. `carried` is the default `EtherType`.
    pub fn bytes(&self, carried: u16) -> Vec<u8> {
        let Some((source, destination)) = self.macs else {
            assert!(self.tags.is_empty(), "VLAN tags need an Ethernet header: call ethernet()");
            return Vec::new();
        };
        let mut bytes = [destination.0, source.0].concat();
        for (protocol, control) in &self.tags {
            bytes.extend(protocol.to_be_bytes());
            bytes.extend(control.to_be_bytes());
        }
        bytes.extend(self.ether_type.unwrap_or(carried).to_be_bytes());
        bytes
    }
}
