//! Selectors: `REMOTES_*`, `LOCALS_*`, `PORT_RULES`.

use super::{MAX_CONNECTIONS, POLICY_GENERATIONS, UNATTRIBUTED, VPC};
use crate::class_trie::POLICY_COLUMN;

/// Capacity of each route and selector trie; the kernel allocates memory by the entry.
pub const MAX_PREFIXES: u32 = 1 << 21;

/// Bit of an owner in [`Remote`], [`Local`] and [`Rule`]: the reverse path is not checked (`reverse_path = "off"`, and
/// the VPC side).
pub const NO_REVERSE_PATH: u32 = 1 << 31;

/// The owner of a selector: `COUNTERS` slot of a connection (bits 0..=15), its segment (bits 16..=21), and perhaps
/// [`NO_REVERSE_PATH`]. Never [`UNATTRIBUTED`].
#[inline(always)]
pub const fn owner(slot: u32, segment: u32) -> u32 {
    segment << SEGMENT_SHIFT | slot
}

/// The slot of an owner.
#[inline(always)]
pub const fn slot_of(owner: u32) -> u32 {
    owner & ((1 << SEGMENT_SHIFT) - 1)
}

/// The segment of an owner.
#[inline(always)]
pub const fn segment_of(owner: u32) -> u32 {
    owner >> SEGMENT_SHIFT & (SEGMENTS - 1)
}

const SEGMENT_SHIFT: u32 = 16;
/// Numbers of segments: one for each bit of [`NextHop::segments`](super::NextHop::segments).
pub const SEGMENTS: u32 = 64;
/// The segment of the VPC side.
pub const VPC_SEGMENT: u32 = 0;

/// First scope of interfaces that carry several connections; the port is added to it. Scopes of connections are below
/// it.
pub const SHARED_SCOPE: u32 = 1 << 13;

/// Scope in `REMOTES` of the source prefixes of policy routes of a generation; that of the destinations follows.
/// [`Remote::policy`] is the prefix's number, a half of a [`PolicyPair`](super::PolicyPair).
#[inline(always)]
pub const fn policy_sources(generation: u32) -> u32 {
    SHARED_SCOPE + MAX_CONNECTIONS + 2 * generation
}

/// Policy that admits every local address. [`Remote::connection`] is the packet's connection, and `LOCALS` is not
/// looked up.
pub const ANY_LOCAL: u32 = 0;

/// [`Local::rules`] of a prefix that is not limited to protocols or ports. `PORT_RULES` is not looked up.
pub const NO_PORT_RULES: u32 = 0;
/// The entry of `PORT_RULES` that is always empty: it admits nothing.
pub const ADMITS_NOTHING: u32 = 1;
/// Capacity of `PORT_RULES`.
pub const MAX_PORT_RULES: u32 = 1 << 13;
/// Rules of an entry of `PORT_RULES`.
pub const RULES_PER_ENTRY: usize = 8;

/// An address in a scope: key data of `REMOTES_*` (scope of an attachment or a connection) and `LOCALS_*` (policy).
///
/// The prefix length of `n` address bits is `32 + n`. The scope is in network byte order, because a trie compares keys
/// from the first bit on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Scoped<A> {
    pub scope: [u8; 4],
    pub address: A,
}

/// Bits of [`Scoped::scope`].
pub const SCOPE_BITS: u32 = 32;

impl<A> Scoped<A> {
    #[inline(always)]
    pub const fn new(scope: u32, address: A) -> Self {
        Self { scope: scope.to_be_bytes(), address }
    }
}

/// A remote selector prefix: the owner of an address on the far side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Remote {
    /// The set of local prefixes paired with it, or [`ANY_LOCAL`].
    pub policy: u32,
    /// The owner ([`owner`]): the connection; the first one if several connections have this prefix.
    pub connection: u32,
}

/// A local prefix of a policy: the connection whose pair admits it. Eight bytes: replaced as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Local {
    /// The owner ([`owner`]). Where [`Local::rules`] is not [`NO_PORT_RULES`], the matching rule has it.
    pub connection: u32,
    /// Index into `PORT_RULES`, or [`NO_PORT_RULES`].
    pub rules: u32,
}

/// A pair of selectors that is limited to a protocol or ports (RFC 4301 section 4.4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Rule {
    /// The pair's owner ([`owner`]); [`UNATTRIBUTED`] ends the list.
    pub connection: u32,
    /// IP protocol; 0: any.
    pub protocol: u8,
    /// [`Rule::PORTS`], or 0.
    pub flags: u8,
    pub padding: [u8; 2],
    /// First and last port of the site's side. For ICMP and `ICMPv6`, both sides have the same number: the type in the
    /// high byte, the code in the low one (RFC 7296 section 3.13.1).
    pub remote: [u16; 2],
    /// First and last port of the hub's side.
    pub local: [u16; 2],
}

impl Rule {
    /// The rule is for some ports only, so it does not match packets without visible ports: fragments (RFC 4301 section
    /// 7).
    pub const PORTS: u8 = 1;
    pub const NONE: Self =
        Self { connection: UNATTRIBUTED, protocol: 0, flags: 0, padding: [0; 2], remote: [0; 2], local: [0; 2] };
}

/// Value of `PORT_RULES`. The first rule that matches a packet admits it, for that rule's connection.
pub type Rules = [Rule; RULES_PER_ENTRY];

const _: () = {
    assert!(VPC + 1 + MAX_CONNECTIONS <= SHARED_SCOPE && policy_sources(POLICY_GENERATIONS as u32) <= POLICY_COLUMN);
    assert!(VPC + 1 + MAX_CONNECTIONS <= 1 << SEGMENT_SHIFT && SEGMENTS << SEGMENT_SHIFT <= NO_REVERSE_PATH);
    assert!(SEGMENTS == u64::BITS && owner(UNATTRIBUTED, VPC_SEGMENT) == UNATTRIBUTED);
    assert!(size_of::<Scoped<[u8; 4]>>() == 8);
    assert!(size_of::<Scoped<[u8; 16]>>() == 20);
    assert!(size_of::<Remote>() == 8);
    assert!(size_of::<Local>() == 8);
    assert!(size_of::<Rule>() == 16 && size_of::<Rules>() == 16 * RULES_PER_ENTRY);
};
