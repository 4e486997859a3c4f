//! Values with Grafana's units. Pure.

/// A value as text. Units that are not listed have none.
pub fn shown(value: f64, unit: &str) -> String {
    match unit {
        "Bps" => scaled(value, 1000.0, &["B/s", "kB/s", "MB/s", "GB/s"]),
        "bytes" => scaled(value, 1024.0, &["B", "KiB", "MiB", "GiB"]),
        "pps" => scaled(value, 1000.0, &["p/s", "kp/s", "Mp/s"]),
        "percentunit" => format!("{} %", number(value * 100.0)),
        "s" => match value.abs() {
            below if below < 1e-3 => format!("{} µs", number(value * 1e6)),
            below if below < 1.0 => format!("{} ms", number(value * 1e3)),
            _ => format!("{} s", number(value)),
        },
        _ => scaled(value, 1000.0, &["", "k", "M"]).trim_end().to_owned(),
    }
}

fn scaled(value: f64, base: f64, units: &[&str]) -> String {
    let mut value = value;
    let mut units = units.iter().peekable();
    loop {
        let unit = units.next().copied().unwrap_or_default();
        if value.abs() < base || units.peek().is_none() {
            return format!("{} {unit}", number(value));
        }
        value /= base;
    }
}

/// Three digits, without zeros at the end.
fn number(value: f64) -> String {
    let decimals = match value.abs() {
        large if large >= 100.0 => 0,
        medium if medium >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn values_have_their_unit_and_three_digits() {
        for (value, unit, expected) in [
            (0.0, "Bps", "0 B/s"),
            (1234.0, "Bps", "1.23 kB/s"),
            (-123_456.0, "Bps", "-123 kB/s"),
            (28.4 * 1_048_576.0, "bytes", "28.4 MiB"),
            (999.0, "pps", "999 p/s"),
            (0.7, "percentunit", "70 %"),
            (0.000_412, "s", "412 µs"),
            (0.0213, "s", "21.3 ms"),
            (3.0, "short", "3"),
            (1024.0, "short", "1.02 k"),
            (-0.001, "none", "0"),
        ] {
            assert_eq!(shown(value, unit), expected, "{value} {unit}");
        }
    }
}
