//! IPsec: strongSwan over VICI, the kernel's policies over xfrm, and the effective selectors from both.

pub mod effective;
pub mod links;
pub mod mtu;
pub mod underlay;
pub mod vici;
pub mod xfrm;
