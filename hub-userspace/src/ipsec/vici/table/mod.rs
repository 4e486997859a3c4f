//! The SAs that there are, of all that charon tells: in whatever order, twice, or too late. Pure.
//!
//! A connection is up while it has a child SA that carries traffic, whichever of several came first: one that closes after
//! another has taken its place changes nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    event::{ChildSa, IkeSa, SaChange},
    fault::Fault,
    names::Names,
    selector::TrafficSelector,
};
use crate::policy::{
    ports::ProtoPorts,
    selectors::{Pair, same_family},
};

/// Numbers of SAs gone that are remembered, lest what is told too late brings them back.
const REMEMBERED: usize = 4096;

/// SAs of all connections, ours and others'.
#[derive(Debug, Default)]
pub struct SaTable {
    ikes: BTreeMap<u64, IkeSa>,
    children: BTreeMap<u64, Child>,
    /// Numbers of child SAs that are gone; charon gives none twice.
    gone: Gone,
    /// What was last in the way of a connection, by charon's name.
    faults: BTreeMap<String, Fault>,
}

#[derive(Debug)]
struct Child {
    ike: u64,
    connection: String,
    sa: ChildSa,
}

#[derive(Debug, Default)]
struct Gone {
    known: BTreeSet<u64>,
    /// The same, the oldest first.
    order: VecDeque<u64>,
}

/// What a connection has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// State of its IKE SA, the best of several; `None`: it has none.
    pub ike: Option<String>,
    /// Child SAs that carry traffic, the oldest first.
    pub children: Vec<ChildSa>,
    /// Why it did not come about, when that was tried last.
    pub fault: Option<Fault>,
}

impl Tunnel {
    pub fn is_up(&self) -> bool {
        !self.children.is_empty()
    }

    /// Every pair that one of its SAs admits.
    pub fn pairs(&self) -> BTreeSet<Pair> {
        self.children.iter().flat_map(ChildSa::pairs).collect()
    }

    /// Traffic selectors that are not understood: what is for them is not admitted.
    pub fn unreadable(&self) -> BTreeSet<String> {
        let selectors = self.children.iter().flat_map(|child| child.remote.iter().chain(&child.local));
        selectors.filter(|selector| selector.scope(Names::host()).is_none()).map(TrafficSelector::to_string).collect()
    }
}

impl ChildSa {
    /// Every pair that it admits.
    pub fn pairs(&self) -> BTreeSet<Pair> {
        let names = Names::host();
        let mut pairs = BTreeSet::new();
        for (remote, local) in self.remote.iter().flat_map(|remote| self.local.iter().map(move |local| (remote, local)))
        {
            let Some(limit) = remote.scope(names).zip(local.scope(names)).and_then(|(r, l)| ProtoPorts::between(r, l))
            else {
                continue;
            };
            let of_family = |(remote, local): &(IpNet, IpNet)| same_family(*remote, *local);
            let both = remote.prefixes.iter().flat_map(|remote| local.prefixes.iter().map(|local| (*remote, *local)));
            pairs.extend(both.filter(of_family).map(|(remote, local)| Pair { remote, local, limit }));
        }
        pairs
    }
}

impl SaTable {
    /// Takes the place of all that was known: charon may be another one since.
    pub fn replace(&mut self, listed: Vec<(IkeSa, Vec<ChildSa>)>) {
        self.ikes.clear();
        self.children.clear();
        self.gone = Gone::default();
        for (ike, children) in listed {
            for child in children {
                self.child_up(&ike, child);
            }
            self.ikes.insert(ike.id, ike);
        }
    }

    /// charon is another one: with the old one all its SAs have ended.
    pub fn lose_all(&mut self) {
        self.replace(Vec::new());
    }

    /// Connections that are up now and would not be by this list, by charon's names.
    pub fn lost_by(&self, listed: &[(IkeSa, Vec<ChildSa>)]) -> BTreeSet<String> {
        let is_live = |(_, children): &&(IkeSa, Vec<ChildSa>)| children.iter().any(ChildSa::is_live);
        let stay: BTreeSet<&str> = listed.iter().filter(is_live).map(|(ike, _)| ike.connection.as_str()).collect();
        let connections = self.children.values().map(|child| &child.connection);
        connections.filter(|connection| !stay.contains(connection.as_str())).cloned().collect()
    }

    pub fn apply(&mut self, change: SaChange) {
        match change {
            SaChange::IkeUp(ike) => self.ike_up(ike),
            SaChange::IkeDown(ike) => {
                self.ikes.remove(&ike.id);
                let orphans: Vec<u64> =
                    self.children.iter().filter(|(_, child)| child.ike == ike.id).map(|(id, _)| *id).collect();
                for id in orphans {
                    self.child_down(id);
                }
            }
            SaChange::IkeRekeyed { old, new } => {
                // Its children are the new one's, with no word about it.
                self.ikes.remove(&old);
                self.children.values_mut().filter(|child| child.ike == old).for_each(|child| child.ike = new.id);
                self.ike_up(new);
            }
            SaChange::ChildUp(ike, child) => {
                self.child_up(&ike, child);
                self.ike_up(ike);
            }
            SaChange::ChildDown(child) => self.child_down(child.id),
            SaChange::ChildRekeyed { ike, old, new } => {
                // The new one first: there is no moment without either.
                self.child_up(&ike, new);
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

    /// Nothing is known any more, and nothing there.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// What the connection of this name of charon's has.
    pub fn tunnel(&self, connection: &str) -> Tunnel {
        let children = self.children.values().filter(|child| child.connection == connection);
        let states = self.ikes.values().filter(|ike| ike.connection == connection).map(|ike| ike.state.as_str());
        Tunnel {
            ike: states.max_by_key(|state| *state == "ESTABLISHED").map(str::to_owned),
            children: children.map(|child| child.sa.clone()).collect(),
            fault: self.faults.get(connection).copied(),
        }
    }

    fn ike_up(&mut self, ike: IkeSa) {
        self.ikes.insert(ike.id, ike);
    }

    fn child_up(&mut self, ike: &IkeSa, sa: ChildSa) {
        if self.gone.contains(sa.id) {
            return;
        }
        if !sa.is_live() {
            self.children.remove(&sa.id);
            return;
        }
        self.faults.remove(&ike.connection);
        self.children.insert(sa.id, Child { ike: ike.id, connection: ike.connection.clone(), sa });
    }

    fn child_down(&mut self, id: u64) {
        self.children.remove(&id);
        self.gone.add(id);
    }
}

impl Gone {
    fn contains(&self, id: u64) -> bool {
        self.known.contains(&id)
    }

    fn add(&mut self, id: u64) {
        if !self.known.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
