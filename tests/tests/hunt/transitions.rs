//! Hunts while programs are replaced, the nftables table is flushed, and everything is uninstalled.

use std::{fs, net::Ipv4Addr, process::Output, thread};

use anyhow::Context;
use hub_tests::lab::{Agent, FdStore, Namespace, agent_binary};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::arena::{Arena, Variant};
use crate::hunt::Hunt;
use crate::lifecycle::{during, still_allowed};
use crate::random::seed;

const BURST: usize = 100;

fn nft(hub: &Namespace, arguments: &str) -> anyhow::Result<Output> {
    hub.command("nft").args(arguments.split(' ')).output().context("nft (apt-get install nftables)")
}

fn is_guarded(hub: &Namespace) -> anyhow::Result<bool> {
    Ok(nft(hub, "list chain inet vpnhub prerouting")?.status.success())
}

/// The rules and their interfaces, without counters.
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

/// Repeatedly replaces the running program and maps.
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
    hunt.conclude(agent)
}

#[test]
fn program_upgrade_of_xdp_opens_no_hole() -> anyhow::Result<()> {
    upgrades(Variant::ISOLATED)
}

#[test]
fn program_upgrade_of_tc_opens_no_hole() -> anyhow::Result<()> {
    upgrades(Variant::ISOLATED.attach("tc"))
}

/// The owner of the table while an agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// As on kernels before 6.9.
    Nobody,
    /// As elsewhere.
    Agent,
}

/// Whether the agent reports that the kernel supports tables with an owner. If not, it has a plain one.
fn is_owner(agent: &Agent) -> bool {
    !agent.log().contains("inet vpnhub has no owner")
}

/// Between a flush and its repair only the program protects the hub. Another policy then describes what is open, and
/// nothing else may be. A table with an owner can be flushed only while no agent runs and its socket is not stored.
fn flushes(variant: Variant, owner: Owner) -> anyhow::Result<()> {
    let seed = seed()?;
    let (arena, tuns) = Arena::build(variant)?;
    let command = match owner {
        Owner::Nobody => arena.command().argument("--plain-table"),
        Owner::Agent => arena.command(),
    };
    let mut agent = command.start_with(arena.hub(), &variant.config())?;
    let is_owned = is_owner(&agent);
    anyhow::ensure!(!is_owned || owner == Owner::Agent, "--plain-table has an owner");
    let mut hunt = Hunt::new(&arena, tuns)?;
    hunt.settle()?;
    let hub = arena.hub();
    let whole = table(hub)?;
    for flush in ["flush ruleset", "delete table inet vpnhub", "flush table inet vpnhub", "flush set inet vpnhub sites"]
    {
        let is_put_back = |agent: &Agent| {
            while table(hub)? != whole {
                agent.must_run()?;
                thread::yield_now();
            }
            Ok(())
        };
        let mut leaked = [0; 3];
        for (agent_is, leaked) in ["running", "stopped", "killed"].into_iter().zip(&mut leaked) {
            let before = hunt.leaked;
            let pid = Pid::from_raw(agent.pid().cast_signed());
            let is_closed = is_owned && agent_is != "killed";
            hunt.unguarded = !is_closed;
            let changed = |command: &str| {
                let output = nft(hub, command)?;
                let passes = !is_closed || command == "flush ruleset";
                let error = String::from_utf8_lossy(&output.stderr);
                anyhow::ensure!(output.status.success() == passes, "{command}: {error}");
                anyhow::ensure!(!is_closed || table(hub)? == whole, "{command} has changed the table");
                Ok(())
            };
            match agent_is {
                "running" => during(&mut hunt, seed, &format!("nft {flush}"), || {
                    changed(flush)?;
                    is_put_back(&agent)
                })?,
                "stopped" => {
                    during(&mut hunt, seed, &format!("nft {flush}, the agent stands still"), || {
                        kill(pid, Signal::SIGSTOP)?;
                        changed(flush)
                    })?;
                    *leaked = hunt.leaked - before;
                    during(&mut hunt, seed, &format!("nft {flush}, the agent goes on"), || {
                        kill(pid, Signal::SIGCONT)?;
                        is_put_back(&agent)
                    })?;
                }
                _ => {
                    let files = during(&mut hunt, seed, &format!("nft {flush}, no agent runs"), || {
                        let files = agent.kill()?;
                        changed(flush)?;
                        Ok(files)
                    })?;
                    *leaked = hunt.leaked - before;
                    agent = during(&mut hunt, seed, &format!("nft {flush}, an agent starts"), || {
                        command.start_in(hub, files)
                    })?;
                    is_put_back(&agent)?;
                }
            }
            if agent_is == "running" {
                *leaked = hunt.leaked - before;
            }
            // Everything sent so far has been processed.
            still_allowed(&mut hunt, &format!("after nft {flush}, the table is back"));
            hunt.unguarded = false;
            during(&mut hunt, seed, &format!("after nft {flush}"), || Ok(()))?;
            still_allowed(&mut hunt, &format!("after nft {flush}"));
        }
        println!("nft {flush}: open for {leaked:?} packets with the agent running, standing still, killed");
        // Otherwise the hunt would not see the open path.
        let is_open = !flush.starts_with("flush set");
        let [_, standing_still, killed] = leaked;
        anyhow::ensure!(
            !is_open || ((standing_still > 0 || is_owned) && killed > 0),
            "nothing is open after nft {flush}"
        );
    }
    hunt.conclude(agent)
}

