//! Stateless 1:1 translation between the addresses that a site uses and those by which the hub knows it.
//!
//! Two views of a site's addresses: *site-side* addresses are in packets on the connection, in its SA selectors and in
//! `remote_cidrs`. *Hub-side* addresses are everywhere else: in routes, in the reverse-path check, and in packets of all
//! other connections. Each [`Translation`] maps a `site` prefix to a `hub` prefix of the same length and preserves the
//! host bits, so there is no state. Addresses of other networks are never translated.

mod draft;
mod rules;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;

#[cfg(test)]
pub(super) use self::draft::KEYS;
pub(super) use self::{
    draft::{MOST_PARTS, TranslateDraft, TranslationDraft},
    rules::validate,
};

/// Maximum translations of all connections on an interface, for each IP version.
pub use hub_common::maps::TRANSLATIONS_PER_INTERFACE;

/// Maps the addresses of `site` to those of `hub`, and back. Both are of one IP version and of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Translation {
    /// As the site uses them.
    pub site: IpNet,
    /// As the hub and all other networks see them.
    pub hub: IpNet,
}

/// The translations of one connection. No two `site` prefixes overlap, and no two `hub` prefixes. A `site` prefix may
/// overlap a `hub` prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Translations(Vec<Translation>);

/// From one side of a translation to the other.
#[derive(Clone, Copy)]
struct Direction {
    from: fn(&Translation) -> IpNet,
    to: fn(&Translation) -> IpNet,
}

const TO_HUB: Direction = Direction { from: |translation| translation.site, to: |translation| translation.hub };
const TO_SITE: Direction = Direction { from: |translation| translation.hub, to: |translation| translation.site };

impl FromIterator<Translation> for Translations {
    fn from_iter<I: IntoIterator<Item = Translation>>(translations: I) -> Self {
        Self(translations.into_iter().collect())
    }
}

impl<'t> IntoIterator for &'t Translations {
    type Item = &'t Translation;
    type IntoIter = std::slice::Iter<'t, Translation>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Translations {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of the configuration.
    pub fn iter(&self) -> std::slice::Iter<'_, Translation> {
        self.0.iter()
    }

    /// The hub-side address of a site-side one. `None` for an address that the hub cannot express: it is in a `hub`
    /// prefix, where it would mean another host of the site.
    pub fn to_hub(&self, address: IpAddr) -> Option<IpAddr> {
        self.address(address, TO_HUB)
    }

    /// The site-side address of a hub-side one; the inverse of [`Self::to_hub`]. `None` for an address in a `site`
    /// prefix, which means no host of the site.
    pub fn to_site(&self, address: IpAddr) -> Option<IpAddr> {
        self.address(address, TO_SITE)
    }

    /// The hub-side addresses of a site-side prefix: exactly the results of [`Self::to_hub`], as the fewest prefixes,
    /// sorted and disjoint. May be empty.
    pub fn prefixes_at_hub(&self, prefix: IpNet) -> Vec<IpNet> {
        self.prefixes(prefix, TO_HUB)
    }

    /// The site-side addresses of a hub-side prefix, as [`Self::prefixes_at_hub`].
    pub fn prefixes_at_site(&self, prefix: IpNet) -> Vec<IpNet> {
        self.prefixes(prefix, TO_SITE)
    }

    /// The part of a prefix that is the same on both sides: without all `site` and `hub` prefixes. Sorted and disjoint.
    pub fn unchanged(&self, prefix: IpNet) -> Vec<IpNet> {
        self.first_unchanged(prefix, usize::MAX)
    }

    /// As [`Self::unchanged`], the first `most` prefixes.
    pub(super) fn first_unchanged(&self, prefix: IpNet, most: usize) -> Vec<IpNet> {
        without(prefix, self.iter().flat_map(|translation| [translation.site, translation.hub]), most)
    }

    /// A prefix without the `site` prefixes: the part that means other networks to this site.
    pub fn without_site(&self, prefix: IpNet) -> Vec<IpNet> {
        without(prefix, self.iter().map(|translation| translation.site), usize::MAX)
    }

    fn address(&self, address: IpAddr, Direction { from, to }: Direction) -> Option<IpAddr> {
        match self.iter().find(|translation| from(translation).contains(&address)) {
            Some(translation) => Some(map(address, to(translation))),
            None if self.iter().any(|translation| to(translation).contains(&address)) => None,
            None => Some(address),
        }
    }

    fn prefixes(&self, prefix: IpNet, direction: Direction) -> Vec<IpNet> {
        if self.is_empty() {
            return vec![prefix];
        }
        let Direction { from, to } = direction;
        let translated = self.iter().filter_map(|translation| image(prefix, from(translation), to(translation)));
        // A translated part may continue an unchanged one.
        IpNet::aggregate(&translated.chain(self.unchanged(prefix)).collect())
    }
}

impl Translation {
    /// The hub-side prefix of the part of `prefix` that is in `site`.
    pub fn part_at_hub(&self, prefix: IpNet) -> Option<IpNet> {
        image(prefix, self.site, self.hub)
    }
}

/// The host bits of `address` in the network `to`, which has the same IP version.
fn map(address: IpAddr, to: IpNet) -> IpAddr {
    match (address, to) {
        (IpAddr::V4(address), IpNet::V4(to)) => IpAddr::V4((address & to.hostmask()) | to.network()),
        (IpAddr::V6(address), IpNet::V6(to)) => IpAddr::V6((address & to.hostmask()) | to.network()),
        _ => address,
    }
}

/// The part of `prefix` within `from`, mapped to `to`, which has the length of `from`.
fn image(prefix: IpNet, from: IpNet, to: IpNet) -> Option<IpNet> {
    if prefix.contains(&from) {
        return Some(to);
    }
    let is_within = from.contains(&prefix);
    is_within.then(|| IpNet::new(map(prefix.network(), to), prefix.prefix_len()).ok()).flatten()
}

/// `prefix` without `excluded`, as the fewest prefixes, sorted. Each excluded prefix splits at most one prefix of every
/// length, so it adds at most 32 (IPv4) or 128 (IPv6). Stops after `most`.
fn without(prefix: IpNet, excluded: impl Iterator<Item = IpNet>, most: usize) -> Vec<IpNet> {
    let mut excluded: Vec<IpNet> =
        excluded.filter(|excluded| excluded.contains(&prefix) || prefix.contains(excluded)).collect();
    excluded.sort_unstable();
    let mut parts = Vec::new();
    split(prefix, &excluded, most, &mut parts);
    parts
}

/// As [`without`]; `excluded` is sorted, and each of it overlaps `prefix`.
fn split(prefix: IpNet, excluded: &[IpNet], most: usize, parts: &mut Vec<IpNet>) {
    match excluded.first() {
        _ if parts.len() >= most => {}
        None => parts.push(prefix),
        // Those that contain it sort before those that it contains.
        Some(first) if first.contains(&prefix) => {}
        Some(_) => {
            // A prefix that contains a longer one has two halves, and each excluded prefix is in one of them.
            let mut rest = excluded;
            for half in prefix.subnets(prefix.prefix_len() + 1).into_iter().flatten() {
                let (here, others) = rest.split_at(rest.partition_point(|inner| inner.network() <= half.broadcast()));
                split(half, here, most, parts);
                rest = others;
            }
        }
    }
}
