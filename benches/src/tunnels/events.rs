//! An agent with the recorded events of very many tunnels: as fast as strongSwan sends them for idle ones, and hours of
//! them at speed.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use hub_tests::lab::{Agent, Scratch};
use serde_json::Value;

use super::{
    Arguments, FAILOVER_MEDIAN, FAILOVER_P99, IDLE_CPU, MEMORY, PREFIXES, Quantile, RATE, STATUS, crowd, interfaces,
    load,
    player::{Player, Turn},
    recording::{Recording, Rekeys, spi_in},
    status_times, target,
};
use crate::{failover, process::Memory, rows::Results, stats::milliseconds, stream::Pace, testbed::Testbed};

/// Of strongSwan's defaults: seconds between rounds of dead peer detection, and between rekeyings.
const DPD: u32 = 30;
const CHILD_REKEY: u32 = 3_600;
const IKE_REKEY: u32 = 4 * 3_600;
const HOURS: u32 = 8;
/// Memory may grow by this much over the hours after the first.
const GROWTH: f64 = 1.02;
/// Between the turns of [`Player`].
const TICK: Duration = Duration::from_millis(10);
/// Time between two tunnels that go down during the failovers.
const CLOSING: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(300);

pub fn measure(arguments: &Arguments, count: u32, results: &mut Results) -> Result<()> {
    let Arguments { seconds, runs, common, .. } = arguments;
    let case: [(&str, Value); 2] = [("tunnels", count.into()), ("sites", "recorded".into())];
    let recording = Arc::new(Recording::make(common)?);
    let scratch = Scratch::new()?;
    let socket = scratch.file("vici");
    let player = Player::start(&socket, recording, count)?;
    let config = config(&failover::standby(common, PREFIXES), &socket, &scratch, count)?;
    let testbed = Testbed::start_in(interfaces::world(count)?, common, &config, failover::addresses(PREFIXES))?;
    let agent = &testbed.running.agent;
    as_played(agent, &player, count)?;
    testbed.running.rest()?;

    let resident = || Memory::of(agent.pid()).map(|memory| mebibytes(memory.resident));
    let memory = results.add(&case, "agent, resident", "MiB", [resident()?]);
    let (idle, status) = while_idle(&player, count, || Ok((load(agent, *seconds)?, status_times(agent, *runs)?)))?;
    let idle = results.add(&case, "agent's load, idle", "% of a core", [idle]);
    let status = results.add(&case, "status", "ms", status);
    target(results, count, "load with recorded events", idle, Quantile::Median, IDLE_CPU, " %");
    target(results, count, "status with recorded events", status, Quantile::P99, STATUS, " ms");
    target(results, count, "memory with recorded events", memory, Quantile::Median, MEMORY, " MiB");

    let mut hours = Vec::new();
    for hour in 1..=HOURS {
        let begin = Instant::now();
        an_hour(&player, count);
        as_played(agent, &player, count)?;
        testbed.running.rest()?;
        hours.push(resident()?);
        eprintln!(
            "hour {hour} of {HOURS}, {count} tunnels: {:.1} MiB, {:.0?}",
            hours[hours.len() - 1],
            begin.elapsed()
        );
    }
    let grown = hours[hours.len() - 1] / hours[0];
    results.add(&case, "agent, resident after each hour", "MiB", hours);
    results.target(
        format!("memory after {HOURS} hours, {count}: at most {GROWTH} times that of one; {grown:.3}"),
        grown <= GROWTH,
    );

    let mut hub = failover::Case::busy(testbed, PREFIXES, Pace::new(RATE, common.cpu))?;
    let closed = AtomicU32::new(0);
    while_idle(&player, count, || {
        meanwhile(
            || {
                player.play(closed.fetch_add(1, Ordering::Relaxed) % count, Turn::Down);
                thread::sleep(CLOSING);
            },
            || (1..=*runs).try_for_each(|run| hub.fail(run)),
        )
    })?;
    let restored =
        results.add(&case, "failover meanwhile", "ms", hub.found.iter().map(|found| milliseconds(found.restored)));
    results.add(&case, "tunnels closed and initiated meanwhile", "", [f64::from(closed.into_inner())]);
    hub.testbed.stop()?;
    target(results, count, "failover with recorded events", restored, Quantile::Median, FAILOVER_MEDIAN, " ms");
    target(results, count, "failover with recorded events", restored, Quantile::P99, FAILOVER_P99, " ms");
    Ok(())
}

