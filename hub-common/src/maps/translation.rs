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
    /// site's to the hub's, and back. It is the same for all addresses; 0 only if both prefixes are equal.
    pub changes: [u32; 2],
}

impl Translation<u32> {
    const NONE: Self = Self { site: 0, hub: 0, mask: 0, changes: [0; 2] };

    pub fn new(site: u32, hub: u32, mask: u32) -> Self {
        let change = |old: u32, new: u32| match old == new {
            // Nothing changes, not even the representation of a sum that is 0.
            true => 0,
            false => u32::from(difference_of(old.to_be_bytes(), new.to_be_bytes())),
        };
        Self { site, hub, mask, changes: [change(site, hub), change(hub, site)] }
    }
}

impl Translation<[u64; 2]> {
    const NONE: Self = Self { site: [0; 2], hub: [0; 2], mask: [0; 2], changes: [0; 2] };

    pub fn new(site: [u64; 2], hub: [u64; 2], mask: [u64; 2]) -> Self {
        let half = |old: u64, new: u64| difference_of(old.to_be_bytes(), new.to_be_bytes());
        let change = |old: [u64; 2], new: [u64; 2]| match old == new {
            true => 0,
            false => u32::from(sum(half(old[0], new[0]), half(old[1], new[1]))),
        };
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

#[cfg(test)]
mod tests {
    use super::Translation;
    use crate::checksum::adjusted;

    /// RFC 1071 over 16-bit words in network byte order.
    fn full(words: impl IntoIterator<Item = u16>) -> u16 {
        let sum: u64 = words.into_iter().map(u64::from).sum();
        !(0..4).fold(sum, |sum, _| (sum & 0xffff) + (sum >> 16)) as u16
    }

    fn words_v4(address: u32) -> [u16; 2] {
        [(address >> 16) as u16, address as u16]
    }

    fn words_v6(address: [u64; 2]) -> impl Iterator<Item = u16> {
        address.into_iter().flat_map(|half| [48, 32, 16, 0].map(|shift| (half >> shift) as u16))
    }

    #[test]
    fn one_change_fits_all_addresses_of_a_translation() {
        let prefixes = [0x0a01_0000, 0x0a02_0000, 0xc0a8_0000, 0xffff_0000, 0x0001_0000];
        for (site, hub) in prefixes.iter().flat_map(|site| prefixes.map(|hub| (*site, hub))) {
            let Translation { changes, .. } = Translation::<u32>::new(site, hub, 0xffff_0000);
            let wide = Translation::<[u64; 2]>::new([u64::from(site), 0], [u64::from(hub), 0], [u64::MAX, 0]).changes;
            for host in [0, 1, 0x00ff, 0x7fff, 0xff00, 0xfffe, 0xffff] {
                for (changes, sums) in [
                    (changes, [site, hub].map(|prefix| full([words_v4(prefix | host)[0], host as u16, 0x4511]))),
                    (wide, [site, hub].map(|prefix| full(words_v6([prefix.into(), host.into()]).chain([0x4511])))),
                ] {
                    let change = |direction: usize| (changes[direction] as u16).to_be();
                    assert_eq!(adjusted(sums[0], change(0)), sums[1], "{site:#x} {hub:#x} {host:#x}");
                    assert_eq!(adjusted(sums[1], change(1)), sums[0], "{site:#x} {hub:#x} {host:#x}");
                }
            }
        }
    }

    #[test]
    fn equal_prefixes_leave_even_a_sum_of_all_ones() {
        assert_eq!(Translation::<u32>::new(0x0a01_0000, 0x0a01_0000, 0xffff_0000).changes, [0; 2]);
        assert_eq!(Translation::<[u64; 2]>::new([1, 0], [1, 0], [u64::MAX, 0]).changes, [0; 2]);
        assert_eq!(adjusted(0xffff, 0), 0xffff);
    }
}
