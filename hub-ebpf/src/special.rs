//! Addresses that are not forwarded, whatever the routes are.

use crate::family::{V4, V6};

/// Addresses that a router does not forward from or to.
pub trait Special: Copy {
    /// A superset of the ranges below: most packets need only this check.
    fn may_be_special(self) -> bool;
    fn is_multicast(self) -> bool;
    fn is_link_local(self) -> bool;
    /// Valid only within a host: loopback and unspecified.
    fn is_local(self) -> bool;
    fn is_unspecified(self) -> bool;
    /// Is a link-local IPv6 address: on-link on every interface.
    fn is_of_any_link(self) -> bool;

    /// Multicast and broadcast, loopback, unspecified (RFC 1812 section 5.3.7, RFC 4291 sections 2.5.2, 2.5.3 and 2.7).
    #[inline(always)]
    fn is_martian_source(self) -> bool {
        self.is_multicast() || self.is_local()
    }
}

impl Special for V4 {
    #[inline(always)]
    fn may_be_special(self) -> bool {
        // 224.0.0.0/3 and, after the wrap-around, 0.0.0.0/8.
        self.wrapping_add(32 << 24) < 33 << 24 || matches!(self >> 24, 127 | 169)
    }

    /// 224.0.0.0/4, and the limited broadcast address.
    #[inline(always)]
    fn is_multicast(self) -> bool {
        self >> 28 == 0xe || self == u32::MAX
    }

    /// 169.254.0.0/16.
    #[inline(always)]
    fn is_link_local(self) -> bool {
        self >> 16 == 0xa9fe
    }

    /// 127.0.0.0/8 and 0.0.0.0/8.
    #[inline(always)]
    fn is_local(self) -> bool {
        matches!(self >> 24, 127 | 0)
    }

    #[inline(always)]
    fn is_unspecified(self) -> bool {
        self == 0
    }

    #[inline(always)]
    fn is_of_any_link(self) -> bool {
        false
    }
}

impl Special for V6 {
    #[inline(always)]
    fn may_be_special(self) -> bool {
        // `fe00::/7` and, after the wrap-around, `::/8`.
        self[0].wrapping_add(2 << 56) < 3 << 56
    }

    /// `ff00::/8`.
    #[inline(always)]
    fn is_multicast(self) -> bool {
        self[0] >> 56 == 0xff
    }

    /// `fe80::/10`.
    #[inline(always)]
    fn is_link_local(self) -> bool {
        self[0] >> 54 == 0xfe80 >> 6
    }

    /// `::` and `::1`.
    #[inline(always)]
    fn is_local(self) -> bool {
        self[0] == 0 && self[1] <= 1
    }

    #[inline(always)]
    fn is_unspecified(self) -> bool {
        self == [0, 0]
    }

    #[inline(always)]
    fn is_of_any_link(self) -> bool {
        self.is_link_local()
    }
}
