//! Messages about policies that the agent itself adds.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    AF_INET, AF_INET6, Direction, HEADER, NEW_POLICY, NLM_F_REQUEST, POLICY, TEMPLATE, XFRMA_IF_ID, XFRMA_TMPL,
    address, attributes, direction, number16, number32,
};

const DELETE_POLICY: u16 = 0x14;
/// `struct xfrm_userpolicy_id`.
const POLICY_ID: usize = 64;
const NLM_F_ACK: u16 = 4;
const IPPROTO_ESP: u8 = 50;
const XFRM_MODE_TUNNEL: u8 = 1;
/// `XFRM_INF`: no limit.
const NO_LIMIT: u64 = u64::MAX;
/// The priority of our policies, by which an agent knows those of earlier ones. Lower numbers precede: an IKE daemon's
/// policy for the same packet does.
const PRIORITY: u32 = u32::MAX - 118;

/// Accepts packets from `source` to any destination that an xfrm interface has got from an ESP tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnPolicy {
    /// In or forward.
    pub direction: Direction,
    /// Of the xfrm interface; not 0.
    pub if_id: u32,
    pub source: IpNet,
}

impl OwnPolicy {
    /// From the body of a message about a policy; `None` if it is another's.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        if number32(body, 152)? != PRIORITY {
            return None;
        }
        let source = IpNet::new(address(body, 16, number16(body, 40)?)?, *body.get(43)?).ok()?;
        let if_id = attributes(body.get(POLICY..)?).find(|(kind, _)| *kind == XFRMA_IF_ID)?.1;
        Some(Self { direction: direction(body)?, if_id: number32(if_id, 0)?, source })
    }

    /// The request to add it; the kernel acknowledges it.
    pub fn add(&self, sequence: u32) -> Vec<u8> {
        let mut body = vec![0; POLICY];
        self.write_selector(&mut body);
        // The limits in bytes and packets; those in seconds have 0 for none.
        for limit in 0..4 {
            put(&mut body, 56 + limit * 8, &NO_LIMIT.to_ne_bytes());
        }
        put(&mut body, 152, &PRIORITY.to_ne_bytes());
        body[160] = self.direction_number();
        let mut template = [0; TEMPLATE];
        template[20] = IPPROTO_ESP;
        put(&mut template, 24, &self.family().to_ne_bytes());
        template[48] = XFRM_MODE_TUNNEL;
        // Any algorithms.
        template[52..].fill(0xff);
        put_attribute(&mut body, XFRMA_TMPL, &template);
        put_attribute(&mut body, XFRMA_IF_ID, &self.if_id.to_ne_bytes());
        request(NEW_POLICY, sequence, &body)
    }

    /// The request to delete it; the kernel acknowledges it.
    pub fn delete(&self, sequence: u32) -> Vec<u8> {
        let mut body = vec![0; POLICY_ID];
        self.write_selector(&mut body);
        body[60] = self.direction_number();
        put_attribute(&mut body, XFRMA_IF_ID, &self.if_id.to_ne_bytes());
        request(DELETE_POLICY, sequence, &body)
    }

    /// `struct xfrm_selector`: the destination is any.
    fn write_selector(&self, body: &mut [u8]) {
        match self.source.network() {
            IpAddr::V4(address) => put(body, 16, &address.octets()),
            IpAddr::V6(address) => put(body, 16, &address.octets()),
        }
        put(body, 40, &self.family().to_ne_bytes());
        body[43] = self.source.prefix_len();
    }

    fn family(&self) -> u16 {
        if self.source.addr().is_ipv4() { AF_INET } else { AF_INET6 }
    }

    fn direction_number(&self) -> u8 {
        match self.direction {
            Direction::In => 0,
            Direction::Out => 1,
            Direction::Forward => 2,
        }
    }
}

fn request(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    put(&mut bytes, 0, &((HEADER + body.len()) as u32).to_ne_bytes());
    put(&mut bytes, 4, &kind.to_ne_bytes());
    put(&mut bytes, 6, &(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    put(&mut bytes, 8, &sequence.to_ne_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// `value` has a multiple of 4 bytes.
fn put_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
}
