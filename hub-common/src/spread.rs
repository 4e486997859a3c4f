//! Distribution of received ESP over CPUs: an SPI selects a bucket, and each bucket has a CPU.

/// Number of buckets, a power of two. With 1,024 of them, shares of up to 100 CPUs differ by 10 % at most.
pub const BUCKETS: u32 = 1 << BITS;
const BITS: u32 = 10;

/// 2^64 divided by the golden ratio: consecutive SPIs get buckets far apart (Fibonacci hashing).
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The bucket of an SPI (RFC 4303 section 2.1), which is a number, not bytes in network order.
///
/// The hash has no seed: an SA keeps its CPU when the agent is replaced.
#[inline(always)]
pub const fn bucket(spi: u32) -> u32 {
    ((spi as u64).wrapping_mul(FACTOR) >> (u64::BITS - BITS)) as u32
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, bucket};

    /// The largest share of `cpus` CPUs, as a multiple of an equal share; bucket N has CPU N modulo `cpus`.
    fn largest(spis: impl Iterator<Item = u32>, cpus: u8) -> f64 {
        let mut total = 0_u32;
        let mut counts = [0_u32; 64];
        for spi in spis {
            counts[bucket(spi) as usize % usize::from(cpus)] += 1;
            total += 1;
        }
        f64::from(counts.into_iter().max().expect("a CPU")) * f64::from(cpus) / f64::from(total)
    }

    #[test]
    fn buckets_are_in_range_and_constant() {
        for spi in [0, 1, 255, 256, u32::MAX / 2, u32::MAX] {
            assert!(bucket(spi) < BUCKETS, "{spi}");
        }
        // Another agent's program must find the same.
        assert_eq!([1, 0xc000_0001, 0xdead_beef].map(bucket), [632, 758, 3]);
    }

    #[test]
    fn spis_of_any_pattern_are_distributed() {
        for cpus in [2, 3, 4, 7, 16, 64] {
            // Counted up, as some devices do, from the smallest SPI or another one.
            for first in [256, 0x1234_5678, 0xc000_0000] {
                let found = largest(first..first + 10_000, cpus);
                assert!(found < 1.1, "counted up from {first:#x}, {cpus} CPUs: {found}");
            }
            // In the upper half, as others do, and with a stride.
            for shift in [4, 8, 16] {
                let found = largest((1..1000_u32).map(|number| number << shift), cpus);
                assert!(found < 1.5, "shifted by {shift}, {cpus} CPUs: {found}");
            }
            // Random, as strongSwan and the kernel choose them (splitmix64).
            let random = |number: u32| {
                let mut z = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (z ^ (z >> 31)) as u32
            };
            let found = largest((0..100_000).map(random), cpus);
            assert!(found < 1.12, "random, {cpus} CPUs: {found}");
        }
    }
}
