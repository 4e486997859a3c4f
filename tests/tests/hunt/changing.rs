//! Hunts while tunnels fail and learned routes come and go.

use std::time::Duration;

use anyhow::Context;
use hub_tests::lab::{Agent, HUB, retry};
use nix::sys::signal::Signal;

use crate::arena::{Arena, Variant};
use crate::dual::{Dual, Tunnel};
use crate::hunt::Hunt;
use crate::learned::{self, Moving};
use crate::lifecycle::{during, still_allowed};
use crate::places::{Place, SITES};
use crate::random::seed;

/// A tunnel's first neighbour is resolved after it comes up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The state of the tunnels, and of the learned routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    pub moving: Moving,
    /// Which tunnels of the site with two of them are up.
    pub up: [bool; 2],
}

/// What follows [`Stage::FIRST`].
pub const CHANGES: [Stage; 4] = [
    Stage { moving: Moving::Epsilon, up: [false, true] },
    Stage { moving: Moving::Both, up: [true, true] },
    Stage { moving: Moving::Withdrawn, up: [true, false] },
    Stage::FIRST,
];

impl Stage {
    pub const FIRST: Self = Self { moving: Moving::Delta, up: [true, true] };

    /// Whether a place has this tunnel, and it is up.
    pub fn is_up(self, dual: Option<Dual>, place: Place, tunnel: Tunnel) -> bool {
        match dual.filter(|dual| dual.site == place) {
            Some(_) => self.up[tunnel as usize],
            None => tunnel == Tunnel::First,
        }
    }

    /// Whether packets to a place may take this tunnel.
    pub fn carries(self, dual: Option<Dual>, place: Place, tunnel: Tunnel) -> bool {
        match dual.filter(|dual| dual.site == place) {
            Some(dual) => dual.carry(self.up)[tunnel as usize],
            None => tunnel == Tunnel::First,
        }
    }
}

impl Arena {
    /// Changes links and the daemon's table. The far end of a failed tunnel goes down: the hub's loses its carrier.
    pub fn change(&self, before: Stage, after: Stage) -> anyhow::Result<()> {
        if let Some(Dual { site, .. }) = self.variant.dual {
            for tunnel in Tunnel::ALL {
                let up = after.up[tunnel as usize];
                if up != before.up[tunnel as usize] {
                    let (far, device) = (&self.world[site.name()], tunnel.far_device());
                    far.set_link(device, up)?;
                    if up {
                        // The kernel has removed it.
                        far.ip(&format!("addr replace fe80::2/64 dev {device} nodad"))?;
                    }
                    self.hub().notice_carrier(&site.tunnel_device(tunnel))?;
                }
            }
        }
        if self.variant.learned {
            self.hub().batch(&before.moving.moves_to(after.moving))?;
        }
        Ok(())
    }

