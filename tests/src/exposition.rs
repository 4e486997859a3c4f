//! A strict reader of Prometheus's text formats, which shares no code with the agent's writer: text format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>) and `OpenMetrics` 1.0.0 (RFC-style specification in
//! prometheus/OpenMetrics), as far as counters, gauges and infos use them.
//!
//! It rejects whatever a server could misread: lines out of place, samples without help and type, unknown escapes,
//! duplicate labels and series.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};

/// The text's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    Prometheus,
    OpenMetrics,
}

/// Labels of a series.
pub type Labels = BTreeMap<String, String>;

/// What a text has.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Exposition {
    /// In the order of the text.
    pub families: Vec<MetricFamily>,
    /// By name and labels.
    pub series: BTreeMap<(String, Labels), f64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricFamily {
    /// As in its samples.
    pub name: String,
    /// `counter`, `gauge` or `info`.
    pub kind: String,
    pub help: String,
    pub unit: Option<String>,
}

impl Exposition {
    /// Reads a text.
    ///
    /// # Errors
    /// With the first line that breaks a rule.
    pub fn parse(text: &str, format: TextFormat) -> Result<Self> {
        let mut reader = Reader { format, exposition: Self::default(), seen: BTreeSet::new(), state: State::Between };
        let body = match format {
            TextFormat::Prometheus => text,
            TextFormat::OpenMetrics => text.strip_suffix("# EOF\n").context("it does not end with # EOF")?,
        };
        ensure!(body.is_empty() || body.ends_with('\n'), "the last line has no end");
        for (number, line) in body.lines().enumerate() {
            reader.line(line).with_context(|| format!("line {}: {line}", number + 1))?;
        }
        ensure!(matches!(reader.state, State::Between | State::Samples), "the last family is not complete");
        Ok(reader.exposition)
    }

    /// The value of a series.
    ///
    /// # Panics
    /// When there is none with exactly these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or_else(|| panic!("no series {name} with {labels:?}"))
    }

    /// The value of a series; `None` if there is none with exactly these labels.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.series.get(&(name.to_owned(), labels)).copied()
    }

    /// The series of a family, with their labels.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Labels, f64)> {
        self.series.iter().filter(move |((of, _), _)| of == name).map(|((_, labels), value)| (labels, *value))
    }
}

/// The place in the text.
enum State {
    Between,
    /// After `# HELP` of the last family.
    Help,
    /// After its `# TYPE`.
    Samples,
}

