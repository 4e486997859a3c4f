//! Keys and values of the program's maps.
//!
//! How they hang together, for a packet that came in on `ifindex`; `REMOTES`, `LOCALS` and `ROUTES` are tries or what
//! [`crate::class_trie`] makes of them:
//!
//! ```text
//! ATTACHMENTS[ifindex]                         -> Attachment { scope, .. }
//! REMOTES[scope, source]      longest prefix   -> Remote { policy, connection }
//! LOCALS[policy, destination] longest prefix   -> Local { connection, rules }  (only where policy is not ANY_LOCAL)
//! PORT_RULES[rules]                           -> Rules            (only where rules is not NO_PORT_RULES)
//! ROUTES[source]              longest prefix   -> Route: must lead back to that connection (reverse path)
//! GROUP_MEMBERS[first_bucket, connection]      (only where the route has several next hops)
//! ROUTES[destination]         longest prefix   -> Route { first_bucket, bucket_mask, flags }
//! BUCKETS[first_bucket + (flow hash & mask)]   -> index into NEXT_HOPS
//! NEXT_HOPS[index]                             -> NextHop { port, MACs, MTU, scope, .. }
//! PORTS[port]                                  -> the egress device (devmap)
//! ```
//!
//! What is addressed to the hub itself asks `LINKS[ifindex, address]` where no selector knows the source.
//!
//! The egress check asks REMOTES and LOCALS again with the next hop's scope and the addresses swapped.

use crate::{Reason, class_trie::POLICY_COLUMN};

/// Capacity of `FAR_ATTACHMENTS` and `PORTS`, and with two more of `TRAFFIC` and `REFUSALS`: interfaces, and connections, of one gateway.
pub const MAX_CONNECTIONS: u32 = 4096;
/// Interface indices below this one have their attachment in `ATTACHMENTS`, others in the slower `FAR_ATTACHMENTS`.
pub const NEAR_INTERFACES: u32 = 1 << 14;
/// Capacity of each route and selector trie; memory is used by the entry.
pub const MAX_PREFIXES: u32 = 1 << 21;
/// Capacity of `NEXT_HOPS`.
pub const MAX_NEXT_HOPS: u32 = 1 << 14;
/// Capacity of `BUCKETS`.
pub const MAX_BUCKETS: u32 = 1 << 20;
/// Capacity of `NEIGHBOURS` and `VLANS`; memory is used by the entry, and a mebibyte each for the heads of the buckets.
pub const MAX_NEIGHBOURS: u32 = 1 << 16;

/// Buckets of a next-hop group with more than one member; a power of two. Shares are exact to one in this many.
pub const GROUP_BUCKETS: u32 = 256;

/// Bits of a bucket that are the index into `NEXT_HOPS`. The others are the upper half of the flow hash by which the kernel,
/// if it has to forward the packet, finds the same next hop in its own route ([`path_of`]); 0 where that has only one.
pub const BUCKET_INDEX: u32 = 0xffff;

/// The bits above [`BUCKET_INDEX`] for a next hop of a kernel route: those before it have `before` of the weights, it has
/// `own` of them, all have `total`. The kernel gives each next hop a range of hashes in proportion to its weight, in order
/// (`fib_rebalance`, `net/ipv4/fib_semantics.c`; `rt6_upper_bound_set`, net/ipv6/route.c); this is the middle of its range.
pub const fn path_of(before: u32, own: u32, total: u32) -> u32 {
    let middle = ((2 * before as u64 + own as u64) << 15) / total as u64;
    (middle as u32) << 16
}

/// Slot of `TRAFFIC` and `REFUSALS`, here *`COUNTERS` slot*, of packets that cannot be told from which connection they came.
pub const UNATTRIBUTED: u32 = 0;
/// `COUNTERS` slot of the VPC side.
pub const VPC: u32 = 1;

/// Bit of a connection's slot in [`Remote`], [`Local`] and [`Rule`]: the source need not route back to the connection
/// (`reverse_path = "off"`, and the VPC side).
pub const NO_REVERSE_PATH: u32 = 1 << 31;

/// Scopes of interfaces that carry several connections: this and the port. Those of connections are below.
pub const SHARED_SCOPE: u32 = 1 << 13;

/// Policy that admits every local address: [`Remote::connection`] says whose packet it is and `LOCALS` is not asked.
pub const ANY_LOCAL: u32 = 0;

/// [`Local::rules`] of a prefix that is not limited to protocols or ports: `PORT_RULES` is not asked.
pub const NO_PORT_RULES: u32 = 0;
/// An entry of `PORT_RULES` without a rule: it admits nothing, ever.
pub const ADMITS_NOTHING: u32 = 1;
/// Capacity of `PORT_RULES`.
pub const MAX_PORT_RULES: u32 = 1 << 13;
/// Rules of an entry of `PORT_RULES`.
pub const RULES_PER_ENTRY: usize = 8;

