//! The kernel's IPsec policies and SAs, no matter which process installed them: for connections with `selectors = "xfrm"`.
//!
//! [`wire`] parses the kernel's messages, [`table`] finds the entries of a connection; both are pure. [`follow`] reads
//! them from the kernel. [`translated`] adds policies of our own.

pub mod follow;
pub mod table;
pub mod translated;
pub mod wire;
