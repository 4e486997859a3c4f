//! Hunts while the agent starts, stops, crashes and hangs.
//!
//! Before an agent has been ready for the first time, the host is its operator's. From then on nothing arrives beyond
//! policy, and allowed traffic stays allowed.

use std::thread;

use hub_tests::lab::{Agent, Scratch};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::arena::{Arena, Variant};
use crate::hunt::Hunt;
use crate::random::seed;

/// Minimum number of random packets per phase.
const PACKETS: usize = 3000;
const BURST: usize = 100;

/// Runs an action during the hunt, and continues the hunt for some time afterwards.
pub fn during<T: Send>(
    hunt: &mut Hunt<'_>,
    seed: u64,
    phase: &str,
    action: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    phase.clone_into(&mut hunt.phase);
    let started = std::time::Instant::now();
    let result = thread::scope(|scope| {
        let action = scope.spawn(action);
        while !action.is_finished() {
            hunt.burst(seed, BURST);
        }
        action.join().expect("the action does not panic")
    });
    println!("{phase}: {:.1?}", started.elapsed());
    for _ in 0..PACKETS / BURST {
        hunt.burst(seed, BURST);
    }
    // Delivery is not guaranteed at the moment of a change.
    hunt.waive_debts();
    result
}

/// Checks that everything the policy allows gets through.
pub fn still_allowed(hunt: &mut Hunt<'_>, phase: &str) {
    phase.clone_into(&mut hunt.phase);
    if let Err(error) = hunt.settle() {
        hunt.note(error);
    }
    hunt.waive_debts();
}

fn agents_come_and_go(variant: Variant) -> anyhow::Result<()> {
    let seed = seed()?;
    let (arena, tuns) = Arena::build(variant)?;
    let agent = arena.start()?;
    let mut hunt = Hunt::new(&arena, tuns)?;
    hunt.settle()?;
    let start = |files: Scratch| arena.command().start_in(arena.hub(), files);

    let files = during(&mut hunt, seed, "while it stops", || agent.stop_with(Signal::SIGTERM))?;
    still_allowed(&mut hunt, "after it has stopped");
    let agent = during(&mut hunt, seed, "while it starts again", || start(files))?;
    still_allowed(&mut hunt, "after it has started again");
    let files = during(&mut hunt, seed, "when it has been killed", || agent.kill())?;
    still_allowed(&mut hunt, "after it has been killed");
    let mut agent = during(&mut hunt, seed, "while it starts after a kill", || start(files))?;
    still_allowed(&mut hunt, "after it has started after a kill");
    for moment in 0..5 {
        // Killed at some point during its start: this many packets after the start.
        let starting = during(&mut hunt, seed, "when it is killed before another start", || {
            arena.command().spawn_in(arena.hub(), agent.kill()?)
        })?;
        "while it starts, before it is killed".clone_into(&mut hunt.phase);
        (0..moment * 20).for_each(|_| hunt.burst(seed, BURST));
        let files = during(&mut hunt, seed, "when it has been killed at a start", || starting.kill())?;
        agent = during(&mut hunt, seed, "while it starts after that", || start(files))?;
    }
    still_allowed(&mut hunt, "after kills at starts");
    during(&mut hunt, seed, "while it stands still", || signal(&agent, Signal::SIGSTOP))?;
    still_allowed(&mut hunt, "while it stands still");
    during(&mut hunt, seed, "when it goes on", || signal(&agent, Signal::SIGCONT))?;
    still_allowed(&mut hunt, "after it has gone on");
    hunt.conclude(agent)
}

fn signal(agent: &Agent, signal: Signal) -> anyhow::Result<()> {
    Ok(kill(Pid::from_raw(agent.pid().cast_signed()), signal)?)
}

#[test]
fn agent_lifecycle_with_xdp_opens_no_hole() -> anyhow::Result<()> {
    agents_come_and_go(Variant::ISOLATED)
}

#[test]
fn agent_lifecycle_with_tc_opens_no_hole() -> anyhow::Result<()> {
    agents_come_and_go(Variant::ISOLATED.attach("tc"))
}
