//! `skb->mark` of packets that the program passes to the kernel: whether they are admitted, and their next hop.
//!
//! Within [`Mark::mask`], the flag bit means that the program has checked this packet; the other bits are a *number*:
//!
//! | number | meaning |
//! | --- | --- |
//! | [`Mark::NO_ROUTE`] | the source is admitted, there is no route: the kernel answers, and never forwards |
//! | 1 | the VPC is the next hop |
//! | 2 and more | the connection of this `COUNTERS` slot is the next hop |
//! | the last one, [`Mark::local`] | only for the hub itself |
//!
//! All bits of the mask are clear on a packet that the program has not processed.

/// Bits of `skb->mark` (host byte order) that the program writes and the kernel's rules read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Mark {
    /// One bit: admitted.
    pub flag: u32,
    /// The flag and, below it, consecutive bits for the number.
    pub mask: u32,
}

const _: () = assert!(size_of::<Mark>() == 8);

impl Default for Mark {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Mark {
    pub const DEFAULT: Self = Self { flag: 0x1000_0000, mask: 0x1fff_0000 };

    /// Number of admitted packets without a route.
    pub const NO_ROUTE: u32 = 0;

    /// The mark with this number. It must be below [`Self::numbers`]; higher bits are lost.
    #[inline(always)]
    pub const fn numbered(self, number: u32) -> u32 {
        let bits = self.mask & !self.flag;
        // A mask without number bits has 32 trailing zeros, which is not a valid shift.
        self.flag | ((number << (bits.trailing_zeros() & 31)) & bits)
    }

    /// The mark of packets that are only for the hub itself: all number bits are set.
    #[inline(always)]
    pub const fn local(self) -> u32 {
        self.flag | self.mask
    }

    /// Count of numbers, including the first and the last.
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
    fn default_mark_is_bit_28_and_next_twelve() {
        let mark = Mark::default();
        assert_eq!(mark.numbers(), 4096);
        assert_eq!(mark.numbered(Mark::NO_ROUTE), 0x1000_0000);
        assert_eq!(mark.numbered(1), 0x1001_0000);
        assert_eq!(mark.numbered(4094), 0x1ffe_0000);
        assert_eq!(mark.local(), 0x1fff_0000);
    }

    #[test]
    fn numbered_marks_are_distinct_within_mask() {
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
    fn oversized_number_sets_no_bit_outside_mask() {
        for mark in MARKS {
            assert_eq!(mark.numbered(u32::MAX) & !mark.mask, 0, "{mark:?}");
            assert_eq!(mark.numbered(mark.numbers()), mark.flag, "{mark:?}");
        }
    }
}
