//! Stage 3: the policy check.

pub mod ports;
pub mod selector;
