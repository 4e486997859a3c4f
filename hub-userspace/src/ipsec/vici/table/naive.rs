//! Any sequence of changes: the table equals a model without indexes, and reports every connection that has changed.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

use super::{SaTable, Tunnel};
use crate::ipsec::vici::{
    event::{ChildSa, IkeSa, Outside, SaChange},
    fault::Fault,
};

const CONNECTIONS: [&str; 4] = ["vpnhub-a", "vpnhub-b", "vpnhub-c", "roadwarrior"];

/// As simple as possible: lists that are searched from the start.
#[derive(Default)]
struct Naive {
    ikes: Vec<IkeSa>,
    /// With the number of their IKE SA and their connection.
    children: Vec<(u64, String, ChildSa)>,
    gone: BTreeSet<u64>,
    faults: BTreeMap<String, Fault>,
}

impl Naive {
    fn tunnel(&self, connection: &str) -> Tunnel {
        let states: Vec<&str> =
            self.ikes.iter().filter(|ike| ike.connection == connection).map(|ike| ike.state.as_str()).collect();
        let ike = if states.contains(&"ESTABLISHED") { Some("ESTABLISHED") } else { states.last().copied() };
        let children = self.children.iter().filter(|(_, name, _)| name == connection);
        let mut children: Vec<ChildSa> = children.map(|(_, _, sa)| sa.clone()).collect();
        children.sort_by_key(|child| child.id);
        Tunnel { ike: ike.map(str::to_owned), children, fault: self.faults.get(connection).copied(), rekeys: 0 }
    }

    fn has(&self, id: u64) -> bool {
        self.children.iter().any(|(_, _, sa)| sa.id == id)
    }

    fn ike_up(&mut self, ike: IkeSa) {
        self.ikes.retain(|other| other.id != ike.id);
        self.ikes.push(ike);
        self.ikes.sort_by_key(|ike| ike.id);
    }

    fn child_up(&mut self, ike: &IkeSa, sa: ChildSa, is_new: bool) {
        if self.gone.contains(&sa.id) {
            return;
        }
        self.children.retain(|(_, _, other)| other.id != sa.id);
        if sa.is_live() {
            if is_new {
                self.faults.remove(&ike.connection);
            }
            self.children.push((ike.id, ike.connection.clone(), sa));
        }
    }

    fn child_down(&mut self, id: u64) {
        self.children.retain(|(_, _, sa)| sa.id != id);
        self.gone.insert(id);
    }

    fn apply(&mut self, change: SaChange) {
        match change {
            SaChange::IkeUp(ike) => self.ike_up(ike),
            SaChange::IkeDown(ike) => {
                self.ikes.retain(|other| other.id != ike.id);
                for (_, _, sa) in self.children.clone().into_iter().filter(|(of, _, _)| *of == ike.id) {
                    self.child_down(sa.id);
                }
            }
            SaChange::IkeRekeyed { old, new } => {
                self.ikes.retain(|other| other.id != old);
                self.children.iter_mut().filter(|(of, _, _)| *of == old).for_each(|(of, _, _)| *of = new.id);
                self.ike_up(new);
            }
            SaChange::ChildUp(ike, child) => {
                let is_new = !self.has(child.id);
                self.child_up(&ike, child, is_new);
                self.ike_up(ike);
            }
            SaChange::ChildDown(child) => self.child_down(child.id),
            SaChange::ChildRekeyed { ike, old, new } => {
                let is_new = !self.has(new.id);
                self.child_up(&ike, new, is_new);
                self.child_down(old);
                self.ike_up(ike);
            }
            SaChange::Failed { connection, fault } => {
                if fault.is_news_after(self.faults.get(&connection).copied()) {
                    self.faults.insert(connection, fault);
                }
            }
        }
    }

    fn replace(&mut self, listed: Vec<(IkeSa, Vec<ChildSa>)>) {
        let before = std::mem::take(self);
        self.faults = before.faults.clone();
        for (ike, children) in listed {
            for child in children {
                let is_new = !before.has(child.id);
                self.child_up(&ike, child, is_new);
            }
            self.ike_up(ike);
        }
    }
}

/// Few numbers, so that they collide.
fn ike(random: &mut SmallRng) -> IkeSa {
    let connection = (*CONNECTIONS.choose(random).expect("some")).to_owned();
    let state = (*["ESTABLISHED", "CONNECTING", "REKEYING"].choose(random).expect("some")).to_owned();
    IkeSa { id: random.random_range(1..8), connection, state, is_busy: random.random_bool(0.5), addresses: [None; 2] }
}