/// An interface that packets come in on. Key: ifindex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Attachment {
    /// Scope in which the source of what comes in here is looked up.
    pub scope: u32,
    /// `COUNTERS` slot of packets refused before a selector has told their connection.
    pub connection: u32,
    /// Own address of the link; frames to another one are not ours. Zero on raw-IP links.
    pub mac: [u8; 6],
    /// [`Attachment::ETHERNET`] and the like.
    pub flags: u16,
}

impl Attachment {
    /// Frames have an Ethernet header; else they start with the IP header.
    pub const ETHERNET: u16 = 1;
    /// What comes in here may go to the VPC alone.
    pub const ISOLATED: u16 = 2;
    /// It is one: unset in the array's places of other interfaces.
    pub const PRESENT: u16 = 4;
    /// Of an interface that is no attachment.
    pub const NONE: Self = Self { scope: 0, connection: 0, mac: [0; 6], flags: 0 };
}

/// An address in a scope: key data of `REMOTES_*` (scope of an attachment or a connection) and `LOCALS_*` (policy).
///
/// A prefix of `n` address bits is `32 + n` bits long here. The scope is in network byte order because a trie compares
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

/// A remote selector prefix: to whom an address on the far side belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Remote {
    /// The set of local prefixes paired with it, or [`ANY_LOCAL`].
    pub policy: u32,
    /// `COUNTERS` slot of the connection; where connections share the prefix, of the first that has it.
    pub connection: u32,
}

/// A local prefix of a policy: by whose pair it is admitted. Eight bytes: replaced as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Local {
    /// `COUNTERS` slot of the connection; where [`Local::rules`] is not [`NO_PORT_RULES`], the rules tell it.
    pub connection: u32,
    /// Index into `PORT_RULES`, or [`NO_PORT_RULES`].
    pub rules: u32,
}

/// A pair of selectors that is limited to a protocol and ports (RFC 4301 section 4.4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Rule {
    /// `COUNTERS` slot of the connection whose pair it is; [`UNATTRIBUTED`]: there is no rule here, nor behind it.
    pub connection: u32,
    /// IP protocol; 0: any.
    pub protocol: u8,
    /// [`Rule::PORTS`], or 0.
    pub flags: u8,
    pub padding: [u8; 2],
    /// First and last port of the site's side. Of ICMP and `ICMPv6`, here and below, both sides have one number: the type
    /// in the high byte, the code in the low one (RFC 7296 section 3.13.1).
    pub remote: [u16; 2],
    /// The same of the hub's side.
    pub local: [u16; 2],
}

impl Rule {
    /// It is for some ports alone, so not for packets that show none: fragments (RFC 4301 section 7).
    pub const PORTS: u8 = 1;
    pub const NONE: Self =
        Self { connection: UNATTRIBUTED, protocol: 0, flags: 0, padding: [0; 2], remote: [0; 2], local: [0; 2] };
}

/// Value of `PORT_RULES`: the first rule that suits a packet admits it, as one of that rule's connection.
pub type Rules = [Rule; RULES_PER_ENTRY];

/// What the longest matching prefix of the destination says. Eight bytes: replaced as one.
///
/// A group of a single connection has one bucket, the number of which is the connection's slot: so a route itself tells
/// whether it leads to a connection. `GROUP_MEMBERS` tells it of other groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Route {
    /// Index of the group's first bucket.
    pub first_bucket: u32,
    /// Buckets of the group less one, a power of two less one: 0 for a single next hop.
    pub bucket_mask: u16,
    /// [`Route::HUB`] and the like.
    pub flags: u16,
}

impl Route {
    /// An address of the hub itself, or a broadcast address of one of its links; the buckets mean nothing.
    pub const HUB: u16 = 1;
    /// Leads to the VPC side.
    pub const VPC: u16 = 2;
    /// The prefix has length 0.
    pub const DEFAULT: u16 = 4;
    /// What no destination has.
    pub const NONE: Self = Self { first_bucket: 0, bucket_mask: 0, flags: 1 << 15 };
}

/// Key of `GROUP_MEMBERS`: a connection that is a member of a group with several, whatever its weight and state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct GroupMember {
    pub first_bucket: u32,
    /// `COUNTERS` slot.
    pub connection: u32,
}

/// Capacity of `GROUP_MEMBERS`; memory is used by the entry.
pub const MAX_GROUP_MEMBERS: u32 = 1 << 17;

