//! The rungs of the ladder: what both its kernel programs and the binary name. Compiled into both.

/// Up to which stage a packet goes; each is all before it and one stage more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// The header is put back, and that is all.
    Drop,
    /// The header is put back, and one redirect: no stage of the hub, but the floor of other benches.
    Bare,
    /// Attachment, link header, IP header.
    Parse,
    /// Both addresses are looked up, where the look-up does so once for all questions.
    Addresses,
    /// The route is looked up, for it tells what is the hub's own.
    ToHub,
    /// The policy check of what came in.
    Selector,
    /// Whether the packet may take the route.
    Route,
    /// The bucket, the next hop, and the egress connection's policy check.
    NextHop,
    /// TTL, checksum, link header.
    Rewrite,
    /// The whole hub: port, and the counts of what came in and goes out.
    Redirect,
}
