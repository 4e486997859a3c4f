//! The demo's two worlds, the agent in one of them, and the cleanup after an earlier demo that was killed.

use std::{
    io,
    os::{linux::net::SocketAddrExt as _, unix::net},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use hub_tests::lab::{
    Agent, AgentCommand, HANGZHOU, HUB, INTERNET, NINGBO, Namespace, Options, SHANGHAI, Scratch, Site, VPC, World,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::process;

/// Namespaces of the world with VPN-Hub are named `vpnhub-demo-PLACE`.
const WITH_HUB: &str = "vpnhub-demo";
/// Those of its twin, where the kernel forwards.
const WITH_KERNEL: &str = "vpnhub-demo-kernel";
/// Those of the world with IPsec.
pub const WITH_IPSEC: &str = "vpnhub-demo-ipsec";

pub const SITES: [Site; 3] = [SHANGHAI, HANGZHOU, NINGBO];

pub const INTRODUCTION: &str = "\
Three offices and a VPC, a hub between them that runs VPN-Hub (examples/three-offices.toml):

  shanghai  10.10.10.0/24  fd00:10:10:10::/64 ──┐
  hangzhou  10.10.20.0/24  fd00:10:10:20::/64 ──┼── hub ── vpc  192.168.0.0/24  fd00:192:168::/64
  ningbo    10.10.30.0/24  fd00:10:10:30::/64 ──┘
";

/// How long a leftover process gets to end by itself: an agent detaches its programs.
const GRACE: Duration = Duration::from_secs(5);

/// Makes sure that no other demo runs: the names are fixed, so this one would replace its network.
///
/// The kernel takes the name back with the process, however that ends; a lock file would stay.
pub fn alone() -> Result<net::UnixListener> {
    let name = net::SocketAddr::from_abstract_name(WITH_HUB)?;
    net::UnixListener::bind_addr(&name).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!("another `cargo xtask demo` is running on this host: wait until it ends"),
        _ => anyhow::Error::new(error).context("checking that no other demo runs"),
    })
}

/// Ends the processes that a killed demo left in its namespaces. The namespaces themselves are replaced.
///
/// The check is for an inner namespace of exactly our name, so no other process is affected.
pub fn end_leftovers() -> Result<()> {
    for prefix in [WITH_HUB, WITH_KERNEL, WITH_IPSEC] {
        for place in places() {
            let name = format!("{prefix}-{place}");
            if let Some(namespace) = Namespace::open(&name)? {
                end_processes(&namespace)?;
                // Now, so that a world that is not made this time (--skip-comparison) does not stay either.
                drop(namespace);
                Namespace::remove(&name)?;
            }
        }
    }
    Ok(())
}

fn places() -> impl Iterator<Item = String> {
    [HUB, VPC.place, INTERNET].into_iter().map(str::to_owned).chain(SITES.map(|site| site.place.into_owned()))
}

fn end_processes(namespace: &Namespace) -> Result<()> {
    let started = Instant::now();
    let mut signal = Some(Signal::SIGTERM);
    loop {
        let processes = namespace.processes()?;
        if processes.is_empty() {
            return Ok(());
        }
        let name = namespace.name();
        ensure!(
            processes.iter().all(|(id, _)| *id != std::process::id()),
            "this shell runs inside {name}, which the demo replaces: run it from outside"
        );
        if started.elapsed() > GRACE {
            ensure!(started.elapsed() < 2 * GRACE, "processes {processes:?} in {name} do not end");
            signal = Some(Signal::SIGKILL);
        }
        if let Some(signal) = signal.take() {
            for (id, _) in processes {
                // One that has ended meanwhile is as good.
                let _ = kill(Pid::from_raw(id.cast_signed()), signal);
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The hub's kernel does not forward, so VPN-Hub has forwarded every packet that arrives.
pub fn with_hub() -> Result<World> {
    make(WITH_HUB, false)
}

/// The twin: the same places, links, addresses, MTUs and offloads, no agent. Instead the hub's kernel forwards, with a
/// static route to each office.
pub fn with_kernel() -> Result<World> {
    let world = make(WITH_KERNEL, true)?;
    let routes = SITES.map(|site| {
        let device = site.hub_device(0);
        format!(
            "route add {} via {} dev {device}\nroute add {} via fe80::2 dev {device}\n",
            site.network4(),
            site.peer4(0),
            site.network6(),
        )
    });
    world[HUB].batch(&routes.concat())?;
    Ok(world)
}

fn make(prefix: &str, kernel_forwards: bool) -> Result<World> {
    let world = World::three_offices(&Options::default().fixed_names(prefix).slow_path(kernel_forwards))?;
    for site in SITES {
        // A veth takes the generator's frames only with GRO or an XDP program. The kernel's hub has no program; the
        // other gets the same setting, so that the two differ in nothing but who forwards. (With `vpnhub-bench pass`
        // in place of GRO the kernel's rate was the same within a tenth.)
        world[HUB].set_gro(&site.hub_device(0), true)?;
    }
    Ok(world)
}

/// The agent that was just built, with its socket and configuration in a directory of the demo's own.
pub fn start_agent(hub: &Namespace) -> Result<Agent> {
    let scratch = Scratch::named(WITH_HUB)?;
    let example = process::workspace().join("examples/three-offices.toml");
    std::fs::copy(&example, scratch.file("vpnhub.toml")).with_context(|| format!("copying {}", example.display()))?;
    AgentCommand::new(process::release_dir()?.join("vpnhub")).start_in(hub, scratch)
}
