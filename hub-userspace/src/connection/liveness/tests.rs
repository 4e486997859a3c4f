//! Evidence over time, and the states that follow.

use std::time::{Duration, Instant};

use hub_common::maps::ConnectionRecord;

use super::{Affected, ConnectionLiveness, Evidence, Health, Liveness, State, weigh};
use crate::{
    config::{
        model::{Connection, MssClamp, ReversePath, SelectorSource},
        translate::Translations,
    },
    connection::memory::{Clock, ConnectionMemory},
    kernel::netlink::{HostState, Link},
};

const DELAY: Duration = Duration::from_secs(2);

fn connection(enabled: bool) -> Connection {
    Connection {
        tunnel_weight: None,
        customer_gateway: "site".into(),
        segment: "default".into(),
        enabled,
        interface: "tun0".into(),
        peer: None,
        local_cidrs: Vec::new(),
        remote_cidrs: Vec::new(),
        translate: Translations::default(),
        health_check: None,
        up_delay: DELAY,
        ipsec: None,
        selectors: SelectorSource::File,
        reverse_path: ReversePath::Strict,
        mss_clamp: MssClamp::Auto,
    }
}

/// The evidence of a letter: `+` healthy, `~` it answers, `*` degraded, `?` unknown, `-` failed, `x` administratively
/// down while healthy.
fn evidence(letter: char) -> (Evidence, Option<Health>) {
    match letter {
        '-' => (Evidence::Down, Some(Health::Down)),
        '?' => (Evidence::Unknown, None),
        '~' => (Evidence::Up, Some(Health::Answers)),
        '*' => (Evidence::Up, Some(Health::Degraded)),
        _ => (Evidence::Up, Some(Health::Up)),
    }
}

/// Evaluates at these milliseconds; one letter each.
fn states(steps: &[(u64, char)]) -> (Vec<State>, ConnectionLiveness) {
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let of = |letter| (connection(letter != 'x'), evidence(letter));
    let (first, (well, loss)) = of(steps[0].1);
    let mut entry = ConnectionLiveness::first(&first, well, loss, at(steps[0].0));
    let mut states = vec![entry.state];
    for (milliseconds, letter) in &steps[1..] {
        let (connection, (well, loss)) = of(*letter);
        entry.evaluate(&connection, well, loss, at(*milliseconds));
        states.push(entry.state);
    }
    (states, entry)
}

#[test]
fn down_takes_effect_at_once_and_up_after_delay() {
    use State::{AdminDown, Degraded, Down, HoldDown, Up};
    type Row<'a> = (&'a str, &'a [(u64, char)], &'a [State]);
    let table: [Row<'_>; 14] = [
        ("the first time", &[(0, '+')], &[Up]),
        ("before the first verdict", &[(0, '?'), (10, '+')], &[HoldDown, Up]),
        ("the first verdict is bad", &[(0, '?'), (10, '-'), (20, '+')], &[HoldDown, Down, Up]),
        ("another health check", &[(0, '+'), (10, '?'), (20, '+')], &[Up, Up, Up]),
        ("the first time it is well", &[(0, '-'), (10, '+')], &[Down, Up]),
        (
            "after a failure",
            &[(0, '+'), (10, '-'), (20, '+'), (2019, '+'), (2020, '+')],
            &[Up, Down, HoldDown, HoldDown, Up],
        ),
        (
            "a flap restarts the delay",
            &[(0, '+'), (10, '-'), (20, '+'), (1000, '-'), (1001, '+'), (2500, '+'), (3001, '+')],
            &[Up, Down, HoldDown, Down, HoldDown, HoldDown, Up],
        ),
        ("degraded and back", &[(0, '~'), (10, '*'), (20, '+')], &[Up, Degraded, Up]),
        (
            "degraded until the loss is known",
            &[(0, '*'), (10, '?'), (20, '~'), (30, '+')],
            &[Degraded, Degraded, Degraded, Up],
        ),
        (
            "degraded after a failure",
            &[(0, '*'), (10, '-'), (20, '*'), (2020, '*'), (2030, '+')],
            &[Degraded, Down, HoldDown, Degraded, Up],
        ),
        (
            "degraded from the start",
            &[(0, '?'), (10, '*'), (20, 'x'), (30, '*')],
            &[HoldDown, Degraded, AdminDown, Degraded],
        ),
        ("by hand", &[(0, '+'), (10, 'x'), (20, '+')], &[Up, AdminDown, Up]),
        ("by hand after a failure", &[(0, '+'), (10, '-'), (20, 'x'), (30, '+')], &[Up, Down, AdminDown, Up]),
        (
            "it failed while held",
            &[(0, '+'), (10, '-'), (20, '+'), (30, 'x'), (40, '-')],
            &[Up, Down, HoldDown, AdminDown, Down],
        ),
    ];
    for (name, steps, expected) in table {
        assert_eq!(states(steps).0, expected, "{name}");
    }
}

