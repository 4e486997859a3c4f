//! A connection: its state machine with hold-down, and the record of it that outlives the agent.

pub mod affected;
pub mod liveness;
pub mod memory;
pub mod state;
