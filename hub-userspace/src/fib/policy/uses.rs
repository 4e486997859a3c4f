//! Which entries refer to policies and to lists of port rules, so that those without a reference can be deleted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::RangeInclusive,
    sync::Arc,
};

use hub_common::maps::{ADMITS_NOTHING, ANY_LOCAL, Local, Remote, Rules, Scoped};
use ipnet::IpNet;

use super::scoped;
use crate::{
    fib::{
        id_allocator::IdAllocator,
        tables::{ObsoleteEntries, PolicyTables, Prefix, Region},
    },
    policy::selectors::Policy,
};

#[derive(Debug, Clone, Default)]
pub struct Uses {
    /// By policy: its key, and the number of remote prefixes that have it.
    policies: HashMap<u32, (Arc<Policy>, usize)>,
    /// By index into `PORT_RULES`: the policies that contain it.
    limits: HashMap<u32, HashSet<u32>>,
}

impl Uses {
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn add_policy(&mut self, policy: u32, key: Arc<Policy>) {
        self.policies.entry(policy).or_insert((key, 0)).1 += 1;
    }

    pub fn add_limits(&mut self, limits: u32, policy: u32) {
        self.limits.entry(limits).or_default().insert(policy);
    }

    /// Removes the references of the remote prefixes in these regions, which do not overlap; returns the keys of these
    /// prefixes. The regions are then compiled again.
    pub fn begin(&mut self, regions: &[Region], before: &PolicyTables) -> ObsoleteEntries {
        let mut obsolete = ObsoleteEntries::default();
        let PolicyTables { v4, v6, .. } = before;
        for Region { scope, within } in regions {
            match within {
                None => {
                    obsolete.v4.remotes.extend(self.release(of_scope(&v4.remotes, *scope)));
                    obsolete.v6.remotes.extend(self.release(of_scope(&v6.remotes, *scope)));
                }
                Some(IpNet::V4(net)) => {
                    let range = range_of(*scope, net.network().octets(), net.broadcast().octets(), net.prefix_len());
                    obsolete.v4.remotes.extend(self.release(v4.remotes.range(range)));
                }
                Some(IpNet::V6(net)) => {
                    let range = range_of(*scope, net.network().octets(), net.broadcast().octets(), net.prefix_len());
                    obsolete.v6.remotes.extend(self.release(v6.remotes.range(range)));
                }
            }
        }
        obsolete
    }

    fn release<'a, A: Copy + 'a>(
        &mut self,
        remotes: impl Iterator<Item = (&'a Prefix<Scoped<A>>, &'a Remote)>,
    ) -> impl Iterator<Item = Prefix<Scoped<A>>> {
        remotes.map(|(key, Remote { policy, .. })| {
            if *policy != ANY_LOCAL
                && let Some((_, users)) = self.policies.get_mut(policy)
            {
                *users = users.saturating_sub(1);
            }
            *key
        })
    }

    /// Ends the use of policies without references, and of their port rules. Adds their entries to `obsolete`.
    pub fn end(
        &mut self,
        obsolete: &mut ObsoleteEntries,
        before: &PolicyTables,
        policies: &mut IdAllocator<Arc<Policy>>,
        limits: &mut IdAllocator<Rules>,
    ) {
        let of = |remotes: &mut dyn Iterator<Item = u32>| remotes.collect::<BTreeSet<u32>>();
        let former_v4 = of(&mut obsolete.v4.remotes.iter().filter_map(|key| Some(before.v4.remotes.get(key)?.policy)));
        let former_v6 = of(&mut obsolete.v6.remotes.iter().filter_map(|key| Some(before.v6.remotes.get(key)?.policy)));
        for policy in former_v4.union(&former_v6) {
            let Some((key, 0)) = self.policies.get(policy) else { continue };
            policies.begin_some([key]);
            self.policies.remove(policy);
            let (locals_v4, locals_v6) = (of_scope(&before.v4.locals, *policy), of_scope(&before.v6.locals, *policy));
            let rules = locals_v4.clone().map(|(_, local)| local).chain(locals_v6.clone().map(|(_, local)| local));
            for Local { rules, .. } in rules.filter(|local| local.rules > ADMITS_NOTHING) {
                if let Some(users) = self.limits.get_mut(rules)
                    && users.remove(policy)
                    && users.is_empty()
                {
                    self.limits.remove(rules);
                    limits.begin_some(before.limits.get(rules));
                    obsolete.limits.insert(*rules);
                }
            }
            obsolete.v4.locals.extend(locals_v4.map(|(key, _)| *key));
            obsolete.v6.locals.extend(locals_v6.map(|(key, _)| *key));
        }
    }
}

/// The keys of the prefixes in one, from its first to its last address.
fn range_of<A>(scope: u32, first: A, last: A, length: u8) -> RangeInclusive<Prefix<Scoped<A>>> {
    scoped(scope, first, length)..=Prefix { data: Scoped::new(scope, last), length: u8::MAX }
}

/// The entries of a scope, policy or interface.
pub fn of_scope<A: Ord + Copy + Default, V>(
    entries: &BTreeMap<Prefix<Scoped<A>>, V>,
    scope: u32,
) -> impl Iterator<Item = (&Prefix<Scoped<A>>, &V)> + Clone {
    let first = |scope: u32| Prefix { data: Scoped::new(scope, A::default()), length: 0 };
    entries.range(first(scope)..first(scope + 1))
}