fn child(random: &mut SmallRng) -> ChildSa {
    ChildSa {
        id: random.random_range(1..16),
        name: String::new(),
        state: (*["INSTALLED", "INSTALLED", "REKEYED"].choose(random).expect("some")).to_owned(),
        spi_in: String::new(),
        spi_out: String::new(),
        bytes_in: random.random_range(0..3),
        bytes_out: 0,
        age: 0,
        local: Vec::new(),
        remote: Vec::new(),
        outside: Outside::default(),
        cpu: None,
    }
}

fn change(random: &mut SmallRng) -> SaChange {
    match random.random_range(0..8) {
        0 => SaChange::IkeUp(ike(random)),
        1 => SaChange::IkeDown(ike(random)),
        2 => SaChange::IkeRekeyed { old: random.random_range(1..8), new: ike(random) },
        3 | 4 => SaChange::ChildUp(ike(random), child(random)),
        5 => SaChange::ChildDown(child(random)),
        6 => SaChange::ChildRekeyed { ike: ike(random), old: random.random_range(1..16), new: child(random) },
        _ => SaChange::Failed {
            connection: (*CONNECTIONS.choose(random).expect("some")).to_owned(),
            fault: *[Fault::Silent, Fault::WrongSecret, Fault::Refused].choose(random).expect("some"),
        },
    }
}

#[test]
fn table_after_any_changes_equals_a_model_without_indexes() {
    for seed in 0..300 {
        let mut random = SmallRng::seed_from_u64(seed);
        let (mut table, mut naive) = (SaTable::default(), Naive::default());
        let mut published: BTreeMap<&str, Tunnel> = BTreeMap::new();
        for step in 0..200 {
            if random.random_bool(0.05) {
                let listed = |random: &mut SmallRng| (ike(random), vec![child(random), child(random)]);
                let listed: Vec<_> = (0..random.random_range(0..4)).map(|_| listed(&mut random)).collect();
                table.replace(listed.clone());
                naive.replace(listed);
            } else {
                let change = change(&mut random);
                table.apply(change.clone());
                naive.apply(change);
            }
            let changed = table.take_changed();
            for connection in CONNECTIONS {
                let tunnel = naive.tunnel(connection);
                // The model has no numbers of rekeyings.
                assert_eq!(
                    Tunnel { rekeys: 0, ..table.tunnel(connection) },
                    tunnel,
                    "seed {seed}, step {step}, {connection}"
                );
                let before = published.insert(connection, tunnel.clone()).unwrap_or_default();
                assert!(before == tunnel || changed.contains(connection), "seed {seed}, step {step}, {connection}");
            }
        }
    }
}

#[test]
fn event_among_thousand_connections_changes_one() {
    let mut random = SmallRng::seed_from_u64(1);
    let mut table = SaTable::default();
    let up = |random: &mut SmallRng, number: u64| {
        let ike = IkeSa { id: number, connection: format!("vpnhub-{number}"), ..ike(random) };
        (ike, ChildSa { id: number, state: "INSTALLED".to_owned(), ..child(random) })
    };
    for number in 0..1000 {
        let (ike, child) = up(&mut random, number);
        table.apply(SaChange::ChildUp(ike, child));
    }
    assert_eq!(table.take_changed().len(), 1000);
    let (seventh, child) = up(&mut random, 7);
    let rekeyed = ChildSa { id: 1007, ..child.clone() };
    let new_ike = IkeSa { id: 1007, ..seventh.clone() };
    for change in [
        SaChange::ChildUp(seventh.clone(), child),
        SaChange::ChildRekeyed { ike: seventh.clone(), old: 7, new: rekeyed.clone() },
        SaChange::IkeRekeyed { old: 7, new: new_ike.clone() },
        SaChange::Failed { connection: "vpnhub-7".to_owned(), fault: Fault::Silent },
        SaChange::IkeDown(new_ike),
    ] {
        table.apply(change.clone());
        assert_eq!(table.take_changed(), ["vpnhub-7".to_owned()].into(), "{change:?}");
    }
    table.apply(SaChange::ChildDown(rekeyed));
    assert!(table.take_changed().is_empty(), "it had ended with its IKE SA");
}
