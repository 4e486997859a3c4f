//! Hunts while tunnels, programs and routes change under the agent.

use hub_tests::lab::HUB;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::arena::{Arena, Variant};
use crate::hunt::Hunt;
use crate::lifecycle::{during, still_allowed};
use crate::places::{FAR_DEVICE, Place};
use crate::random::seed;

impl Arena {
    /// Assigns a tunnel device's addresses, and sets it up.
    fn set_up(&self, place: Place) -> anyhow::Result<()> {
        let (net, [own, _]) = place.link4();
        let (device, length) = (place.device(), net.prefix_len());
        self.hub().batch(&format!(
            "addr replace {own}/{length} dev {device}\naddr replace fe80::1/64 dev {device} nodad\nlink set dev {device} up"
        ))
    }

    /// Deletes a tunnel's device, and creates an identical one.
    fn recreate(&self, place: Place, meanwhile: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
        let (hub, far) = (self.hub(), &self.world[place.name()]);
        let (device, mtu) = (place.device(), place.mtu());
        let macs = [hub.mac(device)?, far.mac(FAR_DEVICE)?];
        hub.ip(&format!("link del {device}"))?;
        hub.ip(&format!(
            "link add {device} address {} mtu {mtu} type veth peer name {FAR_DEVICE} address {} mtu {mtu} netns {}",
            macs[0],
            macs[1],
            far.name()
        ))?;
        hub.disable_offloads(device)?;
        far.disable_offloads(FAR_DEVICE)?;
        far.set_gro(FAR_DEVICE, true)?;
        meanwhile()?;
        let (net, [_, own]) = place.link4();
        let length = net.prefix_len();
        far.batch(&format!(
            "addr add {own}/{length} dev {FAR_DEVICE}\naddr add fe80::2/64 dev {FAR_DEVICE} nodad\nlink set dev {FAR_DEVICE} up"
        ))?;
        self.set_up(place)
    }
}

#[test]
fn tunnel_rename_recreation_or_move_opens_no_hole() -> anyhow::Result<()> {
    let seed = seed()?;
    let (arena, tuns) = Arena::build(Variant::ISOLATED)?;
    let agent = arena.start()?;
    let mut hunt = Hunt::new(&arena, tuns)?;
    hunt.settle()?;
    let hub = arena.hub();

    for place in [Place::Beta, Place::Gamma] {
        let device = place.device();
        during(&mut hunt, seed, "a tunnel is renamed", || {
            hub.batch(&format!("link set dev {device} down\nlink set dev {device} name was\nlink set dev was up"))
        })?;
        during(&mut hunt, seed, "it has its name again", || {
            hub.batch(&format!("link set dev was down\nlink set dev was name {device}"))?;
            arena.set_up(place)
        })?;
        still_allowed(&mut hunt, "after it has its name again");
        during(&mut hunt, seed, "a tunnel is re-created", || arena.recreate(place, || Ok(())))?;
        still_allowed(&mut hunt, "after it has been re-created");
        let (here, there) = (hub.name(), &arena.world[Place::Mgmt.name()]);
        during(&mut hunt, seed, "a tunnel is moved away", || {
            hub.ip(&format!("link set dev {device} netns {}", there.name()))
        })?;
        during(&mut hunt, seed, "it is moved back", || {
            there.ip(&format!("link set dev {device} netns {here}"))?;
            arena.set_up(place)
        })?;
        still_allowed(&mut hunt, "after it has been moved back");
    }
    hunt.conclude(agent)
}

#[test]
fn foreign_program_on_tunnel_opens_no_hole() -> anyhow::Result<()> {
    let seed = seed()?;
    let (arena, tuns) = Arena::build(Variant::ISOLATED)?;
    let foreign = arena.hub().foreign_xdp(Place::Gamma.device())?;
    let agent = arena.start()?;
    let mut hunt = Hunt::new(&arena, tuns)?;
    hunt.settle()?;
    during(&mut hunt, seed, "another's program was there first", || Ok(()))?;
    still_allowed(&mut hunt, "beside another's program");

    let pid = Pid::from_raw(agent.pid().cast_signed());
    let second = during(&mut hunt, seed, "another's program is on a new tunnel, the agent stands still", || {
        kill(pid, Signal::SIGSTOP)?;
        let mut program = None;
        arena.recreate(Place::Beta, || {
            program = Some(arena.hub().foreign_xdp(Place::Beta.device())?);
            Ok(())
        })?;
        Ok(program)
    })?;
    during(&mut hunt, seed, "the agent goes on and finds it", || Ok(kill(pid, Signal::SIGCONT)?))?;
    still_allowed(&mut hunt, "beside another's program on a new tunnel");
    during(&mut hunt, seed, "the others' programs go", || {
        drop((foreign, second));
        Ok(())
    })?;
    still_allowed(&mut hunt, "after the others' programs have gone");
    hunt.conclude(agent)
}

#[test]
fn route_flush_opens_no_hole() -> anyhow::Result<()> {
    let seed = seed()?;
    let (arena, tuns) = Arena::build(Variant::PLAIN)?;
    let agent = arena.start()?;
    let mut hunt = Hunt::new(&arena, tuns)?;
    hunt.settle()?;
    let hub = &arena.world[HUB];
    during(&mut hunt, seed, "somebody flushes the published routes", || {
        hub.ip("route flush proto 118")?;
        hub.ip("-6 route flush proto 118")
    })?;
    during(&mut hunt, seed, "another process flushes the agent's tables", || {
        // A missing table has nothing to flush.
        for command in
            ["route flush table 1180", "-6 route flush table 1180", "route flush proto 119", "-6 route flush proto 119"]
        {
            drop(hub.ip(command));
        }
        Ok(())
    })?;
    let mut gone = Vec::new();
    for destination in ["10.62.0.0/16", "fd62::/48", "10.61.0.0/16"] {
        gone.push(destination);
        let config = Variant::PLAIN.config_without(&gone);
        during(&mut hunt, seed, &format!("the route to {destination} is deleted"), || Arena::reload(&agent, &config))?;
    }
    hunt.conclude(agent)
}