#[test]
fn ruleset_flush_opens_documented_hole_until_repair() -> anyhow::Result<()> {
    flushes(Variant::ISOLATED, Owner::Nobody)
}

#[test]
fn ruleset_flush_with_table_owner_opens_no_hole() -> anyhow::Result<()> {
    flushes(Variant::ISOLATED, Owner::Agent)
}

#[test]
fn ruleset_flush_with_tc_opens_documented_hole_until_repair() -> anyhow::Result<()> {
    flushes(Variant::PLAIN.attach("tc"), Owner::Nobody)
}

/// systemd stores the socket that owns the table: nothing opens, whatever happens to the agent.
fn held_for_the_next_agent(variant: Variant) -> anyhow::Result<()> {
    let seed = seed()?;
    let (arena, tuns) = Arena::build(variant)?;
    let hub = arena.hub();
    let store = FdStore::open()?;
    let mut agent = store.command(arena.command()).start_with(hub, &variant.config())?;
    if !is_owner(&agent) {
        println!("tables of this kernel have no owner: nothing to test");
        return agent.stop();
    }
    let mut hunt = Hunt::new(&arena, tuns)?;
    hunt.settle()?;
    let whole = table(hub)?;
    for change in [
        "flush ruleset",
        "delete table inet vpnhub",
        "flush table inet vpnhub",
        "insert rule inet vpnhub forward accept",
    ] {
        let tried = || {
            let output = nft(hub, change)?;
            let error = String::from_utf8_lossy(&output.stderr);
            anyhow::ensure!(output.status.success() == (change == "flush ruleset"), "{change}: {error}");
            anyhow::ensure!(table(hub)? == whole, "{change} has changed the table");
            Ok(())
        };
        for agent_is in ["running", "standing still", "stopped", "killed"] {
            let pid = Pid::from_raw(agent.pid().cast_signed());
            let phase = format!("nft {change}, the agent is {agent_is}");
            match agent_is {
                "running" => during(&mut hunt, seed, &phase, tried)?,
                "standing still" => {
                    kill(pid, Signal::SIGSTOP)?;
                    during(&mut hunt, seed, &phase, tried)?;
                    kill(pid, Signal::SIGCONT)?;
                }
                _ => {
                    let files = during(&mut hunt, seed, &phase, || {
                        let files = if agent_is == "killed" { agent.kill() } else { agent.stop_with(Signal::SIGTERM) }?;
                        tried()?;
                        Ok(files)
                    })?;
                    agent = during(&mut hunt, seed, &format!("{phase}, the next one starts"), || {
                        store.command(arena.command()).start_in(hub, files)
                    })?;
                    tried()?;
                }
            }
            still_allowed(&mut hunt, &format!("after {phase}"));
        }
    }
    hunt.conclude(agent)
}

#[test]
fn table_held_by_systemd_without_agent_opens_no_hole() -> anyhow::Result<()> {
    held_for_the_next_agent(Variant::ISOLATED)
}

#[test]
fn table_held_by_systemd_with_tc_opens_no_hole() -> anyhow::Result<()> {
    held_for_the_next_agent(Variant::PLAIN.attach("tc"))
}

/// Everything that the table protected is gone.
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

