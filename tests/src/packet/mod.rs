//! Packets for tests: built byte by byte, and read back.
//!
//! Shares no code with the hub, so that both cannot have the same bug. Lengths and checksums are correct unless
//! overridden; overriding makes malformed packets.
//!
//! ```
//! use hub_tests::packet::{Packet, View, verify_checksums};
//!
//! let frame = Packet::ipv4("10.10.10.1", "10.10.20.1")
//!     .ttl(64)
//!     .udp(1000, 2000)
//!     .payload(100)
//!     .ethernet("02:00:00:00:01:02", "02:00:00:00:01:01")
//!     .vlan(100)
//!     .build();
//! assert_eq!(frame.len(), 14 + 4 + 20 + 8 + 100);
//! verify_checksums(&frame).unwrap();
//! assert_eq!(View::ethernet(&frame).unwrap().hops, 64);
//! ```

mod build;
mod checksum;
mod hex;
mod link;
mod literal;
mod network;
mod transport;
mod view;

pub use build::Packet;
pub use checksum::{internet_checksum, verify_checksums, verify_ip_checksums};
pub use hex::hex;
pub use literal::Literal;
pub use view::View;

/// Protocol numbers in headers.
pub mod number {
    // EtherTypes, IEEE 802.
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const IPV6: u16 = 0x86dd;
    pub const VLAN: u16 = 0x8100;
    pub const SERVICE_VLAN: u16 = 0x88a8;

    // IP protocols and IPv6 extension headers, IANA.
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const ESP: u8 = 50;
    pub const AUTHENTICATION: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const NO_NEXT_HEADER: u8 = 59;
    pub const DESTINATION_OPTIONS: u8 = 60;

    // TCP flags, RFC 9293 section 3.1.
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const PSH: u8 = 0x08;
    pub const ACK: u8 = 0x10;
    pub const URG: u8 = 0x20;
}
