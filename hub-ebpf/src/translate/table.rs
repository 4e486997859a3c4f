//! Looks up the translations of an interface.

use hub_common::{
    checksum,
    maps::{TRANSLATIONS_PER_INTERFACE, Translation},
};

use super::{FRAGMENT_OFFSET, NO_CHANGE, TO_SITE_BIT, UDP, V6_BIT, difference_v6};
use crate::{
    family::{Address, V4, V6},
    frame::Frame,
    headers::{Ipv4, Ipv6},
    maps,
    parse::TCP,
};

/// Results of the look-ups other than an IPv4 address or the index of a translation.
const UNCHANGED: u64 = 1 << 32;
const IMPOSSIBLE: u64 = 1 << 33;

/// The part of translation that differs by family.
pub trait Translate: Address + PartialEq {
    /// [`V6_BIT`], or 0.
    const BIT: u32;
    /// No address is translated to it.
    const LOOPBACK: Self;

    /// The address after translation; `otherwise` if it has no counterpart on the other side. `bits`: [`TO_SITE_BIT`] or
    /// 0. Not an `Option`: the compiler copies its undefined content, which the verifier rejects.
    #[must_use]
    fn translated_or(self, translations: u32, bits: u32, otherwise: Self) -> Self;

    /// As [`Self::translated_or`], for [`apply`](super::apply).
    #[inline(always)]
    fn translated(self, translations: u32, bits: u32) -> Option<Self> {
        let new = self.translated_or(translations, bits, Self::LOOPBACK);
        if new == Self::LOOPBACK { None } else { Some(new) }
    }

    /// Bytes of an IP header without options.
    const HEADER_LENGTH: usize;

    /// Translates the source from and the destination to an interface with these translations, 0 for none, in the header of
    /// a TCP or UDP packet without options that is no later fragment; and updates the sums over the header. Returns the
    /// protocol, and by what the addresses changed. `None` for any other packet.
    fn replace<F: Frame>(frame: &mut F, offset: usize, from: u32, to: u32) -> Option<(u8, u16)>;
}

impl Translate for V4 {
    const BIT: u32 = 0;
    const HEADER_LENGTH: usize = size_of::<Ipv4>();
    const LOOPBACK: Self = 0x7f00_0001;

    #[inline(always)]
    fn translated_or(self, translations: u32, bits: u32, otherwise: Self) -> Self {
        match translate_v4(translations, bits & TO_SITE_BIT, self) {
            IMPOSSIBLE => otherwise,
            address => address as u32,
        }
    }

    #[inline(always)]
    fn replace<F: Frame>(frame: &mut F, offset: usize, from: u32, to: u32) -> Option<(u8, u16)> {
        let header = frame.at_mut::<Ipv4>(offset)?;
        let is_later = u16::from_be_bytes(header.fragment) & FRAGMENT_OFFSET != 0;
        if header.version_and_length != 0x45 || is_later || !matches!(header.protocol, TCP | UDP) {
            return None;
        }
        let mut change = NO_CHANGE;
        if from != 0 {
            let old = u32::from_be_bytes(header.source);
            let new = old.translated_or(from, 0, old);
            if old != new {
                header.source = new.to_be_bytes();
                change = checksum::difference_of(old.to_be_bytes(), header.source);
            }
        }
        if to != 0 {
            let old = u32::from_be_bytes(header.destination);
            let new = old.translated_or(to, TO_SITE_BIT, old);
            if old != new {
                header.destination = new.to_be_bytes();
                change = checksum::sum(change, checksum::difference_of(old.to_be_bytes(), header.destination));
            }
        }
        if change != NO_CHANGE {
            header.checksum = checksum::adjusted(u16::from_ne_bytes(header.checksum), change).to_ne_bytes();
        }
        Some((header.protocol, change))
    }
}

impl Translate for V6 {
    const BIT: u32 = V6_BIT;
    const HEADER_LENGTH: usize = size_of::<Ipv6>();
    const LOOPBACK: Self = [0, 1];

    #[inline(always)]
    fn translated_or(self, translations: u32, bits: u32, otherwise: Self) -> Self {
        let found = find_v6(translations, bits & TO_SITE_BIT, self[0], self[1]);
        let Some(table) = maps::TRANSLATIONS.get(translations) else { return otherwise };
        match found {
            UNCHANGED => self,
            IMPOSSIBLE => otherwise,
            // Masked for the verifier, which forgets the bound of a value that it finds on the stack.
            index => {
                let Translation { site, hub, .. } = table.v6[index as usize & (TRANSLATIONS_PER_INTERFACE - 1)];
                [self[0] ^ site[0] ^ hub[0], self[1] ^ site[1] ^ hub[1]]
            }
        }
    }

    #[inline(always)]
    fn replace<F: Frame>(frame: &mut F, offset: usize, from: u32, to: u32) -> Option<(u8, u16)> {
        let header = frame.at_mut::<Ipv6>(offset)?;
        let protocol = header.next_header;
        if !matches!(protocol, TCP | UDP) {
            return None;
        }
        let mut change = NO_CHANGE;
        if from != 0 {
            let old = header.source;
            let address = old.map(u64::from_be_bytes);
            let new = address.translated_or(from, 0, address).map(u64::to_be_bytes);
            if old != new {
                header.source = new;
                change = difference_v6(old, new);
            }
        }
        if to != 0 {
            let old = header.destination;
            let address = old.map(u64::from_be_bytes);
            let new = address.translated_or(to, TO_SITE_BIT, address).map(u64::to_be_bytes);
            if old != new {
                header.destination = new;
                change = checksum::sum(change, difference_v6(old, new));
            }
        }
        if change != NO_CHANGE {
            frame.data_changed(change);
        }
        Some((protocol, change))
    }
}

/// The address after translation, or [`IMPOSSIBLE`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn translate_v4(translations: u32, bits: u32, address: u32) -> u64 {
    let mut result = address.into();
    let Some(table) = maps::TRANSLATIONS.get(translations) else { return result };
    for index in 0..TRANSLATIONS_PER_INTERFACE {
        if index as u32 >= table.counts[0] {
            break;
        }
        let Translation { site, hub, mask } = table.v4[index];
        let (from, to) = if bits == 0 { (site, hub) } else { (hub, site) };
        let network = address & mask;
        if network == from {
            return (address ^ site ^ hub).into();
        }
        if network == to {
            result = IMPOSSIBLE;
        }
    }
    result
}

/// The index of the translation that an address is in; [`UNCHANGED`] or [`IMPOSSIBLE`] if it is in none.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_v6(translations: u32, bits: u32, high: u64, low: u64) -> u64 {
    let mut result = UNCHANGED;
    let Some(table) = maps::TRANSLATIONS.get(translations) else { return result };
    for index in 0..TRANSLATIONS_PER_INTERFACE {
        if index as u32 >= table.counts[1] {
            break;
        }
        let Translation { site, hub, mask } = table.v6[index];
        let (from, to) = if bits == 0 { (site, hub) } else { (hub, site) };
        let network = [high & mask[0], low & mask[1]];
        if network == from {
            return index as u64;
        }
        if network == to {
            result = IMPOSSIBLE;
        }
    }
    result
}
