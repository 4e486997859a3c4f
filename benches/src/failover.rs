//! How long traffic is lost when a tunnel with a standby fails.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use hub_tests::lab::{HUB, Site, Switch};
use serde_json::Value;

use crate::{
    arrivals::{self, Disturbance},
    cpu::go_first,
    link_monitor::LinkMonitor,
    netdev::Netdev,
    rows::Results,
    stats::{Summary, float, histogram, milliseconds},
    stream::{self, Pace, StreamSummary},
    testbed::{self, B, Common, Endpoints, PREFIX_SIZE, PREFIXES, TO_B, Testbed},
};

#[derive(Args)]
pub struct Arguments {
    /// Prefixes that are routed to the site with two tunnels: a figure, or several that take turns
    #[arg(long, value_delimiter = ',', default_values_t = [10, 100_000])]
    prefixes: Vec<u32>,
    /// Failovers of each kind
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How the first tunnel fails
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [How::Carrier, How::Path])]
    how: Vec<How>,
    /// What the two tunnels are; several take turns
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Subject::Connections, Subject::Dual])]
    subject: Vec<Subject>,
    /// Weight of the second tunnel beside 100 of the first: 0 makes it a standby
    #[arg(long, value_delimiter = ',', default_values_t = [0])]
    weight: Vec<u8>,
    /// Frames a second
    #[arg(long, default_value_t = 100_000)]
    rate: u32,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    /// The far end's device goes down: the hub's loses its carrier
    Carrier,
    /// The hub's device is taken down
    Admin,
    /// The link stays up, but the far end answers nothing any more: a health check must find out
    Path,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// Two connections, with a route of each for each prefix
    Connections,
    /// One connection with two tunnels
    Dual,
}

/// All must arrive for this long until a failover is over.
const CALM: Duration = Duration::from_millis(100);
/// Maximum time until the kernel's notification of a failed link.
const NOTIFICATION_PATIENCE: Duration = Duration::from_secs(2);
/// For the traffic to come back, the first way or the other.
const PATIENCE: Duration = Duration::from_secs(120);

const LINK_MEDIAN: f64 = 5.0;
const LINK_WORST: f64 = 20.0;
const PATH_WORST: f64 = 400.0;

pub fn run(arguments: &Arguments) -> Result<()> {
    for prefixes in &arguments.prefixes {
        ensure!((1..=PREFIXES).contains(prefixes), "--prefixes {prefixes}: 1 to {PREFIXES} are possible");
    }
    let mut results = Results::new("failover");
    for how in &arguments.how {
        for weight in &arguments.weight {
            series(arguments, *how, *weight, &mut results)?;
        }
    }
    results.finish(arguments.common.json.as_deref())
}

/// All failovers of a kind: the numbers of prefixes take turns, each with a hub of its own.
fn series(arguments: &Arguments, how: How, weight: u8, results: &mut Results) -> Result<()> {
    let Arguments { prefixes, subject, runs, rate, common, .. } = arguments;
    let mut cases = Vec::new();
    for (prefixes, subject) in prefixes.iter().flat_map(|prefixes| subject.iter().map(move |of| (*prefixes, *of))) {
        eprintln!("{how:?}, weights 100 and {weight}, {subject:?}: starting a hub with {prefixes} prefixes");
        cases.push(Case::start(common, (prefixes, subject), how, weight, *rate)?);
    }
    for run in 1..=*runs {
        for turn in 0..cases.len() {
            // The agents of the others are on the same machine.
            cases.iter().try_for_each(|case| case.testbed.running.rest())?;
            let case = &mut cases[turn];
            case.fail(run)?;
            let Case { prefixes, subject, found, .. } = case;
            if let Some(Disturbance { restored, lost, .. }) = found.last() {
                eprintln!("run {run} of {runs}, {subject:?}, {prefixes} prefixes: {restored:?}, {lost} frames lost");
            }
        }
    }
    let summaries: Vec<Summary> = cases.iter().filter_map(|case| case.report(results)).collect();
    targets(how, weight, &cases, &summaries, results);
    cases.into_iter().try_for_each(|case| case.testbed.stop())
}

