//! The hubs that are compared, each in a world of its own, with as many interfaces as it needs.

use std::{path::Path, thread};

use anyhow::{Context as _, Result, bail, ensure};
use hub_tests::lab::{End, HUB, Link, Site};

use super::subjects::{Plan, way};
use crate::{
    forward::{
        hub::{Hub, MTU},
        hubs::flood_with,
    },
    netdev::Netdev,
    programs::Programs,
    report::Report,
    settings::Traffic,
    testbed::{B, Running},
};

/// Makes a world whose site `b` has this many links, with a sink on each. Returns the hub's devices.
fn make(programs: &mut Programs, devices: u8) -> Result<(Hub, Vec<Netdev>)> {
    let mut hub = Hub::make(false)?;
    programs.attach("sink", &hub.sink)?;
    let mut ways = vec![Netdev::find(hub.world[HUB].name(), &B.hub_device(0))?];
    for number in 1..devices {
        let (way, device) = (way(number), Site::device(number));
        let here = End::new(HUB, &way.hub_device).address(format_args!("{}/30", way.hub4(0)));
        // The sinks compare with one Ethernet address.
        let there = End::new(&B.place, &device)
            .mac(hub.macs.to)
            .address(format_args!("{}/30", way.peer4(0)))
            .receives_redirects();
        hub.world.add_link(Link::new(here, there).mtu(MTU))?;
        programs.attach("sink", &Netdev::find(hub.world[&B.place].name(), &device)?)?;
        ways.push(Netdev::find(hub.world[HUB].name(), &way.hub_device)?);
    }
    Ok((hub, ways))
}

/// A redirect that looks nothing up.
pub struct Floor {
    hub: Hub,
    ways: Vec<Netdev>,
}

impl Floor {
    pub fn make(programs: &mut Programs, devices: u8) -> Result<Self> {
        let (hub, ways) = make(programs, devices)?;
        Ok(Self { hub, ways })
    }

    pub fn run(&self, programs: &mut Programs, traffic: &Traffic, frames: u64, cpu: Option<usize>) -> Result<Report> {
        let program = if let [way] = &self.ways[..] {
            programs.set_port(way)?;
            "bare"
        } else {
            programs.set_fan(&self.ways)?;
            "fan"
        };
        let link = programs.attach(program, &self.hub.ingress)?;
        let report = apart(programs, &self.hub, traffic, frames, cpu);
        programs.detach(program, link)?;
        report
    }
}

/// An agent with its hub.
pub struct Side {
    running: Running,
    hub: Hub,
}

impl Side {
    /// Starts it, and waits until it has nothing more to do.
    pub fn start(programs: &mut Programs, agent: &Path, plan: &Plan) -> Result<Self> {
        let (hub, _) = make(programs, plan.devices)?;
        let running = Running::start_with(agent, &hub.world[HUB], &plan.config, &plan.arguments)?;
        running.rest()?;
        Ok(Self { running, hub })
    }

    pub fn run(&self, programs: &mut Programs, traffic: &Traffic, frames: u64, cpu: Option<usize>) -> Result<Report> {
        self.running.agent.must_run()?;
        apart(programs, &self.hub, traffic, frames, cpu)
    }

    /// # Errors
    /// When a connection had no part of the frames, or the program is attached in another way: then something else was
    /// measured than was meant.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        let status = self.running.agent.status()?;
        let connections = status["connections"].as_array().context("a status without connections")?;
        for connection in connections {
            if let [.., mode] = &plan.arguments[..] {
                let attached = connection["attach"].as_str().unwrap_or("nothing");
                ensure!(attached.ends_with(mode), "attached is {attached}, and should be {mode}");
            }
        }
        let sent: Vec<&str> = connections
            .iter()
            .filter(|connection| connection["tx_packets"].as_u64() > Some(0))
            .filter_map(|connection| connection["name"].as_str())
            .collect();
        if let Some(idle) = plan.used.iter().find(|name| !sent.contains(&name.as_str())) {
            bail!("{} of {} connections sent frames, and {idle} did not", sent.len(), plan.used.len());
        }
        Ok(())
    }

    /// Kills the agent. That a stopping agent leaves nothing behind is covered by tests.
    pub fn end(self) -> Result<()> {
        self.running.agent.kill().map(drop)
    }
}

/// A thread of its own is pinned: agents and `ip` run where they like.
fn apart(programs: &mut Programs, hub: &Hub, traffic: &Traffic, frames: u64, cpu: Option<usize>) -> Result<Report> {
    thread::scope(|scope| {
        scope.spawn(|| flood_with(programs, hub, traffic, frames, cpu)).join().expect("a flood does not panic")
    })
}
