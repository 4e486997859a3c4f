//! Routes that a routing daemon writes into a table of the kernel: until packets use them, and what a flap of some costs
//! the others.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use hub_tests::lab::HUB;

use super::{Arguments, PATIENCE, SAMPLES, kernel, pace};
use crate::{
    arrivals,
    settings::Spread,
    stats::milliseconds,
    stream,
    testbed::{self, B, Endpoints, PREFIX_SIZE, Testbed},
};

/// Routes that go and come again.
const FLAP: u32 = 10_000;
/// Frames under way.
const LATE: Duration = Duration::from_millis(100);

/// Milliseconds, one for each repetition.
#[derive(Default)]
pub struct Learned {
    /// From the first route that is written until all are in force.
    pub in_force: Vec<f64>,
    /// The kernel's own time, by `ip -batch` into a main table, without an agent.
    pub by_kernel: Vec<f64>,
    /// Frames to other routes that a flap has lost, or delayed by more than [`LATE`].
    pub lost: Vec<f64>,
}

impl Learned {
    pub fn measure(&mut self, arguments: &Arguments, routes: u32) -> Result<()> {
        let learn = format!("[learn]\ntable = 1190\nprotocols = [\"bird\"]\nmax_per_connection = {routes}\n");
        let config = testbed::config(&arguments.common, [], false) + &learn;
        let Testbed { running, mut endpoints } = Testbed::start(&arguments.common, &config, 1)?;
        running.rest()?;
        aim(&mut endpoints, routes)?;
        endpoints.know_neighbours()?;
        let add = batch("add", 0..routes);
        let Endpoints { programs, from, world, .. } = &endpoints;
        let during = || {
            let (made, event) = (programs.made()?, arrivals::clock()?);
            thread::scope(|scope| {
                let daemon = scope.spawn(|| world[HUB].batch(&add));
                let loaded = arrivals::all_reached(programs, event, made, SAMPLES, PATIENCE);
                daemon.join().expect("writing routes does not panic").context("writing the daemon's routes")?;
                loaded
            })
        };
        let (loaded, _) = stream::during(programs, from, pace(arguments), during)?;
        self.in_force.push(milliseconds(loaded));
        running.rest()?;

        let others =
            routes.checked_sub(FLAP).filter(|others| *others >= SAMPLES).context("a flap needs more routes")?;
        aim(&mut endpoints, others)?;
        let Endpoints { programs, from, world, .. } = &endpoints;
        let arrived = || Ok::<_, anyhow::Error>(programs.counts(0)?.total() + programs.counts(1)?.total());
        let before = (programs.made()?, arrived()?);
        let during = || {
            world[HUB].batch(&batch("del", others..routes))?;
            running.rest()?;
            world[HUB].batch(&batch("add", others..routes))?;
            running.rest()
        };
        stream::during(programs, from, pace(arguments), during)?;
        thread::sleep(LATE);
        let (made, arrived) = (programs.made()? - before.0, arrived()? - before.1);
        ensure!(arrived <= made, "{arrived} of {made} frames have arrived");
        self.lost.push(crate::stats::float(made - arrived));
        running.agent.stop_within(PATIENCE)?;

        self.by_kernel.push(milliseconds(kernel::measure(routes)?.0));
        Ok(())
    }
}

/// The stream goes to so many prefixes, evenly spread over the first `routes`.
fn aim(endpoints: &mut Endpoints, routes: u32) -> Result<()> {
    let stride = (routes - 1) / (SAMPLES - 1);
    endpoints.aim(Spread::Apart(stride * PREFIX_SIZE), SAMPLES)
}

fn batch(what: &str, routes: std::ops::Range<u32>) -> String {
    let (peer, device) = (B.peer4(0), B.hub_device(0));
    // 12 is BIRD's protocol.
    let line = |number| {
        let prefix = testbed::prefix_b(number);
        format!("route {what} {prefix} via {peer} dev {device} table 1190 proto 12\n")
    };
    routes.map(line).collect()
}
