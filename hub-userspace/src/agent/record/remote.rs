//! How types are written whose crate has no serde, or which the control socket shows otherwise.

use hub_common::maps;
use serde::{Deserialize, Serialize};

use crate::state;

/// [`maps::GroupRecord`].
#[derive(Serialize, Deserialize)]
#[serde(remote = "maps::GroupRecord")]
pub struct GroupRecord {
    members: u64,
    names: u64,
}

/// [`state::State`], with the hold-down that a status does not show.
#[derive(Serialize, Deserialize)]
#[serde(remote = "state::State", rename_all = "snake_case")]
pub enum State {
    Up,
    HoldDown,
    Down,
    AdminDown,
}
