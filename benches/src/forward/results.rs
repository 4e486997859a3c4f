//! Results: a table for people, rows as JSON.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{cases::Program, routes::Family};

/// One contender under one set of conditions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub bench: &'static str,
    pub program: Program,
    pub family: Family,
    pub routes: u32,
    pub destinations: u32,
    pub packet_bytes: u32,
    /// Of the whole chain: generator, hub and sink. The median of all rounds.
    pub ns_per_packet: f64,
    /// To `bare`: see [`ratio`].
    pub ratio_to_bare: f64,
    /// The middle half of the rounds, from its least to its greatest, as a part of the median.
    pub spread: f64,
    /// The least and the greatest of all rounds.
    #[serde(skip)]
    pub range: (f64, f64),
}

impl Row {
    pub fn new(
        program: Program,
        (family, routes): (Family, u32),
        (destinations, packet_bytes): (u32, u32),
        rounds: &[f64],
        bare: &[f64],
    ) -> Option<Self> {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, greatest) = (*sorted.first()?, *sorted.last()?);
        let ns_per_packet = median(rounds)?;
        Some(Self {
            bench: "forward",
            program,
            family,
            routes,
            destinations,
            packet_bytes,
            ns_per_packet,
            ratio_to_bare: ratio(rounds, bare)?,
            spread: (quantile(&sorted, 3) - quantile(&sorted, 1)) / ns_per_packet,
            range: (least, greatest),
        })
    }
}

/// A case that could not be measured, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Missing {
    pub program: Program,
    pub family: Family,
    pub routes: u32,
    pub why: String,
}

#[derive(Default)]
pub struct Results {
    pub rows: Vec<Row>,
    pub missing: Vec<Missing>,
    /// Notes on the whole table.
    pub notes: Vec<String>,
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "FAMILY",
            "ROUTES",
            "DESTINATIONS",
            "BYTES",
            "PROGRAM",
            "NS/PACKET",
            "TO BARE",
            "SPREAD",
            "RANGE",
        ]);
        for (column, at) in table.column_iter_mut().zip(0..) {
            if at != 4 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for row in &self.rows {
            table.add_row([
                row.family.number().to_string(),
                row.routes.to_string(),
                row.destinations.to_string(),
                row.packet_bytes.to_string(),
                row.program.name().to_owned(),
                format!("{:.0}", row.ns_per_packet),
                format!("{:.2}", row.ratio_to_bare),
                format!("{:.0} %", row.spread * 100.0),
                format!("{:.0}-{:.0}", row.range.0, row.range.1),
            ]);
        }
        for Missing { program, family, routes, why } in &self.missing {
            let words = [&family.number().to_string(), &routes.to_string(), "", "", program.name(), "-", "-", "-", "-"];
            table.add_row(words.map(str::to_owned).into_iter().chain([format!("not measured: {why}")]));
        }
        writeln!(f, "{table}\n")?;
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// The middle one, or the mean of the middle two.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// Ratio of one contender's times to another's: the median of the ratios within each round. A machine that is
/// slower for some rounds is so for both; between two medians, it may have been so for one.
pub fn ratio(times: &[f64], others: &[f64]) -> Option<f64> {
    median(&times.iter().zip(others).map(|(time, other)| time / other).collect::<Vec<_>>())
}

/// A quarter of the values is not above the first, three quarters not above the third.
fn quantile(sorted: &[f64], quarter: usize) -> f64 {
    sorted[((sorted.len() * quarter).div_ceil(4)).clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(rounds: &[f64], bare: &[f64]) -> Option<Row> {
        Row::new(Program::Fib, (Family::V6, 10), (1, 72), rounds, bare)
    }

    #[test]
    fn outlier_round_widens_range_only() {
        let bare = [100.0, 900.0, 99.0, 100.0, 101.0, 100.0, 98.0];
        let row = row(&[200.0, 210.0, 190.0, 200.0, 205.0, 2000.0, 195.0], &bare).unwrap();
        assert_eq!((row.ns_per_packet, row.ratio_to_bare, row.range), (200.0, 2.0, (190.0, 2000.0)));
        assert!((row.spread - 15.0 / 200.0).abs() < 1e-9, "{}", row.spread);
    }

    #[test]
    fn machine_speed_change_leaves_ratio_unchanged() {
        let row = row(&[120.0, 240.0, 240.0], &[100.0, 200.0, 100.0]).unwrap();
        assert!((row.ratio_to_bare - 1.2).abs() < 1e-9, "{}", row.ratio_to_bare);
    }

    #[test]
    fn results_appear_in_table_and_json() {
        let missing = Missing { program: Program::Hub, family: Family::V4, routes: 7, why: "too many".to_owned() };
        let rows = vec![row(&[150.0], &[100.0]).unwrap()];
        let results = Results { rows, missing: vec![missing], notes: vec!["A note.".to_owned()] };
        let shown = results.to_string();
        for part in ["fib", "1.50", "150-150", " hub ", "not measured: too many", "A note."] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        let written = serde_json::to_value(&results.rows).unwrap();
        let expected = serde_json::json!([{
            "bench": "forward", "program": "fib", "family": 6, "routes": 10, "destinations": 1, "packet_bytes": 72,
            "ns_per_packet": 150.0, "ratio_to_bare": 1.5, "spread": 0.0,
        }]);
        assert_eq!(written, expected);
    }
}
