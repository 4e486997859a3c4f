//! The hunt goes on while programs are replaced, the nftables table is flushed, and everything is taken away.

use std::{fs, process::Output, thread};

use anyhow::Context;
use hub_tests::lab::{Namespace, agent_binary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::arena::{Arena, Variant};
use crate::everywhere::seed;
use crate::hunt::Hunt;
use crate::lifecycle::{during, still_allowed};

const BURST: usize = 100;

fn nft(hub: &Namespace, arguments: &str) -> anyhow::Result<Output> {
    hub.command("nft").args(arguments.split(' ')).output().context("nft (apt-get install nftables)")
}

fn is_guarded(hub: &Namespace) -> anyhow::Result<bool> {
    Ok(nft(hub, "list chain inet vpnhub prerouting")?.status.success())
}

/// The rules, and the interfaces that they are about. Without counters.
fn table(hub: &Namespace) -> anyhow::Result<String> {
    let parts = [
        "chain inet vpnhub prerouting",
        "chain inet vpnhub forward",
        "chain inet vpnhub output",
        "set inet vpnhub sites",
    ];
    let text = parts.map(|part| Ok(String::from_utf8(nft(hub, &format!("-s list {part}"))?.stdout)?));
    text.into_iter().collect()
}

/// Another program and other maps in the place of those that run, again and again.
fn upgrades(variant: Variant) -> anyhow::Result<()> {
    let seed = seed()?;
    let (arena, tuns) = Arena::build(variant)?;
    let mut agent = arena.start()?;
    let mut hunt = Hunt::new(&arena, tuns)?;
    hunt.settle()?;
    for lookup in ["lpm", "compiled", "lpm", "compiled", "lpm"] {
        agent = during(&mut hunt, seed, &format!("an upgrade to lookup {lookup}"), || {
            let files = agent.stop_with(Signal::SIGTERM)?;
            fs::write(files.file("vpnhub.toml"), variant.config_with(Some(lookup)))?;
            arena.command().start_in(arena.hub(), files)
        })?;
        still_allowed(&mut hunt, &format!("after an upgrade to lookup {lookup}"));
    }
    println!("{variant:?}: {} packets, {} arrived", hunt.sent(), hunt.arrived);
    let verdict = hunt.verdict();
    agent.stop()?;
    verdict
}

#[test]
fn an_upgrade_to_another_program_opens_nothing() -> anyhow::Result<()> {
    upgrades(Variant::ISOLATED)
}

#[test]
fn an_upgrade_to_another_program_of_tc_opens_nothing() -> anyhow::Result<()> {
    upgrades(Variant::ISOLATED.attach("tc"))
}

/// Between a flush and its mending the program stands alone: that moment is not hunted in (docs/security.md).
#[test]
fn a_ruleset_that_is_flushed_is_put_back_and_closes_again() -> anyhow::Result<()> {
    let seed = seed()?;
    let (arena, tuns) = Arena::build(Variant::ISOLATED)?;
    let agent = arena.start()?;
    let mut hunt = Hunt::new(&arena, tuns)?;
    hunt.settle()?;
    let hub = arena.hub();
    let pid = Pid::from_raw(agent.pid().cast_signed());
    let whole = table(hub)?;
    for flush in ["flush ruleset", "delete table inet vpnhub", "flush table inet vpnhub", "flush set inet vpnhub sites"]
    {
        for stands_still in [false, true] {
            if stands_still {
                kill(pid, Signal::SIGSTOP)?;
            }
            let flushed = nft(hub, flush)?;
            anyhow::ensure!(flushed.status.success(), "{flush}: {}", String::from_utf8_lossy(&flushed.stderr));
            if stands_still {
                kill(pid, Signal::SIGCONT)?;
            }
            while table(hub)? != whole {
                agent.must_run()?;
                thread::yield_now();
            }
            during(&mut hunt, seed, &format!("after nft {flush}"), || Ok(()))?;
            still_allowed(&mut hunt, &format!("after nft {flush}"));
        }
    }
    println!("{} packets, {} arrived", hunt.sent(), hunt.arrived);
    let verdict = hunt.verdict();
    agent.stop()?;
    verdict
}

/// What the table stood before has gone.
fn nothing_is_left(hub: &Namespace) -> anyhow::Result<()> {
    for command in
        ["route show proto 118", "route show proto 119", "-6 route show proto 118", "-6 route show proto 119"]
    {
        let routes = hub.ip(command)?;
        anyhow::ensure!(routes.is_empty(), "the table has gone and routes are left: {routes}");
    }
    let links = hub.ip("-d link show")?;
    anyhow::ensure!(!links.contains("xdp"), "the table has gone and programs are left: {links}");
    Ok(())
}

/// Routes go first, then the programs, then the table: until that goes, nothing is open. Afterwards the host is its
/// operator's again.
#[test]
fn what_is_taken_away_opens_nothing_on_the_way() -> anyhow::Result<()> {
    let seed = seed()?;
    for round in 0..3 {
        let (arena, tuns) = Arena::build(Variant::ISOLATED.attach(if round == 1 { "tc" } else { "auto" }))?;
        let agent = arena.start()?;
        let mut hunt = Hunt::new(&arena, tuns)?;
        hunt.settle()?;
        let hub = arena.hub();
        "while everything is taken away".clone_into(&mut hunt.phase);
        let _files = agent.kill()?;
        hunt.vpc_is_let_go = true;
        let mut unload = hub.command(agent_binary());
        let mut unload = unload.args(["unload", "--instance", &hub.instance()]).spawn()?;
        let mut bursts = 0;
        loop {
            let before = hunt.findings();
            hunt.burst(seed, BURST);
            if !is_guarded(hub)? {
                // Some of this burst came when the host was its operator's.
                hunt.set_findings(before);
                let pid = Pid::from_raw(unload.id().cast_signed());
                kill(pid, Signal::SIGSTOP)?;
                nothing_is_left(hub)?;
                kill(pid, Signal::SIGCONT)?;
                break;
            }
            bursts += 1;
        }
        anyhow::ensure!(unload.wait()?.success(), "unload failed");
        println!("{bursts} bursts while it went");
        hunt.waive_debts();
        hunt.verdict()?;
    }
    Ok(())
}
