//! Learned routes: those of a routing daemon that lead to a connection, and that no rule refuses.
//!
//! Configured routes come first: a learned prefix that equals a configured one or lies in it carries nothing. So the
//! longest prefix match over all routes in the program's table gives the destination routes the precedence over the
//! learned ones, at no cost per packet. Pure.

mod quota;
mod rules;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

pub use self::rules::Refusal;
use self::{
    quota::Quota,
    rules::{ByInterface, Candidate},
};
use crate::{
    config::{Config, difference::Routes, model::DEFAULT_WEIGHT},
    kernel::netlink::{HostState, KernelHop, KernelHops, TableChanges},
    routing::rib::{NextHops, Rib},
};

/// Prefixes that no site may take over.
type Protected = JointPrefixMap<IpNet, ()>;
/// Refused routes by connection, with the reasons.
type Refused = BTreeMap<Arc<str>, BTreeMap<IpNet, Refusal>>;

/// The routes of the followed table, and what becomes of them.
#[derive(Debug, Clone, Default)]
pub struct LearnedRoutes {
    entries: JointPrefixMap<IpNet, Entry>,
    quotas: HashMap<Arc<str>, Quota>,
    refused: Refused,
    /// Routes by a gateway that is no connection's.
    unidentified: BTreeMap<IpNet, UnknownGateway>,
    /// Number of routes in force or shadowed, by connection.
    admitted: BTreeMap<Arc<str>, usize>,
    /// The number of the next new prefix.
    next: u64,
    interfaces: ByInterface,
    protected: Protected,
    max_per_connection: usize,
    /// Kinds of refusals that are reported already, by connection or interface.
    reported: BTreeSet<(Arc<str>, &'static str)>,
    news: Vec<RefusalNews>,
    /// To evaluate again.
    dirty: BTreeSet<IpNet>,
    /// Evaluate again what lies in these.
    dirty_regions: BTreeSet<IpNet>,
}

/// A prefix of the table.
#[derive(Debug, Clone, Default)]
struct Entry {
    /// Its age: lower numbers were there first.
    number: u64,
    /// Empty: the route is gone.
    hops: KernelHops,
    /// The connections that the next hops lead to and that no rule but the quota refuses, with their weights.
    candidates: Vec<(Arc<str>, u8)>,
    /// Those of them that it is counted for in [`LearnedRoutes::admitted`].
    admitted: Vec<Arc<str>>,
    /// The connections with a refusal of it.
    refused: Vec<Arc<str>>,
}

/// The first refusal of its kind on a connection or interface, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalNews {
    /// The connection, or the interface of an unknown gateway.
    pub subject: Arc<str>,
    pub is_connection: bool,
    pub prefix: IpNet,
    pub reason: String,
}

/// A next hop on an interface of connections that none of them is known to be behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownGateway {
    pub interface: String,
    pub via: Option<IpAddr>,
}

impl fmt::Display for UnknownGateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, via } = self;
        match via {
            Some(via) => write!(
                f,
                "its gateway {via} on interface {interface} is the peer of no connection or of several: set `peer` of one \
                 to it"
            ),
            None => write!(f, "it has no gateway, and several connections are on interface {interface}: announce one"),
        }
    }
}

impl LearnedRoutes {
    /// Records changes of the table. [`Self::follow`] applies them.
    pub fn take(&mut self, changes: TableChanges) {
        for (prefix, hops) in changes {
            self.dirty.insert(prefix);
            match (hops, self.entries.get_mut(&prefix)) {
                (Some(hops), Some(entry)) => entry.hops = hops,
                (Some(hops), None) => {
                    self.next += 1;
                    self.entries.insert(prefix, Entry { number: self.next, hops, ..Entry::default() });
                }
                (None, Some(entry)) => entry.hops = KernelHops::default(),
                (None, None) => {}
            }
        }
    }

    /// Records changed configured routes. [`Self::follow`] applies them to learned routes in their prefixes.
    pub fn note_configured(&mut self, routes: &Routes) {
        if !self.entries.is_empty() {
            let changed = routes.changed.iter().map(|changed| &changed.to);
            let all = routes.added.iter().chain(&routes.removed).chain(changed);
            self.dirty_regions.extend(all.map(|route| route.destination));
        }
    }

    /// Whether [`Self::follow`] has anything to do.
    pub fn has_changed(&self) -> bool {
        !self.dirty.is_empty() || !self.dirty_regions.is_empty()
    }

    /// The first refusals of their kinds since the last call.
    pub fn take_news(&mut self) -> Vec<RefusalNews> {
        std::mem::take(&mut self.news)
    }

    /// Whether there are neither routes nor changes of them.
    pub fn is_idle(&self) -> bool {
        self.entries.is_empty() && self.dirty.is_empty()
    }

