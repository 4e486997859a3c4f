//! Lines of a panel. Pure.

/// A named series.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub name: String,
    /// Time and value, ascending.
    pub points: Vec<(f64, f64)>,
}

/// A break of a line: this many steps without a value.
const GAP: f64 = 2.5;

impl Line {
    /// The last value that is a number.
    pub fn last(&self) -> Option<f64> {
        self.points.iter().rev().map(|point| point.1).find(|value| value.is_finite())
    }

    /// Parts without gaps and with numbers only.
    pub fn parts(&self, step: f64) -> Vec<Vec<(f64, f64)>> {
        let mut parts: Vec<Vec<(f64, f64)>> = Vec::new();
        let mut last = None;
        for point in self.points.iter().copied().filter(|point| point.1.is_finite()) {
            let is_next = last.is_some_and(|last| point.0 - last < GAP * step);
            match parts.last_mut() {
                Some(part) if is_next => part.push(point),
                _ => parts.push(vec![point]),
            }
            last = Some(point.0);
        }
        parts
    }
}

/// Puts the lines on top of each other: each with the sum of those before it, for the times at which it has values.
pub fn stacked(lines: &[Line], step: f64) -> Vec<(Line, Line)> {
    let mut below: std::collections::BTreeMap<i64, f64> = std::collections::BTreeMap::new();
    let slot = |time: f64| (time / step).round() as i64;
    let on_top = |line: &Line| {
        let (mut lower, mut upper) = (Vec::new(), Vec::new());
        for &(time, value) in line.points.iter().filter(|point| point.1.is_finite()) {
            let sum = below.entry(slot(time)).or_default();
            lower.push((time, *sum));
            *sum += value;
            upper.push((time, *sum));
        }
        let named = |points| Line { name: line.name.clone(), points };
        (named(lower), named(upper))
    };
    lines.iter().map(on_top).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(points: &[(f64, f64)]) -> Line {
        Line { name: String::new(), points: points.to_vec() }
    }

    #[test]
    fn line_breaks_where_values_are_missing() {
        let parts = line(&[(1.0, 5.0), (2.0, 6.0), (3.0, f64::NAN), (4.0, 7.0), (9.0, 8.0)]).parts(1.0);
        assert_eq!(parts, [vec![(1.0, 5.0), (2.0, 6.0), (4.0, 7.0)], vec![(9.0, 8.0)]]);
        assert_eq!(line(&[(1.0, 5.0), (2.0, f64::NAN)]).last(), Some(5.0));
    }

    #[test]
    fn stacked_lines_add_up_at_equal_times() {
        let lines = [line(&[(1.0, 5.0), (2.0, 6.0)]), line(&[(2.0, 1.0), (3.0, 2.0)])];
        let found = stacked(&lines, 1.0);
        assert_eq!(found[0].1.points, [(1.0, 5.0), (2.0, 6.0)]);
        assert_eq!(found[1].0.points, [(2.0, 6.0), (3.0, 0.0)]);
        assert_eq!(found[1].1.points, [(2.0, 7.0), (3.0, 2.0)]);
    }
}
