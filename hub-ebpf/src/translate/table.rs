//! Looks up the translations of an interface, and changes addresses in headers.

use hub_common::{
    checksum,
    maps::{TRANSLATIONS_PER_INTERFACE, Translation, Translations},
};

use super::{FRAGMENT_OFFSET, NOT_PLAIN, TO_SITE_BIT, UDP, V6_BIT};
use crate::{
    family::{Address, V4, V6},
    frame::Frame,
    headers::{Ipv4, Ipv6},
    maps,
    parse::TCP,
};

/// The part of translation that differs by family.
pub trait Translate: Address {
    /// [`V6_BIT`], or 0.
    const BIT: u32;

    /// Translates the address by this table. `bits`: [`TO_SITE_BIT`] or 0. Returns what a sum over the address grew by; 0
    /// if it has not changed. An address without a counterpart on the other side becomes loopback, without a sum.
    #[must_use]
    fn translate(&mut self, table: u32, bits: u32) -> u16;

    /// The same as a part of the caller: for a small program.
    #[must_use]
    fn translate_here(&mut self, table: u32, bits: u32) -> u16;

    /// Replaces an address in the header at `offset`: the destination with [`TO_SITE_BIT`], otherwise the source. Updates
    /// the sums over the header. `change`: see [`Self::translate`]. Returns as [`Self::plain`].
    fn replace<F: Frame>(self, frame: &mut F, offset: usize, bits: u32, change: u16) -> u8;

    /// The protocol of the usual packet: TCP or UDP directly behind an IP header without options, no later fragment.
    /// Otherwise [`NOT_PLAIN`].
    fn plain<F: Frame>(frame: &F, offset: usize) -> u8;
}

impl Translate for V4 {
    const BIT: u32 = 0;

    #[inline(always)]
    fn translate(&mut self, table: u32, bits: u32) -> u16 {
        let result = translate_v4(table, bits.into(), (*self).into());
        *self = result as Self;
        (result >> 32) as u16
    }

    #[inline(always)]
    fn translate_here(&mut self, table: u32, bits: u32) -> u16 {
        let result = translated_v4(table, bits.into(), (*self).into());
        *self = result as Self;
        (result >> 32) as u16
    }

    #[inline(always)]
    fn replace<F: Frame>(self, frame: &mut F, offset: usize, bits: u32, change: u16) -> u8 {
        let Some(header) = frame.at_mut::<Ipv4>(offset) else { return NOT_PLAIN };
        let field = if bits & TO_SITE_BIT == 0 { &mut header.source } else { &mut header.destination };
        *field = self.to_be_bytes();
        header.checksum = checksum::adjusted(u16::from_ne_bytes(header.checksum), change).to_ne_bytes();
        plain_v4(header)
    }

    #[inline(always)]
    fn plain<F: Frame>(frame: &F, offset: usize) -> u8 {
        frame.at::<Ipv4>(offset).map_or(NOT_PLAIN, plain_v4)
    }
}

impl Translate for V6 {
    const BIT: u32 = V6_BIT;

    #[inline(always)]
    fn translate(&mut self, table: u32, bits: u32) -> u16 {
        // The program keeps addresses in registers: only the copy needs to be in memory.
        let mut address = *self;
        let change = translate_v6(table, bits.into(), &raw mut address);
        *self = address;
        change as u16
    }

    #[inline(always)]
    fn translate_here(&mut self, table: u32, bits: u32) -> u16 {
        translated_v6(table, bits.into(), self) as u16
    }

    #[inline(always)]
    fn replace<F: Frame>(self, frame: &mut F, offset: usize, bits: u32, change: u16) -> u8 {
        let Some(header) = frame.at_mut::<Ipv6>(offset) else { return NOT_PLAIN };
        let field = if bits & TO_SITE_BIT == 0 { &mut header.source } else { &mut header.destination };
        *field = self.map(u64::to_be_bytes);
        let plain = plain_v6(header);
        // IPv6 has no header checksum.
        frame.data_changed(change);
        plain
    }

