//! The packet mark (`skb->mark`) by which the TC program tells the kernel what it has decided of a packet that it passes.
//!
//! ```text
//! bit 28          flag: the program has admitted the packet
//! bits 16..=27    number: what for
//! ```
//!
//! That is the default layout; the operator may choose other bits. Bits outside the mask belong to others.

/// Bits of the packet mark that are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Mark {
    /// One bit: set on packets that the program has admitted.
    pub flag: u32,
    /// The flag and, below it, the bits of the number.
    pub mask: u32,
}

/// Number of an admitted packet without a route: the kernel answers "unreachable" and never forwards it.
///
/// Any other number, but for [`Mark::local_number`], is the `COUNTERS` slot of the next hop that the packet may leave by.
pub const NO_ROUTE: u32 = 0;

impl Mark {
    pub const DEFAULT: Self = Self { flag: 0x1000_0000, mask: 0x1fff_0000 };

    /// The mark of an admitted packet with this number.
    #[inline(always)]
    pub const fn numbered(self, number: u32) -> u32 {
        self.flag | (number << self.mask.trailing_zeros() & self.mask & !self.flag)
    }

    /// The mark of a packet that is for the hub itself alone.
    #[inline(always)]
    pub const fn local(self) -> u32 {
        self.mask
    }

    /// The number of [`Mark::local`]: the highest.
    pub const fn local_number(self) -> u32 {
        self.numbers() - 1
    }

    /// How many numbers there are.
    pub const fn numbers(self) -> u32 {
        1 << (self.mask & !self.flag).count_ones()
    }
}

impl Default for Mark {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::{Mark, NO_ROUTE};

    #[test]
    fn numbers_stand_below_the_flag() {
        let mark = Mark::DEFAULT;
        assert_eq!(mark.numbers(), 4096);
        assert_eq!(mark.numbered(NO_ROUTE), 0x1000_0000);
        assert_eq!(mark.numbered(2), 0x1002_0000);
        assert_eq!(mark.numbered(mark.local_number()), mark.local());
        let narrow = Mark { flag: 0x100, mask: 0x1ff };
        assert_eq!((narrow.numbers(), narrow.numbered(7), narrow.local()), (256, 0x107, 0x1ff));
    }
}
