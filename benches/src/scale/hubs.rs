//! The hubs that are compared, each in a world of its own, with as many interfaces as it needs.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use hub_tests::lab::HUB;

use super::{
    listeners::{self, Drops},
    subjects::Plan,
    ways::{device, ends},
};
use crate::{
    forward::{
        hub::{Hub, MTU},
        hubs::flood_with,
        routes::Family,
    },
    netdev::Netdev,
    programs::Programs,
    report::Report,
    settings::Traffic,
    testbed::{B, Running},
};

/// Makes a world whose site `b` has this many links, with a sink on each. Returns the indices of the hub's devices.
fn make(programs: &mut Programs, devices: u32) -> Result<(Hub, Vec<u32>)> {
    let hub = Hub::make(false)?;
    programs.attach("sink", &hub.sink)?;
    let (here, there) = (&hub.world[HUB], &hub.world[&B.place]);
    // Thousands of links: as few processes as possible. The sinks compare with one Ethernet address.
    let create = |number| {
        let name = device(number);
        let to = hub.macs.to;
        format!("link add {name} mtu {MTU} type veth peer name {name} address {to} mtu {MTU} netns {}\n", there.name())
    };
    here.batch(&(1..devices).map(create).collect::<String>())?;
    let settings = |number| {
        let (name, [own, peer]) = (device(number), ends(number));
        format!(
            "addr add {own}/31 dev {name}\nlink set dev {name} up\n\
             neigh replace {peer} lladdr {} dev {name} nud permanent\n",
            hub.macs.to
        )
    };
    let up = |number| format!("link set dev {} up\n", device(number));
    there.batch(&(1..devices).map(up).collect::<String>())?;
    here.batch(&(1..devices).map(settings).collect::<String>())?;
    let mut ways = vec![here.ifindex(&device(0))?];
    for number in 1..devices {
        programs.attach("sink", &Netdev::find(there.name(), &device(number))?)?;
        ways.push(here.ifindex(&device(number))?);
    }
    Ok((hub, ways))
}

/// A redirect that looks nothing up.
pub struct Floor {
    hub: Hub,
    ways: Vec<u32>,
}

impl Floor {
    pub fn make(programs: &mut Programs, devices: u32) -> Result<Self> {
        let (hub, ways) = make(programs, devices)?;
        Ok(Self { hub, ways })
    }

    pub fn run(&self, programs: &mut Programs, traffic: &Traffic, frames: u64, cpu: Option<usize>) -> Result<Report> {
        let hub = &self.hub.world[HUB];
        let program = if self.ways.len() == 1 {
            programs.set_port(&Netdev::find(hub.name(), &device(0))?)?;
            "bare"
        } else {
            programs.set_fan(hub, &self.ways)?;
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
    drops: Option<Drops>,
}

impl Side {
    /// Starts it, and waits until it has nothing more to do.
    pub fn start(programs: &mut Programs, agent: &Path, plan: &Plan, family: Family) -> Result<Self> {
        let (hub, _) = make(programs, plan.devices)?;
        let running = Running::start_with(agent, &hub.world[HUB], &plan.config, &plan.arguments)?;
        running.rest()?;
        let drops = |count| Drops::prepare(&hub, (&running.agent, agent), family, count);
        let drops = plan.listeners.map(drops).transpose()?;
        Ok(Self { running, hub, drops })
    }

    pub fn run(&self, programs: &mut Programs, traffic: &Traffic, frames: u64, cpu: Option<usize>) -> Result<Report> {
        self.running.agent.must_run()?;
        let Some(drops) = &self.drops else { return apart(programs, &self.hub, traffic, frames, cpu) };
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            let beside = scope.spawn(|| drops.send_until(&ends, cpu));
            let report = apart(programs, &self.hub, traffic, frames, cpu);
            ends.store(true, Ordering::Relaxed);
            beside.join().expect("sending does not panic").and(report)
        })
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
        if self.drops.is_some() {
            listeners::check(&status, &B.place)?;
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
