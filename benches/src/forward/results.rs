//! Results: a table for people, rows as JSON.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{
    cases::{Interfaces, Program},
    routes::Family,
    targets,
};

/// One contender under one set of conditions, in a bench of this kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    pub bench: &'static str,
    pub program: Program,
    pub family: Family,
    pub routes: u32,
    pub destinations: u32,
    pub packet_bytes: u32,
    /// Of the whole chain: generator, hub and sink. The median of all rounds.
    pub ns_per_packet: f64,
    /// To `bare`: see [`ratio`]. `None` without `bare`.
    pub ratio_to_bare: Option<f64>,
    /// The middle half of the rounds, from its least to its greatest, as a part of the median.
    pub spread: f64,
    /// The least and the greatest of all rounds.
    #[serde(skip)]
    pub range: (f64, f64),
}

impl Measured {
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
            ratio_to_bare: ratio(rounds, bare),
            spread: (quantile(&sorted, 3) - quantile(&sorted, 1)) / ns_per_packet,
            range: (least, greatest),
        })
    }
}

/// A contender of `forward`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub measured: Measured,
    pub interfaces: Interfaces,
    /// As `ratio_to_bare`, to the others that programs are compared with.
    pub ratio_to_bare_tc: Option<f64>,
    pub ratio_to_hub_tc: Option<f64>,
    pub ratio_to_ip_forward: Option<f64>,
}

impl Row {
    /// To the floor of its interfaces.
    pub fn ratio_to_floor(&self) -> Option<f64> {
        self.measured.ratio_to_bare.or(self.ratio_to_bare_tc)
    }
}

/// The rows of one case, from the rounds' times of each contender. None of a contender without any.
pub fn rows(
    interfaces: Interfaces,
    (family, routes): (Family, u32),
    case: (u32, u32),
    times: &[(Program, Vec<f64>)],
) -> Vec<Row> {
    let of = |program| times.iter().find(|(other, _)| *other == program).map_or(&[][..], |(_, times)| times);
    let row = |(program, times): &(Program, Vec<f64>)| {
        Some(Row {
            measured: Measured::new(*program, (family, routes), case, times, of(Program::Bare))?,
            interfaces,
            ratio_to_bare_tc: ratio(times, of(Program::BareTc)),
            ratio_to_hub_tc: ratio(times, of(Program::HubTc)),
            ratio_to_ip_forward: ratio(times, of(Program::Kernel)),
        })
    };
    times.iter().filter_map(row).collect()
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
            "INTERFACES",
            "FAMILY",
            "ROUTES",
            "DESTINATIONS",
            "BYTES",
            "PROGRAM",
            "NS/PACKET",
            "TO BARE",
            "TO BARE-TC",
            "TO HUB-TC",
            "TO IP_FORWARD",
            "SPREAD",
            "RANGE",
        ]);
        for (column, at) in table.column_iter_mut().zip(0..) {
            if ![0, 5].contains(&at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for Row { measured: row, interfaces, ratio_to_bare_tc, ratio_to_hub_tc, ratio_to_ip_forward } in &self.rows {
            table.add_row([
                interfaces.name().to_owned(),
                row.family.number().to_string(),
                row.routes.to_string(),
                row.destinations.to_string(),
                row.packet_bytes.to_string(),
                row.program.name().to_owned(),
                format!("{:.0}", row.ns_per_packet),
                shown(row.ratio_to_bare),
                shown(*ratio_to_bare_tc),
                shown(*ratio_to_hub_tc),
                shown(*ratio_to_ip_forward),
                format!("{:.0} %", row.spread * 100.0),
                format!("{:.0}-{:.0}", row.range.0, row.range.1),
            ]);
        }
        writeln!(f, "{table}\n")?;
        for Missing { program, family, routes, why } in &self.missing {
            writeln!(f, "{} is not measured with {routes} IPv{} routes: {why}", program.name(), family.number())?;
        }
        for target in self.rows.iter().flat_map(targets::of) {
            writeln!(f, "{target}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

/// A ratio in a table.
pub fn shown(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
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

    fn measured(rounds: &[f64], bare: &[f64]) -> Measured {
        Measured::new(Program::Fib, (Family::V6, 10), (1, 72), rounds, bare).unwrap()
    }

    #[test]
    fn outlier_round_widens_range_only() {
        let bare = [100.0, 900.0, 99.0, 100.0, 101.0, 100.0, 98.0];
        let row = measured(&[200.0, 210.0, 190.0, 200.0, 205.0, 2000.0, 195.0], &bare);
        assert_eq!((row.ns_per_packet, row.ratio_to_bare, row.range), (200.0, Some(2.0), (190.0, 2000.0)));
        assert!((row.spread - 15.0 / 200.0).abs() < 1e-9, "{}", row.spread);
    }

    #[test]
    fn machine_speed_change_leaves_ratio_unchanged() {
        let row = measured(&[120.0, 240.0, 240.0], &[100.0, 200.0, 100.0]);
        assert!((row.ratio_to_bare.unwrap() - 1.2).abs() < 1e-9, "{:?}", row.ratio_to_bare);
    }

    #[test]
    fn ratios_are_to_measured_programs_only() {
        let times = [
            (Program::BareTc, vec![100.0, 200.0]),
            (Program::HubTc, vec![110.0, 220.0]),
            (Program::Kernel, vec![220.0, 440.0]),
            (Program::Fib, vec![]),
        ];
        let rows = rows(Interfaces::Tun, (Family::V4, 10), (1, 64), &times);
        let programs: Vec<_> = rows.iter().map(|row| row.measured.program).collect();
        assert_eq!(programs, [Program::BareTc, Program::HubTc, Program::Kernel]);
        let Row { measured, ratio_to_bare_tc, ratio_to_hub_tc, ratio_to_ip_forward, .. } = &rows[1];
        assert_eq!(measured.ratio_to_bare, None);
        assert_eq!((ratio_to_bare_tc, ratio_to_hub_tc, ratio_to_ip_forward), (&Some(1.1), &Some(1.0), &Some(0.5)));
        assert_eq!(rows[2].ratio_to_floor(), Some(2.2));
    }

    #[test]
    fn results_appear_in_table_and_json() {
        let missing = Missing { program: Program::Hub, family: Family::V4, routes: 7, why: "too many".to_owned() };
        let times = [(Program::Bare, vec![100.0]), (Program::Hub, vec![150.0])];
        let rows = rows(Interfaces::Veth, (Family::V6, 10), (10, 72), &times);
        let results = Results { rows, missing: vec![missing], notes: vec!["A note.".to_owned()] };
        let shown = results.to_string();
        for part in [
            " hub ",
            "1.50",
            "150-150",
            "hub is not measured with 7 IPv4 routes: too many",
            "target MISSED:  veth, IPv6, 10 routes, 10 destinations: hub at most 1.15 times bare; 1.500\n",
            "A note.",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        let written = serde_json::to_value(&results.rows[1]).unwrap();
        let expected = serde_json::json!({
            "bench": "forward", "interfaces": "veth", "program": "hub", "family": 6, "routes": 10, "destinations": 10,
            "packet_bytes": 72, "ns_per_packet": 150.0, "ratio_to_bare": 1.5, "ratio_to_bare_tc": null,
            "ratio_to_hub_tc": null, "ratio_to_ip_forward": null, "spread": 0.0,
        });
        assert_eq!(written, expected);
    }
}
