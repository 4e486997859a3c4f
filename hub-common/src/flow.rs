//! The flow hash: which bucket of a next-hop group a packet takes.
//!
//! A flow is the 5-tuple; fragments and transports without ports count by addresses and protocol alone, so that all
//! fragments of a packet go one way. The hash has no seed: the same flow falls into the same bucket after a restart and on
//! a standby host.

/// What the hash starts from, and multiplies with: pi's and the golden ratio's first bits, nothing up the sleeve.
const START: u64 = 0x243f_6a88_85a3_08d3;
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// One multiplication carries every bit of `word` upwards, the shift brings them back down.
#[inline(always)]
const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(FACTOR);
    product ^ (product >> 32)
}

/// Protocol and ports as one word: protocol, source port, destination port, from bit 32 down.
#[inline(always)]
const fn transport(protocol: u8, ports: [u8; 4]) -> u64 {
    (protocol as u64) << 32 | u32::from_be_bytes(ports) as u64
}

/// Hash of an IPv4 flow.
///
/// `ports` are the first four bytes of the transport header (source and destination port in network byte order), or
/// zero where there are none. All 32 bits are usable.
#[inline(always)]
pub const fn hash_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, ports: [u8; 4]) -> u32 {
    let addresses = (u32::from_be_bytes(source) as u64) << 32 | u32::from_be_bytes(destination) as u64;
    finish(mix(mix(START, addresses), transport(protocol, ports)))
}

/// Hash of an IPv6 flow; as [`hash_v4`], `protocol` being the fixed header's next header.
#[inline(always)]
pub const fn hash_v6(source: [u8; 16], destination: [u8; 16], protocol: u8, ports: [u8; 4]) -> u32 {
    let source = u128::from_be_bytes(source);
    let destination = u128::from_be_bytes(destination);
    let mut hash = mix(START, (source >> 64) as u64);
    hash = mix(hash, source as u64);
    hash = mix(hash, (destination >> 64) as u64);
    hash = mix(hash, destination as u64);
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
    fn spreads_flows_that_differ_in_one_field_only() {
        let (a, b) = ([10, 10, 10, 1], [10, 10, 20, 1]);
        let ports = |s: u16, d: u16| {
            let (s, d) = (s.to_be_bytes(), d.to_be_bytes());
            [s[0], s[1], d[0], d[1]]
        };
        assert_even("source port", (0..60_000).map(|p| hash_v4(a, b, 6, ports(p, 443))));
        assert_even("destination port", (0..60_000).map(|p| hash_v4(a, b, 17, ports(4500, p))));
        let host = |n: u32| (0x0a0a_0000 | n).to_be_bytes();
        assert_even("source", (0..60_000).map(|n| hash_v4(host(n), b, 1, [0; 4])));
        assert_even("destination", (0..60_000).map(|n| hash_v4(a, host(n), 1, [0; 4])));
        let host = |n: u128| (0xfd00_u128 << 112 | n).to_be_bytes();
        assert_even("IPv6 source", (0..60_000).map(|n| hash_v6(host(n), host(1), 58, [0; 4])));
        assert_even("IPv6 prefix", (0..60_000).map(|n| hash_v6(host(1), host(n << 64), 58, [0; 4])));
    }

    #[test]
    fn every_field_counts() {
        let base = hash_v4([10, 0, 0, 1], [10, 0, 0, 2], 6, [0, 1, 0, 2]);
        assert_ne!(base, hash_v4([10, 0, 0, 2], [10, 0, 0, 1], 6, [0, 1, 0, 2]));
        assert_ne!(base, hash_v4([10, 0, 0, 1], [10, 0, 0, 2], 17, [0, 1, 0, 2]));
        assert_ne!(base, hash_v4([10, 0, 0, 1], [10, 0, 0, 2], 6, [0, 2, 0, 1]));
    }
}
