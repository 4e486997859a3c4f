//! What others see of the agent.

pub mod metrics;
pub mod packets;
