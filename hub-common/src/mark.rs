//! `skb->mark` of the packets that the program passes to the kernel: whether it has admitted them, and by which next hop
//! they leave.
//!
//! Within [`Mark::mask`]: the flag bit says that the program has judged this very packet, the other bits are a *number*:
//!
//! | number | meaning |
//! | --- | --- |
//! | [`Mark::NO_ROUTE`] | the source is admitted, there is no route: the kernel answers, and never forwards |
//! | 1 | the VPC is the next hop |
//! | 2 and more | the connection of this `COUNTERS` slot is the next hop |
//! | the last one, [`Mark::local`] | for the hub itself alone |
//!
//! All of the mask's bits are clear on a packet that the program has not seen.

/// Bits of `skb->mark` (host byte order) that the program writes and the kernel's rules read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Mark {
    /// One bit: admitted.
    pub flag: u32,
    /// The flag and, below it, one run of bits for the number.
    pub mask: u32,
}

const _: () = assert!(size_of::<Mark>() == 8);

impl Default for Mark {
    fn default() -> Self {
        Self { flag: 0x1000_0000, mask: 0x1fff_0000 }
    }
}

impl Mark {
    /// Number of what is admitted and has no route.
    pub const NO_ROUTE: u32 = 0;

    /// The mark with this number, which must be below [`Self::numbers`]: higher bits of it are lost.
    #[inline(always)]
    pub const fn numbered(self, number: u32) -> u32 {
        let bits = self.mask & !self.flag;
        // A mask without number bits has 32 zeros, one more than a shift may have.
        self.flag | ((number << (bits.trailing_zeros() & 31)) & bits)
    }

    /// The mark of what is for the hub itself alone: all number bits are set.
    #[inline(always)]
    pub const fn local(self) -> u32 {
        self.flag | self.mask
    }

    /// How many numbers there are, the first and the last included.
    #[inline(always)]
    pub const fn numbers(self) -> u32 {
        1 << ((self.mask & !self.flag).count_ones() & 31)
    }
}

#[cfg(test)]
mod tests {
    use super::Mark;

    /// The default, a run at the lowest bits, and one that is not next to the flag.
    const MARKS: [Mark; 3] = [
        Mark { flag: 0x1000_0000, mask: 0x1fff_0000 },
        Mark { flag: 0x100, mask: 0x1ff },
        Mark { flag: 0x8000_0000, mask: 0x807f_ff00 },
    ];

    #[test]
    fn default_is_bit_28_and_the_twelve_below() {
        let mark = Mark::default();
        assert_eq!(mark.numbers(), 4096);
        assert_eq!(mark.numbered(Mark::NO_ROUTE), 0x1000_0000);
        assert_eq!(mark.numbered(1), 0x1001_0000);
        assert_eq!(mark.numbered(4094), 0x1ffe_0000);
        assert_eq!(mark.local(), 0x1fff_0000);
    }

    #[test]
    fn numbers_are_distinct_marks_within_the_mask() {
        for mark in MARKS {
            let mut last = None;
            for number in 0..mark.numbers() {
                let value = mark.numbered(number);
                assert_eq!(value & mark.flag, mark.flag, "{number} of {mark:?}");
                assert_eq!(value & !mark.mask, 0, "{number} of {mark:?}");
                assert!(last < Some(value), "{number} of {mark:?}");
                last = Some(value);
            }
            assert_eq!(last, Some(mark.local()), "{mark:?}");
        }
    }

    #[test]
    fn a_number_that_does_not_fit_leaves_other_bits_alone() {
        for mark in MARKS {
            assert_eq!(mark.numbered(u32::MAX) & !mark.mask, 0, "{mark:?}");
            assert_eq!(mark.numbered(mark.numbers()), mark.flag, "{mark:?}");
        }
    }
}
