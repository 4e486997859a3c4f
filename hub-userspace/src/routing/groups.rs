//! Sets of next hops that destinations share.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ipnet::IpNet;

use super::rib::Members;

/// The distinct sets of members: with their users, and by connection.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    users: HashMap<Arc<Members>, Users>,
    by_connection: HashMap<String, BTreeSet<Arc<Members>>>,
}

/// What uses a group.
#[derive(Debug, Clone, Default)]
struct Users {
    destinations: BTreeSet<IpNet>,
    /// Number of policy routes.
    policies: usize,
}

impl Groups {
    /// Adds a destination to the group of these members. Returns the set that its users share.
    pub fn join(&mut self, members: Members, destination: IpNet) -> Arc<Members> {
        self.change(members, |users| _ = users.destinations.insert(destination))
    }

    /// Adds a policy route.
    pub fn join_policy(&mut self, members: Members) -> Arc<Members> {
        self.change(members, |users| users.policies += 1)
    }

    fn change(&mut self, members: Members, change: impl FnOnce(&mut Users)) -> Arc<Members> {
        if let Some((shared, _)) = self.users.get_key_value(&members) {
            let shared = Arc::clone(shared);
            change(self.users.entry(Arc::clone(&shared)).or_default());
            return shared;
        }
        let members = Arc::new(members);
        for name in members.keys() {
            self.by_connection.entry(name.clone()).or_default().insert(Arc::clone(&members));
        }
        change(self.users.entry(Arc::clone(&members)).or_default());
        members
    }

    /// Removes a destination from a group. A group without users is removed.
    pub fn leave(&mut self, members: &Arc<Members>, destination: IpNet) {
        self.end(members, |users| _ = users.destinations.remove(&destination));
    }

    /// Removes a policy route.
    pub fn leave_policy(&mut self, members: &Arc<Members>) {
        self.end(members, |users| users.policies = users.policies.saturating_sub(1));
    }

    fn end(&mut self, members: &Arc<Members>, change: impl FnOnce(&mut Users)) {
        let Some(users) = self.users.get_mut(members) else { return };
        change(users);
        if !users.destinations.is_empty() || users.policies > 0 {
            return;
        }
        self.users.remove(members);
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
        self.users.contains_key(members)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Members>> {
        self.users.keys()
    }

    /// The groups that a connection is a member of.
    pub fn of(&self, connection: &str) -> impl Iterator<Item = &Arc<Members>> {
        self.by_connection.get(connection).into_iter().flatten()
    }

    pub fn destinations(&self, members: &Members) -> impl Iterator<Item = IpNet> {
        self.users.get(members).into_iter().flat_map(|users| users.destinations.iter().copied())
    }

    pub fn all_destinations(&self) -> impl Iterator<Item = IpNet> {
        self.users.values().flat_map(|users| users.destinations.iter().copied())
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
