//! Which packets a connection may send and receive: selectors, protocols and ports.

pub mod ports;
pub mod selectors;
