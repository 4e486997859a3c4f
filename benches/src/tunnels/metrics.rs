//! Scrapes of an agent with many connections, and 100,000 routes to destinations with two next hops.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use hub_tests::lab::{Agent, HUB};
use serde_json::Value;

use super::{Limits, Quantile, interfaces, target};
use crate::{
    rows::Results,
    stats::milliseconds,
    testbed::{self, Common, Running},
};

/// Routes: of each destination two.
const ROUTES: u32 = 100_000;
/// Networks of pairs of connections, a /20 each.
const BEHIND: Ipv4Addr = Ipv4Addr::new(64, 0, 0, 0);
const REQUEST: &[u8] = b"GET /v1/metrics HTTP/1.1\r\nhost: vpnhub\r\n\r\n";

const SCRAPE: Limits = [(100, 50.0), (1_000, 50.0), (4_000, 200.0)];

pub fn measure(common: &Common, count: u32, runs: u32, results: &mut Results) -> Result<()> {
    let case: [(&str, Value); 2] = [("connections", count.into()), ("routes", ROUTES.into())];
    let world = interfaces::world(2)?;
    let running = Running::start(&common.agent()?, &world[HUB], &config(common, count))?;
    running.rest()?;
    let (mut times, mut size) = (Vec::new(), 0);
    for _ in 0..runs {
        let begin = Instant::now();
        size = scrape(&running.agent)?;
        times.push(milliseconds(begin.elapsed()));
    }
    let times = results.add(&case, "scrape", "ms", times);
    #[expect(clippy::cast_precision_loss, reason = "exact below 2^52")]
    results.add(&case, "scrape, size", "MiB", [size as f64 / 1024.0 / 1024.0]);
    running.agent.stop()?;
    target(results, count, "scrape", times, Quantile::Median, SCRAPE, " ms");
    Ok(())
}

/// All connections on two interfaces. One of each leads to each destination.
fn config(common: &Common, count: u32) -> String {
    let mut text = super::with_quota(&testbed::config(common, [], false), count);
    let pairs = count / 2;
    for pair in 0..pairs {
        let network = BEHIND.to_bits() + (pair << 12);
        let prefix = Ipv4Addr::from_bits(network);
        write!(text, "\n[customer_gateway.g{pair}]\naddress = \"198.18.{}.{}\"\n", pair >> 8, pair & 0xff)
            .expect("a string takes all");
        for number in [2 * pair, 2 * pair + 1] {
            write!(
                text,
                "[connection.site-{number}]\ncustomer_gateway = \"g{pair}\"\ninterface = \"s{}\"\n\
                 local_cidrs = [\"0.0.0.0/0\"]\nremote_cidrs = [\"{prefix}/20\"]\n",
                number % 2
            )
            .expect("a string takes all");
        }
        for destination in 0..ROUTES / count {
            let destination = Ipv4Addr::from_bits(network + destination);
            for number in [2 * pair, 2 * pair + 1] {
                write!(
                    text,
                    "[[route]]\ndestination = \"{destination}/32\"\nnext_hop = \"site-{number}\"\nweight = 50\n"
                )
                .expect("a string takes all");
            }
        }
    }
    text
}

/// The size of a scrape's answer in bytes.
fn scrape(agent: &Agent) -> Result<usize> {
    let mut stream = UnixStream::connect(agent.socket()).context("connecting to the agent")?;
    stream.write_all(REQUEST)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "the agent answered {}", String::from_utf8_lossy(&answer[..100]));
    Ok(answer.len())
}
