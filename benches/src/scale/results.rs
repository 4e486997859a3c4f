//! Results: a table for people, rows as JSON.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::subjects::{Plan, Subject, Variant};
use crate::forward::{
    cases::Program,
    results::{self, ratio},
    routes::Family,
};

/// Conditions of a measurement.
pub struct Conditions<'a> {
    pub subject: Subject,
    pub variant: Variant,
    pub family: Family,
    pub plan: &'a Plan,
    pub bytes: u32,
}

/// One hub, or its floor.
#[derive(Debug, Serialize)]
pub struct Row {
    #[serde(flatten)]
    measured: results::Measured,
    varies: Subject,
    value: Variant,
    /// To the first variant, as in [`ratio`]: for a floor, to the first floor.
    ratio_to_first: f64,
}

impl Row {
    /// `None` of nothing.
    pub fn new(
        conditions: &Conditions<'_>,
        program: Program,
        rounds: &[f64],
        bare: &[f64],
        first: &[f64],
    ) -> Option<Self> {
        let &Conditions { subject, variant, family, plan, bytes } = conditions;
        let mut measured =
            results::Measured::new(program, (family, plan.routes), (plan.destinations, bytes), rounds, bare)?;
        measured.bench = "scale";
        Some(Self { ratio_to_first: ratio(rounds, first)?, measured, varies: subject, value: variant })
    }

    pub fn line(&self) -> String {
        let Self { measured: row, value, ratio_to_first, .. } = self;
        format!(
            "{value:<8} {:<10} {:>6.0} ns, {} times bare, {ratio_to_first:.3} times the first",
            row.program.name(),
            row.ns_per_packet,
            results::shown(row.ratio_to_bare)
        )
    }
}

/// A case that could not be measured, and why.
pub struct Missing {
    pub subject: Subject,
    pub family: Family,
    pub why: String,
}

#[derive(Default)]
pub struct Results {
    pub rows: Vec<Row>,
    pub missing: Vec<Missing>,
    notes: Vec<String>,
}

impl Results {
    /// The rows of a subject in one family, and the result for its target.
    pub fn add(&mut self, rows: Vec<Row>) {
        self.notes.extend(target_note(&rows));
        self.rows.extend(rows);
    }

    pub fn finish(&mut self, rounds: u32, frames: u64, few: bool) {
        self.notes.push(format!(
            "Medians of {rounds} interleaved rounds of {frames} frames, all counted and checked; the time is that of \
             generator, hub and sink on one core."
        ));
        if few {
            self.notes.push("Fewer than 7 rounds: not to be quoted.".to_owned());
        }
        print!("\n{self}");
    }
}

/// The target: how much more the last hub costs than the first. Where each has a floor of its own, what the floor grows
/// by is the devices' cost and not the hub's.
fn target_note(rows: &[Row]) -> Option<String> {
    let hubs: Vec<&Row> = rows.iter().filter(|row| row.measured.program != Program::Bare).collect();
    let floors = rows.iter().filter(|row| row.measured.program == Program::Bare).count();
    let [first, .., last] = hubs[..] else { return None };
    let Row { measured, varies, value, ratio_to_first } = last;
    let (growth, of) = match floors {
        0 | 1 => (*ratio_to_first, ""),
        _ => (measured.ratio_to_bare? / first.measured.ratio_to_bare?, ", floors taken out"),
    };
    let limit = 1.0 + varies.limit();
    let verdict = if growth <= limit { "reached:" } else { "MISSED: " };
    Some(format!(
        "target {verdict} {}, IPv{}: {} to {value} at most {limit:.2} times as much{of}; {growth:.3}",
        varies.name(),
        measured.family.number(),
        first.value,
    ))
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header([
            "VARIES",
            "VALUE",
            "FAMILY",
            "ROUTES",
            "DESTINATIONS",
            "BYTES",
            "PROGRAM",
            "NS/PACKET",
            "TO BARE",
            "TO FIRST",
            "SPREAD",
        ]);
        for (column, at) in table.column_iter_mut().zip(0..) {
            if ![0, 6].contains(&at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for Row { measured: row, varies, value, ratio_to_first } in &self.rows {
            table.add_row([
                varies.name().to_owned(),
                value.to_string(),
                row.family.number().to_string(),
                row.routes.to_string(),
                row.destinations.to_string(),
                row.packet_bytes.to_string(),
                row.program.name().to_owned(),
                format!("{:.0}", row.ns_per_packet),
                results::shown(row.ratio_to_bare),
                format!("{ratio_to_first:.3}"),
                format!("{:.0} %", row.spread * 100.0),
            ]);
        }
        writeln!(f, "{table}\n")?;
        for Missing { subject, family, why } in &self.missing {
            writeln!(f, "{}, IPv{}, is not measured: {why}", subject.name(), family.number())?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(subject: Subject, value: u32, program: Program, times: [&[f64]; 3]) -> Row {
        let plan = super::super::subjects::plan(subject, Variant::Count(value), 64, Family::V4);
        let conditions =
            Conditions { subject, variant: Variant::Count(value), family: Family::V4, plan: &plan, bytes: 64 };
        let [rounds, bare, first] = times;
        Row::new(&conditions, program, rounds, bare, first).unwrap()
    }

    #[test]
    fn row_names_varied_dimension_and_value() {
        let row = row(Subject::NextHops, 64, Program::Hub, [&[220.0], &[100.0], &[200.0]]);
        let expected = serde_json::json!({
            "bench": "scale", "program": "hub", "family": 4, "routes": 1, "destinations": 1, "packet_bytes": 64,
            "ns_per_packet": 220.0, "ratio_to_bare": 2.2, "spread": 0.0,
            "varies": "next_hops", "value": 64, "ratio_to_first": 1.1,
        });
        assert_eq!(serde_json::to_value(&row).unwrap(), expected);
    }

    #[test]
    fn growth_verdict_excludes_growth_of_devices() {
        let (bare, few, wide, many) = ([100.0], [200.0], [150.0], [310.0]);
        let subject = Subject::Selectors;
        let hubs = |many: &[f64]| {
            vec![
                row(subject, 2, Program::Bare, [&bare, &bare, &bare]),
                row(subject, 2, Program::Hub, [&few, &bare, &few]),
                row(subject, 64, Program::Hub, [many, &bare, &few]),
            ]
        };
        assert!(target_note(&hubs(&[219.0])).unwrap().starts_with("target reached"));
        assert!(target_note(&hubs(&[221.0])).unwrap().starts_with("target MISSED"));
        // 1.55 times as much, of which the floor is 1.5.
        let subject = Subject::NextHops;
        let rows = vec![
            row(subject, 2, Program::Bare, [&bare, &bare, &bare]),
            row(subject, 2, Program::Hub, [&few, &bare, &few]),
            row(subject, 64, Program::Bare, [&wide, &wide, &bare]),
            row(subject, 64, Program::Hub, [&many, &wide, &few]),
        ];
        let said = target_note(&rows).unwrap();
        assert!(said.starts_with("target reached") && said.contains("1.033"), "{said}");
    }
}
