//! Reasons for which a packet is not forwarded. Counters, status, logs and docs use the same names.

/// The reason for which the program passes a packet to the kernel or drops it. The number is the index of its counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Reason {
    // Passed: the kernel decides, answers or resolves.
    /// The interface is not an attachment, or not yet.
    NotAttached = 0,
    /// ARP, LLDP, ...
    NotIp,
    /// The frame is for another host (`PACKET_OTHERHOST`): the kernel drops it, but a bridge or a capture may use it.
    OtherHost,
    /// The frame's VLAN has an interface of its own on this host.
    OtherVlan,
    /// Multicast or broadcast, of the link or of IP.
    Multicast,
    /// Source or destination is link-local, or the destination loopback or unspecified: not to be forwarded (RFC 1812
    /// section 5.3.7, RFC 3927 section 7, RFC 4291 section 2.5).
    LinkLocal,
    /// Addressed to the hub itself.
    ToHub,
    /// No route to the destination.
    NoRoute,
    /// No next hop of the destination has an interface that is up: the kernel answers "unreachable".
    NextHopDown,
    /// TTL or hop limit expires at the hub: the kernel answers "time exceeded".
    TtlExpired,
    /// Longer than the egress MTU: the kernel fragments, or answers "packet too big".
    TooBig,
    /// IPv4 options or IPv6 hop-by-hop options, which a router must process.
    IpOptions,
    /// The neighbour's link address is not known yet: the kernel resolves it.
    NoNeighbour,
    /// XDP cannot send to the egress interface; the TC program does. Never counted.
    HandedOver,
    // Dropped.
    /// Truncated, inconsistent lengths, wrong version or header length.
    Malformed,
    /// More 802.1Q tags than the program parses. The kernel would strip any number of priority tags.
    TooManyTags,
    /// The kernel's protocol of the packet (`skb->protocol`) differs from the one in its headers.
    ProtocolMismatch,
    /// The source is in no remote selector of the attachment, does not route back to the connection (reverse path), or
    /// is a martian.
    SpoofedSource,
    /// The source's selectors, ingress or egress, do not admit the destination.
    SelectorMismatch,
    /// Between segments that do not reach each other, or site to site with `spoke_to_spoke = false`.
    Isolated,
    /// A helper failed to send the packet: no headroom, or the egress port no longer exists.
    RedirectFailed,
}

impl Reason {
    /// Number of reasons.
    pub const COUNT: usize = Self::ALL.len();

    /// All reasons in order of their numbers.
    pub const ALL: [Self; 21] = [
        Self::NotAttached,
        Self::NotIp,
        Self::OtherHost,
        Self::OtherVlan,
        Self::Multicast,
        Self::LinkLocal,
        Self::ToHub,
        Self::NoRoute,
        Self::NextHopDown,
        Self::TtlExpired,
        Self::TooBig,
        Self::IpOptions,
        Self::NoNeighbour,
        Self::HandedOver,
        Self::Malformed,
        Self::TooManyTags,
        Self::ProtocolMismatch,
        Self::SpoofedSource,
        Self::SelectorMismatch,
        Self::Isolated,
        Self::RedirectFailed,
    ];

    /// Whether packets are dropped, not passed to the kernel.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        Self::is_drop_number(self as u32)
    }

    /// The same by number.
    #[inline(always)]
    pub const fn is_drop_number(number: u32) -> bool {
        number >= Self::Malformed as u32
    }

    /// The name in counters, status and docs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotAttached => "not_attached",
            Self::NotIp => "not_ip",
            Self::OtherHost => "other_host",
            Self::OtherVlan => "other_vlan",
            Self::Multicast => "multicast",
            Self::LinkLocal => "link_local",
            Self::ToHub => "to_hub",
            Self::NoRoute => "no_route",
            Self::NextHopDown => "next_hop_down",
            Self::TtlExpired => "ttl_expired",
            Self::TooBig => "too_big",
            Self::IpOptions => "ip_options",
            Self::NoNeighbour => "no_neighbour",
            Self::HandedOver => "handed_over",
            Self::Malformed => "malformed",
            Self::TooManyTags => "too_many_tags",
            Self::ProtocolMismatch => "protocol_mismatch",
            Self::SpoofedSource => "spoofed_source",
            Self::SelectorMismatch => "selector_mismatch",
            Self::Isolated => "isolated",
            Self::RedirectFailed => "redirect_failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn reason_number_equals_list_position() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.name());
        }
    }

    #[test]
    fn drop_reasons_match_specification() {
        let drops = Reason::ALL.into_iter().filter(|reason| reason.is_drop());
        let names: [&str; 7] = [
            "malformed",
            "too_many_tags",
            "protocol_mismatch",
            "spoofed_source",
            "selector_mismatch",
            "isolated",
            "redirect_failed",
        ];
        assert!(drops.map(Reason::name).eq(names));
    }
}