    #[inline(always)]
    fn plain<F: Frame>(frame: &F, offset: usize) -> u8 {
        frame.at::<Ipv6>(offset).map_or(NOT_PLAIN, plain_v6)
    }
}

#[inline(always)]
fn plain_v4(header: &Ipv4) -> u8 {
    match header {
        Ipv4 { version_and_length: 0x45, fragment, protocol: protocol @ (TCP | UDP), .. }
            if u16::from_be_bytes(*fragment) & FRAGMENT_OFFSET == 0 =>
        {
            *protocol
        }
        _ => NOT_PLAIN,
    }
}

#[inline(always)]
fn plain_v6(header: &Ipv6) -> u8 {
    match header.next_header {
        protocol @ (TCP | UDP) => protocol,
        _ => NOT_PLAIN,
    }
}

/// The translated address, and above it what a sum over it grew by. Words of 64 bits, here and below: the compiler would
/// extend shorter ones again and again.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn translate_v4(table: u32, bits: u64, address: u64) -> u64 {
    translated_v4(table, bits, address)
}

#[inline(always)]
fn translated_v4(table: u32, bits: u64, address: u64) -> u64 {
    const LOOPBACK: u64 = 0x7f00_0001;
    let Some(Translations { counts, v4, .. }) = maps::TRANSLATIONS.get(table) else { return address };
    let is_in = |prefix: u32, mask: u32| (address ^ u64::from(prefix)) & u64::from(mask) == 0;
    match find(v4, counts[0], bits, is_in) {
        Some((Translation { site, hub, .. }, change)) => change << 32 | address ^ u64::from(site ^ hub),
        None if is_impossible(v4, counts[0], bits, is_in) => LOOPBACK,
        None => address,
    }
}

/// Replaces the address, and returns what a sum over it grew by.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn translate_v6(table: u32, bits: u64, address: *mut V6) -> u64 {
    // SAFETY: the verifier has checked that it is null or the caller's.
    let Some(address) = (unsafe { address.as_mut() }) else { return 0 };
    translated_v6(table, bits, address)
}

#[inline(always)]
fn translated_v6(table: u32, bits: u64, address: &mut V6) -> u64 {
    let Some(Translations { counts, v6, .. }) = maps::TRANSLATIONS.get(table) else { return 0 };
    let [high, low] = *address;
    let is_in = |prefix: V6, mask: V6| (high ^ prefix[0]) & mask[0] | (low ^ prefix[1]) & mask[1] == 0;
    match find(v6, counts[1], bits, is_in) {
        Some((Translation { site, hub, .. }, change)) => {
            *address = [high ^ site[0] ^ hub[0], low ^ site[1] ^ hub[1]];
            return change;
        }
        None if is_impossible(v6, counts[1], bits, is_in) => *address = [0, 1],
        None => {}
    }
    0
}

/// The translation that an address is in, and what a sum over it grows by. `is_in`: whether it is in the prefix with this
/// mask.
#[inline(always)]
fn find<A: Copy>(
    entries: &[Translation<A>; TRANSLATIONS_PER_INTERFACE],
    count: u32,
    bits: u64,
    is_in: impl Fn(A, A) -> bool,
) -> Option<(&Translation<A>, u64)> {
    for (_, translation) in (0..).zip(entries).take_while(|(index, _)| *index < u64::from(count)) {
        let Translation { site, hub, mask, changes } = *translation;
        let (from, change) = if bits == 0 { (site, changes[0]) } else { (hub, changes[1]) };
        if is_in(from, mask) {
            return Some((translation, change.into()));
        }
    }
    None
}

/// Whether an address that is in no translation is another one's on the other side.
#[inline(always)]
fn is_impossible<A: Copy>(
    entries: &[Translation<A>; TRANSLATIONS_PER_INTERFACE],
    count: u32,
    bits: u64,
    is_in: impl Fn(A, A) -> bool,
) -> bool {
    let mut used = (0..).zip(entries).take_while(|(index, _)| *index < u64::from(count));
    used.any(|(_, Translation { site, hub, mask, .. })| is_in(if bits == 0 { *hub } else { *site }, *mask))
}
