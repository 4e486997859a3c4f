//! What the stages ask of an address: the two families differ here and in [`crate::parse`] and [`crate::rewrite`] only.

use aya_ebpf::maps::{HashMap, LpmTrie};
use hub_common::{
    compiled, flow,
    maps::{LinkAddress, Neighbour, Remote, Route, Scoped},
};

use crate::{
    maps,
    parse::{Nobody, Packet, ParseIp},
    rewrite::HopLimit,
};

/// An address as it stands in the packet, with its family's tables.
pub trait Address: Copy + ParseIp + Nobody + HopLimit + 'static {
    /// Bits of an address.
    const BITS: u32;
    /// `EtherType` in network byte order (RFC 894, RFC 2464).
    const ETHERTYPE: [u8; 2];

    /// The same for the compiled look-up.
    type Key: compiled::Key;
    fn key(self) -> Self::Key;

    fn remotes() -> &'static LpmTrie<Scoped<Self>, Remote>;
    fn locals() -> &'static LpmTrie<Scoped<Self>, u32>;
    fn routes() -> &'static LpmTrie<Self, Route>;
    fn neighbours() -> &'static HashMap<Neighbour<Self>, LinkAddress>;
    fn flow_hash(packet: &Packet<Self>) -> u32;
    /// As an IPv6 address, an IPv4 one as an IPv4-mapped one.
    fn mapped(self) -> [u8; 16];
}

impl Address for [u8; 4] {
    const BITS: u32 = 32;
    const ETHERTYPE: [u8; 2] = [0x08, 0x00];
    type Key = u32;

    #[inline(always)]
    fn key(self) -> u32 {
        u32::from_be_bytes(self)
    }

    #[inline(always)]
    fn remotes() -> &'static LpmTrie<Scoped<Self>, Remote> {
        &maps::REMOTES_V4
    }

    #[inline(always)]
    fn locals() -> &'static LpmTrie<Scoped<Self>, u32> {
        &maps::LOCALS_V4
    }

    #[inline(always)]
    fn routes() -> &'static LpmTrie<Self, Route> {
        &maps::ROUTES_V4
    }

    #[inline(always)]
    fn neighbours() -> &'static HashMap<Neighbour<Self>, LinkAddress> {
        &maps::NEIGHBOURS_V4
    }

    #[inline(always)]
    fn flow_hash(packet: &Packet<Self>) -> u32 {
        flow::hash_v4(packet.source, packet.destination, packet.protocol, packet.ports)
    }

    #[inline(always)]
    fn mapped(self) -> [u8; 16] {
        let [a, b, c, d] = self;
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
    }
}

impl Address for [u8; 16] {
    const BITS: u32 = 128;
    const ETHERTYPE: [u8; 2] = [0x86, 0xdd];
    type Key = [u64; 2];

    #[inline(always)]
    fn key(self) -> [u64; 2] {
        let [a, b, c, d, e, f, g, h, low @ ..] = self;
        [u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes(low)]
    }

    #[inline(always)]
    fn remotes() -> &'static LpmTrie<Scoped<Self>, Remote> {
        &maps::REMOTES_V6
    }

    #[inline(always)]
    fn locals() -> &'static LpmTrie<Scoped<Self>, u32> {
        &maps::LOCALS_V6
    }

    #[inline(always)]
    fn routes() -> &'static LpmTrie<Self, Route> {
        &maps::ROUTES_V6
    }

    #[inline(always)]
    fn neighbours() -> &'static HashMap<Neighbour<Self>, LinkAddress> {
        &maps::NEIGHBOURS_V6
    }

    #[inline(always)]
    fn flow_hash(packet: &Packet<Self>) -> u32 {
        flow::hash_v6(packet.source, packet.destination, packet.protocol, packet.ports)
    }

    #[inline(always)]
    fn mapped(self) -> [u8; 16] {
        self
    }
}
