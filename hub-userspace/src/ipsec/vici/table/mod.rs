//! The existing SAs, from charon's events in any order, duplicated or late. Pure.
//!
//! A connection is up while any of its child SAs carries traffic, regardless of their order. A replaced SA that closes
//! changes nothing.

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

/// Maximum of remembered numbers of closed SAs, so that late events do not restore them.
const REMEMBERED: usize = 4096;

/// SAs of all connections, ours and others'.
#[derive(Debug, Default)]
pub struct SaTable {
    ikes: BTreeMap<u64, IkeSa>,
    children: BTreeMap<u64, Child>,
    /// Numbers of closed child SAs; charon never reuses a number.
    gone: Gone,
    /// The last fault of a connection, by charon's name.
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
    /// The same numbers, oldest first.
    order: VecDeque<u64>,
}

/// The SAs of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// State of its IKE SA, the best of several; `None` without one.
    pub ike: Option<String>,
    /// Child SAs that carry traffic, oldest first.
    pub children: Vec<ChildSa>,
    /// Why the last attempt failed.
    pub fault: Option<Fault>,
}

impl Tunnel {
    pub fn is_up(&self) -> bool {
        !self.children.is_empty()
    }

    /// All pairs of its SAs.
    pub fn pairs(&self) -> BTreeSet<Pair> {
        self.children.iter().flat_map(ChildSa::pairs).collect()
    }

    /// Traffic selectors that cannot be parsed; their traffic is dropped.
    pub fn unreadable(&self) -> BTreeSet<String> {
        let selectors = self.children.iter().flat_map(|child| child.remote.iter().chain(&child.local));
        selectors.filter(|selector| selector.scope(Names::host()).is_none()).map(TrafficSelector::to_string).collect()
    }
}

impl ChildSa {
    /// All pairs of this SA.
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
    /// Replaces the whole content: charon may have restarted.
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

    /// charon has restarted: all SAs of the old process have ended.
    pub fn lose_all(&mut self) {
        self.replace(Vec::new());
    }

    /// Connections that are up now, but not in this list, by charon's names.
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
                // The new one inherits its children without an event.
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
                // Adds the new one first, so that the connection never appears down.
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

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The SAs of the connection with this name in charon.
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
