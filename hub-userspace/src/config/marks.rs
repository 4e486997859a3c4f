//! `[dataplane] mark`: the bits of `skb->mark` that the program uses.

use std::ops::RangeInclusive;

use hub_common::mark::Mark;
use toml::de::DeValue;

use super::{
    diagnostic::{Problem, quoted},
    value::string,
};

/// Width of a mark's number, in bits.
const NUMBER_BITS: RangeInclusive<u32> = 8..=15;
/// Numbers not available to connections: no route, the VPC, the hub itself.
const RESERVED: usize = 3;

/// Maximum number of connections with this mark.
pub(super) fn most_connections(mark: Mark) -> usize {
    (mark.numbers() as usize).saturating_sub(RESERVED)
}

/// Bits required for this many connections.
pub(super) fn bits_for(connections: usize) -> u32 {
    (connections + RESERVED).next_power_of_two().ilog2().max(*NUMBER_BITS.start())
}

/// A flag and a mask such as `"0x10000000/0x1fff0000"`.
pub(super) fn mark(value: &DeValue<'_>) -> Result<Mark, Problem> {
    let text = string(value)?;
    let shown = quoted(text);
    let halves = text.split_once('/').and_then(|(flag, mask)| Some((number(flag)?, number(mask)?)));
    let Some((flag, mask)) = halves else {
        return Err(Problem::new(format!("{shown} is not a mark and a mask of 32 bits"))
            .help("write VALUE/MASK in hexadecimal, such as \"0x10000000/0x1fff0000\""));
    };
    let bits = mask & !flag;
    let problem = if !flag.is_power_of_two() {
        Problem::new(format!("the value of {shown} is not one bit")).help("set one bit, such as 0x10000000")
    } else if mask & flag == 0 {
        Problem::new(format!("the mask of {shown} does not have the bit of the value"))
            .help(format!("write \"{flag:#x}/{:#x}\" if the other bits are right", mask | flag))
    } else if bits > flag {
        Problem::new(format!("the mask of {shown} has bits above the value's"))
            .help("choose a value bit above all others of the mask")
    } else if !is_one_run(bits) {
        Problem::new(format!("the mask of {shown} has gaps below the value's bit"))
            .help("make the mask's other bits contiguous: they hold a number")
    } else if !NUMBER_BITS.contains(&bits.count_ones()) {
        let (least, most) = NUMBER_BITS.into_inner();
        Problem::new(format!("the mask of {shown} has {} bits below the value's", bits.count_ones()))
            .help(format!("give it {least} to {most}: 8 are enough for 253 connections, 12 for 4093"))
    } else {
        return Ok(Mark { flag, mask });
    };
    Err(problem)
}

/// Whether the set bits are contiguous; also true for none.
fn is_one_run(bits: u32) -> bool {
    let run = bits.checked_shr(bits.trailing_zeros()).unwrap_or_default();
    run & run.wrapping_add(1) == 0
}

/// Hexadecimal with `0x`, or decimal.
fn number(text: &str) -> Option<u32> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    // `from_str_radix` also accepts a sign.
    let plain = digits.chars().all(|digit| digit.is_digit(radix));
    u32::from_str_radix(digits, radix).ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Mark, Problem> {
        mark(&DeValue::String(text.into()))
    }

    #[test]
    fn mark_with_flag_above_contiguous_bits_is_accepted() {
        for (text, flag, mask) in [
            ("0x10000000/0x1fff0000", 0x1000_0000, 0x1fff_0000),
            ("0x80000000/0x807fff00", 0x8000_0000, 0x807f_ff00),
            ("0x100/0x1ff", 0x100, 0x1ff),
            ("256/511", 0x100, 0x1ff),
        ] {
            assert_eq!(read(text), Ok(Mark { flag, mask }), "{text}");
        }
    }

    #[test]
    fn mark_with_other_bits_is_rejected() {
        for text in [
            "",
            "0x10000000",
            "0x10000000/",
            "/0x1fff0000",
            "0x/0x1ff",
            "+256/511",
            "0x+100/0x1ff",
            "0x10000000/0x11fff0000",
            "0x0/0x1fff0000",
            "0x30000000/0x3fff0000",
            "0x10000000/0x0fff0000",
            "0x1000000/0x1fff0000",
            "0x10000000/0x1fef0000",
            "0x10000000/0x10000000",
            "0x10000000/0x107f0000",
            "0x10000000/0x1fffff00",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mark_bits_are_minimal_for_connection_count() {
        for connections in [1, 253, 254, 509, 510, 4000] {
            let bits = bits_for(connections);
            let mark = |bits: u32| Mark { flag: 1 << bits, mask: (2 << bits) - 1 };
            assert!(most_connections(mark(bits)) >= connections, "{connections}");
            let fewer = bits - 1;
            assert!(fewer < *NUMBER_BITS.start() || most_connections(mark(fewer)) < connections, "{connections}");
        }
    }
}
