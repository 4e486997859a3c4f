//! The hubs that are compared. Worlds alike: in some an agent runs, in another the kernel has the same routes, and
//! `bare`, `fib`, the kernel itself and its flow table take turns.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::programs::xdp::XdpLinkId;
use hub_tests::lab::{HUB, Options, Site, World};

use super::{
    cases::Program,
    flowtable,
    routes::{self, Family},
};
use crate::{
    cpu::pin,
    flood::{BATCH, Flood},
    netdev::Netdev,
    programs::Programs,
    report::Report,
    settings::{Macs, Traffic, settings},
    testbed::{A, B, Running},
};

pub const SITES: [Site; 2] = [A, B];
/// Frames of up to 1514 bytes go through.
pub const MTU: u32 = 1500;
/// Flows for all destinations together: what connection tracking takes for a flow table by default.
const FLOWS: u32 = 64_000;
/// Source ports, where there are few destinations.
const FLOWS_EACH: u32 = 64;
/// Until all frames get through: the agent resolves neighbours.
const ATTEMPTS: u32 = 5;

/// A hub between two sites, and where frames go in and out.
pub struct Hub {
    pub world: World,
    pub from: Netdev,
    /// The hub's own devices on the way.
    pub ingress: Netdev,
    pub egress: Netdev,
    pub macs: Macs,
    /// Where all of it must come out.
    pub sink: Netdev,
}

impl Hub {
    /// Without routes and without an agent.
    pub fn make(kernel_forwards: bool) -> Result<Self> {
        let options = Options::default().sites(SITES).slow_path(kernel_forwards).tunnel_mtu(MTU);
        let world = World::three_offices(&options)?;
        let netdev = |namespace: &str, device: &str| Netdev::find(world[namespace].name(), device);
        let device = Site::device(0);
        let (from, sink) = (netdev(&A.place, &device)?, netdev(&B.place, &device)?);
        let (ingress, egress) = (netdev(HUB, &A.hub_device(0))?, netdev(HUB, &B.hub_device(0))?);
        for end in [&ingress, &egress] {
            // A veth takes the generator's frames only with GRO or an XDP program; the same for all contenders.
            world[HUB].set_gro(&end.device, true)?;
        }
        let macs = Macs { from: from.mac()?, gateway: ingress.mac()?, to: sink.mac()? };
        Ok(Self { world, from, ingress, egress, macs, sink })
    }
}

impl Hub {
    /// Has the hub's kernel know the way to both sites' own networks.
    pub fn route_sites(&self) -> Result<()> {
        for site in &SITES {
            for (network, via) in [
                (site.network4().to_string(), site.peer4(0).to_string()),
                (site.network6().to_string(), "fe80::2".to_owned()),
            ] {
                self.world[HUB].ip(&format!("route add {network} via {via} dev {}", site.hub_device(0)))?;
            }
        }
        Ok(())
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        // The kernel drops their routes with the devices, now: else it would while the next is measured.
        for netdev in [&self.ingress, &self.egress] {
            drop(self.world[HUB].ip(&format!("link del {}", netdev.device)));
        }
    }
}

/// Conditions of a run.
#[derive(Clone, Copy)]
pub struct Load {
    pub family: Family,
    pub routes: u32,
    pub destinations: u32,
    pub bytes: u32,
    pub frames: u64,
    /// The core that all of it runs on.
    pub cpu: Option<usize>,
}

/// All worlds with their routes. A contender that could not be prepared is not there.
pub struct Hubs {
    kernel: Hub,
    agents: Vec<(Program, Running, Hub)>,
}

impl Hubs {
    /// The world of the kernel, with its routes.
    pub fn make(programs: &mut Programs, family: Family, routes: u32) -> Result<Self> {
        let kernel = Hub::make(true)?;
        let namespace = &kernel.world[HUB];
        let device = &kernel.egress.device;
        for neighbour in [B.peer4(0).to_string(), "fe80::2".to_owned()] {
            namespace.ip(&format!("neigh replace {neighbour} lladdr {} dev {device} nud permanent", kernel.macs.to))?;
        }
        namespace.batch(&routes::batch(&B, family, routes)).context("writing the kernel's routes")?;
        programs.attach("sink", &kernel.sink)?;
        programs.set_port(&kernel.egress)?;
        Ok(Self { kernel, agents: Vec::new() })
    }