/// Value of `LINKS`, by (ifindex, prefix) with IPv4 addresses as IPv4-mapped ones: who may speak to the hub over the link
/// itself, without a selector.
pub mod link {
    /// A prefix of the link, or the `peer` of a connection there: what comes from it may go to the hub's addresses on the
    /// link.
    pub const SOURCE: u32 = 1;
    /// An address of the hub on the link, or the link's broadcast address.
    pub const HUB: u32 = 2;
    /// On the VPC's interface: a prefix of a link to a site.
    pub const SITE: u32 = 4;
}

/// Where and how a packet leaves. An entry that a bucket points to is never changed: a new one takes its place, so that
/// no packet sees half a MAC.
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
    /// Longest IP packet of the egress interface, bytes.
    pub mtu: u32,
    /// [`NextHop::ETHERNET`] and the like.
    pub flags: u32,
    /// Link address of the neighbour, where [`NextHop::RESOLVED`], and of the egress interface, as [`link_addresses`]
    /// makes them.
    pub addresses: [u32; 3],
    /// To a cache line.
    pub padding: [u32; 7],
}

/// Destination and source of an Ethernet header, byte after byte as on the wire, in words: the program copies these.
#[inline(always)]
pub const fn link_addresses(destination: [u8; 6], source: [u8; 6]) -> [u32; 3] {
    let (d, s) = (destination, source);
    [
        u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
        u32::from_ne_bytes([d[4], d[5], s[0], s[1]]),
        u32::from_ne_bytes([s[2], s[3], s[4], s[5]]),
    ]
}

/// The same with another destination.
#[inline(always)]
pub const fn redirected(addresses: [u32; 3], destination: [u8; 6]) -> [u32; 3] {
    let (d, middle) = (destination, addresses[1].to_ne_bytes());
    [u32::from_ne_bytes([d[0], d[1], d[2], d[3]]), u32::from_ne_bytes([d[4], d[5], middle[2], middle[3]]), addresses[2]]
}

impl NextHop {
    /// The egress interface is there and up.
    pub const UP: u32 = 1;
    /// Frames need an Ethernet header.
    pub const ETHERNET: u32 = 2;
    /// The neighbour's address is known.
    pub const RESOLVED: u32 = 4;
    /// Each destination is a neighbour of its own: ask `NEIGHBOURS`.
    pub const ON_LINK: u32 = 8;
    /// XDP cannot send to the interface: TC can.
    pub const TC: u32 = 16;
}

/// Key of `NEIGHBOURS`, and record of the ring `NEIGHBOUR_MISS`: a neighbour that a packet needed and `NEIGHBOURS` did not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Neighbour {
    /// In network byte order; an IPv4 address as an IPv4-mapped one (RFC 4291 section 2.5.5.2).
    pub address: [u64; 2],
    pub ifindex: u32,
    /// 4 or 6: a mapped address may also stand in an IPv6 packet.
    pub family: u32,
}

/// Value of `NEIGHBOURS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LinkAddress {
    pub mac: [u8; 6],
    pub padding: [u8; 2],
}

/// Bytes of the ring `NEIGHBOUR_MISS`; a page at least. While the ring is full, misses are lost; a later packet reports the
/// neighbour again.
pub const NEIGHBOUR_MISS_BYTES: u32 = 1 << 16;

/// Key of `VLANS`: a VLAN that has an interface of its own above `ifindex`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Vlan {
    pub ifindex: u32,
    /// 1..=4094.
    pub id: u32,
}

/// Value of `TRAFFIC`, per CPU and `COUNTERS` slot: counts since the slot got its owner. Bytes are those of the IP packet.
///
/// Apart from the refusals, so that the counts of thousands of connections stay in the CPU's caches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Traffic {
    /// Came in from the connection, its selectors admitting them.
    pub rx_packets: u64,
    pub rx_bytes: u64,
    /// Sent out to the connection by the program.
    pub tx_packets: u64,
    pub tx_bytes: u64,
}

/// Value of `REFUSALS`, per CPU and `COUNTERS` slot: packets that came in from the connection and were not forwarded, by
/// [`Reason`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Refusals {
    pub reasons: [u64; Reason::COUNT],
}

/// Bytes of a connection's longest name.
pub const NAME_BYTES: usize = 128;

