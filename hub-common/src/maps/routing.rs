//! Routes and next hops: `ROUTES_*`, `POLICY_ROUTES`, `POLICY_OVERFLOW`, `GROUP_MEMBERS`, `BUCKETS`, `NEXT_HOPS`,
//! `MSS_LIMITS`, `NEIGHBOURS`, `NEIGHBOUR_MISS`.

/// Capacity of `NEXT_HOPS`.
pub const MAX_NEXT_HOPS: u32 = 1 << 14;
/// Capacity of `BUCKETS`.
pub const MAX_BUCKETS: u32 = 1 << 20;
/// Capacity of `NEIGHBOURS` and `VLANS`. The kernel allocates memory by the entry, and a mebibyte each for the hash
/// buckets.
pub const MAX_NEIGHBOURS: u32 = 1 << 16;

/// Buckets of a next-hop group with several members; a power of two. Shares are exact to one in this many.
pub const GROUP_BUCKETS: u32 = 256;

/// Bits of a bucket that are the index into `NEXT_HOPS`. The bits above are the upper half of the flow hash by which
/// the kernel chooses the same next hop in its own route ([`path_of`]); 0 where that route has only one.
pub const BUCKET_INDEX: u32 = 0xffff;

/// The bits above [`BUCKET_INDEX`] for one next hop of a kernel route. `before`: weights of the next hops before it,
/// `own`: its weight, `total`: all weights.
///
/// The kernel gives each next hop a range of hashes in proportion to its weight, in order (`fib_rebalance`,
/// `net/ipv4/fib_semantics.c`; `rt6_upper_bound_set`, net/ipv6/route.c). The result is the middle of that range.
pub const fn path_of(before: u32, own: u32, total: u32) -> u32 {
    let middle = ((2 * before as u64 + own as u64) << 15) / total as u64;
    (middle as u32) << 16
}

/// Value of the longest prefix that contains the destination. Eight bytes: replaced as one.
///
/// The bucket of a group with one connection has the number of the connection's slot. So the route itself shows whether
/// it leads to a connection; for other groups `GROUP_MEMBERS` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Route {
    /// Index of the group's first bucket.
    pub first_bucket: u32,
    /// Number of the group's buckets minus one; the number is a power of two. 0 for a single next hop.
    pub bucket_mask: u16,
    /// [`Route::HUB`] and the like.
    pub flags: u16,
}

impl Route {
    /// An address of the hub itself, or a broadcast address of one of its links. The bucket fields are unused.
    pub const HUB: u16 = 1;
    /// Leads to the VPC side.
    pub const VPC: u16 = 2;
    /// The prefix has length 0.
    pub const DEFAULT: u16 = 4;
    /// The result for destinations without a route.
    pub const NONE: Self = Self { first_bucket: 0, bucket_mask: 0, flags: 1 << 15 };
}

/// Key of a [`Route`], that of the policy route that matches first: the longest source prefix of all policy routes that
/// contains the source, and the longest destination prefix that contains the destination. It is in a [`PolicySlot`] of
/// `POLICY_ROUTES`, or in `POLICY_OVERFLOW`.
///
/// The agent combines prefixes in advance, so a packet needs the same few look-ups with any number of policy routes. For a
/// pair without an entry, [`PolicyPair::other`] applies if the source's [`Remote::connection`](super::Remote::connection) is
/// not 0. Without either, or if the route is [`Route::NONE`], no policy route matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct PolicyPair {
    /// Numbers of the prefixes: [`Remote::policy`](super::Remote::policy) in their scopes.
    pub source: u32,
    pub destination: u32,
}

impl PolicyPair {
    /// The pair of a source with all destinations that have no entry of their own.
    #[inline(always)]
    pub const fn other(source: u32) -> Self {
        Self { source, destination: 0 }
    }

    /// Its slot. Numbers follow one another, and odd factors spread them.
    #[inline(always)]
    pub const fn slot(self) -> u32 {
        let mixed = self.source.wrapping_mul(0x9e37_79b1) ^ self.destination.wrapping_mul(0x85eb_ca77);
        mixed >> (u32::BITS - POLICY_SLOTS.trailing_zeros())
    }
}

/// Value of `POLICY_ROUTES`, an array: a look-up in a hash map of the kernel would cost 140 instructions.
///
/// A pair is in its own slot, or, if another pair is there, in the hash map `POLICY_OVERFLOW`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct PolicySlot {
    pub pair: PolicyPair,
    pub route: Route,
    /// Pairs with this slot that are in the hash map.
    pub more: u32,
    pub padding: u32,
}

impl PolicySlot {
    /// Without a pair: no prefix has the number 0.
    pub const VACANT: Self =
        Self { pair: PolicyPair { source: 0, destination: 0 }, route: Route::NONE, more: 0, padding: 0 };
}

/// Number of slots: a power of two, several times what a thousand policy routes usually need.
pub const POLICY_SLOTS: u32 = 1 << 15;

/// Combinations of prefixes at most, and capacity of `POLICY_OVERFLOW`; the kernel allocates memory by the entry, and
/// 4 MiB for the hash buckets.
pub const MAX_POLICY_PAIRS: u32 = 1 << 18;

/// Key of `GROUP_MEMBERS`: a connection in a group with several members, whatever its weight and state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct GroupMember {
    pub first_bucket: u32,
    /// `COUNTERS` slot.
    pub connection: u32,
}

/// Capacity of `GROUP_MEMBERS`; the kernel allocates memory by the entry.
pub const MAX_GROUP_MEMBERS: u32 = 1 << 17;

