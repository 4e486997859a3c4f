//! The flow hash, which selects a bucket of a next-hop group.
//!
//! A flow is the 5-tuple. For fragments and protocols without ports it is the addresses and the protocol, so that all
//! fragments of a packet take the same path. The hash has no seed: a flow keeps its bucket after a restart and on a
//! standby host.

/// Initial value and multiplier: the first bits of pi and of the golden ratio.
const START: u64 = 0x243f_6a88_85a3_08d3;
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The multiplication propagates every bit of `word` upwards, the shift back down.
#[inline(always)]
const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(FACTOR);
    product ^ (product >> 32)
}

/// Protocol and ports as one word: protocol, source port, destination port, from bit 32 down.
#[inline(always)]
const fn transport(protocol: u8, ports: u32) -> u64 {
    (protocol as u64) << 32 | ports as u64
}

/// Hash of an IPv4 flow.
///
/// `ports` are the first four bytes of the transport header (source and destination port), or zero if there are none.
/// Addresses and ports are numbers, not bytes in network order. All 32 bits are usable.
#[inline(always)]
pub const fn hash_v4(source: u32, destination: u32, protocol: u8, ports: u32) -> u32 {
    let addresses = (source as u64) << 32 | destination as u64;
    finish(mix(mix(START, addresses), transport(protocol, ports)))
}

/// Hash of an IPv6 flow, as [`hash_v4`]. `protocol`: the next header of the fixed header. Addresses: high half and low
/// half.
#[inline(always)]
pub const fn hash_v6(source: [u64; 2], destination: [u64; 2], protocol: u8, ports: u32) -> u32 {
    let mut hash = mix(START, source[0]);
    hash = mix(hash, source[1]);
    hash = mix(hash, destination[0]);
    hash = mix(hash, destination[1]);
    finish(mix(hash, transport(protocol, ports)))
}

#[inline(always)]
const fn finish(hash: u64) -> u32 {
    (hash.wrapping_mul(FACTOR) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::{hash_v4, hash_v6};

    /// Pearson's chi-square over 256 buckets stays below the 1 - 1e-9 quantile of 255 degrees of freedom (about 400).
    fn assert_even(name: &str, hashes: impl Iterator<Item = u32>) {
        let mut buckets = [0_u32; 256];
        let mut count = 0_u32;
        for hash in hashes {
            buckets[(hash & 255) as usize] += 1;
            count += 1;
        }
        let expected = f64::from(count) / 256.0;
        let chi: f64 = buckets.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
        assert!(chi < 400.0, "{name}: chi-square {chi:.0} over 256 buckets");
    }

    #[test]
    fn hash_of_flows_differing_in_one_field_is_even() {
        let (a, b) = (0x0a0a_0a01, 0x0a0a_1401);
        let ports = |source: u16, destination: u16| u32::from(source) << 16 | u32::from(destination);
        assert_even("source port", (0..60_000).map(|p| hash_v4(a, b, 6, ports(p, 443))));
        assert_even("destination port", (0..60_000).map(|p| hash_v4(a, b, 17, ports(4500, p))));
        let host = |n: u32| 0x0a0a_0000 | n;
        assert_even("source", (0..60_000).map(|n| hash_v4(host(n), b, 1, 0)));
        assert_even("destination", (0..60_000).map(|n| hash_v4(a, host(n), 1, 0)));
        let host = |high: u64, low: u64| [0xfd00 << 48 | high, low];
        assert_even("IPv6 source", (0..60_000).map(|n| hash_v6(host(0, n), host(0, 1), 58, 0)));
        assert_even("IPv6 prefix", (0..60_000).map(|n| hash_v6(host(0, 1), host(n, 0), 58, 0)));
    }

    #[test]
    fn hash_depends_on_every_field() {
        let base = hash_v4(0x0a00_0001, 0x0a00_0002, 6, 0x1_0002);
        assert_ne!(base, hash_v4(0x0a00_0002, 0x0a00_0001, 6, 0x1_0002));
        assert_ne!(base, hash_v4(0x0a00_0001, 0x0a00_0002, 17, 0x1_0002));
        assert_ne!(base, hash_v4(0x0a00_0001, 0x0a00_0002, 6, 0x2_0001));
    }
}