struct Reader {
    format: TextFormat,
    exposition: Exposition,
    /// Names of families.
    seen: BTreeSet<String>,
    state: State,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<()> {
        let Some(comment) = line.strip_prefix("# ") else { return self.sample(line) };
        let mut words = comment.splitn(3, ' ');
        let (kind, name, rest) = (words.next(), words.next(), words.next());
        let (Some(kind), Some(name), Some(rest)) = (kind, name, rest) else { bail!("it has no three words") };
        match kind {
            "HELP" => {
                ensure!(!matches!(self.state, State::Help), "the family before has no type");
                ensure!(is_name(name, true), "not a name");
                ensure!(self.seen.insert(name.to_owned()), "the family appears twice");
                ensure!(!rest.is_empty() && unescape(rest, false).is_some(), "no help text, or an unknown escape");
                let family =
                    MetricFamily { name: name.to_owned(), kind: String::new(), help: rest.to_owned(), unit: None };
                self.exposition.families.push(family);
                self.state = State::Help;
            }
            "TYPE" => {
                ensure!(matches!(self.state, State::Help), "no help before it");
                let is_open_metrics = self.format == TextFormat::OpenMetrics;
                let family = self.exposition.families.last_mut().context("no family")?;
                ensure!(family.name == name, "of another family");
                let suffix = match (rest, is_open_metrics) {
                    ("counter", true) => "_total",
                    ("info", true) => "_info",
                    ("counter" | "gauge", _) => "",
                    _ => bail!("an unexpected type"),
                };
                rest.clone_into(&mut family.kind);
                family.name.push_str(suffix);
                ensure!(rest != "counter" || family.name.ends_with("_total"), "a counter without _total");
                ensure!(rest != "gauge" || !family.name.ends_with("_total"), "a gauge with _total");
                self.state = State::Samples;
            }
            "UNIT" if self.format == TextFormat::OpenMetrics => {
                let family = self.exposition.families.last_mut().context("no family")?;
                ensure!(family.unit.is_none() && matches!(self.state, State::Samples), "out of place");
                ensure!(name.ends_with(&format!("_{rest}")), "the name does not end with the unit");
                family.unit = Some(rest.to_owned());
            }
            _ => bail!("an unexpected comment"),
        }
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<()> {
        ensure!(matches!(self.state, State::Samples), "a sample without help and type before it");
        let family = self.exposition.families.last().context("no family")?;
        let (name, labels, value) = match line.split_once('{') {
            Some((name, rest)) => {
                let (labels, value) = labels(rest)?;
                (name, labels, value)
            }
            None => line.split_once(' ').map(|(name, value)| (name, Labels::new(), value)).context("no value")?,
        };
        ensure!(name == family.name, "not of the family {}", family.name);
        let number = match value {
            "NaN" => f64::NAN,
            value if value.bytes().all(|byte| byte.is_ascii_digit() || b".+-eE".contains(&byte)) => value.parse()?,
            _ => bail!("not a number: {value}"),
        };
        ensure!(family.kind != "counter" || number >= 0.0, "not a count: {value}");
        ensure!(self.exposition.series.insert((name.to_owned(), labels), number).is_none(), "a duplicate series");
        Ok(())
    }
}

/// The labels up to the closing brace, and the value after it.
fn labels(mut rest: &str) -> Result<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        let (key, after) = rest.split_once("=\"").context("no label")?;
        ensure!(is_name(key, false), "not a label's name: {key}");
        let end = closing_quote(after).context("no closing quote")?;
        let value = unescape(&after[..end], true).context("an unknown escape")?;
        ensure!(labels.insert(key.to_owned(), value).is_none(), "the label {key} appears twice");
        rest = &after[end + 1..];
        match rest.strip_prefix("} ") {
            Some(value) => return Ok((labels, value)),
            None => rest = rest.strip_prefix(',').context("neither a comma nor the end after a label")?,
        }
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.bytes().position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    })
}

/// `quotes`: a label's value, whose quotes are escaped, too.
fn unescape(text: &str, quotes: bool) -> Option<String> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next()? {
                '\\' => '\\',
                'n' => '\n',
                '"' if quotes => '"',
                _ => return None,
            },
            '"' if quotes => return None,
            other => other,
        });
    }
    Some(plain)
}

fn is_name(name: &str, colon: bool) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_' || (colon && c == ':');
    name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "# HELP a_total Help.\n# TYPE a_total counter\n";

    #[test]
    fn escaped_label_values_are_read_back() {
        let text = format!("{HEAD}a_total{{b=\"x\\\\\\\"\\ny, }}\",c=\"\"}} 7\n");
        let read = Exposition::parse(&text, TextFormat::Prometheus).unwrap();
        assert!((read.value("a_total", &[("b", "x\\\"\ny, }"), ("c", "")]) - 7.0).abs() < f64::EPSILON);
    }

    #[test]
    fn text_that_breaks_a_rule_is_rejected() {
        let broken = [
            "a_total 1\n",
            "# TYPE a_total counter\n",
            "# HELP a Help.\n# TYPE a counter\na 1\n",
            &format!("{HEAD}b_total 1\n"),
            &format!("{HEAD}a_total -1\n"),
            &format!("{HEAD}a_total NaN\n"),
            &format!("{HEAD}a_total 1"),
            &format!("{HEAD}a_total 1\na_total 1\n"),
            &format!("{HEAD}a_total{{b=\"\\x\"}} 1\n"),
            &format!("{HEAD}a_total{{b=\"1\",b=\"2\"}} 1\n"),
            &format!("{HEAD}a_total{{1=\"1\"}} 1\n"),
            &format!("{HEAD}a_total{{b=\"1\"}}1\n"),
            &format!("{HEAD}a_total 1\n{HEAD}"),
            &format!("{HEAD}\na_total 1\n"),
            &format!("{HEAD}# EOF\n"),
        ];
        for text in broken {
            assert!(Exposition::parse(text, TextFormat::Prometheus).is_err(), "{text}");
        }
        assert!(Exposition::parse(HEAD, TextFormat::OpenMetrics).is_err(), "no end");
    }
}
