//! The agent of VPN-Hub.
//!
//! State in, pure functions, one writer: configuration and host state go into the [`rib`]; [`compile`] turns it into the
//! [`tables`] of the kernel program, [`diff`] finds what changed, [`dataplane`] alone writes. See ARCHITECTURE.md.

pub mod agent;
pub mod api;
pub mod attachments;
pub mod buckets;
pub mod class_trie;
mod cleanup;
pub mod cli;
pub mod compile;
pub mod config;
pub mod config_manager;
pub mod dataplane;
pub mod diff;
pub mod effective;
pub mod event;
mod fd_store;
mod guard;
pub mod health;
pub mod id_allocator;
pub mod id_maps;
pub mod limit;
mod lock;
pub mod memory;
pub mod netlink;
pub mod peer_config;
mod process;
pub mod rib;
pub mod selectors;
pub mod slowpath;
pub mod state;
pub mod status;
pub mod store;
mod sysctl;
pub mod tables;
pub mod vici;
mod watchdog;
pub mod xfrm;
