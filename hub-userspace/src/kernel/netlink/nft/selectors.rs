//! Selector pairs in the form that the kernel's interval sets accept. Pure.
//!
//! A set of concatenated intervals refuses an element whose first or last key lies in another one (`nft_pipapo_insert`
//! in `net/netfilter/nft_set_pipapo.c`). So overlapping pairs are split into disjoint rectangles. Equal unions of pairs
//! give equal rectangles.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

/// First and last address; IPv4 addresses are numbers below 2^32.
pub type Range = (u128, u128);

/// All addresses of the hub's range with all of the site's range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rectangle {
    pub hub: Range,
    pub site: Range,
}

pub fn range(net: IpNet) -> Range {
    (number(net.network()), number(net.broadcast()))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Covers the same pairs with rectangles that do not overlap.
///
/// Hub addresses with the same site ranges are grouped. Ranges are as long as possible.
pub fn disjoint(pairs: &[Rectangle]) -> Vec<Rectangle> {
    // Where a range begins, or the address after its end.
    let borders: BTreeSet<u128> =
        pairs.iter().flat_map(|pair| [Some(pair.hub.0), pair.hub.1.checked_add(1)]).flatten().collect();
    let mut strips: Vec<(Range, Vec<Range>)> = Vec::new();
    let mut ends = borders.iter().skip(1).map(|next| next - 1).chain([u128::MAX]);
    for (&start, end) in borders.iter().zip(&mut ends) {
        let sites = merged(pairs.iter().filter(|pair| (pair.hub.0..=pair.hub.1).contains(&start)));
        if sites.is_empty() {
            continue;
        }
        match strips.last_mut() {
            Some((hub, same)) if *same == sites && hub.1.checked_add(1) == Some(start) => hub.1 = end,
            _ => strips.push(((start, end), sites)),
        }
    }
    strips.into_iter().flat_map(|(hub, sites)| sites.into_iter().map(move |site| Rectangle { hub, site })).collect()
}

/// The union of the site's ranges, in as few ranges as possible.
fn merged<'a>(pairs: impl Iterator<Item = &'a Rectangle>) -> Vec<Range> {
    let mut ranges: Vec<Range> = pairs.map(|pair| pair.site).collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, before| {
        let touches = before.1.checked_add(1).is_none_or(|behind| next.0 <= behind);
        if touches {
            before.1 = before.1.max(next.1);
        }
        touches
    });
    ranges
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

    use super::*;

    fn pair(hub: &str, site: &str) -> Rectangle {
        Rectangle { hub: range(hub.parse().unwrap()), site: range(site.parse().unwrap()) }
    }

    #[test]
    fn contained_pairs_are_dropped_and_adjacent_ones_joined() {
        let outer = pair("0.0.0.0/0", "10.0.0.0/8");
        assert_eq!(disjoint(&[outer, pair("192.168.0.0/16", "10.1.0.0/16")]), [outer]);
        assert_eq!(disjoint(&[pair("::/0", "::/1"), pair("::/0", "8000::/1")]), [pair("::/0", "::/0")]);
        let hub = [pair("10.0.0.0/9", "10.9.0.0/16"), pair("10.128.0.0/9", "10.9.0.0/16")];
        assert_eq!(disjoint(&hub), [pair("10.0.0.0/8", "10.9.0.0/16")]);
    }

    #[test]
    fn random_pairs_become_disjoint_cover_in_any_order() {
        let mut random = SmallRng::seed_from_u64(1);
        for _ in 0..2000 {
            let mut side = || {
                let length = random.random_range(0..=4_u8);
                let net = random.random_range(0..16_u32) << 28;
                range(IpNet::new(IpAddr::V4(net.into()), length).unwrap().trunc())
            };
            let mut pairs: Vec<_> = (0..6).map(|_| Rectangle { hub: side(), site: side() }).collect();
            let cut = disjoint(&pairs);
            for (hub, site) in (0..16).flat_map(|hub| (0..16).map(move |site| (hub << 28, site << 28))) {
                let covers = |one: &&Rectangle| {
                    (one.hub.0..=one.hub.1).contains(&hub) && (one.site.0..=one.site.1).contains(&site)
                };
                let times = cut.iter().filter(covers).count();
                assert_eq!(times, usize::from(pairs.iter().any(|pair| covers(&pair))), "{pairs:x?} {cut:x?}");
            }
            pairs.reverse();
            assert_eq!(disjoint(&pairs), cut);
        }
    }
}