    /// The world of an agent: started, its tables written, at rest. How long it took until it was ready.
    pub fn start_agent(
        &mut self,
        programs: &mut Programs,
        program: Program,
        binary: &Path,
        (family, routes): (Family, u32),
    ) -> Result<Duration> {
        let (running, hub) = with_agent(program, binary, &routes::config(&SITES, family, routes))?;
        programs.attach("sink", &hub.sink)?;
        let ready = running.ready;
        self.agents.push((program, running, hub));
        Ok(ready)
    }

    /// One measurement: switches the contender on, warms up, floods, and switches it off again.
    pub fn run(&self, programs: &mut Programs, program: Program, load: Load) -> Result<Report> {
        let hub = match (program.lookup(), self.agents.iter().find(|(of, ..)| *of == program)) {
            (Some(_), Some((_, running, hub))) => {
                running.agent.must_run()?;
                hub
            }
            (Some(_), None) => bail!("there is no agent"),
            _ => &self.kernel,
        };
        let link = self.switch_on(programs, program)?;
        let report = thread::scope(|scope| {
            // A thread of its own is pinned: the agent and `ip` run where they like.
            scope.spawn(|| flood(programs, hub, program, load)).join().expect("a flood does not panic")
        });
        self.switch_off(programs, program, link)?;
        report
    }

    fn switch_on(&self, programs: &mut Programs, program: Program) -> Result<Option<XdpLinkId>> {
        let Hub { world, ingress, egress, .. } = &self.kernel;
        match program {
            Program::Bare | Program::Fib => programs.attach(program.name(), ingress).map(Some),
            Program::Hub | Program::HubLpm | Program::Kernel => Ok(None),
            Program::FlowTable => {
                flowtable::on(&world[HUB], &[ingress.device.clone(), egress.device.clone()]).map(|()| None)
            }
        }
    }

    fn switch_off(&self, programs: &mut Programs, program: Program, link: Option<XdpLinkId>) -> Result<()> {
        match (program, link) {
            (_, Some(link)) => programs.detach(program.name(), link),
            (Program::FlowTable, None) => flowtable::off(&self.kernel.world[HUB]),
            _ => Ok(()),
        }
    }

    /// Kills the agents. That a stopping agent leaves nothing behind is covered by tests, and takes long with many
    /// routes.
    pub fn end(self) -> Result<()> {
        self.agents.into_iter().try_for_each(|(_, running, _hub)| running.agent.kill().map(drop))
    }
}

/// A world with an agent: started, its tables written, at rest.
pub fn with_agent(program: Program, binary: &Path, config: &str) -> Result<(Running, Hub)> {
    let lookup = program.lookup().context("not an agent")?;
    let config = format!("{config}\n[dataplane]\nlookup = \"{lookup}\"\nlookup_memory = 4096\n");
    let hub = Hub::make(false)?;
    let running = Running::start(binary, &hub.world[HUB], &config)?;
    running.rest()?;
    Ok((running, hub))
}

/// The frames of a run.
pub fn traffic(program: Program, load: Load) -> Traffic {
    let Load { family, routes, destinations, bytes, .. } = load;
    let flows = (FLOWS / destinations).clamp(1, FLOWS_EACH);
    Traffic {
        source: family.host(&A),
        destination: family.all(),
        spread: routes::spread(routes, destinations),
        destinations,
        flows,
        bytes,
        untouched: program == Program::Bare,
    }
}

fn flood(programs: &mut Programs, hub: &Hub, program: Program, load: Load) -> Result<Report> {
    flood_with(programs, hub, &traffic(program, load), load.frames, load.cpu)
}

/// Warms up and floods, all on this thread and so on one core.
pub fn flood_with(
    programs: &mut Programs,
    hub: &Hub,
    traffic: &Traffic,
    frames: u64,
    cpu: Option<usize>,
) -> Result<Report> {
    let &Traffic { destinations, flows, bytes, .. } = traffic;
    pin(cpu)?;
    programs.set(&settings(traffic, hub.macs)?)?;
    let mut flood = Flood { programs, from: &hub.from, frame: vec![0; bytes as usize], batch: BATCH };
    // Several of each flow: the first ones take the long way.
    let enough = crate::flood::WARM_UP.max(u64::from(destinations) * u64::from(flows) * 4).min(frames);
    for _ in 0..ATTEMPTS {
        if !flood.measure(enough).context("warming up")?.void {
            break;
        }
    }
    flood.measure(frames)
}
