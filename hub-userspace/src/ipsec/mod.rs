//! IPsec: strongSwan by vici, the kernel's policies by xfrm, and which selectors follow from both.

pub mod effective;
pub mod links;
pub mod vici;
pub mod xfrm;
