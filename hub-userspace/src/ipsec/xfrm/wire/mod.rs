//! Parses the kernel's messages about policies and SAs (`linux/xfrm.h`, `net/xfrm/xfrm_user.c`), only the fields
//! needed, and writes those about [policies of our own](own). Pure.
//!
//! This codec is our own because few fields are needed, and because a privileged reader receives SAs with their keys,
//! which must not be copied.

pub mod own;

use std::{
    iter,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::kernel::netlink::attributes::{attributes, number16};

/// `struct nlmsghdr`.
const HEADER: usize = 16;
const ALIGNMENT: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;

const NEW_SA: u16 = 0x10;
const GET_SA: u16 = 0x12;
const NEW_POLICY: u16 = 0x13;
const GET_POLICY: u16 = 0x15;

/// `struct xfrm_userpolicy_info` and `struct xfrm_usersa_info`; attributes follow.
const POLICY: usize = 168;
const SA: usize = 224;
/// `struct xfrm_user_tmpl`.
const TEMPLATE: usize = 64;

const XFRMA_ALG_AUTH: u16 = 1;
const XFRMA_ALG_CRYPT: u16 = 2;
const XFRMA_TMPL: u16 = 5;
const XFRMA_ALG_AEAD: u16 = 18;
const XFRMA_ALG_AUTH_TRUNC: u16 = 20;
const XFRMA_IF_ID: u16 = 31;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// The objects to list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dump {
    Policies,
    Sas,
}

impl Dump {
    /// The request with this sequence number.
    pub fn request(self, sequence: u32) -> [u8; HEADER] {
        let kind = match self {
            Self::Policies => GET_POLICY,
            Self::Sas => GET_SA,
        };
        let mut request = [0; HEADER];
        request[..4].copy_from_slice(&(HEADER as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&kind.to_ne_bytes());
        request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
        request[8..12].copy_from_slice(&sequence.to_ne_bytes());
        request
    }
}

/// A message from the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XfrmMessage {
    Policy(XfrmPolicy),
    /// One of ours, which is no selector of an SA.
    Own(own::OwnPolicy),
    Sa(Sa),
    /// The end of a listing.
    Done,
    /// `errno`, positive; 0: success.
    Error(i32),
    /// Another or unsupported message.
    Other,
}

/// Direction of a policy: `XFRM_POLICY_IN` etc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Direction {
    In,
    Out,
    Forward,
}

/// A policy that requires IPsec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct XfrmPolicy {
    pub direction: Direction,
    pub source: SelectorSide,
    pub destination: SelectorSide,
    /// 0: any.
    pub protocol: u8,
    /// 0: none.
    pub if_id: u32,
    /// Transformations that a packet must have passed; not empty.
    pub templates: Vec<Template>,
}

/// One end of a policy's selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectorSide {
    pub prefix: IpNet,
    pub port: u16,
    pub port_mask: u16,
}

/// Matches the SAs of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Tunnel ends; unspecified: any.
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    /// 0: any.
    pub reqid: u32,
    pub mode: u8,
}

/// An SA with keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sa {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub spi: u32,
    pub protocol: u8,
    pub reqid: u32,
    pub mode: u8,
    pub if_id: u32,
    pub bytes: u64,
    /// Seconds since 1970-01-01 00:00 UTC.
    pub added: u64,
}

/// The messages of a datagram that answer the request with this number, and whether the listing is inconsistent.
pub fn answers(datagram: &[u8], sequence: u32) -> impl Iterator<Item = (XfrmMessage, bool)> {
    let mut rest = datagram;
    iter::from_fn(move || {
        loop {
            let length = number32(rest, 0)? as usize;
            let message = rest.get(..length).filter(|message| message.len() >= HEADER)?;
            rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
            if number32(message, 8)? == sequence {
                let interrupted = number16(message, 6)? & NLM_F_DUMP_INTR != 0;
                return Some((answer(number16(message, 4)?, &message[HEADER..]), interrupted));
            }
        }
    })
}

