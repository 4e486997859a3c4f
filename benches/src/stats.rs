//! Statistics of repeated measurements.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

/// Order statistics, all of them values that were measured (the nearest rank; the lower of two in the middle).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    pub count: usize,
    pub min: f64,
    pub median: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Summary {
    /// `None` of nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let rank = |percent| percentile(&sorted, percent);
        Some(Self { count: sorted.len(), min, median: rank(50), p90: rank(90), p99: rank(99), max })
    }
}

/// The smallest value that at least `percent` of all are not above.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// A count among measurements.
pub fn float(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^52")]
    let float = count as f64;
    float
}

pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Bars over classes that end at 1, 2, 5, 10, 20, 50, ... of the unit: latencies differ by factors. Classes without a
/// value are left out at both ends only.
pub fn histogram(values: &[f64], unit: &str) -> String {
    const WIDTH: usize = 40;
    let mut classes: Vec<(f64, usize)> = Vec::new();
    let Some(summary) = Summary::of(values.iter().copied()) else { return String::new() };
    for edge in edges() {
        classes.push((edge, values.iter().filter(|value| **value <= edge).count()));
        if edge >= summary.max {
            break;
        }
    }
    // From "not above this edge" to "in this class".
    for index in (1..classes.len()).rev() {
        classes[index].1 -= classes[index - 1].1;
    }
    let most = classes.iter().map(|(_, count)| *count).max().unwrap_or(1);
    let mut text = String::new();
    for (edge, count) in classes.iter().skip_while(|(_, count)| *count == 0) {
        let bar = "#".repeat((count * WIDTH).div_ceil(most));
        writeln!(text, "  up to {edge:>7} {unit}  {count:>5}  {bar}").expect("a string takes all");
    }
    text
}

/// 0.001, 0.002, 0.005, 0.01, ... up to 5e6.
fn edges() -> impl Iterator<Item = f64> {
    (-3..=6).flat_map(|power: i32| {
        [1, 2, 5].map(|step| {
            if power < 0 { f64::from(step) / 10_f64.powi(-power) } else { f64::from(step) * 10_f64.powi(power) }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let values = (1..=100).rev().map(f64::from);
        let expected = Summary { count: 100, min: 1.0, median: 50.0, p90: 90.0, p99: 99.0, max: 100.0 };
        assert_eq!(Summary::of(values), Some(expected));
        let few = Summary::of([3.0, 1.0, 2.0]).unwrap();
        assert_eq!((few.median, few.p90, few.p99), (2.0, 3.0, 3.0));
        let one = Summary { count: 1, min: 7.0, median: 7.0, p90: 7.0, p99: 7.0, max: 7.0 };
        assert_eq!(Summary::of([7.0]), Some(one));
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn histogram_counts_every_value_once() {
        let shown = histogram(&[0.4, 0.5, 0.51, 1.5, 30.0, 30.0], "ms");
        let counts: Vec<_> = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        let read: Vec<_> = counts.iter().map(|words| (words[2], words[4])).collect();
        assert_eq!(read, [("0.5", "2"), ("1", "1"), ("2", "1"), ("5", "0"), ("10", "0"), ("20", "0"), ("50", "2")]);
        assert_eq!(counts[0][5].len(), 40);
        assert_eq!(histogram(&[], "ms"), "");
    }
}
