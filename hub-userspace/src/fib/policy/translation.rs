//! The translations of an interface.

use std::net::Ipv6Addr;

use hub_common::maps::{Translation, Translations};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Carried, PolicyCompiler};
use crate::{fib::id_allocator::Full, kernel::netlink::Link};

/// [`hub_common::maps::Attachment::translations`] of an interface without.
pub const NO_TRANSLATIONS: u32 = 0;

impl PolicyCompiler<'_> {
    /// Compiles the translations of an interface with these connections; returns their index. Selectors do not change
    /// them.
    pub(super) fn translations(&mut self, link: &Link, connections: &[Carried<'_>]) -> Result<u32, Full> {
        if self.is_partial {
            let attachment = self.before.attachments.get(&link.index);
            return Ok(attachment.map_or(NO_TRANSLATIONS, |attachment| attachment.translations));
        }
        let translations = of_interface(connections);
        if translations == Translations::NONE {
            return Ok(NO_TRANSLATIONS);
        }
        let index = self.layout.translations.take(translations)?;
        self.entries.tables.translations.insert(index, translations);
        Ok(index)
    }
}

/// `check` has limited their number.
fn of_interface(connections: &[Carried<'_>]) -> Translations {
    let mut all = Translations::NONE;
    let [v4, v6] = &mut all.counts;
    for translation in connections.iter().flat_map(|carried| &carried.connection.translate) {
        match (translation.site, translation.hub) {
            (IpNet::V4(site), IpNet::V4(hub)) => {
                all.v4[*v4 as usize] = v4_of(site, hub);
                *v4 += 1;
            }
            (IpNet::V6(site), IpNet::V6(hub)) => {
                all.v6[*v6 as usize] = v6_of(site, hub);
                *v6 += 1;
            }
            _ => unreachable!("both are of one family"),
        }
    }
    all
}

fn v4_of(site: Ipv4Net, hub: Ipv4Net) -> Translation<u32> {
    Translation::<u32>::new(site.network().to_bits(), hub.network().to_bits(), site.netmask().to_bits())
}

fn v6_of(site: Ipv6Net, hub: Ipv6Net) -> Translation<[u64; 2]> {
    let halves = |address: Ipv6Addr| {
        let bits = address.to_bits();
        [(bits >> 64) as u64, bits as u64]
    };
    Translation::<[u64; 2]>::new(halves(site.network()), halves(hub.network()), halves(site.netmask()))
}
