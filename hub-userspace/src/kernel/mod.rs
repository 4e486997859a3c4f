//! The kernel beside the program: links, addresses, routes, neighbours, nftables, settings.

pub mod fd_store;
pub mod guard;
pub mod netlink;
pub mod sysctl;
