//! Looks up the translations of an interface.

use hub_common::maps::{TRANSLATIONS_PER_INTERFACE, Translation};

use super::{TO_SITE_BIT, V6_BIT};
use crate::{
    family::{Address, V4, V6},
    maps,
};

/// Results of [`translation_find`] other than the index of a translation.
const UNCHANGED: u32 = 1 << 16;
const IMPOSSIBLE: u32 = 1 << 17;

/// The part of translation that differs by family.
pub trait Translate: Address {
    /// [`V6_BIT`], or 0.
    const BIT: u32;
    const LOOPBACK: Self;

    /// The address after translation; `None` if it has no counterpart on the other side. `bits`: [`TO_SITE_BIT`] or 0.
    fn translated(self, translations: u32, bits: u32) -> Option<Self>;
}

impl Translate for V4 {
    const BIT: u32 = 0;
    const LOOPBACK: Self = 0x7f00_0001;

    #[inline(always)]
    fn translated(self, translations: u32, bits: u32) -> Option<Self> {
        match translation_find(translations, bits & TO_SITE_BIT, self.into(), 0) {
            UNCHANGED => Some(self),
            index => {
                let Translation { site, hub, .. } = maps::TRANSLATIONS.get(translations)?.v4.get(index as usize)?;
                Some(self ^ site ^ hub)
            }
        }
    }
}

impl Translate for V6 {
    const BIT: u32 = V6_BIT;
    const LOOPBACK: Self = [0, 1];

    #[inline(always)]
    fn translated(self, translations: u32, bits: u32) -> Option<Self> {
        match translation_find(translations, bits & TO_SITE_BIT | V6_BIT, self[0], self[1]) {
            UNCHANGED => Some(self),
            index => {
                let Translation { site, hub, .. } = maps::TRANSLATIONS.get(translations)?.v6.get(index as usize)?;
                Some([self[0] ^ site[0] ^ hub[0], self[1] ^ site[1] ^ hub[1]])
            }
        }
    }
}

/// The index of the translation that an address is in; [`UNCHANGED`] or [`IMPOSSIBLE`] if it is in none. An IPv4
/// address is in `high`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn translation_find(translations: u32, bits: u32, high: u64, low: u64) -> u32 {
    let Some(table) = maps::TRANSLATIONS.get(translations) else { return UNCHANGED };
    let to_site = bits & TO_SITE_BIT != 0;
    let mut result = UNCHANGED;
    for index in 0..TRANSLATIONS_PER_INTERFACE {
        let (is_site, is_hub) = if bits & V6_BIT == 0 {
            if index as u32 >= table.counts[0] {
                break;
            }
            let Translation { site, hub, mask } = table.v4[index];
            let network = high as u32 & mask;
            (network == site, network == hub)
        } else {
            if index as u32 >= table.counts[1] {
                break;
            }
            let Translation { site, hub, mask } = table.v6[index];
            let network = [high & mask[0], low & mask[1]];
            (network == site, network == hub)
        };
        if if to_site { is_hub } else { is_site } {
            return index as u32;
        }
        if is_site || is_hub {
            result = IMPOSSIBLE;
        }
    }
    result
}
