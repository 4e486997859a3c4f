//! Verdicts on fixed and random schedules of replies and losses.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Check, LATE, Nonce, Verdict, loss::tests::is_degraded};
use crate::config::model::Degraded;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A check on a simulated path.
struct Path {
    start: Instant,
    check: Check,
    /// Sequence numbers of replies under way, by arrival time.
    replies: BTreeMap<Duration, Vec<u16>>,
    last_reply: Option<Duration>,
    verdicts: Vec<(Duration, Verdict)>,
}

const NONCE: Nonce = [7; 16];

impl Path {
    fn new(interval: Duration, retries: u32) -> Self {
        let start = Instant::now();
        let check = Check::new(interval, retries, None, start);
        Self { start, check, replies: BTreeMap::new(), last_reply: None, verdicts: Vec::new() }
    }

    /// Advances time to `end`. `far_end` maps a probe's time to the arrival of its reply, if any; `lateness` is the
    /// delay of the timer.
    fn run(
        &mut self,
        end: Duration,
        mut far_end: impl FnMut(Duration) -> Option<Duration>,
        mut lateness: impl FnMut() -> Duration,
    ) {
        loop {
            let tick = self.check.due() - self.start + lateness();
            // Process replies before the verdict.
            while let Some(arrived) = self.replies.first_entry().filter(|entry| *entry.key() <= tick.min(end)) {
                let (at, sequences) = arrived.remove_entry();
                for sequence in sequences {
                    if let Some(answer) = self.check.reply(self.start + at, sequence, &NONCE) {
                        self.last_reply = Some(at);
                        self.verdicts.extend(answer.verdict.map(|verdict| (at, verdict)));
                    }
                }
            }
            if tick > end {
                return;
            }
            self.verdicts.extend(self.check.evaluate(self.start + tick).map(|verdict| (tick, verdict)));
            let sequence = self.check.probe(self.start + tick, NONCE);
            if let Some(arrival) = far_end(tick) {
                self.replies.entry(arrival).or_default().push(sequence);
            }
        }
    }
}

/// The generator "xorshift64*": reproducible numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit.max(1)
    }

    fn duration(&mut self, limit: Duration) -> Duration {
        Duration::from_micros(self.below(limit.as_micros() as u64))
    }
}

const ON_TIME: fn() -> Duration = || Duration::ZERO;

#[test]
fn path_is_healthy_at_first_reply_and_unhealthy_within_bound() {
    let mut path = Path::new(ms(100), 3);
    path.run(ms(1000), |sent| (sent < ms(500)).then_some(sent + ms(5)), ON_TIME);
    let unhealthy = Verdict::Unhealthy { misses: 3, last_reply_age: Some(ms(395)) };
    assert_eq!(path.verdicts, [(ms(5), Verdict::Healthy), (ms(800), unhealthy)]);
    path.run(ms(2000), |sent| (sent >= ms(1500)).then_some(sent + ms(5)), ON_TIME);
    assert_eq!(path.verdicts[2..], [(ms(1505), Verdict::Healthy)]);
}

#[test]
fn path_without_any_reply_is_reported_once() {
    let mut path = Path::new(ms(100), 3);
    path.run(ms(5000), |_| None, ON_TIME);
    assert_eq!(path.verdicts, [(ms(300), Verdict::Unhealthy { misses: 3, last_reply_age: None })]);
}

#[test]
fn scattered_misses_stay_healthy() {
    let mut path = Path::new(ms(100), 3);
    let mut probes = 0;
    let two_of_three_lost = |sent| {
        probes += 1;
        (probes % 3 == 1).then_some(sent + ms(5))
    };
    path.run(ms(10_000), two_of_three_lost, ON_TIME);
    assert_eq!(path.verdicts, [(ms(5), Verdict::Healthy)]);
}

#[test]
fn round_trip_above_interval_does_not_flap() {
    for retries in [1, 2, 3] {
        for round_trip in [ms(50), ms(99), ms(100), ms(101), ms(150), ms(250), ms(999), ms(1900)] {
            let mut path = Path::new(ms(100), retries);
            path.run(ms(20_000), |sent| Some(sent + round_trip), ON_TIME);
            let first = path.verdicts.iter().position(|(_, verdict)| *verdict == Verdict::Healthy).unwrap();
            assert_eq!(path.verdicts.len(), first + 1, "{retries} retries, {round_trip:?}: {:?}", path.verdicts);
        }
    }
}

