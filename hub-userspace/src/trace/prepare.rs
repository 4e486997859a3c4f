//! From a request to a frame that arrives on an interface, and its explanation.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use hub_common::maps::NextHop;

use super::{
    build::{BuildError, MOST, build},
    explain::{Explanation, explain},
    hex,
    packet::Frame,
    view::View,
};
use crate::{
    api_types::{
        status::Attachment,
        trace::{THE_VPC, TraceIngress, TraceRequest},
    },
    config::Config,
    datapath::{Arrived, Leaving},
    kernel::netlink::Link,
};

/// Bytes of the longest frame: a packet with its link header and tags.
pub const LONGEST: usize = MOST as usize + 64;

/// Why a packet cannot be traced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    #[error("connection {name} has several tunnels, and the packet comes from one: write one of {tunnels}")]
    SeveralTunnels { name: String, tunnels: String },
    #[error("there is no connection {name:?}; help: {known}")]
    NoConnection { name: String, known: String },
    #[error(
        "interface {interface} of {of} does not exist, so no packet can come in on it: create it, the agent attaches as \
         soon as it is there"
    )]
    NoInterface { interface: String, of: String },
    #[error("the program is not attached to {interface} of {of}{reason}: `vpnhub status` shows how it is attached")]
    NotAttached { interface: String, of: String, reason: String },
    #[error(transparent)]
    Packet(#[from] BuildError),
    #[error("give either \"packet\" or \"frame\"")]
    OneOfBoth,
    #[error("\"frame\" must be pairs of hexadecimal digits, one pair for each byte")]
    Hex,
    #[error("the frame has {length} bytes, and a test run in the kernel takes {LONGEST} at most")]
    TooLong { length: usize },
    #[error("the frame has {length} bytes, and a test run in the kernel takes {SHORTEST} at least: an Ethernet header")]
    TooShort { length: usize },
}

/// Bytes of an Ethernet header, without which the kernel runs no frame.
const SHORTEST: usize = 14;

/// A packet that is ready to run.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub config: Arc<Config>,
    pub ingress: TraceIngress,
    pub arrived: Arrived,
    pub frame: Frame,
    pub explanation: Explanation,
    /// Name of the interface that its next hop has.
    pub egress_interface: Option<String>,
}

/// Source of a frame whose sender's link address is not known; locally administered.
const SOMEBODY: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Prepares a packet. `attached`: how the program is attached to an interface.
pub fn prepare(
    view: View<'_>,
    config: &Arc<Config>,
    attached: impl Fn(&str) -> Attachment,
    request: &TraceRequest,
) -> Result<Prepared, TraceError> {
    let name = &request.ingress;
    let tunnels = config.tunnel_names(name);
    if !tunnels.is_empty() && !config.connections.contains_key(name) {
        return Err(TraceError::SeveralTunnels { name: name.clone(), tunnels });
    }
    let (interface, peer, of) = match (config.connections.get(name), &config.vpc) {
        (Some(connection), _) => (&connection.interface, connection.peer, format!("connection {name}")),
        (None, Some(vpc)) if name == THE_VPC => (&vpc.interface, None, "the VPC".to_owned()),
        (None, _) => return Err(no_connection(config, name)),
    };
    let missing = || TraceError::NoInterface { interface: interface.clone(), of: of.clone() };
    let link = view.inputs.host.link(interface).ok_or_else(missing)?;
    let Attachment { attach, attach_reason } = attached(interface);
    let attach = attach.ok_or_else(|| TraceError::NotAttached {
        interface: interface.clone(),
        of: of.clone(),
        reason: attach_reason.map(|reason| format!(" ({reason})")).unwrap_or_default(),
    })?;
    let mut protocol = None;
    let frame = match (&request.packet, &request.frame) {
        (Some(packet), None) => {
            let ip = build(packet)?;
            [link_header(view, link, peer, packet.source), ip].concat()
        }
        (None, Some(frame)) => {
            let frame = hex::decode(frame).ok_or(TraceError::Hex)?;
            match (request.ethernet.unwrap_or(link.ethernet), link.ethernet) {
                (true, false) => {
                    let (ether_type, packet) = without_link_header(&frame);
                    protocol = ether_type;
                    packet
                }
                (false, true) => [link_header(view, link, peer, source_of(&frame)), frame].concat(),
                _ => frame,
            }
        }
        _ => return Err(TraceError::OneOfBoth),
    };
    let length = frame.len();
    if length > LONGEST {
        return Err(TraceError::TooLong { length });
    }
    if link.ethernet && length < SHORTEST {
        return Err(TraceError::TooShort { length });
    }
    let ingress = TraceIngress {
        name: name.clone(),
        interface: interface.clone(),
        ifindex: link.index,
        ethernet: link.ethernet,
        attach,
    };
    Ok(on_interface(view, config, ingress, frame, protocol))
}

