//! The agent of VPN-Hub.

pub mod config;
pub mod netlink;
