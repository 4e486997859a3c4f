//! Stage 2: the policy check.

pub mod ports;
pub mod selector;
