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

#[cfg(test)]
mod tests {
    use super::decrement_ttl;

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
}
