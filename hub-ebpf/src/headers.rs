//! Packet headers: fields in network byte order, any alignment.

use crate::frame::Bytes;

/// IEEE 802.3, untagged.
#[repr(C)]
pub struct Ethernet {
    pub destination: [u8; 6],
    pub source: [u8; 6],
    pub ethertype: [u8; 2],
}

/// The bytes after the `EtherType` of a tag (IEEE 802.1Q).
#[repr(C)]
pub struct Tag {
    pub control: [u8; 2],
    pub ethertype: [u8; 2],
}

/// RFC 791, without options.
#[repr(C)]
pub struct Ipv4 {
    pub version_and_length: u8,
    pub tos: u8,
    pub total_length: [u8; 2],
    pub id: [u8; 2],
    pub fragment: [u8; 2],
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: [u8; 2],
    pub source: [u8; 4],
    pub destination: [u8; 4],
}

/// RFC 8200, the fixed header.
#[repr(C)]
pub struct Ipv6 {
    pub version: u8,
    pub flow: [u8; 3],
    pub payload_length: [u8; 2],
    pub next_header: u8,
    pub hop_limit: u8,
    /// High half and low half.
    pub source: [[u8; 8]; 2],
    pub destination: [[u8; 8]; 2],
}

// SAFETY: made of byte arrays, as are the next three.
unsafe impl Bytes for Ethernet {}
// SAFETY: as above.
unsafe impl Bytes for Tag {}
// SAFETY: as above.
unsafe impl Bytes for Ipv4 {}
// SAFETY: as above.
unsafe impl Bytes for Ipv6 {}
