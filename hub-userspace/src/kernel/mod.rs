//! The kernel's state: links, addresses, routes, neighbours, nftables, sysctls.

pub mod fd_store;
pub mod guard;
pub mod netlink;
pub mod sysctl;