/// Prepares a frame that arrives on an interface. `protocol`: what the kernel takes a packet without link header for, an
/// `EtherType`; by default, what its IP version says.
pub fn on_interface(
    view: View<'_>,
    config: &Arc<Config>,
    ingress: TraceIngress,
    frame: Vec<u8>,
    protocol: Option<u16>,
) -> Prepared {
    let protocol = protocol.filter(|_| !ingress.ethernet);
    let parsed = Frame { taken_for: protocol, ..Frame::parse(&frame, ingress.ethernet) };
    let explanation = explain(view, ingress.ifindex, &parsed);
    let next_hop = explanation.next_hop.filter(|next_hop| next_hop.ifindex != 0);
    let leaving = next_hop.map(|next_hop| Leaving {
        ifindex: next_hop.ifindex,
        is_ethernet: next_hop.flags & NextHop::ETHERNET != 0,
        translates: next_hop.translations != 0,
    });
    let arrived = Arrived {
        ifindex: ingress.ifindex,
        is_ethernet: ingress.ethernet,
        has_xdp: ingress.attach.starts_with("xdp"),
        frame,
        protocol,
        leaving,
    };
    let egress_interface = leaving.map(|leaving| view.interface(leaving.ifindex));
    Prepared { config: Arc::clone(config), ingress, arrived, frame: parsed, explanation, egress_interface }
}

fn no_connection(config: &Config, name: &str) -> TraceError {
    let mut known: Vec<&str> = config.connections.keys().map(String::as_str).collect();
    if config.vpc.is_some() {
        known.push(THE_VPC);
    }
    let known = match known.as_slice() {
        [] => "no connection is configured".to_owned(),
        known => format!("a packet may come from {}", known.join(", ")),
    };
    TraceError::NoConnection { name: name.to_owned(), known }
}

/// The Ethernet header of a packet from the link, if it has any.
fn link_header(view: View<'_>, link: &Link, peer: Option<IpAddr>, source: IpAddr) -> Vec<u8> {
    if !link.ethernet {
        return Vec::new();
    }
    let neighbours = &view.inputs.host.neighbours;
    let sender = neighbours.get(&(link.index, peer.unwrap_or(source))).copied().unwrap_or(SOMEBODY);
    let ether_type: [u8; 2] = if source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&link.mac.unwrap_or_default()[..], &sender, &ether_type].concat()
}

/// The packet behind an Ethernet header and its tags, and what the header says that it is.
fn without_link_header(frame: &[u8]) -> (Option<u16>, Vec<u8>) {
    let mut start = 12;
    while let Some([0x81, 0x00] | [0x88, 0xa8]) = frame.get(start..start + 2) {
        start += 4;
    }
    let ether_type = frame.get(start..start + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    (ether_type, frame.get(start + 2..).unwrap_or_default().to_vec())
}

/// The source of an IP packet; of another one, any IPv4 address.
fn source_of(packet: &[u8]) -> IpAddr {
    Frame::parse(packet, false).ip.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ip| ip.source)
}
