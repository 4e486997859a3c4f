//! Hunts while an agent with very many tunnels starts, crashes, starts again and uninstalls. That takes time, and no
//! moment of it may open anything.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use anyhow::Context;
use hub_tests::lab::Tun;
use nix::libc;
use nix::sys::signal::Signal;

use crate::arena::{Arena, Variant};
use crate::hunt::{Hunt, ip};
use crate::lifecycle::{during, still_allowed};
use crate::places::Place;
use crate::random::{number, seed};
use crate::transitions::unload;
use crate::wires::payload;

/// `VPNHUB_TUNS=N` sets another number.
const TUNS: u64 = 50;
/// For an agent that attaches to a thousand interfaces one by one.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Raises the limit of open files to the hard limit.
fn open_many_files() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a structure of the caller's, which outlives both calls.
    let result = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn device(number: u64) -> String {
    format!("many{number}")
}

/// Each site has its own prefix, with no hosts behind it.
fn config(variant: Variant, tuns: u64) -> String {
    let mut text = variant.config().replace("[gateway]\n", &format!("[gateway]\nmax_connections = {}\n", tuns + 10));
    for number in 0..tuns {
        let (high, low) = (number / 256, number % 256);
        writeln!(
            text,
            "\n[customer_gateway.many{number}]\naddress = \"203.0.{}.{low}\"\n\n[connection.many{number}]\ncustomer_gateway = \
             \"many{number}\"\ninterface = \"{}\"\nlocal_cidrs = [\"0.0.0.0/0\"]\nremote_cidrs = [\"10.{}.{low}.0/24\"]\n\n[[route]]\n\
             destination = \"10.{}.{low}.0/24\"\nnext_hop = \"many{number}\"\npublish = true",
            114 + high,
            device(number),
            128 + high,
            128 + high
        )
        .expect("a string takes all");
    }
    text
}

/// Each of the many sends with all others' sources: none of it may arrive anywhere.
fn lie(hunt: &mut Hunt<'_>, tuns: &mut [Tun]) {
    let places = [Place::Alpha, Place::Beta, Place::Vpc, Place::Mgmt, Place::Wan];
    for (number, tun) in tuns.iter_mut().enumerate() {
        let (from, to) = (places[number % 5], places[(number / 5 + 1 + number % 5) % 5]);
        let v6 = number % 3 == 0;
        hunt.fire_unadmitted(Place::Delta, |id| {
            tun.send(&ip(from.host(v6), to.host(v6)).udp(7, 7).bytes(payload(id, 32)).build()).is_ok()
        });
    }
    hunt.look();
}

#[test]
fn agent_with_many_tunnels_opens_no_hole() -> anyhow::Result<()> {
    opens_no_hole(number("VPNHUB_TUNS")?.unwrap_or(TUNS))
}

#[test]
#[ignore = "a minute: the kernel attaches and detaches a thousand TCX links one by one"]
fn agent_with_thousand_tunnels_opens_no_hole() -> anyhow::Result<()> {
    opens_no_hole(1000)
}

fn opens_no_hole(tuns: u64) -> anyhow::Result<()> {
    let seed = seed()?;
    open_many_files().context("raising the limit of open files")?;
    let variant = Variant::ISOLATED;
    let (arena, raw) = Arena::build(variant)?;
    let hub = arena.hub();
    let mut many = (0..tuns).map(|number| Tun::create(hub, &device(number))).collect::<anyhow::Result<Vec<_>>>()?;
    let up: Vec<String> = (0..tuns).map(|number| format!("link set dev {} up", device(number))).collect();
    hub.batch(&up.join("\n"))?;
    let command = || arena.command().ready_within(READY_WITHIN);
    let agent = command().start_with(hub, &config(variant, tuns))?;
    let mut hunt = Hunt::new(&arena, raw)?;
    hunt.settle()?;
    lie(&mut hunt, &mut many);
    still_allowed(&mut hunt, "while all is well");

    let files = during(&mut hunt, seed, "when it has been killed", || agent.kill())?;
    lie(&mut hunt, &mut many);
    let starting = during(&mut hunt, seed, "while it starts, before it is killed", || command().spawn_in(hub, files))?;
    let files = during(&mut hunt, seed, "when it has been killed at its start", || starting.kill())?;
    lie(&mut hunt, &mut many);
    let agent = during(&mut hunt, seed, "while it starts again", || command().start_in(hub, files))?;
    lie(&mut hunt, &mut many);
    still_allowed(&mut hunt, "after it has started again");
    let files = during(&mut hunt, seed, "while it stops", || agent.stop_with(Signal::SIGTERM))?;
    lie(&mut hunt, &mut many);
    let agent = during(&mut hunt, seed, "while it starts once more", || command().start_in(hub, files))?;
    lie(&mut hunt, &mut many);
    still_allowed(&mut hunt, "after it has started once more");
    let _files = agent.kill()?;
    unload(&mut hunt, hub, seed, |hunt| lie(hunt, &mut many))?;
    println!("{tuns} tunnels: {} packets, {} arrived", hunt.sent(), hunt.arrived);
    hunt.verdict()
}
