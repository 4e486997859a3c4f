//! A next-hop group of an earlier agent.

use hub_common::maps::GroupRecord;
use serde::{Deserialize, Serialize};

/// How a [`GroupRecord`] is recorded.
#[derive(Serialize, Deserialize)]
#[serde(remote = "GroupRecord")]
pub struct RecordedGroup {
    members: u64,
    names: u64,
}

/// A group's buckets as an earlier agent has left them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldGroup {
    #[serde(with = "RecordedGroup")]
    pub record: GroupRecord,
    /// `COUNTERS` slot of each bucket's owner, as far as there is one.
    pub owners: Vec<Option<u32>>,
}
