//! The kernel's own IPsec policies and SAs, whoever made them: for connections with `selectors = "xfrm"`.
//!
//! [`wire`] reads the kernel's messages, [`table`] finds what belongs to a connection; both are pure. [`follow`] asks the
//! kernel.

pub mod follow;
pub mod table;
pub mod wire;