#[test]
fn reply_counts_once_in_time_with_matching_nonce() {
    let start = Instant::now();
    let mut check = Check::new(ms(100), 3, None, start);
    let first = check.probe(start, [1; 16]);
    let second = check.probe(start + ms(100), [2; 16]);
    assert_eq!(check.reply(start + ms(110), first, &[2; 16]), None, "another probe's nonce");
    assert_eq!(check.reply(start + ms(110), first, &[1; 15]), None, "cut off");
    assert_eq!(check.reply(start + ms(110), first, &[1; 17]), None, "longer");
    assert_eq!(check.reply(start + ms(110), second.wrapping_add(1), &[2; 16]), None, "never sent");
    assert_eq!(check.reply(start + ms(110), first, &[1; 16]).unwrap().round_trip, ms(110));
    assert_eq!(check.reply(start + ms(111), first, &[1; 16]), None, "twice");
    assert_eq!(check.reply(start + ms(101) + LATE, second, &[2; 16]), None, "too late");
}

#[test]
fn probe_is_lost_once_without_reply_in_time() {
    let start = Instant::now();
    let mut check = Check::new(ms(100), 3, None, start);
    let answered = check.probe(start, NONCE);
    check.reply(start + ms(10), answered, &NONCE).unwrap();
    let late = check.probe(start + ms(100), NONCE);
    check.probe(start + ms(200), NONCE);
    // A probe that was not sent is not lost.
    check.not_sent();
    assert_eq!(check.reply(start + ms(101) + LATE, late, &NONCE), None);
    assert_eq!(check.lost(), 1);
    check.probe(start + ms(300), NONCE);
    check.probe(start + ms(300) + LATE, NONCE);
    assert_eq!(check.lost(), 1, "its reply may still arrive");
    check.probe(start + ms(301) + LATE, NONCE);
    assert_eq!(check.lost(), 2);
}

#[test]
fn late_timer_does_not_shift_later_probes() {
    let start = Instant::now();
    let mut check = Check::new(ms(10), 3, None, start);
    check.probe(start + ms(1), NONCE);
    assert_eq!(check.due(), start + ms(10));
    check.probe(start + ms(14), NONCE);
    assert_eq!(check.due(), start + ms(20));
    // After a suspend of the host there is no burst of probes.
    check.probe(start + ms(5000), NONCE);
    assert_eq!(check.due(), start + ms(5010));
}

#[test]
fn early_probe_adds_no_miss() {
    let start = Instant::now();
    let mut check = Check::new(ms(100), 3, None, start);
    for probe in 0..10 {
        let now = start + ms(probe);
        check.hurry(now);
        assert_eq!(check.due(), start.max(now));
        assert_eq!(check.evaluate(now), None);
        check.probe(now, NONCE);
        assert_eq!(check.due(), now + ms(100));
    }
}

#[test]
fn sequence_number_wraps_at_16_bits() {
    let start = Instant::now();
    let mut check = Check::new(ms(10), 3, None, start);
    for probe in 0..70_000_u32 {
        let now = start + ms(10) * probe;
        let sequence = check.probe(now, NONCE);
        assert_eq!(sequence, (probe % 65_536) as u16);
        assert!(check.reply(now + ms(1), sequence, &NONCE).is_some());
    }
}

#[test]
fn random_jitter_below_limit_does_not_flap() {
    let mut random = Random(1);
    for round in 0..300 {
        let interval = ms(10 + random.below(400));
        let retries = 1 + random.below(5) as u32;
        let late_by_most = interval / 20;
        let (base, jitter) = match retries {
            1 => (Duration::ZERO, interval.saturating_sub(late_by_most)),
            // Arrivals are further apart than an interval by no more than jitter and lateness.
            _ => (random.duration(LATE / 2), (interval * (retries - 1)).saturating_sub(late_by_most).min(LATE / 2)),
        };
        let mut lateness = Random(round + 1);
        let mut path = Path::new(interval, retries);
        path.run(
            interval * 500,
            |sent| Some(sent + base + random.duration(jitter)),
            || lateness.duration(late_by_most),
        );
        let healthy = path.verdicts.iter().position(|(_, verdict)| *verdict == Verdict::Healthy).unwrap();
        assert!(healthy <= 1, "{:?}", path.verdicts);
        assert_eq!(path.verdicts.len(), healthy + 1, "{interval:?} {retries} {jitter:?}: {:?}", path.verdicts);
    }
}

