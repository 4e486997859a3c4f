//! Messages of generic netlink (linux/genetlink.h, netdev.h, `ethtool_netlink.h`). Pure.

use std::collections::BTreeSet;

use super::super::{
    attributes::{attributes, number16, number32},
    socket::raw_messages,
};

/// `GENL_ID_CTRL`: the family that knows the others.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `NETDEV_CMD_DEV_GET` and its attributes.
const DEVICE_GET: u8 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_XDP_FEATURES: u16 = 3;

/// `ETHTOOL_MSG_FEATURES_GET` and its attributes.
const FEATURES_GET: u8 = 11;
const FEATURES_HEADER: u16 = 1;
const FEATURES_ACTIVE: u16 = 4;
/// `ETHTOOL_A_HEADER_DEV_INDEX`.
const HEADER_INDEX: u16 = 1;
/// `ETHTOOL_A_BITSET_BITS`, `ETHTOOL_A_BITSET_BITS_BIT`, `ETHTOOL_A_BITSET_BIT_NAME`.
const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;

const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLA_F_NESTED: u16 = 0x8000;
/// `struct nlmsghdr`, `struct genlmsghdr`.
const NETLINK_HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
/// `NLA_HDRLEN`.
const NLA_HEADER: usize = 4;
const ALIGNMENT: usize = 4;

/// A question.
pub struct Command {
    family: u16,
    number: u8,
    /// Encoded.
    attributes: Vec<u8>,
}

impl Command {
    pub fn family(name: &str) -> Self {
        let name = [name.as_bytes(), &[0]].concat();
        Self { family: CONTROL, number: GET_FAMILY, attributes: attribute(FAMILY_NAME, &name) }
    }

    pub fn xdp_features(family: u16, ifindex: u32) -> Self {
        Self { family, number: DEVICE_GET, attributes: attribute(DEVICE_INDEX, &ifindex.to_ne_bytes()) }
    }

    /// Bits with names, as without `ETHTOOL_FLAG_COMPACT_BITSETS`.
    pub fn offloads(family: u16, ifindex: u32) -> Self {
        let header = attribute(HEADER_INDEX, &ifindex.to_ne_bytes());
        Self { family, number: FEATURES_GET, attributes: attribute(FEATURES_HEADER | NLA_F_NESTED, &header) }
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (NLA_HEADER + value.len()) as u16;
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    bytes
}

/// A request as bytes.
pub fn request(Command { family, number, attributes }: &Command, sequence: u32) -> Vec<u8> {
    const VERSION: u8 = 1;
    let length = (NETLINK_HEADER + GENERIC_HEADER + attributes.len()) as u32;
    let header = [
        &length.to_ne_bytes()[..],
        &family.to_ne_bytes(),
        &NLM_F_REQUEST.to_ne_bytes(),
        &sequence.to_ne_bytes(),
        &0_u32.to_ne_bytes(),
        &[*number, VERSION, 0, 0],
    ];
    [&header.concat()[..], attributes].concat()
}

/// What the kernel answers.
pub enum Answer<'a> {
    Attributes(&'a [u8]),
    /// `errno`, positive.
    Error(i32),
}

/// The answer to the request with this sequence number in a datagram.
pub fn answer(datagram: &[u8], sequence: u32) -> Option<Answer<'_>> {
    let message = raw_messages(datagram).find(|message| message.sequence == sequence)?;
    if message.kind == NLMSG_ERROR {
        return Some(Answer::Error(number32(message.payload, 0)?.cast_signed().saturating_abs()));
    }
    message.payload.get(GENERIC_HEADER..).map(Answer::Attributes)
}

/// The first attribute of a type.
fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The number of a family.
pub fn family(answer: &[u8]) -> Option<u16> {
    number16(find(answer, FAMILY_ID)?, 0)
}

pub fn xdp_features(answer: &[u8]) -> Option<u64> {
    find(answer, DEVICE_XDP_FEATURES)?.try_into().map(u64::from_ne_bytes).ok()
}

/// The names of the set bits.
pub fn active_offloads(answer: &[u8]) -> Option<BTreeSet<String>> {
    let bits = find(find(answer, FEATURES_ACTIVE)?, BITSET_BITS)?;
    // The list has only the bits that are set: it has no mask (`ethnl_put_bitset32`, net/ethtool/bitset.c).
    let names = attributes(bits).filter(|(kind, _)| *kind == BITS_BIT).filter_map(|(_, bit)| {
        let name = find(bit, BIT_NAME)?.split(|byte| *byte == 0).next()?;
        String::from_utf8(name.to_vec()).ok()
    });
    Some(names.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_has_headers_and_aligned_attributes() {
        let bytes = request(&Command::family("netdev"), 7);
        assert_eq!(bytes.len(), 16 + 4 + 4 + 8);
        assert_eq!(bytes[..4], 32_u32.to_ne_bytes());
        assert_eq!(bytes[20..], *b"\x0b\0\x02\0netdev\0\0");
    }

    #[test]
    fn offloads_are_the_names_of_the_active_bits() {
        let bit = |name: &str| {
            let name = attribute(BIT_NAME, &[name.as_bytes(), &[0]].concat());
            attribute(BITS_BIT | NLA_F_NESTED, &[attribute(1, &3_u32.to_ne_bytes()), name].concat())
        };
        let bits = |names: &[&str]| {
            let bits: Vec<u8> = names.iter().flat_map(|name| bit(name)).collect();
            attribute(BITSET_BITS | NLA_F_NESTED, &bits)
        };
        // Those that the driver could have come first.
        let answer = [
            attribute(2 | NLA_F_NESTED, &bits(&["rx-lro"])),
            attribute(FEATURES_ACTIVE | NLA_F_NESTED, &bits(&["rx-gro", "tx-checksum-ip-generic"])),
        ]
        .concat();
        let expected = ["rx-gro", "tx-checksum-ip-generic"].map(str::to_owned);
        assert_eq!(active_offloads(&answer), Some(expected.into()));
        assert_eq!(active_offloads(&[]), None);
    }

    #[test]
    fn answer_is_found_by_its_sequence_number() {
        let message = |kind: u16, sequence: u32, payload: &[u8]| {
            let length = (NETLINK_HEADER + payload.len()) as u32;
            let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 2], &sequence.to_ne_bytes(), &[0; 4]];
            [&header.concat()[..], payload].concat()
        };
        let features = attribute(DEVICE_XDP_FEATURES, &0x27_u64.to_ne_bytes());
        let datagram = [
            message(20, 6, &[1, 1, 0, 0]),
            message(20, 7, &[&[1, 1, 0, 0][..], &features].concat()),
            message(NLMSG_ERROR, 8, &(-19_i32).to_ne_bytes()),
        ]
        .concat();
        let Some(Answer::Attributes(found)) = answer(&datagram, 7) else { panic!("it has attributes") };
        assert_eq!(xdp_features(found), Some(0x27));
        assert!(matches!(answer(&datagram, 8), Some(Answer::Error(19))));
        assert!(answer(&datagram, 9).is_none());
    }
}
