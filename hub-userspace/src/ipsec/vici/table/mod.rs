//! The existing SAs, from charon's events in any order, duplicated or late. Pure.
//!
//! A connection is up while any of its child SAs carries traffic, regardless of their order. A replaced SA that closes
//! changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
};

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

/// SAs of all connections, ours and others', with an index for every look-up: an event costs the same with one tunnel
/// and with thousands.
#[derive(Debug, Default)]
pub struct SaTable {
    ikes: BTreeMap<u64, IkeSa>,
    children: BTreeMap<u64, Child>,
    /// Child SAs of an IKE SA.
    of_ike: BTreeMap<u64, BTreeSet<u64>>,
    /// By charon's name.
    connections: BTreeMap<String, ConnectionSas>,
    /// Numbers of closed child SAs; charon never reuses a number.
    gone: Gone,
    /// Connections that may have changed since [`Self::take_changed`], by charon's name.
    changed: BTreeSet<String>,
    /// Completed rekeyings of IKE and child SAs, by charon's name of the connection. They outlive the SAs.
    rekeys: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Child {
    ike: u64,
    connection: String,
    sa: ChildSa,
}

/// Numbers of a connection's SAs.
#[derive(Debug, Default)]
struct ConnectionSas {
    ikes: BTreeSet<u64>,
    children: BTreeSet<u64>,
    /// The last fault.
    fault: Option<Fault>,
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
    /// Completed rekeyings of its IKE and child SAs since the agent started.
    #[serde(default)]
    pub rekeys: u64,
}

impl Tunnel {
    pub fn is_up(&self) -> bool {
        !self.children.is_empty()
    }

    /// Whether both are in the same state: their counters may differ.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.ike, self.fault, self.children.len()) == (&other.ike, other.fault, other.children.len())
            && self.children.iter().zip(&other.children).all(|(child, other)| child.is_same(other))
    }

    /// The pairs of its SAs; of more than `most`, the first ones of each SA and one too many.
    pub fn pairs(&self, most: usize) -> BTreeSet<Pair> {
        let mut pairs = BTreeSet::new();
        for pair in self.children.iter().flat_map(|child| child.pairs().take(most + 1)) {
            if pairs.len() > most {
                break;
            }
            pairs.insert(pair);
        }
        pairs
    }

    /// Traffic selectors that cannot be parsed; their traffic is dropped.
    pub fn unreadable(&self) -> BTreeSet<String> {
        let selectors = self.children.iter().flat_map(|child| child.remote.iter().chain(&child.local));
        selectors.filter(|selector| selector.scope(Names::host()).is_none()).map(TrafficSelector::to_string).collect()
    }
}

impl ChildSa {
    /// The pairs of this SA; some may repeat.
    pub fn pairs(&self) -> impl Iterator<Item = Pair> {
        let names = Names::host();
        let ends = self.remote.iter().flat_map(|remote| self.local.iter().map(move |local| (remote, local)));
        ends.flat_map(|(remote, local)| {
            let limit = remote.scope(names).zip(local.scope(names)).and_then(|(r, l)| ProtoPorts::between(r, l));
            let both = remote.prefixes.iter().flat_map(|remote| local.prefixes.iter().map(|local| (*remote, *local)));
            let both = both.filter(|(remote, local)| same_family(*remote, *local));
            limit
                .into_iter()
                .flat_map(move |limit| both.clone().map(move |(remote, local)| Pair { remote, local, limit }))
        })
    }
}