    /// Links or addresses may have changed. [`Self::follow`] applies that to the routes that they concern.
    pub fn note_host(&mut self, config: &Config, host: &HostState) {
        let interfaces = rules::by_interface(config, host);
        let differs = |ifindex: &u32| interfaces.get(ifindex) != self.interfaces.get(ifindex);
        let changed: BTreeSet<u32> =
            interfaces.keys().chain(self.interfaces.keys()).filter(|ifindex| differs(ifindex)).copied().collect();
        if !changed.is_empty() {
            let concerned = |hops: &[KernelHop]| hops.iter().any(|hop| changed.contains(&hop.ifindex));
            let entries = self.entries.iter().filter(|(_, entry)| concerned(&entry.hops));
            self.dirty.extend(entries.map(|(prefix, _)| prefix));
        }
        self.interfaces = interfaces;
        let protected: Protected = rules::protected(config, host).map(|prefix| (prefix, ())).collect();
        let only_in = |one: &Protected, other: &Protected| -> Vec<IpNet> {
            one.keys().filter(|prefix| !other.contains_key(prefix)).collect()
        };
        for prefix in [only_in(&protected, &self.protected), only_in(&self.protected, &protected)].concat() {
            self.dirty_regions.insert(prefix);
            self.dirty.extend(self.entries.cover_keys(&prefix));
        }
        self.protected = protected;
    }

    /// The configuration may have changed. [`Self::follow`] evaluates all routes again.
    pub fn note_config(&mut self, config: &Config, host: &HostState) {
        self.note_host(config, host);
        self.max_per_connection = config.learn.as_ref().map_or(0, |learn| learn.max_per_connection);
        self.quotas.clear();
        self.reported.clear();
        self.dirty.extend(self.entries.keys());
    }

    /// Applies all changes to the RIB, in time proportional to the number of routes that they concern.
    pub fn follow(&mut self, config: &Config, rib: &mut Rib) {
        for region in std::mem::take(&mut self.dirty_regions) {
            self.dirty.extend(self.entries.children(&region).map(|(prefix, _)| prefix));
        }
        let mut settled = BTreeSet::new();
        for prefix in std::mem::take(&mut self.dirty) {
            settled.insert(prefix);
            settled.extend(self.evaluate(prefix, config, rib));
        }
        for prefix in settled {
            self.settle(prefix, rib);
        }
    }

    /// Applies the rules to a route. Returns others that gain or lose their place in a quota.
    fn evaluate(&mut self, prefix: IpNet, config: &Config, rib: &Rib) -> Vec<IpNet> {
        let Some(entry) = self.entries.get(&prefix) else { return Vec::new() };
        let (number, before) = (entry.number, entry.candidates.clone());
        let (found, unidentified) = self.connections(&entry.hops);
        let protected = || {
            let inside = || self.protected.children(&prefix).next().map(|(inside, ())| inside);
            self.protected.get_lpm_prefix(&prefix).or_else(inside)
        };
        let (mut candidates, mut refusals) = (Vec::new(), Vec::new());
        for (candidate, weight) in found {
            let name = Arc::clone(&candidate.name);
            match rules::broken(prefix, candidate, (config, rib), protected) {
                None => candidates.push((name, weight)),
                Some(refusal) => refusals.push((name, refusal)),
            }
        }
        let mut others = Vec::new();
        for (name, _) in before {
            let stays = candidates.iter().any(|(candidate, _)| *candidate == name);
            if !stays && let Some(quota) = self.quotas.get_mut(&name) {
                others.extend(quota.remove(number));
                if quota.is_empty() {
                    self.quotas.remove(&name);
                }
            }
        }
        for (name, _) in &candidates {
            let quota = self.quotas.entry(Arc::clone(name)).or_default();
            others.extend(quota.add(number, prefix, self.max_per_connection));
        }
        if let Some(gateway) = &unidentified {
            let subject = Arc::from(gateway.interface.as_str());
            self.report(subject, false, "gateway", prefix, gateway);
        }
        match unidentified {
            Some(gateway) => _ = self.unidentified.insert(prefix, gateway),
            None => _ = self.unidentified.remove(&prefix),
        }
        if let Some(entry) = self.entries.get_mut(&prefix) {
            entry.candidates = candidates;
            for name in std::mem::take(&mut entry.refused) {
                forget(&mut self.refused, &name, prefix);
            }
            entry.refused = refusals.iter().map(|(name, _)| Arc::clone(name)).collect();
        }
        for (name, refusal) in refusals {
            self.report(Arc::clone(&name), true, refusal.kind(), prefix, &refusal);
            self.refused.entry(name).or_default().insert(prefix, refusal);
        }
        others
    }