/// A hub with so many prefixes, and what was found.
pub struct Case {
    pub testbed: Testbed,
    prefixes: u32,
    subject: Subject,
    how: How,
    weight: u8,
    pace: Pace,
    /// The agent never rests.
    busy: bool,
    /// Of the device that goes down.
    switch: Switch,
    monitor: LinkMonitor,
    pub found: Vec<Disturbance>,
    /// From the failure until the kernel's notification, in milliseconds.
    notified: Vec<f64>,
    rates: Vec<f64>,
    pauses: Vec<f64>,
}

impl Case {
    fn start(common: &Common, of: (u32, Subject), how: How, weight: u8, rate: u32) -> Result<Self> {
        let config = config(common, of, how, weight);
        let testbed = Testbed::start(common, &config, addresses(of.0))?;
        Self::of(testbed, of, how, weight, Pace::new(rate, common.cpu))
    }

    /// A hub whose agent never rests.
    pub fn busy(testbed: Testbed, prefixes: u32, pace: Pace) -> Result<Self> {
        Ok(Self { busy: true, ..Self::of(testbed, (prefixes, Subject::Connections), How::Carrier, 0, pace)? })
    }

    fn of(testbed: Testbed, (prefixes, subject): (u32, Subject), how: How, weight: u8, pace: Pace) -> Result<Self> {
        let switch = match how {
            How::Admin => testbed.endpoints.world[HUB].switch(&B.hub_device(0)),
            How::Carrier | How::Path => testbed.endpoints.world[&B.place].switch(&Site::device(0)),
        }?;
        let monitor = LinkMonitor::open(&Netdev::find(testbed.endpoints.world[HUB].name(), &B.hub_device(0))?)?;
        let (found, notified, rates, pauses) = Default::default();
        Ok(Self {
            testbed,
            prefixes,
            subject,
            how,
            weight,
            pace,
            busy: false,
            switch,
            monitor,
            found,
            notified,
            rates,
            pauses,
        })
    }

    /// One failover, and the way back.
    pub fn fail(&mut self, run: u32) -> Result<()> {
        let Self { testbed, how, weight, pace, busy, switch, monitor, .. } = self;
        let Testbed { running, endpoints: Endpoints { programs, mute, from, .. } } = testbed;
        let (how, weight, rate) = (*how, u64::from(*weight), pace.rate);
        let rest = || if *busy { Ok(()) } else { running.rest() };
        let mut set = |up| match how {
            How::Carrier | How::Admin => switch.set(up),
            How::Path => mute.set(0, !up),
        };
        // Half of its share will do for a tunnel: flows are not spread evenly.
        let as_weighed = |by_tunnel: [u64; 2]| match weight {
            0 => by_tunnel[1] == 0,
            weight => by_tunnel[0] * weight * 2 >= by_tunnel[1] * 100 && by_tunnel[1] * 200 >= by_tunnel[0] * weight,
        };
        let before = programs.made()?;
        let ((found, notified), summary) = stream::during(programs, from, *pace, || {
            arrivals::wait_for_shares(programs, rate, PATIENCE, as_weighed)?;
            rest()?;
            // Health checks have a rhythm: the failures fall on every part of it.
            thread::sleep(Duration::from_millis(u64::from(run * 37 % 100)));
            let (found, notified) = thread::scope(|scope| -> Result<_> {
                monitor.discard()?;
                let notified = (how != How::Path)
                    .then(|| scope.spawn(|| go_first().and_then(|()| monitor.wait(NOTIFICATION_PATIENCE))));
                // Until it listens.
                thread::sleep(Duration::from_millis(1));
                // A thread of its own: no task gets between the clock and the failure, and the agent's priority stays.
                let failure = scope.spawn(|| -> Result<_> {
                    go_first()?;
                    let (made, event) = (programs.made()?, arrivals::clock()?);
                    set(false).map(|()| (made, event))
                });
                let (made, event) = failure.join().expect("switching does not panic")?;
                let found = arrivals::follow(programs, event, made, rate, CALM, PATIENCE);
                let notified =
                    notified.and_then(|notified| notified.join().expect("the monitor does not panic").transpose());
                Ok((found, notified.transpose()?.map(|notified| Duration::from_nanos(notified.saturating_sub(event)))))
            })?;
            // The way back, even if there was none there.
            set(true)?;
            let found = found?;
            arrivals::wait_for_shares(programs, rate, PATIENCE, as_weighed)?;
            rest()?;
            Ok((found, notified))
        })?;
        self.notified.extend(notified.map(milliseconds));
        let StreamSummary { elapsed, longest_pause } = summary;
        self.rates.push(float(programs.made()? - before) / elapsed.as_secs_f64());
        self.pauses.push(milliseconds(longest_pause));
        self.found.push(found);
        Ok(())
    }

