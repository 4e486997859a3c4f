//! Code shared by the tests, the demo and `cargo xtask lab`.
//!
//! - [`board`]: the Grafana board of contrib/, and a hub for it with traffic and a Prometheus.
//! - [`checkout`]: finds the workspace.
//! - [`document`]: examples in the documentation, run and compared.
//! - [`exposition`]: a strict reader of Prometheus's text formats.
//! - [`lab`]: worlds of network namespaces and tools that measure them: pings, transfers, probes, raw frames, the
//!   agent.
//! - [`model`]: the reference model, which computes a packet's correct verdict slowly.
//! - [`packet`]: a packet builder and reader that shares no code with the hub, so that both cannot have the same bug.
//! - [`schema`]: validates JSON against its schema.
//! - [`tools`]: tools that are unpacked for the tests.
//!
//! None of them needs a built agent or kernel program.

pub mod board;
pub mod checkout;
pub mod document;
pub mod exposition;
pub mod lab;
pub mod model;
pub mod packet;
pub mod schema;
pub mod tools;