#[test]
fn dead_path_is_reported_within_bound_of_last_reply() {
    let mut random = Random(2);
    for round in 0..300 {
        let interval = ms(10 + random.below(3000));
        let retries = 1 + random.below(5) as u32;
        let round_trip = random.duration((interval * 3).min(LATE));
        let death = interval * 20 + random.duration(interval * 5);
        let late_by_most = interval / 20;
        let mut lateness = Random(round + 1);
        let mut path = Path::new(interval, retries);
        path.run(
            death + interval * (retries + 9),
            // Replies under way may be lost too.
            |sent| Some(sent + round_trip).filter(|arrival| *arrival <= death),
            || lateness.duration(late_by_most),
        );
        let last_reply = path.last_reply.unwrap();
        let (reported, verdict) = path.verdicts.last().unwrap();
        assert!(matches!(verdict, Verdict::Unhealthy { .. }), "{:?}", path.verdicts);
        let after = reported.saturating_sub(last_reply);
        assert!(after <= interval * (retries + 1) + late_by_most, "{interval:?} * {retries}: {after:?}");
        assert!(after + late_by_most > interval * retries, "{interval:?} * {retries}: {after:?}, too early");
        assert_eq!(*verdict, Verdict::Unhealthy { misses: retries, last_reply_age: Some(after) });
    }
}

#[test]
fn recent_probes_are_the_last_32_answered_or_lost_ones() {
    let start = Instant::now();
    let mut check = Check::new(ms(1000), 3, None, start);
    let recent = |check: &Check| (check.recent().lost(), check.recent().count());
    // A probe counts as lost once it can no longer be answered.
    let mut now = start;
    let mut send = |check: &mut Check, is_answered: bool| {
        now += ms(1000);
        let sequence = check.probe(now, NONCE);
        assert!(check.reply(now + ms(1), sequence, &NONCE).is_some());
        if !is_answered {
            now += ms(1000);
            check.probe(now, NONCE);
            now += LATE;
        }
    };
    assert_eq!(recent(&check), (0, 0));
    send(&mut check, true);
    assert_eq!(recent(&check), (0, 1));
    send(&mut check, false);
    assert_eq!(recent(&check), (0, 2), "it may still be answered");
    send(&mut check, true);
    assert_eq!(recent(&check), (1, 4));
    for _ in 0..28 {
        send(&mut check, true);
    }
    assert_eq!(recent(&check), (1, 32), "the third oldest");
    for _ in 0..3 {
        send(&mut check, true);
    }
    assert_eq!(recent(&check), (0, 32));
}

#[test]
fn random_check_has_the_class_of_the_definition() {
    let mut random = Random(3);
    let (mut degraded_rounds, mut unhealthy_rounds) = (0, 0);
    for _ in 0..400 {
        let interval = ms(3000);
        let retries = 1 + random.below(4) as u32;
        let window = 2 + random.below(200) as u32;
        let degraded = Degraded { loss: 1 + random.below(500_000) as u32, window };
        let tolerated = (u64::from(degraded.loss) * u64::from(window) / 1_000_000) as usize;
        let percent = random.below(101);
        let start = Instant::now();
        let mut check = Check::new(interval, retries, Some(degraded), start);
        // Without jitter, a probe is answered within its interval, or counts as lost two intervals later.
        let (mut outcomes, mut expected, mut reported) = (Vec::new(), false, None);
        let (mut misses, mut healthy, mut changes) = (0, None, 0);
        let mut pending = Vec::new();
        for number in 0..800_u32 {
            let now = start + interval * number;
            let verdict = check.evaluate(now);
            if number >= 2 && pending[number as usize - 2] {
                outcomes.push(true);
                expected = is_degraded(&outcomes, window as usize, tolerated, expected);
            }
            if misses >= retries {
                healthy = Some(false);
            }
            let mut compare = |verdict: Option<Verdict>, healthy, degraded| {
                let class = match (healthy, degraded) {
                    (None, _) => None,
                    (Some(false), _) => Some("unhealthy"),
                    (Some(true), true) => Some("degraded"),
                    (Some(true), false) => Some("healthy"),
                };
                let found = verdict.map(|verdict| match verdict {
                    Verdict::Healthy => "healthy",
                    Verdict::Degraded { .. } => "degraded",
                    Verdict::Unhealthy { .. } => "unhealthy",
                });
                if class != reported {
                    assert_eq!(found, class, "{degraded} probe {number}");
                    changes += 1;
                } else if let Some(found) = found {
                    // The loss is known now.
                    assert_eq!((found, Some(found)), ("healthy", class));
                }
                reported = class;
            };
            compare(verdict, healthy, expected);
            let sequence = check.probe(now, NONCE);
            let is_lost = random.below(100) < percent;
            pending.push(is_lost);
            misses += 1;
            if !is_lost {
                let answer = check.reply(now + ms(20), sequence, &NONCE).expect("it is in time");
                outcomes.push(false);
                expected = is_degraded(&outcomes, window as usize, tolerated, expected);
                (misses, healthy) = (0, Some(true));
                compare(answer.verdict, healthy, expected);
            }
        }
        degraded_rounds += u32::from(expected && changes > 0);
        unhealthy_rounds += u32::from(healthy == Some(false));
    }
    assert!(degraded_rounds > 50 && unhealthy_rounds > 20, "{degraded_rounds} {unhealthy_rounds}");
}
