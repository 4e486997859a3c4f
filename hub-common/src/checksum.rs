//! Incremental update of the Internet checksum (RFC 1624).

/// The IPv4 header checksum after the TTL was decremented.
///
/// `checksum` and the result are in host byte order. A TTL is the high byte of its 16-bit word, so the one's-complement
/// sum of the header decreases by 0x0100 and its complement increases by 0x0100, with end-around carry. A wrong
/// checksum stays wrong by the same amount, so that the destination detects it. Same arithmetic as `ip_decrease_ttl()`,
/// include/net/ip.h.
#[inline(always)]
pub const fn after_ttl_decrement(checksum: u16) -> u16 {
    let sum = checksum as u32 + 0x0100;
    // 0xffff and 0 both represent zero. For a header that is not all zeros, other implementations produce 0.
    (sum + (sum >= 0xffff) as u32) as u16
}

#[cfg(test)]
mod tests {
    use super::after_ttl_decrement;

    /// RFC 1071, in full.
    fn full(header: &[u16]) -> u16 {
        let mut sum: u32 = header.iter().map(|word| u32::from(*word)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn checksum_after_ttl_decrement_equals_full_sum() {
        for ttl in [2_u16, 3, 64, 128, 255] {
            for id in 0..=u16::MAX {
                let before = [0x4500, 84, id, 0x4000, ttl << 8 | 1, 0, 0x0a0a, 0x0a01, 0x0a0a, 0x1401];
                let mut after = before;
                after[4] -= 0x0100;
                assert_eq!(after_ttl_decrement(full(&before)), full(&after), "ttl {ttl} id {id}");
            }
        }
    }

    #[test]
    fn wrong_checksum_after_ttl_decrement_stays_wrong() {
        let header = [0x4500, 84, 1, 0x4000, 0x4001, 0, 0x0a0a, 0x0a01, 0x0a0a, 0x1401];
        let mut after = header;
        after[4] -= 0x0100;
        assert_ne!(after_ttl_decrement(full(&header) ^ 0x5555), full(&after));
    }
}
