use std::time::{Duration, Instant};

use super::{RestoreSchedule, TokenBucket};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn bucket_after_its_burst_allows_one_per_interval() {
    let now = Instant::now();
    let mut bucket = TokenBucket::new(3, SECOND);
    assert!(bucket.is_full(now));
    assert_eq!([(); 4].map(|()| bucket.take(now)), [true, true, true, false]);
    assert_eq!(bucket.available(now), now + SECOND);
    assert!(!bucket.take(now + SECOND / 2));
    assert!(bucket.take(now + SECOND) && !bucket.take(now + SECOND));
    // Half an interval counts.
    assert!(bucket.take(now + 5 * SECOND / 2) && !bucket.take(now + 5 * SECOND / 2));
    assert!(bucket.take(now + 3 * SECOND));
}

#[test]
fn bucket_after_a_long_pause_has_its_burst_and_no_more() {
    let now = Instant::now();
    let mut bucket = TokenBucket::new(3, SECOND);
    while bucket.take(now) {}
    let later = now + Duration::from_secs(1_000_000_000);
    assert!(bucket.is_full(later));
    assert_eq!([(); 4].map(|()| bucket.take(later)), [true, true, true, false]);
}

#[test]
fn schedule_in_a_fight_restores_soon_at_first_and_rarely_later() {
    let start = Instant::now();
    let settle = Duration::from_millis(100);
    let mut schedule = RestoreSchedule::new(settle, 5 * SECOND);
    let (mut now, mut restored) = (start, Vec::new());
    // The other process changes everything again at once.
    while restored.len() < 12 {
        schedule.disturbed(now);
        schedule.disturbed(now);
        now = schedule.due().expect("something is due");
        assert!(now == start || !schedule.begin(start));
        assert!(schedule.begin(now) && !schedule.begin(now));
        restored.push(now - start);
    }
    assert!(restored[0] == settle && restored[4] == 5 * settle, "{restored:?}");
    assert!(restored[5..].windows(2).all(|pair| pair[1] >= pair[0] + 5 * SECOND), "{restored:?}");
    // After a pause it is as at first.
    now += 3600 * SECOND;
    schedule.disturbed(now);
    assert_eq!(schedule.due(), Some(now + settle));
}
