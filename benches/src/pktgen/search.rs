//! The highest rate without loss (RFC 2544 section 26.1), by halving. Pure: a trial is a question.

/// Asks for rates until the highest that passes is known to `resolution`, a part of `most`, which has not passed.
/// `None` when not even that part of it does.
///
/// # Errors
/// Those of a trial.
pub fn highest<E>(most: u64, resolution: f64, mut trial: impl FnMut(u64) -> Result<bool, E>) -> Result<Option<u64>, E> {
    #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^52")]
    #[expect(clippy::cast_sign_loss, reason = "a part of a count")]
    let step = ((most as f64 * resolution) as u64).max(1);
    let (mut passed, mut failed) = (0, most);
    while failed - passed > step {
        let rate = u64::midpoint(passed, failed);
        if trial(rate)? {
            passed = rate;
        } else {
            failed = rate;
        }
    }
    Ok((passed > 0).then_some(passed))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Result, and number of trials, for a hub without losses up to `limit`.
    fn find(limit: u64, most: u64, resolution: f64) -> (Option<u64>, u32) {
        let mut trials = 0;
        let found = highest(most, resolution, |rate| {
            trials += 1;
            assert!(rate < most && rate > 0);
            Ok::<_, Infallible>(rate <= limit)
        });
        (found.unwrap(), trials)
    }

    #[test]
    fn search_finds_limit_within_resolution() {
        for limit in [20_000, 123_456, 500_000, 999_999] {
            let (found, trials) = find(limit, 1_000_000, 0.01);
            let found = found.unwrap();
            assert!(found <= limit && limit - found <= 10_000, "{limit}: {found}");
            assert_eq!(trials, 7);
        }
        assert_eq!(find(777, 1000, 0.0).0, Some(777));
    }

    #[test]
    fn search_with_constant_loss_finds_no_rate() {
        assert_eq!(find(0, 1_000_000, 0.01).0, None);
        assert_eq!(find(0, 1, 0.5), (None, 0));
    }

    #[test]
    fn search_with_failed_trial_returns_its_error() {
        assert_eq!(highest(1000, 0.1, |_| Err("no frames")), Err("no frames"));
    }
}
