//! Prefix images against the translation of single addresses: all small cases, and random large ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::{Translation, Translations};

/// Bits of the address in the small universe.
const BITS: u8 = 3;
/// Addresses of the small universe.
const SIZE: u8 = 1 << BITS;

/// A prefix of the small universe: its length within the universe, and its first address.
type Small = (u8, u8);

/// A universe within larger address space: the address with this number.
type Address = fn(u8) -> IpAddr;

const UNIVERSES: [(Address, u8); 4] = [
    (|number| Ipv4Addr::new(10, 0, 0, number).into(), 32),
    // The largest addresses: sums must not overflow.
    (|number| Ipv4Addr::from(u32::MAX - u32::from(SIZE - 1 - number)).into(), 32),
    // All of the address space.
    (|number| Ipv6Addr::from(u128::from(number) << (128 - BITS)).into(), BITS),
    (|number| Ipv6Addr::from((0xfd00 << 112) | u128::from(number)).into(), 128),
];

fn net(text: &str) -> IpNet {
    text.parse().expect(text)
}

fn address(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn translations(pairs: &[(&str, &str)]) -> Translations {
    pairs.iter().map(|(site, hub)| Translation { site: net(site), hub: net(hub) }).collect()
}

fn small_prefixes() -> impl Iterator<Item = Small> + Clone {
    (0..=BITS).flat_map(|length| (0..1 << length).map(move |index| (length, index << (BITS - length))))
}

fn contains((length, first): Small, number: u8) -> bool {
    number >> (BITS - length) == first >> (BITS - length)
}

fn overlap(one: Small, other: Small) -> bool {
    contains(one, other.1) || contains(other, one.1)
}

/// The definition: the number of the translated address.
fn defined(pairs: &[(Small, Small)], number: u8) -> Option<u8> {
    match pairs.iter().find(|(from, _)| contains(*from, number)) {
        Some(((_, from), (_, to))) => Some(number - from + to),
        None => (!pairs.iter().any(|(_, to)| contains(*to, number))).then_some(number),
    }
}

/// The fewest prefixes of a set of addresses, sorted.
fn fewest(set: &[bool], first: u8, length: u8) -> Vec<Small> {
    if set.iter().all(|is_in| *is_in) {
        return vec![(length, first)];
    }
    if !set.contains(&true) {
        return Vec::new();
    }
    let (low, high) = set.split_at(set.len() / 2);
    let middle = first + (1 << (BITS - length - 1));
    [fewest(low, first, length + 1), fewest(high, middle, length + 1)].concat()
}

/// Compares everything about these translations with the definition.
fn check_small(pairs: &[(Small, Small)]) {
    let inverse: Vec<(Small, Small)> = pairs.iter().map(|(site, hub)| (*hub, *site)).collect();
    for (address, width) in UNIVERSES {
        let prefix = |(length, first): Small| IpNet::new(address(first), width - BITS + length).expect("a prefix");
        let translations: Translations =
            pairs.iter().map(|&(site, hub)| Translation { site: prefix(site), hub: prefix(hub) }).collect();
        for number in 0..SIZE {
            let (to_hub, to_site) = (defined(pairs, number), defined(&inverse, number));
            assert_eq!(translations.to_hub(address(number)), to_hub.map(address), "{pairs:?}: {number}");
            assert_eq!(translations.to_site(address(number)), to_site.map(address), "{pairs:?}: {number}");
        }
        for small in small_prefixes() {
            let image = |pairs: &[(Small, Small)]| -> Vec<IpNet> {
                let mut set = [false; SIZE as usize];
                for number in (0..SIZE).filter(|number| contains(small, *number)) {
                    if let Some(image) = defined(pairs, number) {
                        set[usize::from(image)] = true;
                    }
                }
                fewest(&set, 0, 0).into_iter().map(prefix).collect()
            };
            assert_eq!(translations.prefixes_at_hub(prefix(small)), image(pairs), "{pairs:?}: {small:?}");
            assert_eq!(translations.prefixes_at_site(prefix(small)), image(&inverse), "{pairs:?}: {small:?}");
        }
    }
}

#[test]
fn prefix_images_equal_the_images_of_all_addresses() {
    let pairs = || {
        let of_one_length =
            |site: Small| small_prefixes().filter(move |hub| hub.0 == site.0).map(move |hub| (site, hub));
        small_prefixes().flat_map(of_one_length)
    };
    check_small(&[]);
    let mut checked = 0;
    for one in pairs() {
        check_small(&[one]);
        for other in pairs().filter(|other| !overlap(one.0, other.0) && !overlap(one.1, other.1)) {
            check_small(&[one, other]);
            checked += 1;
        }
    }
    assert!(checked > 3000, "{checked}");
}

/// Random translations without overlaps between their sites, or between their hubs.
fn draw(random: &mut SmallRng, is_ipv4: bool) -> Translations {
    let mut found: Vec<Translation> = Vec::new();
    for _ in 0..random.random_range(0..6) {
        let length = if is_ipv4 { random.random_range(1..=32) } else { random.random_range(1..=128) };
        let mut side = || IpNet::new(draw_address(random, is_ipv4), length).expect("a prefix").trunc();
        let new = Translation { site: side(), hub: side() };
        let overlap = |one: IpNet, other: IpNet| one.contains(&other) || other.contains(&one);
        if !found.iter().any(|old| overlap(old.site, new.site) || overlap(old.hub, new.hub)) {
            found.push(new);
        }
    }
    found.into_iter().collect()
}

/// Few values in the leading bits, so that prefixes of any length overlap often.
fn draw_address(random: &mut SmallRng, is_ipv4: bool) -> IpAddr {
    let mut bits = [0_u8; 16];
    for byte in &mut bits {
        *byte = [0, 1, 0x80, 0xff, random.random()][random.random_range(0..5)];
    }
    let bits = u128::from_be_bytes(bits);
    if is_ipv4 { Ipv4Addr::from((bits >> 96) as u32).into() } else { Ipv6Addr::from(bits).into() }
}

#[test]
fn random_translations_are_inverse_and_prefix_images_are_exact() {
    let mut random = SmallRng::seed_from_u64(11);
    let (mut translated, mut inexpressible) = (0, 0);
    for round in 0..4000 {
        let is_ipv4 = round % 2 == 0;
        let translations = draw(&mut random, is_ipv4);
        let length = if is_ipv4 { random.random_range(0..=32) } else { random.random_range(0..=128) };
        let prefix = IpNet::new(draw_address(&mut random, is_ipv4), length).expect("a prefix").trunc();
        let (at_hub, at_site) = (translations.prefixes_at_hub(prefix), translations.prefixes_at_site(prefix));
        for images in [&at_hub, &at_site] {
            assert_eq!(IpNet::aggregate(images), *images, "the fewest, sorted: {translations:?} {prefix}");
        }
        let is_in = |prefixes: &[IpNet], address: IpAddr| prefixes.iter().any(|prefix| prefix.contains(&address));
        // The edges of all prefixes, and addresses beside them.
        let mut sample: Vec<IpAddr> = (0..8).map(|_| draw_address(&mut random, is_ipv4)).collect();
        for edge in translations.iter().flat_map(|found| [found.site, found.hub]).chain([prefix]) {
            sample.extend([edge.network(), edge.broadcast()]);
        }
        for address in sample {
            let (hub, site) = (translations.to_hub(address), translations.to_site(address));
            translated += usize::from(hub.is_some_and(|hub| hub != address));
            inexpressible += usize::from(hub.is_none());
            assert!(hub.is_none_or(|hub| translations.to_site(hub) == Some(address)), "{translations:?} {address}");
            assert!(site.is_none_or(|site| translations.to_hub(site) == Some(address)), "{translations:?} {address}");
            let (in_hub, in_site) = (is_in(&at_hub, address), is_in(&at_site, address));
            assert_eq!(in_hub, site.is_some_and(|site| prefix.contains(&site)), "{translations:?} {prefix} {address}");
            assert_eq!(in_site, hub.is_some_and(|hub| prefix.contains(&hub)), "{translations:?} {prefix} {address}");
        }
    }
    assert!(translated > 5000 && inexpressible > 5000, "{translated} {inexpressible}");
}

#[test]
fn addresses_of_an_office_are_translated_both_ways() {
    let office = translations(&[("192.168.1.0/24", "10.201.1.0/24"), ("fd00:1::/64", "fd00:201::/64")]);
    let cases = [
        ("192.168.1.7", Some("10.201.1.7")),
        ("192.168.1.255", Some("10.201.1.255")),
        ("192.168.2.7", Some("192.168.2.7")),
        ("10.201.1.7", None),
        ("fd00:1::7", Some("fd00:201::7")),
        ("fd00:1:0:1::7", Some("fd00:1:0:1::7")),
        ("fd00:201::7", None),
    ];
    for (site, hub) in cases {
        assert_eq!(office.to_hub(address(site)), hub.map(address), "{site}");
        if let Some(hub) = hub {
            assert_eq!(office.to_site(address(hub)), Some(address(site)), "{hub}");
        }
    }
    assert_eq!(office.to_site(address("192.168.1.7")), None);
    assert_eq!(office.prefixes_at_hub(net("192.168.1.0/24")), [net("10.201.1.0/24")]);
    assert_eq!(office.prefixes_at_hub(net("192.168.1.128/25")), [net("10.201.1.128/25")]);
    assert_eq!(office.prefixes_at_hub(net("192.168.0.0/23")), [net("10.201.1.0/24"), net("192.168.0.0/24")]);
    assert_eq!(office.prefixes_at_hub(net("10.201.1.0/24")), []);
    assert_eq!(office.prefixes_at_site(net("10.201.0.0/23")), [net("10.201.0.0/24"), net("192.168.1.0/24")]);
    assert_eq!(office.prefixes_at_hub(net("10.10.10.0/24")), [net("10.10.10.0/24")]);
    assert_eq!(office.prefixes_at_hub(net("fd00:1::/64")), [net("fd00:201::/64")]);
}

#[test]
fn adjacent_parts_join_to_one_prefix() {
    // The translated half continues the unchanged one.
    let moved = translations(&[("192.168.0.0/25", "10.0.0.128/25")]);
    assert_eq!(Translations::prefixes_at_hub(&moved, net("10.0.0.0/24")), [net("10.0.0.0/25")]);
    let halves = translations(&[("10.1.0.0/25", "10.2.0.0/25"), ("10.1.0.128/25", "10.2.0.128/25")]);
    assert_eq!(halves.prefixes_at_hub(net("10.1.0.0/24")), [net("10.2.0.0/24")]);
    // Two networks that change places.
    let swapped = translations(&[("10.1.0.0/24", "10.2.0.0/24"), ("10.2.0.0/24", "10.1.0.0/24")]);
    assert_eq!(swapped.prefixes_at_hub(net("10.0.0.0/8")), [net("10.0.0.0/8")]);
    assert_eq!(swapped.to_hub(address("10.1.0.9")), Some(address("10.2.0.9")));
}

#[test]
fn exclusion_adds_at_most_one_prefix_for_each_length() {
    let one = translations(&[("fd00::1/128", "fd00::2/128")]);
    assert_eq!(one.unchanged(net("::/0")).len(), 128, "126 beside the two, and two between them");
    assert_eq!(one.without_site(net("::/0")).len(), 128);
    let one = translations(&[("10.0.0.1/32", "172.16.0.1/32")]);
    assert_eq!(one.without_site(net("0.0.0.0/0")).len(), 32);
    assert_eq!(Translations::default().prefixes_at_hub(net("0.0.0.0/0")), [net("0.0.0.0/0")]);
}
