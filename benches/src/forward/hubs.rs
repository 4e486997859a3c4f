//! The hubs that are compared. Worlds alike: in some an agent runs, in another the kernel has the same routes, and
//! `bare`, `bare-tc`, `fib`, the kernel itself and its flow table take turns.

use std::{path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::xdp::XdpLinkId;
use hub_tests::lab::HUB;

use super::{
    cases::{Interfaces, Program},
    flowtable,
    hub::{Hub, SITES},
    routes::{self, Family},
};
use crate::{
    cpu::{go_first, pin},
    flood::{BATCH, Flood},
    programs::Programs,
    report::Report,
    settings::{Traffic, settings, without_link_header},
    shape::DEVICE_OUT,
    tc::{TcLink, detach_tc},
    testbed::{A, B, Running},
};

/// Flows for all destinations together: what connection tracking takes for a flow table by default.
const FLOWS: u32 = 64_000;
/// Source ports, where there are few destinations.
const FLOWS_EACH: u32 = 64;
/// Until all frames get through: the agent resolves neighbours.
const ATTEMPTS: u32 = 5;

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
    interfaces: Interfaces,
    kernel: Hub,
    agents: Vec<(Program, Running, Hub)>,
}

/// How a contender was switched on.
enum Switched {
    /// It always is.
    Always,
    Xdp(XdpLinkId),
    Tc(TcLink),
    FlowTable,
}

impl Hubs {
    /// The world of the kernel, with its routes.
    pub fn make(programs: &mut Programs, interfaces: Interfaces, family: Family, routes: u32) -> Result<Self> {
        let kernel = Hub::make_with(interfaces, true)?;
        let namespace = &kernel.world[HUB];
        let to_tun = kernel.is_to_tun();
        if !to_tun {
            let (device, mac) = (&kernel.egress.device, kernel.macs.to);
            for neighbour in [B.peer4(0).to_string(), "fe80::2".to_owned()] {
                namespace.ip(&format!("neigh replace {neighbour} lladdr {mac} dev {device} nud permanent"))?;
            }
            programs.set_port(&kernel.egress)?;
        }
        namespace.batch(&routes::batch(&B, family, routes, to_tun)).context("writing the kernel's routes")?;
        kernel.attach_ends(programs)?;
        programs.set_device(DEVICE_OUT, &kernel.egress)?;
        Ok(Self { interfaces, kernel, agents: Vec::new() })
    }

    /// The world of an agent: started, its tables written, at rest. How long it took until it was ready.
    pub fn start_agent(
        &mut self,
        programs: &mut Programs,
        program: Program,
        binary: &Path,
        (family, routes): (Family, u32),
    ) -> Result<Duration> {
        let config = routes::config_with(&SITES, self.interfaces.are_tun(), family, routes);
        let (running, hub) = with_agent(program, self.interfaces, binary, &config)?;
        attached_as_meant(&running, program, self.interfaces)?;
        hub.attach_ends(programs)?;
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
        let switched = self.switch_on(programs, program)?;
        let report = thread::scope(|scope| {
            // A thread of its own is pinned: the agent and `ip` run where they like.
            scope.spawn(|| flood(programs, hub, program, load)).join().expect("a flood does not panic")
        });
        self.switch_off(programs, program, switched)?;
        report
    }

    fn switch_on(&self, programs: &mut Programs, program: Program) -> Result<Switched> {
        let Hub { world, ingress, egress, .. } = &self.kernel;
        match program {
            Program::Bare | Program::Fib => programs.attach(program.name(), ingress).map(Switched::Xdp),
            Program::BareTc => {
                let adds_link_header = self.kernel.is_from_tun() && !self.kernel.is_to_tun();
                let name = if adds_link_header { "bare_tc_link" } else { "bare_tc" };
                programs.attach_tc(name, ingress).map(Switched::Tc)
            }
            Program::Hub | Program::HubLpm | Program::HubTc | Program::Kernel => Ok(Switched::Always),
            Program::FlowTable => {
                let devices = [ingress.device.clone(), egress.device.clone()];
                flowtable::on(&world[HUB], &devices).map(|()| Switched::FlowTable)
            }
        }
    }

    fn switch_off(&self, programs: &mut Programs, program: Program, switched: Switched) -> Result<()> {
        match switched {
            Switched::Always => Ok(()),
            Switched::Xdp(link) => programs.detach(program.name(), link),
            Switched::Tc(link) => detach_tc(link, &self.kernel.ingress),
            Switched::FlowTable => flowtable::off(&self.kernel.world[HUB]),
        }
    }

    /// Kills the agents. That a stopping agent leaves nothing behind is covered by tests, and takes long with many
    /// routes.
    pub fn end(self) -> Result<()> {
        self.agents.into_iter().try_for_each(|(_, running, _hub)| running.agent.kill().map(drop))
    }
}

/// A world with an agent: started, its tables written, at rest.
pub fn with_agent(program: Program, interfaces: Interfaces, binary: &Path, config: &str) -> Result<(Running, Hub)> {
    let lookup = program.lookup().context("not an agent")?;
    let config = format!("{config}\n[dataplane]\nlookup = \"{lookup}\"\nlookup_memory = 4096\n");
    let hub = Hub::make_with(interfaces, false)?;
    let running = Running::start_with(binary, &hub.world[HUB], &config, program.arguments())?;
    running.rest()?;
    Ok((running, hub))
}

/// # Errors
/// When the program is attached in another way: then something else would be measured than was meant.
fn attached_as_meant(running: &Running, program: Program, interfaces: Interfaces) -> Result<()> {
    let status = running.agent.status()?;
    for (site, is_tun) in SITES.iter().zip(interfaces.are_tun()) {
        let meant = if is_tun || program == Program::HubTc { "tc" } else { "xdp-native" };
        let attached = &status.connection(&site.place)["attach"];
        ensure!(*attached == meant, "{} is attached as {attached}, and should be as {meant}", site.hub_device);
    }
    Ok(())
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
        untouched: program.is_floor(),
        translated: None,
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
    // For repeatable times: hardly any other task gets the core meanwhile.
    go_first()?;
    let settings = settings(traffic, hub.macs)?;
    programs.set(&if hub.is_to_tun() { without_link_header(settings) } else { settings })?;
    hub.aim_feed(programs)?;
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