    /// The connections that next hops lead to, each once, with their weights; and a next hop that is no connection's.
    /// Next hops on other interfaces are none of ours.
    fn connections(&self, hops: &[KernelHop]) -> (Vec<(&Candidate, u8)>, Option<UnknownGateway>) {
        let mut found: Vec<(&Candidate, u32)> = Vec::new();
        let mut unidentified = None;
        for hop in hops {
            let Some(on) = self.interfaces.get(&hop.ifindex) else { continue };
            match on.connection(hop) {
                Some(candidate) => match found.iter_mut().find(|(known, _)| known.name == candidate.name) {
                    Some((_, weight)) => *weight += u32::from(hop.weight),
                    None => found.push((candidate, hop.weight.into())),
                },
                None => unidentified = Some(UnknownGateway { interface: on.name.clone(), via: hop.via }),
            }
        }
        let most = found.iter().map(|(_, weight)| *weight).max().unwrap_or(1).max(1);
        let scaled = |weight: u32| u8::try_from(u32::from(DEFAULT_WEIGHT) * weight / most).unwrap_or(DEFAULT_WEIGHT);
        (found.into_iter().map(|(candidate, weight)| (candidate, scaled(weight).max(1))).collect(), unidentified)
    }

    /// Stores the first refusal of its kind for the log. A site can cause any number of them.
    fn report(
        &mut self,
        subject: Arc<str>,
        is_connection: bool,
        kind: &'static str,
        prefix: IpNet,
        reason: &dyn fmt::Display,
    ) {
        if self.reported.insert((Arc::clone(&subject), kind)) {
            self.news.push(RefusalNews { subject, is_connection, prefix, reason: reason.to_string() });
        }
    }

    /// Puts a route in force as far as the quotas and the configured routes allow.
    fn settle(&mut self, prefix: IpNet, rib: &mut Rib) {
        let Self { entries, quotas, refused, admitted: counts, max_per_connection, .. } = self;
        let (most, mut over) = (*max_per_connection, Vec::new());
        let Some(entry) = entries.get_mut(&prefix) else { return };
        let members = if rib.configured_around(prefix).is_some() {
            NextHops::new()
        } else {
            let admitted = entry.candidates.iter().filter(|(name, _)| has_place(quotas, name, entry.number));
            admitted.map(|(name, weight)| (name.to_string(), *weight)).collect()
        };
        rib.set_learned(prefix, members);
        for name in std::mem::take(&mut entry.admitted) {
            if let Some(count) = counts.get_mut(&name) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&name);
                }
            }
        }
        for (name, _) in &entry.candidates {
            if has_place(quotas, name, entry.number) {
                entry.admitted.push(Arc::clone(name));
                *counts.entry(Arc::clone(name)).or_default() += 1;
                forget(refused, name, prefix);
                entry.refused.retain(|other| other != name);
            } else {
                if !entry.refused.contains(name) {
                    entry.refused.push(Arc::clone(name));
                }
                refused.entry(Arc::clone(name)).or_default().insert(prefix, Refusal::Quota(most));
                over.push(Arc::clone(name));
            }
        }
        if entry.hops.is_empty() {
            entries.remove(&prefix);
        }
        for name in over {
            let refusal = Refusal::Quota(most);
            self.report(name, true, refusal.kind(), prefix, &refusal);
        }
    }

    /// The refused routes of a connection, with the reasons.
    pub fn refused(&self, connection: &str) -> impl ExactSizeIterator<Item = (IpNet, &Refusal)> {
        static NONE: BTreeMap<IpNet, Refusal> = BTreeMap::new();
        self.refused.get(connection).unwrap_or(&NONE).iter().map(|(prefix, refusal)| (*prefix, refusal))
    }

    /// All refused routes by connection.
    pub fn all_refused(&self) -> impl Iterator<Item = (&str, &BTreeMap<IpNet, Refusal>)> {
        self.refused.iter().map(|(name, refused)| (&**name, refused))
    }

    /// Routes by a gateway that is no connection's.
    pub fn unidentified(&self) -> &BTreeMap<IpNet, UnknownGateway> {
        &self.unidentified
    }

    /// Number of a connection's routes that are not refused. Those in a configured prefix carry nothing.
    pub fn admitted(&self, connection: &str) -> usize {
        self.admitted.get(connection).copied().unwrap_or_default()
    }

    /// The table as reported, oldest first.
    pub fn reported(&self) -> TableChanges {
        let mut entries: Vec<(u64, IpNet, &Entry)> =
            self.entries.iter().map(|(prefix, entry)| (entry.number, prefix, entry)).collect();
        entries.sort_unstable_by_key(|(number, ..)| *number);
        entries.into_iter().map(|(_, prefix, entry)| (prefix, Some(Arc::clone(&entry.hops)))).collect()
    }
}

fn has_place(quotas: &HashMap<Arc<str>, Quota>, name: &Arc<str>, number: u64) -> bool {
    quotas.get(name).is_some_and(|quota| quota.has_place(number))
}

fn forget(refused: &mut Refused, name: &Arc<str>, prefix: IpNet) {
    if let Some(of_connection) = refused.get_mut(name) {
        of_connection.remove(&prefix);
        if of_connection.is_empty() {
            refused.remove(name);
        }
    }
}