fn answer(kind: u16, body: &[u8]) -> XfrmMessage {
    match kind {
        NLMSG_DONE => XfrmMessage::Done,
        NLMSG_ERROR => XfrmMessage::Error(number32(body, 0).map_or(0, |code| (code as i32).wrapping_neg())),
        NEW_POLICY => match own::OwnPolicy::read(body) {
            Some(own) => XfrmMessage::Own(own),
            None => policy(body).map_or(XfrmMessage::Other, XfrmMessage::Policy),
        },
        NEW_SA => sa(body).map_or(XfrmMessage::Other, XfrmMessage::Sa),
        _ => XfrmMessage::Other,
    }
}

fn policy(body: &[u8]) -> Option<XfrmPolicy> {
    const XFRM_POLICY_ALLOW: u8 = 0;
    let family = number16(body, 40)?;
    let direction = direction(body)?;
    if *body.get(161)? != XFRM_POLICY_ALLOW {
        return None;
    }
    let side = |address: usize, port: usize, length: usize| {
        let prefix = IpNet::new(self::address(body, address, family)?, *body.get(length)?).ok()?.trunc();
        Some(SelectorSide { prefix, port: number16_be(body, port)?, port_mask: number16_be(body, port + 2)? })
    };
    let (destination, source) = (side(0, 32, 42)?, side(16, 36, 43)?);
    let (mut if_id, mut templates) = (0, Vec::new());
    for (kind, value) in attributes(body.get(POLICY..)?) {
        match kind {
            XFRMA_IF_ID => if_id = number32(value, 0)?,
            XFRMA_TMPL => templates = value.chunks_exact(TEMPLATE).filter_map(template).collect::<Vec<_>>(),
            _ => {}
        }
    }
    // A policy without templates passes packets without IPsec.
    if templates.is_empty() {
        return None;
    }
    Some(XfrmPolicy { direction, source, destination, protocol: *body.get(44)?, if_id, templates })
}

fn direction(body: &[u8]) -> Option<Direction> {
    match *body.get(160)? {
        0 => Some(Direction::In),
        1 => Some(Direction::Out),
        2 => Some(Direction::Forward),
        _ => None,
    }
}

/// `None` for an optional one, such as compression.
fn template(bytes: &[u8]) -> Option<Template> {
    if *bytes.get(50)? != 0 {
        return None;
    }
    let family = number16(bytes, 24)?;
    Some(Template {
        destination: address(bytes, 0, family)?,
        protocol: *bytes.get(20)?,
        source: address(bytes, 28, family)?,
        reqid: number32(bytes, 44)?,
        mode: *bytes.get(48)?,
    })
}

/// `None` for a larval SA: it may have an SPI, but no keys.
fn sa(body: &[u8]) -> Option<Sa> {
    let family = number16(body, 212)?;
    let (mut if_id, mut has_keys) = (0, false);
    for (kind, value) in attributes(body.get(SA..)?) {
        match kind {
            XFRMA_IF_ID => if_id = number32(value, 0)?,
            XFRMA_ALG_AUTH | XFRMA_ALG_CRYPT | XFRMA_ALG_AEAD | XFRMA_ALG_AUTH_TRUNC => has_keys = true,
            _ => {}
        }
    }
    if !has_keys {
        return None;
    }
    Some(Sa {
        destination: address(body, 56, family)?,
        spi: number32(body, 72)?.to_be(),
        protocol: *body.get(76)?,
        source: address(body, 80, family)?,
        bytes: number64(body, 160)?,
        added: number64(body, 176)?,
        reqid: number32(body, 208)?,
        mode: *body.get(214)?,
        if_id,
    })
}

/// `xfrm_address_t`.
fn address(bytes: &[u8], at: usize, family: u16) -> Option<IpAddr> {
    let bytes: [u8; 16] = part(bytes, at)?;
    match family {
        AF_INET => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        AF_INET6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn number16_be(bytes: &[u8], at: usize) -> Option<u16> {
    part(bytes, at).map(u16::from_be_bytes)
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    part(bytes, at).map(u32::from_ne_bytes)
}

fn number64(bytes: &[u8], at: usize) -> Option<u64> {
    part(bytes, at).map(u64::from_ne_bytes)
}

#[cfg(test)]
pub mod tests;
