//! The kernel's state: links, addresses, routes, neighbours, nftables, sysctls, receive queues.

pub mod fd_store;
pub mod guard;
pub mod netlink;
pub mod spread;
pub mod sysctl;