    /// Adds rows and shows how the times are spread; gives back the times until the traffic was restored.
    fn report(&self, results: &mut Results) -> Option<Summary> {
        let [how, subject] = [format!("{:?}", self.how), format!("{:?}", self.subject)].map(|text| text.to_lowercase());
        let case: [(&str, Value); 4] = [
            ("how", how.as_str().into()),
            ("subject", subject.as_str().into()),
            ("prefixes", self.prefixes.into()),
            ("weight", self.weight.into()),
        ];
        let restored: Vec<f64> = self.found.iter().map(|found| milliseconds(found.restored)).collect();
        println!("\n{how}, {subject}, weights 100 and {}, {} prefixes: until all arrives", self.weight, self.prefixes);
        print!("{}", histogram(&restored, "ms"));
        let summary = results.add(&case, "all arrives", "ms", restored);
        // A tunnel that shares the traffic gets its next frame anyway.
        if self.weight == 0 {
            let first = self.found.iter().filter_map(|found| found.first.map(milliseconds));
            results.add(&case, "first over the second", "ms", first);
        }
        results.add(&case, "kernel notified", "ms", self.notified.iter().copied());
        results.add(&case, "lost", "frames", self.found.iter().map(|found| float(found.lost)));
        results.add(&case, "rate", "frames/s", self.rates.iter().map(|rate| rate.round()));
        results.add(&case, "longest pause of sender", "ms", self.pauses.iter().copied());
        summary
    }
}

/// The offices, with so many prefixes routed to the site with two tunnels: weight 100 for the first, `weight` for the
/// second.
fn config(common: &Common, (prefixes, subject): (u32, Subject), how: How, weight: u8) -> String {
    let health_checks = how == How::Path;
    match subject {
        Subject::Connections => {
            let routes = (0..prefixes).flat_map(|number| {
                [(TO_B[0], 100), (TO_B[1], weight)]
                    .map(|(next_hop, weight)| testbed::route(testbed::prefix_b(number), next_hop, weight))
            });
            testbed::config(common, routes, health_checks)
        }
        Subject::Dual => {
            let routes = (0..prefixes).map(|number| testbed::route(testbed::prefix_b(number), TO_B[0], 100));
            testbed::config_of_dual(common, routes, [100, weight], health_checks)
        }
    }
}

/// The same for a tunnel that fails by its carrier, and a standby.
pub fn standby(common: &Common, prefixes: u32) -> String {
    config(common, (prefixes, Subject::Connections), How::Carrier, 0)
}

/// From the first address behind the network's own to the last.
pub fn addresses(prefixes: u32) -> u32 {
    prefixes * PREFIX_SIZE - 1
}

fn targets(how: How, weight: u8, cases: &[Case], summaries: &[Summary], results: &mut Results) {
    for (Case { prefixes, subject, .. }, Summary { median, max, .. }) in cases.iter().zip(summaries) {
        let name = format!("{how:?}, {subject:?}, weight {weight}, {prefixes} prefixes");
        if how == How::Path {
            results.target(format!("{name}: at most {PATH_WORST} ms; worst {max:.1} ms"), *max <= PATH_WORST);
        } else {
            results.target(format!("{name}: median at most {LINK_MEDIAN} ms; {median:.2} ms"), *median <= LINK_MEDIAN);
            results.target(format!("{name}: at most {LINK_WORST} ms; worst {max:.2} ms"), *max <= LINK_WORST);
        }
    }
    // Whatever the number of prefixes, and whether these are two connections or the tunnels of one.
    let medians = || summaries.iter().map(|summary| summary.median);
    if summaries.len() > 1 {
        // Within a quarter, or half a millisecond: what runs differ by anyway.
        let (low, high) = (medians().fold(f64::INFINITY, f64::min), medians().fold(0.0, f64::max));
        let what = format!("{how:?}, weight {weight}: the same for all; medians {low:.2} to {high:.2} ms");
        results.target(what, high - low <= (low / 4.0).max(0.5));
    }
}
