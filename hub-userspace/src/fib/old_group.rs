//! A next-hop group of an earlier agent.

use hub_common::maps::GroupRecord;
use serde::{Deserialize, Serialize};

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
