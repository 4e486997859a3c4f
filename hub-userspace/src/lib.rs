//! The agent of VPN-Hub.
//!
//! State in, pure functions, one writer: configuration and host state go into the [RIB](routing::rib); [`fib`] compiles it
//! into the tables of the kernel program and finds what changed; [`datapath`] alone writes. See ARCHITECTURE.md.

pub mod agent;
pub mod api;
pub mod api_types;
pub mod background;
pub mod cli;
pub mod config;
pub mod config_manager;
pub mod connection;
pub mod datapath;
pub mod diagnose;
pub mod fib;
pub mod health;
pub mod ipsec;
pub mod kernel;
pub mod observe;
pub mod peer_config;
pub mod policy;
pub mod rate_limit;
pub mod routing;
pub mod store;
pub mod trace;
