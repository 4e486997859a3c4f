//! Results: a row for each thing measured, as a table for people and as JSON.

use std::{fmt, fs, path::Path};

use anyhow::{Context as _, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::stats::Summary;

/// A measurement: quantity, conditions and values.
#[derive(Debug, Serialize)]
pub struct Row {
    pub bench: &'static str,
    /// The conditions, such as how many prefixes.
    pub case: Map<String, Value>,
    pub measure: &'static str,
    pub unit: &'static str,
    #[serde(flatten)]
    pub summary: Summary,
}

/// The target.
#[derive(Debug, Serialize)]
pub struct Target {
    pub what: String,
    pub reached: bool,
}

/// All of a bench.
#[derive(Debug, Serialize)]
pub struct Results {
    #[serde(skip)]
    bench: &'static str,
    pub rows: Vec<Row>,
    pub targets: Vec<Target>,
}

impl Results {
    pub fn new(bench: &'static str) -> Self {
        Self { bench, rows: Vec::new(), targets: Vec::new() }
    }

    /// Adds a row, unless nothing was measured.
    pub fn add(
        &mut self,
        case: &[(&str, Value)],
        measure: &'static str,
        unit: &'static str,
        values: impl IntoIterator<Item = f64>,
    ) -> Option<Summary> {
        let summary = Summary::of(values)?;
        let case = case.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        self.rows.push(Row { bench: self.bench, case, measure, unit, summary });
        Some(summary)
    }

    pub fn target(&mut self, what: String, reached: bool) {
        self.targets.push(Target { what, reached });
    }

    /// Shows them, and writes them to a file if one is asked for.
    pub fn finish(&self, file: Option<&Path>) -> Result<()> {
        println!("\n{self}");
        match file {
            Some(file) => fs::write(file, serde_json::to_string_pretty(self)? + "\n")
                .with_context(|| format!("writing {}", file.display())),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["CASE", "MEASURE", "UNIT", "N", "MIN", "MEDIAN", "P90", "P99", "MAX"]);
        for column in table.column_iter_mut().skip(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for Row { case, measure, unit, summary, .. } in &self.rows {
            let Summary { count, min, median, p90, p99, max } = *summary;
            let case: Vec<String> = case.iter().map(|(name, value)| format!("{name} {}", plain(value))).collect();
            let words = [case.join(", "), (*measure).to_owned(), (*unit).to_owned(), count.to_string()];
            table.add_row(words.into_iter().chain([min, median, p90, p99, max].map(number)));
        }
        writeln!(f, "{table}\n")?;
        for Target { what, reached } in &self.targets {
            writeln!(f, "target {} {what}", if *reached { "reached:" } else { "MISSED: " })?;
        }
        Ok(())
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Three digits after the point if they are significant.
fn number(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 10_000.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_appear_in_table_and_json() {
        let mut results = Results::new("failover");
        let case = [("prefixes", Value::from(10)), ("how", "carrier".into())];
        assert!(results.add(&case, "restored", "ms", [1.25, 3.0]).is_some());
        assert!(results.add(&case, "nothing", "ms", []).is_none());
        results.target("median 1.25 ms, at most 5 ms".to_owned(), true);
        let shown = results.to_string();
        assert!(shown.contains("how carrier, prefixes 10") && shown.contains("1.250"), "{shown}");
        assert!(shown.contains("target reached: median"), "{shown}");

        let written = serde_json::to_value(&results).unwrap();
        let row = &written["rows"][0];
        assert_eq!((&row["case"]["prefixes"], &row["median"]), (&10.into(), &1.25.into()));
        assert_eq!(written["rows"].as_array().unwrap().len(), 1);
        assert_eq!(written["targets"][0]["reached"], true);
    }
}
