//! Translation of a site's own addresses to those that the hub knows it by: `TRANSLATIONS`.

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
        v4: [Translation { site: 0, hub: 0, mask: 0 }; TRANSLATIONS_PER_INTERFACE],
        v6: [Translation { site: [0; 2], hub: [0; 2], mask: [0; 2] }; TRANSLATIONS_PER_INTERFACE],
    };
}

const _: () = assert!(size_of::<Translations>() == 8 + TRANSLATIONS_PER_INTERFACE * (12 + 48));
