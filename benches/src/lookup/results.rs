//! Results: a table for people, rows as JSON.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::times::Times;
use crate::{
    forward::{
        cases::Program,
        results::{self, Missing},
        routes::Family,
    },
    stages::Stage,
};

/// One stage under one set of conditions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    #[serde(flatten)]
    measured: results::Measured,
    connections: u32,
    /// The last stage that the program runs.
    stage: &'static str,
    /// Difference to the stage before. `None` for the first stage.
    stage_ns: Option<f64>,
    /// The same as a share of the whole hub without restoring the header. `None` for `drop` and `bare`.
    stage_share: Option<f64>,
}

/// Conditions of a measurement.
#[derive(Clone, Copy)]
pub struct Conditions {
    pub family: Family,
    pub routes: u32,
    pub connections: u32,
    pub destinations: u32,
    pub bytes: u32,
}

/// The rows of one program. None when nothing was measured.
pub fn rows(program: Program, conditions: Conditions, times: &Times) -> Vec<Row> {
    let Conditions { family, routes, connections, destinations, bytes } = conditions;
    let bare = times.of(Stage::Bare);
    let row = |stage: Stage| {
        let program = if stage == Stage::Bare { Program::Bare } else { program };
        let mut measured =
            results::Measured::new(program, (family, routes), (destinations, bytes), &times.of(stage), &bare)?;
        measured.bench = "lookup";
        Some(Row {
            measured,
            connections,
            stage: stage.name(),
            stage_ns: times.stage(stage),
            stage_share: times.share(stage),
        })
    };
    Stage::ALL.into_iter().filter_map(row).collect()
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
            "CONNECTIONS",
            "DESTINATIONS",
            "BYTES",
            "PROGRAM",
            "UP TO",
            "NS/PACKET",
            "STAGE",
            "SHARE",
            "TO BARE",
            "SPREAD",
        ]);
        for (column, at) in table.column_iter_mut().zip(0..) {
            if ![5, 6].contains(&at) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for Row { measured: row, connections, stage, stage_ns, stage_share } in &self.rows {
            table.add_row([
                row.family.number().to_string(),
                row.routes.to_string(),
                connections.to_string(),
                row.destinations.to_string(),
                row.packet_bytes.to_string(),
                row.program.name().to_owned(),
                (*stage).to_owned(),
                format!("{:.1}", row.ns_per_packet),
                stage_ns.map_or_else(|| "-".to_owned(), |ns| format!("{ns:+.1}")),
                stage_share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0)),
                results::shown(row.ratio_to_bare),
                format!("{:.0} %", row.spread * 100.0),
            ]);
        }
        writeln!(f, "{table}\n")?;
        for Missing { program, family, routes, why } in &self.missing {
            writeln!(f, "{} is not measured with {routes} IPv{} routes: {why}", program.name(), family.number())?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_appear_in_table_and_json() {
        let mut times = Times::default();
        times.add([10.0, 20.0, 14.0, 24.0, 25.0, 30.0, 31.0, 40.0, 45.0, 60.0]);
        let conditions = Conditions { family: Family::V6, routes: 7, connections: 2, destinations: 3, bytes: 72 };
        let missing = Missing { program: Program::HubLpm, family: Family::V4, routes: 9, why: "too many".to_owned() };
        let results = Results {
            rows: rows(Program::Hub, conditions, &times),
            missing: vec![missing],
            notes: vec!["A note.".to_owned()],
        };
        let shown = results.to_string();
        for part in ["addresses", "+10.0", "20 %", "hub-lpm is not measured with 9 IPv4 routes: too many", "A note."] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        let written = serde_json::to_value(&results.rows).unwrap();
        let expected = serde_json::json!({
            "bench": "lookup", "program": "hub", "family": 6, "routes": 7, "destinations": 3, "packet_bytes": 72, "connections": 2,
            "ns_per_packet": 24.0, "ratio_to_bare": 1.2, "spread": 0.0,
            "stage": "addresses", "stage_ns": 10.0, "stage_share": 0.2,
        });
        assert_eq!(written[3], expected);
        assert_eq!((&written[0]["stage_ns"], &written[1]["program"]), (&serde_json::Value::Null, &"bare".into()));
        assert!(rows(Program::Hub, conditions, &Times::default()).is_empty());
    }
}
