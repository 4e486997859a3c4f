//! Random choices, and addresses close to one another.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};

/// True with this percentage.
pub fn percent(rng: &mut SmallRng, times: u32) -> bool {
    rng.random_range(0..100) < times
}

pub fn one_of<T: Copy>(rng: &mut SmallRng, choices: &[T]) -> T {
    *choices.choose(rng).expect("something to choose from")
}

/// A prefix in a small space, so that prefixes nest and collide; `spread` is the number of subnets in that space.
pub fn prefix(rng: &mut SmallRng, v6: bool, spread: u8) -> IpNet {
    let low = one_of(rng, &[0, 1, 64, 127, 128, 255]);
    let (address, length) = if v6 {
        let subnet = u16::from(rng.random_range(0..spread));
        let address = Ipv6Addr::new(0xfd00, 0, 0, subnet, u16::from(low), 0, 0, u16::from(rng.random_range(0..4_u8)));
        let lengths = [8, 16, 32, 48, 60, 62, 63, 64, 64, 64, 65, 72, 80, 96, 112, 126, 127, 128];
        (IpAddr::V6(address), one_of(rng, &lengths))
    } else {
        let address = Ipv4Addr::new(10, rng.random_range(0..2), rng.random_range(0..spread), low);
        let lengths = [8, 12, 15, 16, 20, 22, 23, 24, 24, 24, 24, 25, 26, 28, 30, 31, 32];
        (IpAddr::V4(address), one_of(rng, &lengths))
    };
    IpNet::new_assert(address, length).trunc()
}

/// A prefix within another, or the same.
pub fn prefix_within(rng: &mut SmallRng, outer: IpNet) -> IpNet {
    let longest = outer.max_prefix_len();
    let length = rng.random_range(outer.prefix_len()..=longest.min(outer.prefix_len() + 9));
    IpNet::new_assert(address_within(rng, outer), length).trunc()
}

/// An address in a prefix, often near its ends.
pub fn address_within(rng: &mut SmallRng, prefix: IpNet) -> IpAddr {
    let hosts = u32::from(prefix.max_prefix_len() - prefix.prefix_len());
    let mask = if hosts == 128 { u128::MAX } else { (1 << hosts) - 1 };
    let offset = match rng.random_range(0..4) {
        0 => rng.random(),
        1 => u128::MAX - rng.random_range(0..3_u128),
        _ => rng.random_range(0..4),
    };
    plus(prefix.network(), offset & mask)
}

/// An address just before or just behind a prefix, or in it.
pub fn address_around(rng: &mut SmallRng, prefix: IpNet) -> IpAddr {
    match rng.random_range(0..20) {
        0 => plus(prefix.network(), u128::MAX),
        1 => plus(prefix.broadcast(), 1),
        _ => address_within(rng, prefix),
    }
}

fn plus(address: IpAddr, offset: u128) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            // The low bits are the same for both widths.
            let low = u32::try_from(offset & u128::from(u32::MAX)).expect("32 bits");
            IpAddr::V4(u32::from(address).wrapping_add(low).into())
        }
        IpAddr::V6(address) => IpAddr::V6(u128::from(address).wrapping_add(offset).into()),
    }
}