/// The configuration of the offices, with these tunnels, an interface each.
fn config(offices: &str, socket: &Path, scratch: &Scratch, count: u32) -> Result<String> {
    let psk = scratch.file("psk");
    fs::write(&psk, "secret-of-the-bench")?;
    fs::set_permissions(&psk, fs::Permissions::from_mode(0o600))?;
    let gateway = format!("[gateway]\naddress = \"203.0.113.1\"\nvici_socket = \"{}\"\n", socket.display());
    let mut text = super::with_quota(offices, count).replacen("[gateway]\n", &gateway, 1);
    for site in 0..count {
        let (address, network) = (crowd::address(site), crowd::network(site));
        write!(
            text,
            "\n[customer_gateway.g{site}]\naddress = \"{address}\"\n\
             [connection.t{site}]\ncustomer_gateway = \"g{site}\"\ninterface = \"s{site}\"\n\
             local_cidrs = [\"{}\"]\nremote_cidrs = [\"{network}\"]\n\
             [connection.t{site}.ipsec]\npsk_file = \"{}\"\nstart = \"start\"\n\
             [[route]]\ndestination = \"{network}\"\nnext_hop = \"t{site}\"\npublish = false\n",
            crowd::LOCAL,
            psk.display(),
        )
        .expect("a string takes all");
    }
    Ok(text)
}

/// Waits until the agent shows the SAs as they were played.
fn as_played(agent: &Agent, player: &Player, count: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let rekeys = player.rekeys();
        let status = agent.status()?;
        let shown = |(number, rekeys): &(u32, Rekeys)| {
            let spi = spi_in(*number, count, *rekeys);
            let connections = status["connections"].as_array().into_iter().flatten();
            let name = format!("t{number}");
            let mut children = connections
                .filter(|connection| connection["name"] == name.as_str())
                .flat_map(|connection| connection["ipsec"]["children"].as_array().into_iter().flatten());
            children.any(|child| child["spi_in"] == spi.as_str())
        };
        // A sample: each look-up goes through all connections.
        let step = (count / 64).max(1) as usize;
        if rekeys.len() == count as usize && rekeys.iter().step_by(step).all(shown) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "after {PATIENCE:?}, {} of {count} tunnels are up at VICI, and the agent does not show their SAs",
            rekeys.len()
        );
        thread::sleep(Duration::from_millis(200));
    }
}

/// Plays what idle tunnels send until `body` is done.
fn while_idle<T: Send>(player: &Player, count: u32, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let (begin, mut seconds) = (Instant::now(), 0.0);
    let mut due = [(DPD, Turn::Dpd), (CHILD_REKEY, Turn::ChildRekey), (IKE_REKEY, Turn::IkeRekey)]
        .map(|(interval, turn)| (f64::from(count) / f64::from(interval), turn, 0.0_f64));
    let turn = move || {
        let passed = begin.elapsed().as_secs_f64() - std::mem::replace(&mut seconds, begin.elapsed().as_secs_f64());
        for (rate, turn, played) in &mut due {
            let before = *played;
            *played += *rate * passed;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of turns")]
            for number in before as u64..*played as u64 {
                player.play((number % u64::from(count)) as u32, *turn);
            }
        }
        thread::sleep(TICK);
    };
    meanwhile(turn, body)
}

/// Repeats `turn` until `body` is done.
fn meanwhile<T>(mut turn: impl FnMut() + Send, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                turn();
            }
        });
        let result = body();
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// Plays what idle tunnels send in an hour, as fast as the agent takes it.
fn an_hour(player: &Player, count: u32) {
    for round in 0..3_600 / DPD {
        for number in 0..count {
            player.play(number, Turn::Dpd);
            // Spread over the hour.
            if number % (3_600 / DPD) == round {
                player.play(number, Turn::ChildRekey);
                if number % (IKE_REKEY / 3_600) == 0 {
                    player.play(number, Turn::IkeRekey);
                }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^52")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}
