//! Next-hop groups that change under traffic: the loaded program's choice for each bucket, step by step.
//!
//! A destination's members go down, come back, change their weights, and are added and removed at random. After each
//! step the program is tested on every bucket, with packets of flows that the reference model assigns to it. The shares
//! must equal the model's, and no more buckets may have moved than these shares need.
//!
//! `VPNHUB_SEED=N` replays the steps of that seed; the default is from the clock.

#[path = "../program/mod.rs"]
#[expect(dead_code, reason = "other tests count as well")]
mod program;

use std::{collections::BTreeMap, env, time::SystemTime};

use anyhow::{Context as _, bail, ensure};
use hub_tests::{
    lab::Mac,
    model::{Connection, Interface, MssClamp, ReversePath, Route, World},
    packet::Packet,
};
use hub_userspace::{
    config::model::LookupKind,
    datapath::{Action, Hook},
};
use ipnet::IpNet;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

use crate::program::{Agent, Program, in_namespace};

const BUCKETS: u16 = 256;
/// A share is exact to one bucket. It is exact to two if the only alternative was to take one from a member whose share
/// has not shrunk.
const ROUNDING: f64 = 2.0;
/// Packets arrive on the first, and leave by the others.
const DEVICES: [u32; 9] = [51, 52, 53, 54, 55, 56, 57, 58, 59];
/// Maximum number of next hops of a destination here.
const MEMBERS: usize = 64;
const STEPS: usize = 60;
/// Prefix of the sending site.
const SOURCE: &str = "10.1.0.0/16";
const DESTINATION: &str = "10.9.0.0/16";
/// Another destination, whose changing groups must not affect the first's.
const OTHER: &str = "10.8.0.0/16";

/// Names of the members by bucket.
type Owners = Vec<String>;

#[test]
fn member_change_moves_fewest_buckets() -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let seed = match env::var("VPNHUB_SEED") {
        Ok(text) => text.parse().with_context(|| format!("VPNHUB_SEED={text} is not a number"))?,
        Err(_) => now,
    };
    println!("VPNHUB_SEED={seed}");
    in_namespace(&DEVICES, |_| {
        for members in [2, 3, 7, MEMBERS] {
            let mut rng = SmallRng::seed_from_u64(seed.wrapping_add(members as u64));
            run(&mut rng, members).with_context(|| format!("{members} members; VPNHUB_SEED={seed} runs it again"))?;
        }
        Ok(())
    })
}

fn run(rng: &mut SmallRng, members: usize) -> anyhow::Result<()> {
    let mut program = Program::load((Hook::Xdp, LookupKind::Compiled))?;
    let mut agent = Agent::default();
    let mut world = world(members);
    let flows = flows(&world);
    let mut before: Option<(Owners, BTreeMap<String, f64>)> = None;
    let mut changes = 0;
    for step in 0..STEPS {
        let others_before = members_of(&world, OTHER);
        if step > 0 {
            change(rng, &mut world, DESTINATION);
            change(rng, &mut world, OTHER);
        }
        program.follow(&world, &mut agent)?;
        let owners = owners(&mut program, &world, &flows)?;
        let shares = world.shares(DESTINATION.parse()?);
        let counts = count(&owners);
        for (member, share) in &shares {
            let exact = share * f64::from(BUCKETS);
            let has = counts.get(member).copied().unwrap_or(0);
            ensure!((f64::from(has) - exact).abs() < ROUNDING, "step {step}: {member} has {has} buckets, not {exact}");
        }
        if let Some(stranger) = counts.keys().find(|member| !shares.contains_key(*member)) {
            bail!("step {step}: {stranger} has buckets and is to have none");
        }
        if let Some((before, shares_before)) = &before {
            let moved = before.iter().zip(&owners).filter(|(before, now)| before != now).count();
            let moved = u32::try_from(moved)?;
            changes += moved;
            // A destination with the same members shares their buckets, and must take them unchanged.
            let members = members_of(&world, DESTINATION);
            if members != members_of(&world, OTHER) && members != others_before {
                ensure!(moved == surplus(&count(before), &counts), "step {step}: {moved} buckets moved");
                for (bucket, (before, now)) in before.iter().zip(&owners).enumerate() {
                    let (part_before, part) = (shares_before.get(before), shares.get(before));
                    ensure!(
                        before == now || part.is_none() || part < part_before,
                        "step {step}: bucket {bucket} was taken from {before}, whose share has not shrunk"
                    );
                }
            }
        }
        // Applying the same world again moves nothing.
        program.follow(&world, &mut agent)?;
        ensure!(
            crate::owners(&mut program, &world, &flows)? == owners,
            "step {step}: nothing changed, and flows moved"
        );
        before = Some((owners, shares));
    }
    ensure!(changes > 0, "nothing ever moved: the test does not test");
    Ok(())
}

fn members_of(world: &World, destination: &str) -> BTreeMap<String, u8> {
    let destination: IpNet = destination.parse().expect("a prefix");
    let routes = world.routes.iter().filter(|route| route.destination == destination);
    routes.map(|route| (route.next_hop.clone(), route.weight)).collect()
}

/// The number of buckets that must move from these counts to those: each member's surplus.
fn surplus(before: &BTreeMap<String, u32>, after: &BTreeMap<String, u32>) -> u32 {
    before.iter().map(|(member, had)| had.saturating_sub(after.get(member).copied().unwrap_or(0))).sum()
}

fn count(owners: &Owners) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for owner in owners {
        *counts.entry(owner.clone()).or_default() += 1;
    }
    counts
}

