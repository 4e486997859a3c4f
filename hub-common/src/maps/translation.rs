//! Translation of a site's own addresses to those that the hub knows it by: `TRANSLATIONS`.

use crate::checksum::{difference_of, sum};

/// Translations of one family on an interface.
pub const TRANSLATIONS_PER_INTERFACE: usize = 16;

/// A prefix of a site and the prefix of the same length that stands for it at the hub. Addresses are integers in the
/// program's byte order; host bits are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Translation<A> {
    /// The site's own prefix.
    pub site: A,
    /// The prefix at the hub.
    pub hub: A,
    /// The network bits of both.
    pub mask: A,
    /// What a sum over an address grows by, a [`difference`](crate::checksum::difference) in network byte order: from the
    /// site's to the hub's, and back. It is the same for all addresses, and never 0.
    pub changes: [u32; 2],
}

impl Translation<u32> {
    const NONE: Self = Self { site: 0, hub: 0, mask: 0, changes: [0; 2] };

    pub fn new(site: u32, hub: u32, mask: u32) -> Self {
        let change = |old: u32, new: u32| u32::from(difference_of(old.to_be_bytes(), new.to_be_bytes()));
        Self { site, hub, mask, changes: [change(site, hub), change(hub, site)] }
    }
}

impl Translation<[u64; 2]> {
    const NONE: Self = Self { site: [0; 2], hub: [0; 2], mask: [0; 2], changes: [0; 2] };

    pub fn new(site: [u64; 2], hub: [u64; 2], mask: [u64; 2]) -> Self {
        let half = |old: u64, new: u64| difference_of(old.to_be_bytes(), new.to_be_bytes());
        let change = |old: [u64; 2], new: [u64; 2]| u32::from(sum(half(old[0], new[0]), half(old[1], new[1])));
        Self { site, hub, mask, changes: [change(site, hub), change(hub, site)] }
    }
}

/// Value of `TRANSLATIONS`: what is translated on an interface, IPv4 and IPv6. An entry that an attachment points to
/// never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct Translations {
    /// Used elements of `v4` and `v6`.
    pub counts: [u32; 2],
    /// Of different sites no prefix overlaps, neither the sites' own nor those at the hub.
    pub v4: [Translation<u32>; TRANSLATIONS_PER_INTERFACE],
    /// High half and low half.
    pub v6: [Translation<[u64; 2]>; TRANSLATIONS_PER_INTERFACE],
}

impl Translations {
    pub const NONE: Self = Self {
        counts: [0; 2],
        v4: [Translation::<u32>::NONE; TRANSLATIONS_PER_INTERFACE],
        v6: [Translation::<[u64; 2]>::NONE; TRANSLATIONS_PER_INTERFACE],
    };
}

const _: () = assert!(size_of::<Translations>() == 8 + TRANSLATIONS_PER_INTERFACE * (20 + 56));
