//! The kernel's state: links, addresses, routes, neighbours, nftables, sysctls, receive queues.

pub mod fd_store;
pub mod guard;
pub mod netlink;
pub mod spread;
pub mod sysctl;

use std::{fs, io, os::linux::fs::MetadataExt as _};

/// Inode of the calling thread's network namespace.
///
/// # Errors
/// When /proc cannot be read.
pub fn network_namespace() -> io::Result<u64> {
    fs::metadata("/proc/thread-self/ns/net").map(|metadata| metadata.st_ino())
}