/// Routes go first, then the programs, then the table; until the table goes, nothing is open. Afterwards the host is
/// its operator's again. `pid` is the process that removes everything; `more` sends additional packets.
pub fn hunt_while_taken_away(
    hunt: &mut Hunt<'_>,
    hub: &Namespace,
    seed: u64,
    pid: u32,
    mut more: impl FnMut(&mut Hunt<'_>),
) -> anyhow::Result<()> {
    let pid = Pid::from_raw(pid.cast_signed());
    let mut bursts = 0;
    loop {
        let before = hunt.findings();
        hunt.burst(seed, BURST);
        more(hunt);
        if !is_guarded(hub)? {
            // Some of this burst arrived after the host was its operator's again.
            hunt.set_findings(before);
            // Or it has exited, but has not been waited for.
            kill(pid, Signal::SIGSTOP)?;
            nothing_is_left(hub)?;
            kill(pid, Signal::SIGCONT)?;
            println!("{}: {bursts} bursts", hunt.phase);
            hunt.waive_debts();
            return Ok(());
        }
        bursts += 1;
    }
}

/// Unloads what a killed agent has left behind.
pub fn unload(hunt: &mut Hunt<'_>, hub: &Namespace, seed: u64, more: impl FnMut(&mut Hunt<'_>)) -> anyhow::Result<()> {
    "while everything is unloaded".clone_into(&mut hunt.phase);
    hunt.vpc_is_let_go = true;
    let mut unload = hub.command(agent_binary());
    let mut unload = unload.args(["unload", "--instance", &hub.instance()]).spawn()?;
    hunt_while_taken_away(hunt, hub, seed, unload.id(), more)?;
    anyhow::ensure!(unload.wait()?.success(), "unload failed");
    Ok(())
}

/// Routes that make the removal take a while.
const MORE_ROUTES: u32 = 20_000;

/// Another process has emptied the table, and no agent restores it: the programs enforce the policy until the last route
/// is gone.
#[test]
fn cleanup_without_table_opens_no_hole_before_routes_are_gone() -> anyhow::Result<()> {
    let seed = seed()?;
    for flush in ["flush ruleset", "flush table inet vpnhub"] {
        let (arena, tuns) = Arena::build(Variant::ISOLATED)?;
        let hub = arena.hub();
        let agent = arena.start()?;
        let mut hunt = Hunt::new(&arena, tuns)?;
        hunt.settle()?;
        let _files = agent.kill()?;
        let first = u32::from(Ipv4Addr::new(100, 64, 0, 0));
        let more = (first..first + MORE_ROUTES)
            .map(|address| format!("route add {} dev lo proto 118\n", Ipv4Addr::from(address)));
        hub.batch(&more.collect::<String>())?;
        anyhow::ensure!(nft(hub, flush)?.status.success(), "{flush}");
        hunt.phase = format!("while everything is unloaded after nft {flush}");
        hunt.unguarded = true;
        hunt.vpc_is_let_go = true;
        let mut unload = hub.command(agent_binary());
        let mut unload = unload.args(["unload", "--instance", &hub.instance()]).spawn()?;
        let mut bursts = 0;
        loop {
            let before = hunt.findings();
            hunt.burst(seed, BURST);
            if hub.ip("route show proto 118")?.is_empty() {
                hunt.set_findings(before);
                break;
            }
            bursts += 1;
        }
        println!("{}: {bursts} bursts", hunt.phase);
        hunt.waive_debts();
        anyhow::ensure!(unload.wait()?.success(), "unload failed");
        anyhow::ensure!(bursts > 1, "nothing was sent while routes were removed");
        // Without table and route the hub's own answers leave by its default route (docs/security.md).
        let mut findings = hunt.findings();
        findings.retain(|what, _| !what.ends_with("-> wan: an answer of the hub arrived beyond policy"));
        hunt.set_findings(findings);
        hunt.verdict()?;
    }
    Ok(())
}

const ATTACH: [&str; 3] = ["auto", "tc", "auto"];

#[test]
fn cleanup_without_agent_opens_no_hole() -> anyhow::Result<()> {
    let seed = seed()?;
    for attach in ATTACH {
        let (arena, tuns) = Arena::build(Variant::ISOLATED.attach(attach))?;
        let agent = arena.start()?;
        let mut hunt = Hunt::new(&arena, tuns)?;
        hunt.settle()?;
        let _files = agent.kill()?;
        unload(&mut hunt, arena.hub(), seed, |_| ())?;
        hunt.verdict()?;
    }
    Ok(())
}

#[test]
fn agent_detach_on_stop_opens_no_hole() -> anyhow::Result<()> {
    let seed = seed()?;
    for attach in ATTACH {
        let variant = Variant::ISOLATED.attach(attach);
        let (arena, tuns) = Arena::build(variant)?;
        let config =
            variant.config_with(Some("compiled")).replace("[dataplane]\n", "[dataplane]\non_stop = \"detach\"\n");
        let agent = arena.command().start_with(arena.hub(), &config)?;
        let mut hunt = Hunt::new(&arena, tuns)?;
        hunt.settle()?;
        "while an agent detaches".clone_into(&mut hunt.phase);
        hunt.vpc_is_let_go = true;
        kill(Pid::from_raw(agent.pid().cast_signed()), Signal::SIGTERM)?;
        hunt_while_taken_away(&mut hunt, arena.hub(), seed, agent.pid(), |_| ())?;
        agent.stop()?;
        hunt.verdict()?;
    }
    Ok(())
}
