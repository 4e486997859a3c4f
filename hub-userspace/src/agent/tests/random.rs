//! After any sequence of events, the tables equal those of a new agent without history. In between, no packet finds
//! less than before or after.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::{
    canonical::{canonical, shares_must_agree},
    draw,
    evaluate::{Answer, Way},
    sim::Agent,
};
use crate::{
    agent::{Transition, event::Event},
    config::{Config, difference::Difference},
    datapath::Inherited,
};

/// Number of sequences, and events in each.
const SEQUENCES: u64 = 30;
const EVENTS: usize = 30;

#[test]
fn random_events_end_in_tables_compiled_from_scratch() {
    let sequences = std::env::var("VPNHUB_SEQUENCES").map_or(SEQUENCES, |text| text.parse().expect("a number"));
    let first = std::env::var("VPNHUB_SEED").map_or(0, |text| text.parse().expect("a number"));
    for seed in first..first + sequences {
        println!("VPNHUB_SEED={seed}");
        sequence(seed);
    }
}

fn sequence(seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut host = draw::host(&mut random);
    let mut agent = Agent::new(draw::config(&mut random), &host, Instant::now());
    agent.start().expect("it does not fail");
    for _ in 0..EVENTS {
        agent.state.borrow_mut().packets = draw::packets(&mut random);
        let (before, config) = (agent.state.borrow().answers(), Arc::clone(&agent.world.config));
        agent.state.borrow_mut().answers.clear();
        agent.now += Duration::from_millis(random.random_range(0..2000));
        let fails = random.random_bool(0.15);
        if fails {
            let mut state = agent.state.borrow_mut();
            state.fails_in = Some(random.random_range(0..30));
            state.guard_fails = random.random_bool(0.3);
        }
        let attach_fails = !fails && random.random_bool(0.15);
        agent.state.borrow_mut().attach_fails = attach_fails;
        let event = match random.random_range(0..15) {
            12.. => Event::Learned(draw::learned(&mut random)),
            0 | 1 => change(&agent.world.config, draw::config(&mut random)),
            10 | 11 => change(&agent.world.config, draw::reroute(&mut random, &agent.world.config)),
            2 | 3 => Event::Tunnels(draw::tunnels(&mut random)),
            4 => Event::Health(draw::health(&mut random)),
            5 => Event::GraceOver,
            _ => {
                let changes = draw::change_host(&mut random, &mut host);
                agent.state.borrow_mut().host = host.clone();
                Event::Host { host: host.clone(), changes }
            }
        };
        let comes = !matches!(event, Event::GraceOver) || std::mem::take(&mut agent.state.borrow_mut().grace);
        let result = if comes { agent.take(event) } else { Ok(()) };
        if attach_fails {
            agent.settle();
        }
        assert!(fails || result.is_ok(), "{result:?}");
        {
            let mut state = agent.state.borrow_mut();
            (state.fails_in, state.guard_fails, state.attach_fails) = (None, false, false);
        }
        if result.is_err() || attach_fails {
            agent.now += Duration::from_secs(6);
            agent.take(Event::Due).expect("it does not fail any more");
        }
        agent.settle();
        must_be_continuous(&agent, &before);
        must_keep_segments_apart(&agent, &config);
        must_be_as_from_scratch(&agent);
    }
}

pub fn change(old: &Config, new: Config) -> Event {
    let difference = Difference::between(old, &new);
    Event::Change(Arc::new(Transition { difference, config: Some(Arc::new(new)) }))
}

/// Asserts that between two writes, every packet gets the result from before or after all writes.
pub fn must_be_continuous(agent: &Agent, before: &[Answer]) {
    let state = agent.state.borrow();
    let after = state.answers();
    for answers in &state.answers {
        for (index, answer) in answers.iter().enumerate() {
            let (old, new, packet) = (&before[index], &after[index], &state.packets[index]);
            assert!(
                answer.admitted == old.admitted || answer.admitted == new.admitted,
                "{packet:?}: {answer:?} between {old:?} and {new:?}"
            );
            match (&old.way, &answer.way, &new.way) {
                (Some(_), None, Some(_)) => panic!("{packet:?}: no way between {old:?} and {new:?}"),
                (Some(Way::Hub), Some(way), Some(Way::Hub)) => assert_eq!(*way, Way::Hub),
                (None, Some(way), None) => panic!("{packet:?}: {way:?} where there is none before nor after"),
                _ => {}
            }
        }
    }
}

/// Asserts that between two writes, no connection reaches another one that neither the old nor the new configuration
/// lets it reach; and that after all writes, it reaches those that the new configuration lets it reach.
fn must_keep_segments_apart(agent: &Agent, old: &Config) {
    let reaches = |config: &Config, (sender, receiver): &(String, String)| {
        let segment = |name: &str| match name {
            "vpc" => Some("vpc".to_owned()),
            name => config.connections.get(name).map(|connection| connection.segment.clone()),
        };
        matches!((segment(sender), segment(receiver)), (Some(one), Some(other)) if config.reaches(&one, &other))
    };
    let (state, new) = (agent.state.borrow(), &agent.world.config);
    for answer in state.answers.iter().flatten() {
        for pair in &answer.reached {
            assert!(reaches(old, pair) || reaches(new, pair), "{pair:?} reach each other between two writes");
        }
    }
    for answer in state.answers() {
        for pair in &answer.reached {
            assert!(reaches(new, pair), "{pair:?} reach each other");
        }
        for pair in &answer.isolated {
            assert!(!reaches(new, pair), "{pair:?} do not reach each other");
        }
    }
}

pub fn must_be_as_from_scratch(agent: &Agent) {
    let old = &agent.world;
    let (config, time) = (Config::clone(&old.config), Duration::from_secs(1000));
    let is_native = |index: &&u32| old.attachments.is_native(**index);
    let inherited =
        Inherited { xdp: old.host.links.keys().filter(is_native).copied().collect(), ..Inherited::default() };
    let mut fresh = Agent::inheriting(config, &old.host, inherited, agent.mode, time, agent.now);
    // Copy the state that a new agent cannot derive.
    let world = &mut fresh.world;
    (world.tunnels, world.policies) = (Arc::clone(&old.tunnels), Arc::clone(&old.policies));
    (world.checks, world.health) = (old.checks.clone(), old.health.clone());
    (world.liveness, world.negotiated) = (old.liveness.clone(), old.negotiated.clone());
    // Their order decides which have a place in the quotas.
    fresh.take(Event::Learned(old.learned.reported())).expect("it does not fail");
    fresh.start().expect("it does not fail");
    let (one, other) = (agent.state.borrow(), fresh.state.borrow());
    let (is, should) = (format!("{:#?}", canonical(&one)), format!("{:#?}", canonical(&other)));
    for (is, should) in is.lines().zip(should.lines()) {
        assert_eq!(is, should);
    }
    assert_eq!(is, should);
    shares_must_agree(&one, &other);
    assert_eq!(one.attached, other.attached);
    assert_eq!(one.links, other.links);
}
