//! Incremental update of the Internet checksum (RFC 1624).

/// TTL, protocol and checksum of an IPv4 header, four bytes in their order, after the TTL was decremented. It must not
/// be 0.
///
/// A TTL is the high byte of its 16-bit word, so the one's-complement sum of the header decreases by 0x0100 and its
/// complement, the checksum, increases by 0x0100, with end-around carry. A wrong checksum stays wrong by the same amount,
/// so that the destination detects it. Same arithmetic as `ip_decrease_ttl()`, include/net/ip.h.
#[inline(always)]
pub const fn decrement_ttl(bytes: [u8; 4]) -> [u8; 4] {
    // As one little-endian word: the TTL is bits 0..=7, and the checksum's high byte, which comes first, bits 16..=23. A
    // one's-complement sum does not depend on the byte order.
    let word = u32::from_le_bytes(bytes);
    // 0xffff and 0 both represent zero. For a header that is not all zeros, other implementations produce 0.
    let carry = (word >= 0xfffe_0000) as u32;
    word.wrapping_add(0x0001_0000 - 1).wrapping_add(carry << 16).to_le_bytes()
}

/// The one's-complement difference of two 16-bit words: what a sum over data grows by when `new` replaces `old`. Both
/// are in the same byte order, no matter which.
///
/// The words of a checksum start at even offsets. For two bytes at an odd offset, swap both bytes of `old` and of
/// `new`: each byte then counts as the half of its word that it is.
#[inline(always)]
pub const fn difference(old: u16, new: u16) -> u16 {
    sum(!old, new)
}

/// The sum of two differences.
#[inline(always)]
pub const fn sum(one: u16, other: u16) -> u16 {
    // Of two words, one addition of the carry is enough.
    let sum = one as u32 + other as u32;
    (sum + (sum >> 16)) as u16
}

