//! What the tests, the demo and `cargo xtask lab` share.
//!
//! - [`checkout`]: where the workspace is.
//! - [`lab`]: worlds of network namespaces, and what measures them: pings, transfers, probes, raw frames, the agent.
//! - [`model`]: what must happen to a packet, worked out slowly.
//! - [`packet`]: a packet builder and reader that shares no code with the hub, so that both cannot be wrong alike.
//! - [`schema`]: whether JSON is as its schema says.
//!
//! None needs the agent or the kernel program to have been built.

pub mod checkout;
pub mod lab;
pub mod model;
pub mod packet;
pub mod schema;
