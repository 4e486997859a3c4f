//! What the tests, the demo and `cargo xtask lab` share.
//!
//! - [`lab`]: worlds of network namespaces, and what measures them: pings, transfers, probes, raw frames, the agent.
//! - [`packet`]: a packet builder and reader that shares no code with the hub, so that both cannot be wrong alike.
//!
//! Neither needs the agent or the kernel program to have been built.

pub mod lab;
pub mod packet;
