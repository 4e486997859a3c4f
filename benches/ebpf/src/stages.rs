//! The measured stages. Shared source: compiled into the kernel programs of the ladder and into the binary.

/// The last stage that a packet runs through. Each variant includes the stages before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Only restores the header.
    Drop,
    /// Restores the header and redirects. No stage of the hub, but the lower bound of other benches.
    Bare,
    /// Attachment, link header, IP header.
    Parse,
    /// Resolves both addresses, where the look-up does that once per packet.
    Addresses,
    /// Looks up the route, which shows whether the destination is the hub.
    ToHub,
    /// Ingress policy check.
    Selector,
    /// Checks whether the packet may take the route.
    Route,
    /// The bucket, the next hop, and the egress policy check.
    NextHop,
    /// TTL, checksum, link header.
    Rewrite,
    /// The whole hub: the port and the counters.
    Redirect,
}