/// Value of `CONNECTIONS`, by `COUNTERS` slot: the slot's owner and its state. Only agents read and write it: the next agent
/// gives each connection its slot, and continues from its state.
///
/// In every version, the fields up to `changes` are these, [`Traffic`] begins with these four counts, and the refusals come
/// last, one for each of that version's reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ConnectionRecord {
    /// UTF-8.
    pub name: [u8; NAME_BYTES],
    /// Bytes of the name; 0: the slot has no owner.
    pub name_length: u32,
    /// [`ConnectionRecord::UP`] and the like; 0: not known.
    pub state: u32,
    /// [`ConnectionRecord::FAILED`] and [`ConnectionRecord::CARRIED_OVER`].
    pub flags: u32,
    pub padding: u32,
    /// Since when it has been in this state: nanoseconds of `CLOCK_BOOTTIME`.
    pub since: u64,
    /// Since when nothing speaks against its being up, as `since`; 0: something does.
    pub well_since: u64,
    /// Visible changes of the state.
    pub changes: u64,
    /// Counts of earlier versions, to add to those of `TRAFFIC` and `REFUSALS`.
    pub traffic: Traffic,
    pub refusals: Refusals,
}

impl ConnectionRecord {
    pub const UP: u32 = 1;
    pub const HELD: u32 = 2;
    pub const DOWN: u32 = 3;
    pub const ADMIN_DOWN: u32 = 4;
    /// It went down by itself: it has to wait before it is up again.
    pub const FAILED: u32 = 1;
    /// The counts of the version before are in `traffic` and `refusals`.
    pub const CARRIED_OVER: u32 = 2;
    /// Of a slot without an owner.
    pub const NONE: Self = Self {
        name: [0; NAME_BYTES],
        name_length: 0,
        state: 0,
        flags: 0,
        padding: 0,
        since: 0,
        well_since: 0,
        changes: 0,
        traffic: Traffic { rx_packets: 0, rx_bytes: 0, tx_packets: 0, tx_bytes: 0 },
        refusals: Refusals { reasons: [0; Reason::COUNT] },
    };
}

/// Value of `GROUPS`, by the group's first bucket divided by [`GROUP_BUCKETS`]: the next-hop group that owns these buckets. Only
/// agents read and write it: the next agent gives each group the owners of its buckets. Hashes are the agent's; 0: no group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct GroupRecord {
    /// Of the members' names and weights.
    pub members: u64,
    /// Of the members' names.
    pub names: u64,
}

const _: () = {
    assert!(VPC + 1 + MAX_CONNECTIONS <= SHARED_SCOPE && SHARED_SCOPE + MAX_CONNECTIONS <= POLICY_COLUMN);
    assert!(size_of::<Attachment>() == 16);
    assert!(size_of::<Scoped<[u8; 4]>>() == 8);
    assert!(size_of::<Scoped<[u8; 16]>>() == 20);
    assert!(size_of::<Remote>() == 8);
    assert!(size_of::<Local>() == 8);
    assert!(size_of::<Rule>() == 16 && size_of::<Rules>() == 16 * RULES_PER_ENTRY);
    assert!(size_of::<Route>() == 8);
    assert!(size_of::<NextHop>() == 64);
    assert!(size_of::<Neighbour>() == 24);
    assert!(size_of::<LinkAddress>() == 8);
    assert!(size_of::<Vlan>() == 8);
    assert!(size_of::<GroupMember>() == 8);
    assert!(size_of::<Traffic>() == 32);
    assert!(size_of::<Refusals>() == 8 * Reason::COUNT);
    assert!(size_of::<ConnectionRecord>() == NAME_BYTES + 4 * 4 + 3 * 8 + 32 + 8 * Reason::COUNT);
    assert!(size_of::<GroupRecord>() == 16);
    assert!(MAX_NEXT_HOPS <= BUCKET_INDEX);
    assert!(path_of(0, 1, 2) == 0x4000_0000 && path_of(1, 1, 2) == 0xc000_0000);
    assert!(GROUP_BUCKETS.is_power_of_two() && GROUP_BUCKETS - 1 <= u16::MAX as u32);
};

#[cfg(feature = "user")]
mod pod {
    use super::{
        Attachment, ConnectionRecord, GroupMember, GroupRecord, LinkAddress, Local, Neighbour, NextHop, Refusals,
        Remote, Route, Rule, Scoped, Traffic, Vlan,
    };

    macro_rules! pod {
        ($($type:ty),+ $(,)?) => {
            // SAFETY: `repr(C)`, made of integers and byte arrays only, no padding (sizes asserted above): every
            // byte is initialised and every bit pattern is a value.
            $(unsafe impl aya::Pod for $type {})+
        };
    }

    pod!(Attachment, Scoped<[u8; 4]>, Scoped<[u8; 16]>, Remote, Local, Rule, Route, NextHop, Neighbour, LinkAddress);
    pod!(crate::Mark, Vlan, GroupMember, Traffic, Refusals, ConnectionRecord, GroupRecord);
}
