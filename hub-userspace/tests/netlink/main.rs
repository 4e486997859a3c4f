//! Netlink against the running kernel, as root, in network namespaces that each test makes for
//! itself and that end with it. `ip` (iproute2) is asked what the kernel holds, as a second opinion.

mod events;
mod follow;
mod lab;
mod load;
mod neighbours;
mod nft;
mod reconciler;
mod reconciler_random;
mod routes;
mod rules;
