//! The bits of `skb->mark` by which the program and the kernel's own forwarding speak of a packet.

/// Which bits of `skb->mark` are ours. Host byte order, as `skb->mark` has it.
///
/// A packet that the program admitted has the flag set. The other bits of the mask hold its *number*, shifted by the
/// mask's trailing zeros: [`NO_ROUTE`](Self::NO_ROUTE), [`local`](Self::local), or the next hop that it may take. On any
/// other packet all bits of the mask are clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Mark {
    /// One bit, within the mask.
    pub flag: u32,
    /// All bits that are ours.
    pub mask: u32,
}

const _: () = assert!(size_of::<Mark>() == 8);

impl Mark {
    /// The number of packets whose source is admitted and whose destination has no route.
    pub const NO_ROUTE: u32 = 0;

    /// The bits that hold the number.
    pub const fn number_bits(self) -> u32 {
        self.mask & !self.flag
    }

    /// The number of packets for the hub itself: all bits of it set.
    pub const fn local(self) -> u32 {
        self.number(self.mask)
    }

    /// An admitted packet's bits with this number. Bits of the number that have no place are cut off.
    pub const fn numbered(self, number: u32) -> u32 {
        self.flag | (shift_left(number, self.mask.trailing_zeros()) & self.number_bits())
    }

    /// The number in a mark, whatever the flag says.
    pub const fn number(self, mark: u32) -> u32 {
        shift_right(mark & self.number_bits(), self.mask.trailing_zeros())
    }
}

/// An empty mask has 32 trailing zeros.
const fn shift_left(number: u32, by: u32) -> u32 {
    if by < u32::BITS { number << by } else { 0 }
}

const fn shift_right(number: u32, by: u32) -> u32 {
    if by < u32::BITS { number >> by } else { 0 }
}

impl Default for Mark {
    /// `0x10000000/0x1fff0000`: bit 28, and 12 bits of number below.
    fn default() -> Self {
        Self { flag: 0x1000_0000, mask: 0x1fff_0000 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_between_the_mask_s_lowest_bit_and_the_flag() {
        let mark = Mark::default();
        assert_eq!(mark.numbered(Mark::NO_ROUTE), 0x1000_0000);
        assert_eq!(mark.numbered(2), 0x1002_0000);
        assert_eq!(mark.numbered(mark.local()), 0x1fff_0000);
        assert_eq!(mark.local(), 4095);
        assert_eq!(mark.number(0xfabc_1234), 0xabc);
        let low = Mark { flag: 0x8000_0000, mask: 0x8000_00ff };
        assert_eq!((low.numbered(7), low.local(), low.number(0x1234_5678)), (0x8000_0007, 255, 0x78));
        let none = Mark { flag: 0, mask: 0 };
        assert_eq!((none.numbered(7), none.local()), (0, 0));
    }
}
