//! What a connection may send and be sent: selectors, protocols and ports.

pub mod ports;
pub mod selectors;
