//! Panels of a Grafana board, as far as the board of contrib/ uses them. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

/// A board.
#[derive(Debug, Clone)]
pub struct Board {
    pub title: String,
    pub panels: Vec<Panel>,
}

/// Place and size in the grid, which has 24 columns. A row is 30 px high in Grafana.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A heading.
    Row,
    /// The last value, on a ground whose colour depends on it.
    Stat,
    /// A bar for each series, coloured by its values.
    StateTimeline,
    /// Lines.
    TimeSeries,
}

#[derive(Debug, Clone)]
pub struct Panel {
    pub title: String,
    pub kind: Kind,
    pub grid: Grid,
    /// Such as `Bps`.
    pub unit: String,
    /// Ends of the axis, if they are fixed.
    pub limits: [Option<f64>; 2],
    /// Whether series are on top of each other.
    pub is_stacked: bool,
    /// Colours from a value on, ascending.
    pub thresholds: Vec<(f64, String)>,
    /// Texts and colours of values.
    pub mappings: BTreeMap<String, (String, Option<String>)>,
    pub targets: Vec<Target>,
}

/// A query.
#[derive(Debug, Clone)]
pub struct Target {
    /// With Grafana's variables.
    expression: String,
    /// Labels in double braces are replaced.
    pub legend: String,
}

impl Board {
    /// Reads the board's JSON.
    ///
    /// # Errors
    /// When it has something that this reader does not know.
    pub fn read(text: &str) -> anyhow::Result<Self> {
        let board: Value = serde_json::from_str(text).context("the board is no JSON")?;
        let panels = board["panels"].as_array().context("it has no panels")?;
        let panels = panels.iter().map(|panel| Panel::read(panel).with_context(|| panel["title"].to_string()));
        Ok(Self { title: string(&board["title"]), panels: panels.collect::<anyhow::Result<_>>()? })
    }
}

impl Panel {
    fn read(panel: &Value) -> anyhow::Result<Self> {
        let defaults = &panel["fieldConfig"]["defaults"];
        let kind = match panel["type"].as_str() {
            Some("row") => Kind::Row,
            Some("stat") => Kind::Stat,
            Some("state-timeline") => Kind::StateTimeline,
            Some("timeseries") => Kind::TimeSeries,
            other => bail!("panels of type {other:?} are unknown"),
        };
        let steps = defaults["thresholds"]["steps"].as_array().into_iter().flatten();
        let thresholds =
            steps.map(|step| (step["value"].as_f64().unwrap_or(f64::NEG_INFINITY), string(&step["color"])));
        let mappings = defaults["mappings"].as_array().into_iter().flatten();
        let mappings = mappings.flat_map(|mapping| mapping["options"].as_object().into_iter().flatten());
        let mappings = mappings.map(|(value, shown)| {
            (value.clone(), (string(&shown["text"]), shown["color"].as_str().map(str::to_owned)))
        });
        let targets = panel["targets"].as_array().into_iter().flatten();
        let targets = targets
            .map(|target| Target { expression: string(&target["expr"]), legend: string(&target["legendFormat"]) });
        Ok(Self {
            title: string(&panel["title"]),
            kind,
            grid: grid(&panel["gridPos"])?,
            unit: string(&defaults["unit"]),
            limits: ["min", "max"].map(|end| defaults[end].as_f64()),
            is_stacked: defaults["custom"]["stacking"]["mode"] == "normal",
            thresholds: thresholds.collect(),
            mappings: mappings.collect(),
            targets: targets.collect(),
        })
    }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn grid(value: &Value) -> anyhow::Result<Grid> {
    let number = |key: &str| {
        let number = value[key].as_u64().and_then(|number| u32::try_from(number).ok());
        number.with_context(|| format!("gridPos has no {key}"))
    };
    Ok(Grid { x: number("x")?, y: number("y")?, width: number("w")?, height: number("h")? })
}

impl Target {
    /// The expression for Prometheus: all jobs, gateways and connections. `$__rate_interval` is four scrapes, as in
    /// Grafana.
    pub fn expression(&self, scrape: Duration) -> String {
        let expression = self.expression.replace("$__rate_interval", &format!("{}ms", 4 * scrape.as_millis()));
        ["$job", "$instance", "$connection"].iter().fold(expression, |text, name| text.replace(name, ".*"))
    }
}

/// The name of a series: the format with its labels, or its labels.
pub fn legend(format: &str, labels: &BTreeMap<String, String>) -> String {
    if format.is_empty() {
        return labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
    }
    labels.iter().fold(format.to_owned(), |text, (name, value)| text.replace(&format!("{{{{{name}}}}}"), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_expressions_are_replaced() {
        let expression = "rate(x{instance=~\"$instance\",connection=~\"$connection\"}[$__rate_interval])".to_owned();
        let target = Target { expression, legend: String::new() };
        let expected = "rate(x{instance=~\".*\",connection=~\".*\"}[800ms])";
        assert_eq!(target.expression(Duration::from_millis(200)), expected);
    }

    #[test]
    fn legend_has_the_values_of_labels() {
        let labels =
            [("connection", "a"), ("reason", "malformed")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let labels = BTreeMap::from(labels);
        assert_eq!(legend("{{connection}} {{reason}} in", &labels), "a malformed in");
        assert_eq!(legend("", &labels), "connection=a reason=malformed");
    }
}
