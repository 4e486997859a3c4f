//! Attributes of netlink messages, of which the length comes from the sender (`nla_next`, include/net/netlink.h). Pure.

use std::iter;

/// `NLA_HDRLEN`.
const HEADER: usize = 4;
const ALIGNMENT: usize = 4;
/// Without the flags of an attribute's type: nested, network byte order.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Attributes by type, up to the first whose length is not possible.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    iter::from_fn(move || {
        let length = usize::from(number16(rest, 0)?);
        let kind = number16(rest, 2)? & NLA_TYPE_MASK;
        let value = rest.get(HEADER..length)?;
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A number in host byte order.
pub fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().map(u16::from_ne_bytes).ok()
}

/// A number in host byte order.
pub fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().map(u32::from_ne_bytes).ok()
}
