//! The MSS clamp: a SYN announces no larger maximum segment size (RFC 9293 section 3.7.1) than the limits of both sides.

use super::{Account, MssClamp, World, parse::Packet, predict::Trail};

impl World {
    /// The frame of a packet from the trail's account to another, with its MSS lowered to the smaller limit of both.
    pub(super) fn clamp(&self, frame: &[u8], packet: &Packet, to: &Account, trail: &mut Trail) -> Vec<u8> {
        let mut frame = frame.to_vec();
        let ip = &mut frame[packet.offset..packet.offset + packet.length];
        let v4 = packet.source.is_ipv4();
        let header = if v4 { usize::from(ip[0] & 0xf) * 4 } else { 40 };
        // More fragments, or an offset.
        let is_fragment = v4 && (ip[6] & 0x3f != 0 || ip[7] != 0);
        let segment = &mut ip[header..];
        if packet.protocol != 6 || is_fragment || segment.get(13).is_none_or(|flags| flags & 2 == 0) {
            return frame;
        }
        let Some(at) = mss_value(segment) else {
            trail.rules.push("SYN without MSS");
            return frame;
        };
        let announced = u16::from_be_bytes([segment[at], segment[at + 1]]);
        let limits = [self.mss_limit(&trail.account, v4), self.mss_limit(to, v4)];
        match limits.into_iter().flatten().min() {
            None => trail.rules.push("MSS without a limit"),
            Some(limit) if u32::from(announced) <= limit => trail.rules.push("MSS within the limit"),
            Some(limit) => {
                let limit = u16::try_from(limit).expect("below a number of 16 bits");
                set_mss(segment, at, limit);
                let odd = !at.is_multiple_of(2);
                trail.rules.push(if odd { "MSS lowered, at an odd offset" } else { "MSS lowered" });
            }
        }
        frame
    }

    /// The limit of one side, in bytes.
    fn mss_limit(&self, account: &Account, v4: bool) -> Option<u32> {
        let headers = if v4 { 20 + 20 } else { 40 + 20 };
        let of_mtu = |interface: &str| {
            let mtu = self.interface(interface)?.mtu;
            Some(mtu.saturating_sub(headers).clamp(88, 65_535 - 40))
        };
        match account {
            Account::Vpc => of_mtu(&self.vpc.as_ref()?.interface),
            Account::Connection(name) => {
                let connection = self.connection(name);
                match connection.mss_clamp {
                    MssClamp::Auto => of_mtu(&connection.interface),
                    MssClamp::Off => None,
                    MssClamp::Bytes(bytes) => Some(bytes.into()),
                }
            }
            Account::Unattributed => unreachable!("a packet with a next hop has an owner"),
        }
    }
}

/// Offset of the value of a segment's first MSS option; `None` if options before it have wrong lengths.
fn mss_value(segment: &[u8]) -> Option<usize> {
    let size = usize::from(segment[12] >> 4) * 4;
    let header = segment.get(..size)?;
    let mut at = 20;
    loop {
        match *header.get(at..)? {
            [1, ..] => at += 1,
            [2, 4, _, _, ..] => return Some(at + 2),
            [0, ..] | [] | [_] | [_, 0 | 1, ..] => return None,
            [_, length, ..] => at += usize::from(length),
        }
    }
}

/// The sum of all words, checksum included, keeps its value modulo 65535: a right checksum stays right, and a wrong one
/// stays wrong by the same amount.
fn set_mss(segment: &mut [u8], at: usize, value: u16) {
    const ALL: u64 = 0xffff;
    let before = sum(segment) % ALL;
    segment[at..at + 2].copy_from_slice(&value.to_be_bytes());
    segment[16..18].fill(0);
    let checksum = (before + ALL - sum(segment) % ALL) % ALL;
    segment[16..18].copy_from_slice(&u16::try_from(checksum).expect("less than 16 bits").to_be_bytes());
}

fn sum(segment: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) * 256 + u64::from(pair.get(1).copied().unwrap_or(0));
    segment.chunks(2).map(word).sum()
}
