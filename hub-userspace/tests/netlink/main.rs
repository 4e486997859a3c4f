//! Netlink against the running kernel, as root, each test in its own network namespaces, which end with it. `ip`
//! (iproute2) reads the kernel's state, as a second opinion.

mod events;
mod follow;
mod lab;
mod learn;
mod load;
mod neighbours;
mod nft;
mod reconciler;
mod reconciler_random;
mod routes;
mod rules;
