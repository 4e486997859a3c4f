//! The agent of VPN-Hub.

pub mod config;