/// The egress of a packet. An entry that a bucket points to never changes: the agent writes a new entry and changes the
/// bucket, so that no packet sees half a MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct NextHop {
    /// `COUNTERS` slot.
    pub connection: u32,
    /// Scope of the connection's own selectors.
    pub scope: u32,
    /// Egress interface, key of `NEIGHBOURS`.
    pub ifindex: u32,
    /// Index into `PORTS`.
    pub port: u32,
    /// Maximum length of an IP packet on the egress interface, bytes.
    pub mtu: u32,
    /// [`NextHop::ETHERNET`] and the like.
    pub flags: u32,
    /// Link addresses of the neighbour, if [`NextHop::RESOLVED`], and of the egress interface; made by
    /// [`link_addresses`].
    pub addresses: [u32; 3],
    /// Index into `TRANSLATIONS`, that of the egress interface's attachment; 0 for none.
    pub translations: u32,
    /// The segments whose packets may use it: a bit for each number of a segment.
    pub segments: u64,
    /// To a cache line.
    pub padding: [u32; 4],
}

/// Destination and source of an Ethernet header, in the byte order of the wire, as words that the program copies.
#[inline(always)]
pub const fn link_addresses(destination: [u8; 6], source: [u8; 6]) -> [u32; 3] {
    let (d, s) = (destination, source);
    [
        u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
        u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
        u32::from_ne_bytes([s[2], s[3], s[4], s[5]]),
    ]
}

/// Replaces the destination.
#[inline(always)]
pub const fn redirected(addresses: [u32; 3], destination: [u8; 6]) -> [u32; 3] {
    let (d, middle) = (destination, addresses[1].to_ne_bytes());
    [u32::from_ne_bytes([d[0], d[1], d[2], d[3]]), u32::from_ne_bytes([d[4], d[5], middle[2], middle[3]]), addresses[2]]
}

impl NextHop {
    /// The egress interface exists and is up.
    pub const UP: u32 = 1;
    /// Frames need an Ethernet header.
    pub const ETHERNET: u32 = 2;
    /// The neighbour's address is known.
    pub const RESOLVED: u32 = 4;
    /// Each destination is a neighbour of its own: look up `NEIGHBOURS`.
    pub const ON_LINK: u32 = 8;
    /// XDP cannot send to the interface; TC can.
    pub const TC: u32 = 16;
}

/// Value of `MSS_LIMITS`, by `COUNTERS` slot: the largest TCP maximum segment size for a connection or the VPC, in bytes
/// (RFC 9293 section 3.7.1). 0: no limit. Four bytes: replaced as one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct MssLimits {
    pub v4: u16,
    pub v6: u16,
}

impl MssLimits {
    pub const NONE: Self = Self { v4: 0, v6: 0 };
    /// The lowest limit: Linux sends no smaller segments (`TCP_MIN_MSS`, include/net/tcp.h).
    pub const LOWEST: u16 = 88;
    /// The highest limit: above it, no IPv4 packet has room for the headers.
    pub const HIGHEST: u16 = u16::MAX - 40;

    /// The limits that make a segment, with its headers, fit an interface with this MTU. Headers: IP without options or
    /// extension headers, TCP without options, which count as payload (RFC 6691).
    pub const fn of_mtu(mtu: u32) -> Self {
        Self { v4: bounded(mtu.saturating_sub(20 + 20)), v6: bounded(mtu.saturating_sub(40 + 20)) }
    }
}

const fn bounded(bytes: u32) -> u16 {
    if bytes < MssLimits::LOWEST as u32 {
        MssLimits::LOWEST
    } else if bytes > MssLimits::HIGHEST as u32 {
        MssLimits::HIGHEST
    } else {
        bytes as u16
    }
}

/// Key of `NEIGHBOURS`, and record of the ring `NEIGHBOUR_MISS`: a neighbour that `NEIGHBOURS` did not have for a
/// packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Neighbour {
    /// In network byte order; an IPv4 address as an IPv4-mapped one (RFC 4291 section 2.5.5.2).
    pub address: [u64; 2],
    pub ifindex: u32,
    /// 4 or 6: a mapped address may also be in an IPv6 packet.
    pub family: u32,
}

/// Value of `NEIGHBOURS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LinkAddress {
    pub mac: [u8; 6],
    pub padding: [u8; 2],
}

/// Bytes of the ring `NEIGHBOUR_MISS`; at least a page. While the ring is full, misses are lost; a later packet reports
/// the neighbour again.
pub const NEIGHBOUR_MISS_BYTES: u32 = 1 << 16;

const _: () = {
    assert!(size_of::<Route>() == 8);
    assert!(size_of::<GroupMember>() == 8 && size_of::<PolicyPair>() == 8);
    assert!(size_of::<PolicySlot>() == 24 && POLICY_SLOTS.is_power_of_two());
    assert!(size_of::<NextHop>() == 64);
    assert!(size_of::<MssLimits>() == 4);
    assert!(matches!(MssLimits::of_mtu(1400), MssLimits { v4: 1360, v6: 1340 }));
    assert!(matches!(MssLimits::of_mtu(0), MssLimits { v4: 88, v6: 88 }));
    assert!(matches!(MssLimits::of_mtu(u32::MAX), MssLimits { v4: 65_495, v6: 65_495 }));
    assert!(size_of::<Neighbour>() == 24);
    assert!(size_of::<LinkAddress>() == 8);
    assert!(MAX_NEXT_HOPS <= BUCKET_INDEX);
    assert!(path_of(0, 1, 2) == 0x4000_0000 && path_of(1, 1, 2) == 0xc000_0000);
    assert!(GROUP_BUCKETS.is_power_of_two() && GROUP_BUCKETS - 1 <= u16::MAX as u32);
};