    /// Waits until the agent has applied the change.
    pub fn wait_for(&self, agent: &Agent, stage: Stage) -> anyhow::Result<()> {
        if let Some(Dual { site, .. }) = self.variant.dual {
            let states = Tunnel::ALL.map(|tunnel| {
                (format!("{site}/{}", tunnel.name()), if stage.up[tunnel as usize] { "up" } else { "down" })
            });
            agent.wait_for_status(PATIENCE, |status| {
                states.iter().all(|(tunnel, state)| status.connection(tunnel)["state"] == *state)
            })?;
        }
        if self.variant.learned {
            let expected = stage.moving.shown();
            retry(&format!("not learned: {expected:?}"), || {
                let routes = agent.json(&["route", "list", "--learned"])?;
                let routes = routes.as_array().context("a list")?.iter();
                let line = |key: &serde_json::Value| key.as_str().unwrap_or_default().to_owned();
                let shown = routes.map(|route| format!("{} {}", line(&route["destination"]), line(&route["next_hop"])));
                Ok((shown.filter(|line| Moving::is_shown(line)).eq(expected.iter().cloned())).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Fails unless the agent has refused what must be refused. The kernel does not use routes by a failed tunnel.
    pub fn must_refuse(&self, agent: &Agent, stage: Stage) -> anyhow::Result<()> {
        if !self.variant.learned {
            return Ok(());
        }
        let status = agent.status()?;
        for site in SITES.into_iter().filter(|site| stage.is_up(self.variant.dual, *site, Tunnel::First)) {
            let expected = learned::refused(site, self.variant.translated);
            let refused = &status.connection(site.name())["learned"]["refused"];
            let count: u64 = refused.as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
            let table = || self.hub().ip(&format!("route show table {}", learned::TABLE)).unwrap_or_default();
            anyhow::ensure!(count == expected, "{site}: not {expected} refused routes: {refused}\n{}", table());
        }
        Ok(())
    }
}

impl Hunt<'_> {
    /// Hunts while the world changes. Both policies apply meanwhile, and afterwards only the new one.
    pub fn change(&mut self, seed: u64, agent: &Agent, after: Stage) -> anyhow::Result<()> {
        let (arena, before) = (self.arena, self.stage);
        self.next = Some(after);
        during(self, seed, &format!("change to {after:?}"), || {
            arena.change(before, after)?;
            arena.wait_for(agent, after)
        })?;
        self.settle()?;
        (self.stage, self.next) = (after, None);
        Ok(())
    }
}

/// The agent is killed and stopped between and during changes. Without an agent nothing fails over, and routes stay.
fn changes_with_and_without_agent(variant: Variant) -> anyhow::Result<()> {
    let seed = seed()?;
    let (arena, tuns) = Arena::build(variant)?;
    let mut agent = arena.start()?;
    arena.must_refuse(&agent, Stage::FIRST)?;
    let mut hunt = Hunt::new(&arena, tuns)?;
    hunt.settle()?;
    for (number, stage) in CHANGES.into_iter().enumerate() {
        hunt.change(seed, &agent, stage)?;
        still_allowed(&mut hunt, &format!("after the change to {stage:?}"));
        let files = during(&mut hunt, seed, "when the agent has gone", || match number % 2 {
            0 => agent.kill(),
            _ => agent.stop_with(Signal::SIGTERM),
        })?;
        still_allowed(&mut hunt, "without an agent");
        let next = CHANGES[(number + 2) % CHANGES.len()];
        hunt.next = Some(next);
        during(&mut hunt, seed, "a change without an agent", || arena.change(stage, next))?;
        agent = during(&mut hunt, seed, "while it starts after a change", || {
            let agent = arena.command().start_in(arena.hub(), files)?;
            arena.wait_for(&agent, next)?;
            Ok(agent)
        })?;
        hunt.settle()?;
        (hunt.stage, hunt.next) = (next, None);
        arena.must_refuse(&agent, next)?;
        hunt.run(seed, 3000)?;
        hunt.change(seed, &agent, stage)?;
    }
    hunt.conclude(agent)
}

#[test]
fn failing_tunnels_and_learned_routes_with_xdp_open_no_hole() -> anyhow::Result<()> {
    let dual = Dual { site: Place::Beta, weights: [100, 0] };
    changes_with_and_without_agent(Variant { dual: Some(dual), learned: true, ..Variant::PLAIN })
}

#[test]
fn failing_tunnels_and_learned_routes_with_tc_open_no_hole() -> anyhow::Result<()> {
    let dual = Dual { site: Place::Alpha, weights: [50, 50] };
    let variant = Variant { dual: Some(dual), learned: true, segments: true, ..Variant::PLAIN };
    changes_with_and_without_agent(variant.attach("tc"))
}

/// Whatever happens to a daemon: its table is emptied, and written again.
#[test]
fn flushed_table_of_daemon_opens_no_hole() -> anyhow::Result<()> {
    let seed = seed()?;
    let variant = Variant { learned: true, ..Variant::PLAIN };
    let (arena, tuns) = Arena::build(variant)?;
    let agent = arena.start()?;
    let mut hunt = Hunt::new(&arena, tuns)?;
    hunt.settle()?;
    let hub = &arena.world[HUB];
    for _ in 0..5 {
        // Each route may be missing for a while.
        hunt.next = Some(Stage { moving: Moving::Partly, ..Stage::FIRST });
        during(&mut hunt, seed, "the daemon's routes are flushed", || {
            hub.ip(&format!("route flush table {}", learned::TABLE))?;
            hub.ip(&format!("-6 route flush table {}", learned::TABLE))
        })?;
        during(&mut hunt, seed, "the daemon writes its routes again", || {
            hub.batch(&learned::batch(Stage::FIRST.moving, variant.dual, variant.translated))
        })?;
        arena.wait_for(&agent, Stage::FIRST)?;
        hunt.settle()?;
        hunt.next = None;
        hunt.run(seed, 3000)?;
    }
    arena.must_refuse(&agent, Stage::FIRST)?;
    hunt.conclude(agent)
}
