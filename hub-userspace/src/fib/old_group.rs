//! A next-hop group of an earlier agent.

use hub_common::maps::GroupRecord;
use serde::{Deserialize, Serialize};

use crate::{config::tunnels::tunnel_of, routing::rib::Members};

/// Serialized form of a [`GroupRecord`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "GroupRecord")]
pub struct RecordedGroup {
    members: u64,
    names: u64,
}

/// A group's buckets, left by an earlier agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldGroup {
    #[serde(with = "RecordedGroup")]
    pub record: GroupRecord,
    /// `COUNTERS` slot of each bucket's owner; `None` for an unassigned bucket.
    pub owners: Vec<Option<u32>>,
}

/// The record by which the next agent identifies a group.
pub fn record(members: &Members) -> GroupRecord {
    let (mut all, mut names) = (Fnv::default(), Fnv::default());
    for (name, weight) in members {
        // Names contain no zero bytes.
        for hash in [&mut all, &mut names] {
            hash.add(name.as_bytes());
            hash.add(&[0]);
        }
        all.add(&[weight.route]);
        if tunnel_of(name).is_some() {
            all.add(&[weight.tunnel]);
        }
    }
    GroupRecord { members: all.0, names: names.0 }
}

/// FNV-1a, 64 bits: identical in every version.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