/// Runs an agent with the steps `before`, then its successor with the steps `after`.
fn restarted(before: &[(u64, char)], after: &[(u64, char)]) -> Vec<State> {
    let start = Instant::now();
    let clock = Clock::at(start, Duration::from_secs(100));
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let mut liveness = Liveness::default();
    let (well, loss) = evidence(before[0].1);
    let first = ConnectionLiveness::first(&connection(true), well, loss, at(before[0].0));
    liveness.connections.insert("site".into(), first);
    let entry = liveness.connections.get_mut("site").unwrap();
    for (time, letter) in &before[1..] {
        let (well, loss) = evidence(*letter);
        entry.evaluate(&connection(true), well, loss, at(*time));
    }

    let mut record = ConnectionRecord::NONE;
    liveness.memory("site", &clock).unwrap().write(&mut record);
    let mut next = Liveness::default();
    let clock = Clock::at(at(50), Duration::from_millis(100_050));
    next.resume("site".into(), &ConnectionMemory::of(&record).unwrap(), &clock);
    let entry = next.connections.get_mut("site").unwrap();
    after
        .iter()
        .map(|(time, letter)| {
            let (well, loss) = evidence(*letter);
            entry.evaluate(&connection(true), well, loss, at(*time));
            entry.state
        })
        .collect()
}

#[test]
fn hold_down_of_one_connection_expires_alone() {
    let text = |number: u8| {
        format!(
            "[connection.c{number}]\ncustomer_gateway = \"site\"\ninterface = \"tun{number}\"\nup_delay = \"2s\"\n\
             local_cidrs = [\"192.168.0.0/16\"]\nremote_cidrs = [\"10.{number}.0.0/16\"]\n"
        )
    };
    let text = format!(
        "[gateway]\nname = \"hub\"\n[customer_gateway.site]\naddress = \"198.51.100.1\"\n{}{}",
        text(0),
        text(1)
    );
    let config = crate::config::parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0;
    let mut host = HostState::default();
    for index in 0..2 {
        let link = Link { name: format!("tun{index}"), ..up_link(index) };
        host.links.insert(link);
    }
    let start = Instant::now();
    let at = |milliseconds| start + Duration::from_millis(milliseconds);
    let mut liveness = Liveness::default();
    let one = |name: &str| Affected::Some([name.to_owned()].into());
    // Each row: the time, the affected connections, and the tunnels that are up.
    for (time, affected, up) in [
        (0, Affected::All, vec!["c0", "c1"]),
        (10, Affected::All, vec![]),
        (20, one("c0"), vec!["c0"]),
        (30, one("c1"), vec!["c0", "c1"]),
    ] {
        let tunnel = |name: &str, _: &Connection| Some(up.contains(&name));
        liveness.evaluate(&config, &host, &affected, tunnel, |_| None, at(time));
    }
    let expired = |liveness: &Liveness, time| liveness.expired(at(time)).cloned().collect::<Vec<_>>();
    assert_eq!((liveness.due(), expired(&liveness, 2019)), (Some(at(2020)), vec![]));
    assert_eq!(
        (expired(&liveness, 2020), expired(&liveness, 2030)),
        (vec!["c0".into()], vec!["c0".into(), "c1".into()])
    );
    liveness.evaluate(&config, &host, &one("c0"), |_, _| Some(true), |_| None, at(2020));
    assert_eq!((liveness.due(), expired(&liveness, 2030)), (Some(at(2030)), vec!["c1".into()]));
    // One that is no longer configured expires no more.
    let mut fewer = config.clone();
    fewer.connections.remove("c1");
    liveness.evaluate(&fewer, &host, &Affected::All, |_, _| Some(true), |_| None, at(2021));
    assert_eq!(liveness.due(), None);
}

