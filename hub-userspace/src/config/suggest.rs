//! Spelling suggestions: "did you mean".

/// Longer names are not compared: the cost is the product of the lengths, and the file may be hostile.
const LONGEST: usize = 64;

/// The candidate most similar to `name`, if any is close enough.
pub(super) fn nearest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let length = name.chars().count();
    if length > LONGEST {
        return None;
    }
    // One edit per three characters: `weigth` and `conn-sh` are matched, `a` is not changed to `b`.
    let tolerance = (length / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (strsim::damerau_levenshtein(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|&(distance, candidate)| distance <= tolerance && distance < candidate.chars().count())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn suggestion_is_made_for_typos_only() {
        let cases = [
            ("weigth", Some("weight")),
            ("Weight", Some("weight")),
            ("wait", None),
            ("publsh", Some("publish")),
            ("", None),
            ("x", None),
        ];
        for (name, expected) in cases {
            assert_eq!(nearest(name, ["weight", "publish"]), expected, "{name}");
        }
    }

    #[test]
    fn suggestion_for_huge_name_is_skipped() {
        assert_eq!(nearest(&"w".repeat(1 << 20), ["weight"]), None);
    }
}
