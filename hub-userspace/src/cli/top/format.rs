//! Numbers in few characters. Pure.

use std::time::Duration;

/// A rate or count in at most five characters: `999`, `1.2k`, `12k`, `120k`, `1.2M`.
pub fn short(number: f64) -> String {
    let number = if number.is_finite() { number.max(0.0) } else { 0.0 };
    if number < 999.5 {
        return format!("{number:.0}");
    }
    let mut scaled = number;
    for unit in ["k", "M", "G", "T", "P"] {
        scaled /= 1000.0;
        if scaled < 9.95 {
            return format!("{scaled:.1}{unit}");
        }
        if scaled < 999.5 {
            return format!("{scaled:.0}{unit}");
        }
    }
    "many".to_owned()
}

/// A count for a rate or a short text, which need no more than 53 bits of it.
#[expect(clippy::cast_precision_loss, reason = "the lower digits are not shown")]
pub fn count(number: u64) -> f64 {
    number as f64
}

/// A round trip, in seconds: `0.3ms`, `12ms`, `1.2s`.
pub fn round_trip(seconds: f64) -> String {
    match seconds * 1000.0 {
        milliseconds if milliseconds < 9.95 => format!("{milliseconds:.1}ms"),
        milliseconds if milliseconds < 999.5 => format!("{milliseconds:.0}ms"),
        _ => format!("{seconds:.1}s"),
    }
}

/// A fraction in percent.
pub fn percent(fraction: f64) -> String {
    format!("{:.0}%", fraction * 100.0)
}

/// A length of time in its two largest units: `5s`, `3m05s`, `2h10m`, `4d03h`.
pub fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

/// The text on one line, without characters that a terminal acts upon or that reorder others: names from peers and IKE
/// identities are theirs to choose.
pub fn clean(text: &str) -> String {
    text.chars().map(|one| if is_harmless(one) { one } else { '\u{fffd}' }).collect()
}

fn is_harmless(one: char) -> bool {
    // Zero-width and bidirectional controls (Unicode Standard Annex 9), and the byte order mark.
    !one.is_control()
        && !matches!(one, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_five_characters_at_most() {
        for (number, expected) in [
            (0.0, "0"),
            (0.4, "0"),
            (999.4, "999"),
            (999.6, "1.0k"),
            (1234.0, "1.2k"),
            (9949.0, "9.9k"),
            (9951.0, "10k"),
            (999_499.0, "999k"),
            (999_501.0, "1.0M"),
            (123_456_789.0, "123M"),
            (1e13, "10T"),
            (1e30, "many"),
            (-1.0, "0"),
            (f64::NAN, "0"),
        ] {
            assert_eq!(short(number), expected, "{number}");
        }
        for exponent in 0..180 {
            let text = short(10_f64.powf(f64::from(exponent) / 10.0));
            assert!(text.len() <= 5, "{text}");
        }
    }

    #[test]
    fn times_are_short() {
        let ages = [5, 185, 7800, 356_400].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(ages, ["5s", "3m05s", "2h10m", "4d03h"]);
        assert_eq!([0.00034, 0.0123, 0.9, 1.25].map(round_trip), ["0.3ms", "12ms", "900ms", "1.2s"]);
    }

    #[test]
    fn text_without_controls_stays_and_controls_are_replaced() {
        assert_eq!(clean("C=CN, O=上海, CN=site-1"), "C=CN, O=上海, CN=site-1");
        let hostile = "a\x1b[2J\x1b]0;title\x07b\u{9b}31mc\r\nd\u{202e}e\u{200b}f";
        let cleaned = clean(hostile);
        assert_eq!(cleaned, "a\u{fffd}[2J\u{fffd}]0;title\u{fffd}b\u{fffd}31mc\u{fffd}\u{fffd}d\u{fffd}e\u{fffd}f");
        assert!(cleaned.chars().all(|one| !one.is_control()));
    }
}