fn up_link(index: u32) -> Link {
    Link { index, mtu: 1400, admin_up: true, running: true, ..Link::default() }
}

#[test]
fn liveness_state_continues_after_agent_restart() {
    use State::{Degraded, Down, HoldDown, Up};
    type Row<'a> = (&'a str, &'a [(u64, char)], &'a [(u64, char)], &'a [State]);
    let table: [Row<'_>; 7] = [
        ("up, until evidence says otherwise", &[(0, '+')], &[(50, '?'), (60, '+')], &[Up, Up]),
        ("up, and it is not", &[(0, '+')], &[(50, '?'), (60, '-')], &[Up, Down]),
        (
            "degraded until the loss is known",
            &[(0, '*')],
            &[(50, '?'), (60, '~'), (70, '+')],
            &[Degraded, Degraded, Up],
        ),
        ("it was down", &[(0, '+'), (10, '-')], &[(50, '?'), (60, '+'), (2060, '+')], &[HoldDown, HoldDown, Up]),
        (
            "the hold-down goes on",
            &[(0, '+'), (10, '-'), (20, '+')],
            &[(50, '+'), (2019, '+'), (2020, '+')],
            &[HoldDown, HoldDown, Up],
        ),
        (
            "and so while nothing is known",
            &[(0, '+'), (10, '-'), (20, '+')],
            &[(50, '?'), (60, '+'), (2020, '+')],
            &[HoldDown, HoldDown, Up],
        ),
        (
            "a failure since then restarts it",
            &[(0, '+'), (10, '-'), (20, '+')],
            &[(50, '-'), (60, '+'), (2059, '+'), (2060, '+')],
            &[Down, HoldDown, HoldDown, Up],
        ),
    ];
    for (name, before, after, expected) in table {
        assert_eq!(restarted(before, after), expected, "{name}");
    }
}

#[test]
fn negative_evidence_outweighs_unknown() {
    let (yes, no, unknown) = (Some(true), Some(false), None);
    for (answers, expected) in [
        (&[yes][..], Evidence::Up),
        (&[no], Evidence::Down),
        (&[yes, yes, yes], Evidence::Up),
        (&[yes, no, yes], Evidence::Down),
        (&[yes, unknown, yes], Evidence::Unknown),
        (&[yes, yes, unknown], Evidence::Unknown),
        (&[yes, unknown, no], Evidence::Down),
        (&[no, yes, unknown], Evidence::Down),
    ] {
        assert_eq!(weigh(answers.iter().copied()), expected, "{answers:?}");
    }
}

#[test]
fn flap_during_hold_down_counts_visible_changes_only() {
    let (_, entry) = states(&[(0, '+'), (10, '-'), (20, '+'), (30, '-'), (40, '+'), (3000, '+')]);
    assert_eq!((entry.state, entry.changes), (State::Up, 2));
    assert_eq!(states(&[(0, '+')]).1.changes, 0);
}

#[test]
fn loss_is_no_visible_change_of_state() {
    let (_, up) = states(&[(0, '+')]);
    let (states, entry) = states(&[(0, '+'), (10, '*'), (20, '+'), (30, '*')]);
    assert_eq!(states.last(), Some(&State::Degraded));
    assert_eq!(entry.changes, 0);
    assert_eq!(entry.state.is_up(), up.state.is_up());
    let record = |entry: ConnectionLiveness| {
        let mut liveness = Liveness::default();
        liveness.connections.insert("site".into(), entry);
        let mut record = ConnectionRecord::NONE;
        liveness.memory("site", &Clock::at(entry.since, Duration::from_secs(9))).unwrap().write(&mut record);
        (record.state, record.flags)
    };
    // An agent that does not know the flag reads it as up.
    assert_eq!(record(entry), (ConnectionRecord::UP, ConnectionRecord::DEGRADED));
    assert_eq!(record(up), (ConnectionRecord::UP, 0));
}
