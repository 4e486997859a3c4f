//! Selects the next hop of a flow.

use std::net::IpAddr;

use super::parse::Packet;

/// Buckets of a group of several next hops.
pub const BUCKETS: usize = 256;

/// Buckets of a new group, each the index of the member that owns it.
///
/// Each member gets its share by weight, rounded down. Leftover buckets go, one each, to the largest remainders
/// (Hamilton's method), ties to the first. Then the buckets are dealt out in turn.
pub fn share_out(weights: &[u32]) -> Vec<usize> {
    let total: usize = weights.iter().map(|weight| *weight as usize).sum();
    let exact: Vec<usize> = weights.iter().map(|weight| *weight as usize * BUCKETS).collect();
    let mut hands: Vec<usize> = exact.iter().map(|part| part / total).collect();
    while hands.iter().sum::<usize>() < BUCKETS {
        // A member with more buckets than its rounded-down share already has its leftover.
        let waiting = (0..weights.len()).filter(|member| hands[*member] == exact[*member] / total);
        let largest = waiting.clone().map(|member| exact[member] % total).max().expect("fewer left over than members");
        let first = waiting.clone().find(|member| exact[*member] % total == largest).expect("one has the largest");
        hands[first] += 1;
    }
    let mut buckets = Vec::new();
    while buckets.len() < BUCKETS {
        for (member, hand) in hands.iter_mut().enumerate() {
            if *hand > 0 {
                *hand -= 1;
                buckets.push(member);
            }
        }
    }
    buckets
}

/// The documented flow hash. It mixes in 64-bit words one after the other, starting from bits of pi, by multiplication
/// with the golden ratio's bits. The upper half of a last product is the hash.
pub fn hash(packet: &Packet) -> u32 {
    let mut words = Vec::new();
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            words.push(u128::from(u32::from(source)) << 32 | u128::from(u32::from(destination)));
        }
        (source, destination) => {
            for address in [source, destination] {
                let IpAddr::V6(address) = address else { unreachable!("a packet has one family") };
                words.push(u128::from(address) >> 64);
                words.push(u128::from(address) & WORD);
            }
        }
    }
    words.push(u128::from(packet.protocol) << 32 | u128::from(packet.ports));

    let mut hash = 0x243f_6a88_85a3_08d3;
    for word in words {
        let product = times_golden_ratio(hash ^ word);
        hash = product ^ product >> 32;
    }
    u32::try_from(times_golden_ratio(hash) >> 32).expect("the upper half of 64 bits")
}

const WORD: u128 = u64::MAX as u128;

fn times_golden_ratio(value: u128) -> u128 {
    (value * 0x9e37_79b9_7f4a_7c15) & WORD
}

#[cfg(test)]
mod tests {
    use super::share_out;

    #[test]
    fn bucket_shares_follow_weights() {
        let rows: [(&[u32], &[usize]); 5] = [
            (&[100, 100], &[128, 128]),
            (&[1, 1, 1], &[86, 85, 85]),
            (&[30, 70], &[77, 179]),
            (&[100, 1], &[253, 3]),
            (&[1; 64], &[4; 64]),
        ];
        for (weights, expected) in rows {
            let buckets = share_out(weights);
            let counted: Vec<usize> =
                (0..weights.len()).map(|member| buckets.iter().filter(|owner| **owner == member).count()).collect();
            assert_eq!(counted, expected, "{weights:?}");
        }
        assert_eq!(share_out(&[3, 1])[..4], [0, 1, 0, 1]);
        assert_eq!(share_out(&[3, 1])[252..], [0, 0, 0, 0]);
    }
}