/// The difference between two addresses or other pieces of data that consist of 32-bit words; 0 only from all ones to all
/// zeros.
#[inline(always)]
pub fn difference_of<const N: usize>(old: [u8; N], new: [u8; N]) -> u16 {
    const { assert!(N.is_multiple_of(4) && N <= 64) };
    let mut total = 0_u64;
    for index in 0..N / 4 {
        let word = |bytes: &[u8; N]| {
            let at = 4 * index;
            u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        total += u64::from(!word(&old)) + u64::from(word(&new));
    }
    // A sum may be taken over longer words and folded later (RFC 1071 section 2).
    let total = (total & 0xffff_ffff) + (total >> 32);
    folded((total & 0xffff) as u32 + (total >> 16) as u32)
}

/// A checksum after the data that it covers changed by a difference (RFC 1624, equation 3), in the same byte order. A
/// wrong checksum stays wrong by the same amount. The result is 0xffff only if all the data is 0.
#[inline(always)]
pub const fn adjusted(checksum: u16, difference: u16) -> u16 {
    !sum(!checksum, difference)
}

/// A sum of at most 2^16 words, with end-around carry.
#[inline(always)]
const fn folded(sum: u32) -> u16 {
    // The first addition may carry once more.
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::{adjusted, decrement_ttl, difference, difference_of, sum};

    fn replaced(checksum: u16, old: u16, new: u16) -> u16 {
        adjusted(checksum, difference(old, new))
    }

    /// RFC 1071, in full.
    fn full(header: &[u16]) -> u16 {
        let mut sum: u32 = header.iter().map(|word| u32::from(*word)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    /// The header after a decrement of the TTL.
    fn decremented(mut header: [u16; 10]) -> [u16; 10] {
        let ([ttl, protocol], [high, low]) = (header[4].to_be_bytes(), header[5].to_be_bytes());
        let [ttl, protocol, high, low] = decrement_ttl([ttl, protocol, high, low]);
        (header[4], header[5]) = (u16::from_be_bytes([ttl, protocol]), u16::from_be_bytes([high, low]));
        header
    }

    #[test]
    fn checksum_after_ttl_decrement_equals_full_sum() {
        for ttl in [2_u16, 3, 64, 128, 255] {
            for id in 0..=u16::MAX {
                let mut before = [0x4500, 84, id, 0x4000, ttl << 8 | 1, 0, 0x0a0a, 0x0a01, 0x0a0a, 0x1401];
                let mut after = before;
                after[4] -= 0x0100;
                (before[5], after[5]) = (full(&before), full(&after));
                assert_eq!(decremented(before), after, "ttl {ttl} id {id}");
            }
        }
    }

    #[test]
    fn wrong_checksum_after_ttl_decrement_stays_wrong() {
        let mut header = [0x4500, 84, 1, 0x4000, 0x4001, 0, 0x0a0a, 0x0a01, 0x0a0a, 0x1401];
        header[5] = full(&header) ^ 0x5555;
        let after = decremented(header);
        assert_eq!(after[4], header[4] - 0x0100);
        assert_ne!(full(&after), 0);
    }

    /// Words whose sums carry in every way.
    const EDGES: [u16; 12] = [0, 1, 0x00ff, 0x0100, 0x05b4, 0x7fff, 0x8000, 0xb405, 0xfeff, 0xff00, 0xfffe, 0xffff];

    #[test]
    fn checksum_after_replacement_equals_full_sum() {
        for rest in EDGES {
            for old in EDGES {
                for new in 1..=u16::MAX {
                    let before = full(&[0x5018, old, rest]);
                    assert_eq!(replaced(before, old, new), full(&[0x5018, new, rest]), "{rest:#x} {old:#x} {new:#x}");
                }
            }
            for new in EDGES.into_iter().filter(|new| *new != 0) {
                for old in 0..=u16::MAX {
                    let before = full(&[0x5018, old, rest]);
                    assert_eq!(replaced(before, old, new), full(&[0x5018, new, rest]), "{rest:#x} {old:#x} {new:#x}");
                }
            }
        }
    }

    /// The two bytes are the low half of one word and the high half of the next.
    #[test]
    fn checksum_after_replacement_at_odd_offset_equals_full_sum() {
        let words = |[high, low]: [u8; 2], around: [u8; 2]| {
            [0x5018, u16::from_be_bytes([around[0], high]), u16::from_be_bytes([low, around[1]])]
        };
        for around in [[0, 0], [1, 4], [0xff, 0xff], [0x80, 0x7f]] {
            for old in EDGES.map(u16::to_be_bytes) {
                for new in (1..=u16::MAX).map(u16::to_be_bytes) {
                    let after = replaced(full(&words(old, around)), u16::from_le_bytes(old), u16::from_le_bytes(new));
                    assert_eq!(after, full(&words(new, around)), "{around:?} {old:?} {new:?}");
                }
            }
        }
    }

    #[test]
    fn checksum_after_replacement_of_address_equals_full_sum() {
        let words =
            |bytes: [u8; 4]| [u16::from_ne_bytes([bytes[0], bytes[1]]), u16::from_ne_bytes([bytes[2], bytes[3]])];
        for [a, b] in EDGES.iter().flat_map(|a| EDGES.map(|b| [*a, b])) {
            for [c, d] in EDGES.iter().flat_map(|c| EDGES.map(|d| [*c, d])) {
                let bytes = |[a, b]: [u16; 2]| {
                    let ([a, b], [c, d]) = (a.to_ne_bytes(), b.to_ne_bytes());
                    [a, b, c, d]
                };
                let (old, new) = (bytes([a, b]), bytes([c, d]));
                assert_eq!([words(old), words(new)], [[a, b], [c, d]]);
                let (before, after) = (full(&[0x5018, a, b]), full(&[0x5018, c, d]));
                assert_eq!(adjusted(before, difference_of(old, new)), after, "{old:?} {new:?}");
                let in_two_steps = sum(difference(a, c), difference(b, d));
                assert_eq!(adjusted(before, in_two_steps), after, "{old:?} {new:?}");
            }
        }
    }

    #[test]
    fn wrong_checksum_after_replacement_stays_wrong_by_same_amount() {
        for (wrong, after) in [(0x1234, 0x12e8), (0, 0x00b4), (0xffff, 0x00b4), (0xff4b, 0), (0xff4c, 1)] {
            assert_eq!(replaced(wrong, 0x05b4, 0x0500), after, "{wrong:#06x}");
            assert_eq!(replaced(wrong.swap_bytes(), 0xb405, 0x0005), after.swap_bytes(), "{wrong:#06x}, swapped");
        }
    }
}
