//! A real Prometheus in a place, as an operator has one, and questions to it by promtool.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use super::{Background, Namespace, Scratch};
use crate::tools;

const SERVER: &str = "http://127.0.0.1:9090";

/// Scrapes one agent. Ends when dropped.
pub struct Prometheus {
    /// Entered by promtool.
    place: Namespace,
    _process: Background,
    _files: Scratch,
}

/// A value at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub time: f64,
    /// May be NaN.
    pub value: f64,
}

/// A series of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub labels: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

impl Prometheus {
    /// Contents of the agent's configuration, so that [`Self::start`] can scrape it.
    pub const METRICS: &str = "[metrics]\nlisten = \"127.0.0.1:9118\"\n";

    fn binary() -> Option<PathBuf> {
        let binary = tools::promtool()?.with_file_name("prometheus");
        binary.is_file().then_some(binary)
    }

    /// Why it cannot run here.
    pub fn missing() -> Option<String> {
        Self::binary().is_none().then(|| "needs prometheus: cargo xtask setup".to_owned())
    }

    /// Scrapes the agent of this place, with this interval.
    ///
    /// # Errors
    /// When it is missing or cannot be started.
    pub fn start(place: &Namespace, interval: Duration) -> anyhow::Result<Self> {
        let binary = Self::binary().with_context(|| Self::missing().unwrap_or_default())?;
        let files = Scratch::new()?;
        let text = format!(
            "global: {{ scrape_interval: {}ms }}\nscrape_configs:\n  - job_name: vpnhub\n    static_configs: \
             [{{ targets: [\"127.0.0.1:9118\"] }}]\n",
            interval.as_millis()
        );
        std::fs::write(files.file("prometheus.yml"), text).context("writing prometheus.yml")?;
        let mut command = place.command(binary);
        command
            .arg(format!("--config.file={}", files.file("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", files.file("data").display()))
            .args(["--web.listen-address=127.0.0.1:9090", "--log.level=error"]);
        Ok(Self { place: place.duplicate()?, _process: Background::start(&mut command)?, _files: files })
    }

    /// The values now. Empty without any.
    ///
    /// # Errors
    /// When it does not answer yet, or refuses the expression.
    pub fn instant(&self, expression: &str) -> anyhow::Result<Vec<Series>> {
        self.ask(&["instant", "--", SERVER, expression])
    }

    /// The values from `start` to `end`, in seconds since 1970.
    ///
    /// # Errors
    /// As [`Self::instant`].
    pub fn range(&self, expression: &str, [start, end]: [f64; 2], step: Duration) -> anyhow::Result<Vec<Series>> {
        let times = [("start", start), ("end", end)].map(|(name, time)| format!("--{name}={time:.3}"));
        let step = format!("--step={}ms", step.as_millis());
        self.ask(&["range", &times[0], &times[1], &step, "--", SERVER, expression])
    }

    fn ask(&self, arguments: &[&str]) -> anyhow::Result<Vec<Series>> {
        let promtool = tools::promtool().context("promtool is missing: cargo xtask setup")?;
        let mut command: Command = self.place.command(promtool);
        let output = command.args(["query", "-o", "json"]).args(arguments).output().context("running promtool")?;
        if !output.status.success() {
            bail!("promtool {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let answer: Value = serde_json::from_slice(&output.stdout).context("the answer of promtool")?;
        answer.as_array().context("promtool answers with a list")?.iter().map(series).collect()
    }
}

fn series(answer: &Value) -> anyhow::Result<Series> {
    let labels = answer["metric"].as_object().into_iter().flatten();
    let labels = labels.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    let pairs = match &answer["values"] {
        Value::Array(values) => values.as_slice(),
        _ => std::slice::from_ref(&answer["value"]),
    };
    let samples = pairs.iter().map(|pair| {
        let value = pair[1].as_str().and_then(|value| value.parse().ok());
        Some(Sample { time: pair[0].as_f64()?, value: value? })
    });
    let samples = samples.collect::<Option<_>>().with_context(|| format!("no samples in {answer}"))?;
    Ok(Series { labels: labels.collect(), samples })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_have_one_value_or_several() {
        let labels: BTreeMap<_, _> = [("connection".to_owned(), "a".to_owned())].into();
        let one = json!({ "metric": { "connection": "a" }, "value": [1.5, "2"] });
        let expected = Series { labels: labels.clone(), samples: vec![Sample { time: 1.5, value: 2.0 }] };
        assert_eq!(series(&one).unwrap(), expected);
        let several = json!({ "metric": { "connection": "a" }, "values": [[1.5, "2"], [2.5, "NaN"]] });
        let found = series(&several).unwrap();
        assert!(found.samples[1].value.is_nan() && found.labels == labels);
        assert!(series(&json!({ "metric": {} })).is_err());
    }
}