/// A hub with one sending site, and many connections to the same two destinations.
fn world(members: usize) -> World {
    let interfaces = DEVICES.map(|index| {
        let neighbours = (0..members).map(|number| (peer(number).into(), mac(number))).collect();
        Interface {
            index,
            name: format!("if{index}"),
            ethernet: true,
            mac: [2, 0, 0, 0, 1, low(index)],
            mtu: 1500,
            up: true,
            neighbours,
            ..Interface::default()
        }
    });
    let any = "0.0.0.0/0".parse().expect("a prefix");
    let connection = |name: String, interface: u32, remotes: &[&str], number: usize| Connection {
        tunnel_weight: None,
        name,
        segment: None,
        interface: format!("if{interface}"),
        peer: Some(peer(number).into()),
        up: true,
        remotes: remotes.iter().map(|net| net.parse().expect(net)).collect(),
        locals: vec![any],
        agreement: None,
        reverse_path: ReversePath::Strict,
        mss_clamp: MssClamp::Auto,
        translations: Vec::new(),
    };
    let mut connections = vec![connection("source".into(), DEVICES[0], &[SOURCE], 0)];
    for number in 0..members {
        let interface = DEVICES[1 + number % (DEVICES.len() - 1)];
        connections.push(connection(name(number), interface, &[DESTINATION, OTHER], number));
    }
    let routes = [DESTINATION, OTHER]
        .into_iter()
        .flat_map(|destination| (0..members).map(move |number| route(destination, number, 100)));
    let back = Route { destination: SOURCE.parse().expect("a prefix"), next_hop: "source".into(), weight: 100 };
    World {
        interfaces: interfaces.into(),
        connections,
        routes: routes.chain([back]).collect(),
        spoke_to_spoke: true,
        ..World::default()
    }
}

fn route(destination: &str, number: usize, weight: u8) -> Route {
    Route { destination: destination.parse().expect("a prefix"), next_hop: name(number), weight }
}

/// Names in another order than the numbers.
fn name(number: usize) -> String {
    format!("{}{number}", ['m', 'a', 'z'][number % 3])
}

fn peer(number: usize) -> [u8; 4] {
    [169, 254, 1, low(number)]
}

/// Link address of a connection's far end, which identifies the next hop of a packet.
fn mac(number: usize) -> [u8; 6] {
    [2, 0, 0, 0, 2, low(number)]
}

fn low<T: TryInto<u8>>(number: T) -> u8 {
    number.try_into().ok().expect("a small number")
}

/// A random change to a destination's members; one always remains.
fn change(rng: &mut SmallRng, world: &mut World, destination: &str) {
    let destination: IpNet = destination.parse().expect("a prefix");
    let here = |route: &Route| route.destination == destination;
    let members: Vec<usize> = (0..world.routes.len()).filter(|index| here(&world.routes[*index])).collect();
    let index = *members.choose(rng).expect("one always remains");
    match rng.random_range(0..8) {
        // States belong to connections, so they affect both destinations.
        0..3 => {
            let name = world.routes[index].next_hop.clone();
            let connection = world.connections.iter_mut().find(|connection| connection.name == name);
            let connection = connection.expect("routes lead to connections");
            connection.up = !connection.up;
        }
        3..5 => world.routes[index].weight = *[0, 1, 30, 70, 100].choose(rng).expect("five"),
        5 if members.len() > 1 => drop(world.routes.remove(index)),
        _ => {
            let absent: Vec<usize> = (0..world.connections.len() - 1)
                .filter(|number| !world.routes.iter().any(|route| here(route) && route.next_hop == name(*number)))
                .collect();
            if let Some(number) = absent.choose(rng) {
                let weight = *[0, 50, 100].choose(rng).expect("three");
                world.routes.push(Route { destination, next_hop: name(*number), weight });
            }
        }
    }
}

/// Frames of two flows in each bucket.
fn flows(world: &World) -> Vec<[Vec<u8>; 2]> {
    let mut flows = vec![Vec::new(); BUCKETS.into()];
    for port in 1..u16::MAX {
        if flows.iter().all(|flows| flows.len() == 2) {
            break;
        }
        let frame = Packet::ipv4("10.1.0.1", "10.9.0.1")
            .ethernet(Mac(mac(0)), Mac(world.interfaces[0].mac))
            .udp(port, 9)
            .payload(32)
            .build();
        let bucket = &mut flows[world.bucket(DEVICES[0], &frame)];
        if bucket.len() < 2 {
            bucket.push(frame);
        }
    }
    flows.into_iter().map(|flows| flows.try_into().expect("two flows in each of 256 buckets")).collect()
}

/// The member by which each bucket's packets leave.
fn owners(program: &mut Program, world: &World, flows: &[[Vec<u8>; 2]]) -> anyhow::Result<Owners> {
    let names: BTreeMap<[u8; 6], String> =
        (0..world.connections.len() - 1).map(|number| (mac(number), name(number))).collect();
    let mut owners = Owners::new();
    for (bucket, flows) in flows.iter().enumerate() {
        let mut ways = Vec::new();
        for frame in flows {
            let outcome = program.run(DEVICES[0], frame)?;
            ensure!(outcome.action == Action::Redirect, "a packet of bucket {bucket} is not forwarded");
            let far_end: [u8; 6] = outcome.frame[..6].try_into()?;
            ways.push(names.get(&far_end).context("a packet goes to nobody")?.clone());
        }
        ensure!(ways[0] == ways[1], "bucket {bucket} goes two ways");
        owners.append(&mut ways.split_off(1));
    }
    Ok(owners)
}
