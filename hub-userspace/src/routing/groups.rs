//! Sets of next hops that destinations share.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ipnet::IpNet;

use super::rib::Members;

/// The distinct sets of members: with their destinations, and by connection.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    destinations: HashMap<Arc<Members>, BTreeSet<IpNet>>,
    by_connection: HashMap<String, BTreeSet<Arc<Members>>>,
}

impl Groups {
    /// Adds a destination to the group of these members. Returns the set that its destinations share.
    pub fn join(&mut self, members: Members, destination: IpNet) -> Arc<Members> {
        if let Some((shared, _)) = self.destinations.get_key_value(&members) {
            let shared = Arc::clone(shared);
            self.destinations.entry(Arc::clone(&shared)).or_default().insert(destination);
            return shared;
        }
        let members = Arc::new(members);
        for name in members.keys() {
            self.by_connection.entry(name.clone()).or_default().insert(Arc::clone(&members));
        }
        self.destinations.insert(Arc::clone(&members), BTreeSet::from([destination]));
        members
    }

    /// Removes a destination from a group. A group without destinations is removed.
    pub fn leave(&mut self, members: &Arc<Members>, destination: IpNet) {
        let Some(destinations) = self.destinations.get_mut(members) else { return };
        destinations.remove(&destination);
        if !destinations.is_empty() {
            return;
        }
        self.destinations.remove(members);
        for name in members.keys() {
            if let Some(groups) = self.by_connection.get_mut(name) {
                groups.remove(members);
                if groups.is_empty() {
                    self.by_connection.remove(name);
                }
            }
        }
    }

    pub fn contains(&self, members: &Members) -> bool {
        self.destinations.contains_key(members)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Members>> {
        self.destinations.keys()
    }

    /// The groups that a connection is a member of.
    pub fn of(&self, connection: &str) -> impl Iterator<Item = &Arc<Members>> {
        self.by_connection.get(connection).into_iter().flatten()
    }

    pub fn destinations(&self, members: &Members) -> impl Iterator<Item = IpNet> {
        self.destinations.get(members).into_iter().flatten().copied()
    }

    pub fn all_destinations(&self) -> impl Iterator<Item = IpNet> {
        self.destinations.values().flatten().copied()
    }
}

/// The groups that changes of connections and of destinations affect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AffectedGroups {
    All,
    Some {
        /// Affected connections, and members of `gone`.
        connections: BTreeSet<String>,
        /// Groups with one of `connections` as a member, and groups with a changed destination.
        groups: BTreeSet<Arc<Members>>,
        /// Former groups of changed destinations that have no destination any more.
        gone: BTreeSet<Arc<Members>>,
    },
}
