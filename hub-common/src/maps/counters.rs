//! Counters, and the records that an agent leaves for the next one: `TRAFFIC`, `REFUSALS`, `CONNECTIONS`, `GROUPS`.

use crate::Reason;

/// Slot of `TRAFFIC` and `REFUSALS`, elsewhere *`COUNTERS` slot*, of packets whose connection is unknown.
pub const UNATTRIBUTED: u32 = 0;
/// `COUNTERS` slot of the VPC side.
pub const VPC: u32 = 1;

/// Value of `TRAFFIC`, per CPU and `COUNTERS` slot: counts since the slot got its owner. Bytes are those of IP packets.
///
/// Separate from the refusals, so that the counters of thousands of connections stay in the CPU's caches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Traffic {
    /// Received from the connection and admitted by its selectors.
    pub rx_packets: u64,
    pub rx_bytes: u64,
    /// Sent to the connection by the program.
    pub tx_packets: u64,
    pub tx_bytes: u64,
}

/// Value of `REFUSALS`, per CPU and `COUNTERS` slot: packets from the connection that were not forwarded, by
/// [`Reason`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Refusals {
    pub reasons: [u64; Reason::COUNT],
}

/// Maximum bytes of a connection's name.
pub const NAME_BYTES: usize = 128;

/// Value of `CONNECTIONS`, by `COUNTERS` slot: the slot's owner and its state. Only agents read and write it: the next
/// agent gives each connection the same slot, and continues from its state.
///
/// Layout that all versions share: the fields up to `changes` are these, [`Traffic`] begins with these four counts, and
/// the refusals come last, one for each reason of that version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ConnectionRecord {
    /// UTF-8.
    pub name: [u8; NAME_BYTES],
    /// Bytes of the name; 0: the slot has no owner.
    pub name_length: u32,
    /// [`ConnectionRecord::UP`] and the like; 0: not known.
    pub state: u32,
    /// [`ConnectionRecord::FAILED`], [`ConnectionRecord::CARRIED_OVER`] and [`ConnectionRecord::DEGRADED`].
    pub flags: u32,
    pub padding: u32,
    /// Start of the current state: nanoseconds of `CLOCK_BOOTTIME`.
    pub since: u64,
    /// Time since when all conditions for "up" are met, as `since`; 0: one is not met.
    pub healthy_since: u64,
    /// Visible changes of the state.
    pub changes: u64,
    /// Counts of earlier versions, to add to those of `TRAFFIC` and `REFUSALS`.
    pub traffic: Traffic,
    pub refusals: Refusals,
}

impl ConnectionRecord {
    pub const UP: u32 = 1;
    pub const HOLD_DOWN: u32 = 2;
    pub const DOWN: u32 = 3;
    pub const ADMIN_DOWN: u32 = 4;
    /// It failed, so the hold-down applies before it is up again.
    pub const FAILED: u32 = 1;
    /// The counts of the previous version are in `traffic` and `refusals`.
    pub const CARRIED_OVER: u32 = 2;
    /// With [`ConnectionRecord::UP`]: its health check loses more probes than allowed. A flag, so that agents without
    /// this state read it as up.
    pub const DEGRADED: u32 = 4;
    /// Value of a slot without an owner.
    pub const NONE: Self = Self {
        name: [0; NAME_BYTES],
        name_length: 0,
        state: 0,
        flags: 0,
        padding: 0,
        since: 0,
        healthy_since: 0,
        changes: 0,
        traffic: Traffic { rx_packets: 0, rx_bytes: 0, tx_packets: 0, tx_bytes: 0 },
        refusals: Refusals { reasons: [0; Reason::COUNT] },
    };
}

/// Value of `GROUPS`, by the group's first bucket divided by [`GROUP_BUCKETS`](super::GROUP_BUCKETS): the next-hop
/// group that owns these buckets. Only agents read and write it: the next agent gives each bucket the same owner. The
/// agent computes the hashes; 0: no group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct GroupRecord {
    /// Hash of the members' names and weights.
    pub members: u64,
    /// Hash of the members' names.
    pub names: u64,
}

const _: () = {
    assert!(size_of::<Traffic>() == 32);
    assert!(size_of::<Refusals>() == 8 * Reason::COUNT);
    assert!(size_of::<ConnectionRecord>() == NAME_BYTES + 4 * 4 + 3 * 8 + 32 + 8 * Reason::COUNT);
    assert!(size_of::<GroupRecord>() == 16);
};