impl SaTable {
    /// Replaces the whole content: charon may have restarted.
    pub fn replace(&mut self, listed: Vec<(IkeSa, Vec<ChildSa>)>) {
        let before = mem::take(self);
        (self.changed, self.rekeys) = (before.changed, before.rekeys);
        for (name, sas) in before.connections {
            if sas.fault.is_some() {
                self.connections.insert(name.clone(), ConnectionSas { fault: sas.fault, ..ConnectionSas::default() });
            }
            self.changed.insert(name);
        }
        for (ike, children) in listed {
            for child in children {
                let is_new = !before.children.contains_key(&child.id);
                self.child_up(&ike, child, is_new);
            }
            self.ike_up(ike);
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
        let up = self.connections.iter().filter(|(_, sas)| !sas.children.is_empty()).map(|(name, _)| name);
        up.filter(|name| !stay.contains(name.as_str())).cloned().collect()
    }

    pub fn apply(&mut self, change: SaChange) {
        match change {
            SaChange::IkeUp(ike) => self.ike_up(ike),
            SaChange::IkeDown(ike) => {
                self.ike_down(ike.id);
                for id in self.of_ike.remove(&ike.id).unwrap_or_default() {
                    self.child_down(id);
                }
            }
            SaChange::IkeRekeyed { old, new } => {
                if !self.ikes.contains_key(&new.id) {
                    self.count_rekey(&new.connection);
                }
                // The new one inherits its children without an event.
                self.ike_down(old);
                let inherited = self.of_ike.remove(&old).unwrap_or_default();
                for id in &inherited {
                    if let Some(child) = self.children.get_mut(id) {
                        child.ike = new.id;
                    }
                }
                if !inherited.is_empty() {
                    self.of_ike.entry(new.id).or_default().extend(inherited);
                }
                self.ike_up(new);
            }
            SaChange::ChildUp(ike, child) => {
                let is_new = !self.children.contains_key(&child.id);
                self.child_up(&ike, child, is_new);
                self.ike_up(ike);
            }
            SaChange::ChildDown(child) => self.child_down(child.id),
            SaChange::ChildRekeyed { ike, old, new } => {
                // Each SA is replaced once, whatever the order of the events, and also when both ends begin.
                if !self.gone.contains(old) {
                    self.count_rekey(&ike.connection);
                }
                // Adds the new one first, so that the connection never appears down.
                let is_new = !self.children.contains_key(&new.id);
                self.child_up(&ike, new, is_new);
                self.child_down(old);
                self.ike_up(ike);
            }
            SaChange::Failed { connection, fault } => {
                let sas = self.connections.entry(connection.clone()).or_default();
                if fault.is_news_after(sas.fault) {
                    sas.fault = Some(fault);
                    self.changed.insert(connection);
                }
            }
        }
    }

    /// Forgets all SAs.
    pub fn clear(&mut self) {
        let before = mem::take(self);
        (self.changed, self.rekeys) = (before.changed, before.rekeys);
        self.changed.extend(before.connections.into_keys());
    }

    /// Connections that may have changed since the last call, by charon's name.
    pub fn take_changed(&mut self) -> BTreeSet<String> {
        mem::take(&mut self.changed)
    }

    /// The SAs of the connection with this name in charon.
    pub fn tunnel(&self, connection: &str) -> Tunnel {
        let rekeys = self.rekeys.get(connection).copied().unwrap_or_default();
        let Some(sas) = self.connections.get(connection) else { return Tunnel { rekeys, ..Tunnel::default() } };
        let states = sas.ikes.iter().filter_map(|id| Some(self.ikes.get(id)?.state.as_str()));
        let children = sas.children.iter().filter_map(|id| self.children.get(id));
        Tunnel {
            ike: states.max_by_key(|state| *state == "ESTABLISHED").map(str::to_owned),
            children: children.map(|child| child.sa.clone()).collect(),
            fault: sas.fault,
            rekeys,
        }
    }

    /// Forgets the rekeyings of all other connections.
    pub fn keep_rekeys(&mut self, is_kept: impl Fn(&str) -> bool) {
        self.rekeys.retain(|connection, _| is_kept(connection));
    }

    fn count_rekey(&mut self, connection: &str) {
        *self.rekeys.entry(connection.to_owned()).or_default() += 1;
        self.changed.insert(connection.to_owned());
    }

    pub fn is_up(&self, connection: &str) -> bool {
        self.connections.get(connection).is_some_and(|sas| !sas.children.is_empty())
    }

    /// Whether charon is negotiating for this connection.
    pub fn is_busy(&self, connection: &str) -> bool {
        let ikes = self.connections.get(connection).into_iter().flat_map(|sas| &sas.ikes);
        ikes.filter_map(|id| self.ikes.get(id)).any(|ike| ike.is_busy || ike.state != "ESTABLISHED")
    }

    fn ike_up(&mut self, ike: IkeSa) {
        // As a responder, charon may find the connection of an IKE SA only during authentication.
        self.ike_down(ike.id);
        self.connections.entry(ike.connection.clone()).or_default().ikes.insert(ike.id);
        self.changed.insert(ike.connection.clone());
        self.ikes.insert(ike.id, ike);
    }

    fn ike_down(&mut self, id: u64) {
        if let Some(ike) = self.ikes.remove(&id) {
            self.drop_from(ike.connection, |sas| sas.ikes.remove(&id));
        }
    }

    /// `is_new`: it has not been known, so the last attempt has succeeded.
    fn child_up(&mut self, ike: &IkeSa, sa: ChildSa, is_new: bool) {
        if self.gone.contains(sa.id) {
            return;
        }
        self.remove_child(sa.id);
        if !sa.is_live() {
            return;
        }
        let sas = self.connections.entry(ike.connection.clone()).or_default();
        if is_new {
            sas.fault = None;
        }
        sas.children.insert(sa.id);
        self.changed.insert(ike.connection.clone());
        self.of_ike.entry(ike.id).or_default().insert(sa.id);
        self.children.insert(sa.id, Child { ike: ike.id, connection: ike.connection.clone(), sa });
    }

    fn child_down(&mut self, id: u64) {
        self.remove_child(id);
        self.gone.add(id);
    }

    fn remove_child(&mut self, id: u64) {
        let Some(Child { ike, connection, sa: _ }) = self.children.remove(&id) else { return };
        if let Some(siblings) = self.of_ike.get_mut(&ike) {
            siblings.remove(&id);
            if siblings.is_empty() {
                self.of_ike.remove(&ike);
            }
        }
        self.drop_from(connection, |sas| sas.children.remove(&id));
    }

    /// Removes a number from a connection's SAs, and its entry if nothing is left.
    fn drop_from(&mut self, connection: String, remove: impl FnOnce(&mut ConnectionSas) -> bool) {
        if let Some(sas) = self.connections.get_mut(&connection) {
            remove(sas);
            if sas.ikes.is_empty() && sas.children.is_empty() && sas.fault.is_none() {
                self.connections.remove(&connection);
            }
        }
        self.changed.insert(connection);
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
mod naive;
#[cfg(test)]
mod per_cpu_tests;
#[cfg(test)]
mod tests;
