//! Ingress policy: attachments, selectors, link prefixes.

mod links;
mod translation;
mod uses;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use hub_common::maps::{
    ADMITS_NOTHING, ANY_LOCAL, Attachment, Local, MssLimits, NO_PORT_RULES, NO_REVERSE_PATH, RULES_PER_ENTRY, Remote,
    Rule, SCOPE_BITS, SHARED_SCOPE, Scoped, UNATTRIBUTED, VPC, VPC_SEGMENT, Vlan, owner,
};
use ipnet::IpNet;
use prefix_trie::joint::JointPrefixSet;

pub(super) use self::translation::NO_TRANSLATIONS;
pub use self::uses::Uses;
use super::inputs::Inputs;
use crate::{
    config::model::{Connection, MssClamp, ReversePath},
    connection::affected::Affected,
    fib::{
        id_allocator::Full,
        id_maps::{IdMaps, IngressLayout},
        policy_routes::attachment_flags,
        tables::{FamilyMaps, ObsoleteEntries, PolicyEntries, PolicyTables, Prefix, Region},
    },
    kernel::netlink::Link,
    policy::{
        ports::ProtoPorts,
        selectors::{self, NegotiatedSelectors, Owner, Pair, Policy, Selector},
    },
};

/// Compiles the policy tables and numbers the connections. Unused ids are quarantined by [`IngressLayout::end`]; call
/// it once the tables are written.
///
/// If only the selectors of some connections are `affected`, compiles only their scopes and their prefixes in those of
/// their interfaces, and the prefixes on the links of the interfaces `addressed`. `before` is the current contents of the maps.
pub fn policy_tables(
    inputs: Inputs<'_>,
    layout: &mut IdMaps,
    affected: &Affected,
    addressed: &BTreeSet<u32>,
    before: &PolicyTables,
) -> Result<PolicyEntries, Full> {
    let mut compiler = PolicyCompiler {
        inputs,
        layout: &mut layout.policy,
        numbers: BTreeMap::new(),
        owners: HashMap::from([(VPC, owner(VPC, VPC_SEGMENT) | NO_REVERSE_PATH)]),
        before,
        is_partial: !affected.is_all(),
        entries: PolicyEntries::default(),
    };
    match affected {
        Affected::All => compiler.all()?,
        Affected::Some(names) => {
            let mut obsolete = compiler.some(names)?;
            obsolete.links = compiler.some_links(addressed, before);
            compiler.entries.obsolete = Some(obsolete);
        }
    }
    Ok(compiler.entries)
}

struct PolicyCompiler<'a> {
    inputs: Inputs<'a>,
    layout: &'a mut IngressLayout,
    /// By connection.
    numbers: BTreeMap<&'a str, Numbers>,
    /// Owners as selectors have them ([`hub_common::maps::owner`]), by `COUNTERS` slot.
    owners: HashMap<u32, u32>,
    before: &'a PolicyTables,
    /// Some selectors only: the configuration has not changed.
    is_partial: bool,
    entries: PolicyEntries,
}

/// Numbers of a connection.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    /// In `COUNTERS`.
    slot: u32,
    /// Of its own selectors.
    scope: u32,
}

/// A connection on an interface.
#[derive(Clone, Copy)]
struct Carried<'a> {
    name: &'a str,
    connection: &'a Connection,
    agreed: Option<&'a NegotiatedSelectors>,
}

impl<'a> PolicyCompiler<'a> {
    fn all(&mut self) -> Result<(), Full> {
        self.layout.begin(self.inputs.config);
        let connections: Vec<Carried<'a>> = self.carried(|_, _| true);
        self.number(&connections)?;
        for Carried { name, connection, .. } in &connections {
            let slot = self.numbers[name].slot;
            let limits = mss_limits(connection.mss_clamp, self.inputs.host.link(&connection.interface));
            self.entries.tables.connections.insert(slot, (*name).to_owned());
            self.entries.tables.mss_limits.insert(slot, limits);
        }
        self.egress_selectors(&connections)?;
        for (interface, carried) in by_interface(connections) {
            if let Some(link) = self.inputs.host.link(interface) {
                self.attach_connections(link, &carried, carried.len())?;
                self.links(link.index, &carried);
            }
        }
        self.vpc()?;
        self.vlans();
        // Only now: after an error, next hops keep the indices that the maps have.
        let attachments = self.entries.tables.attachments.iter();
        let indices = attachments.map(|(ifindex, attachment)| (*ifindex, attachment.translations));
        self.layout.translated = indices.filter(|(_, index)| *index != NO_TRANSLATIONS).collect();
        Ok(())
    }

    /// Recompiles the selectors of these connections. On an interface, which may have thousands, the others have no
    /// overlapping prefixes (`config/sites.rs`), so their entries stay.
    fn some(&mut self, names: &BTreeSet<String>) -> Result<ObsoleteEntries, Full> {
        let affected = self.carried(|name, _| names.contains(name));
        let mut users: BTreeMap<&str, usize> =
            affected.iter().map(|carried| (&*carried.connection.interface, 0)).collect();
        for connection in self.inputs.config.connections.values() {
            users.entry(&connection.interface).and_modify(|users| *users += 1);
        }
        let regions = self.begin_regions(&affected);
        let mut obsolete = self.layout.uses.begin(&regions, self.before);
        self.number(&affected)?;
        self.egress_selectors(&affected)?;
        for (interface, carried) in by_interface(affected) {
            if let Some(link) = self.inputs.host.link(interface) {
                self.attach_connections(link, &carried, users[interface])?;
            }
        }
        let IngressLayout { uses, policies, limits, .. } = &mut *self.layout;
        uses.end(&mut obsolete, self.before, policies, limits);
        self.entries.regions = regions;
        Ok(obsolete)
    }

    /// What is compiled for these connections: their own scopes, and their prefixes in those of their interfaces.
    fn begin_regions(&mut self, affected: &[Carried<'a>]) -> Vec<Region> {
        let mut regions = Vec::new();
        for Carried { name, connection, .. } in affected {
            let keys = [false, true].map(|known| ((*name).to_owned(), connection.interface.clone(), known));
            let scopes = keys.iter().filter_map(|key| self.layout.scopes.get(key));
            regions.extend(scopes.map(|scope| Region { scope, within: None }));
            self.layout.scopes.begin_some(&keys);
            let link = self.inputs.host.link(&connection.interface);
            if let Some(port) = link.and_then(|link| self.layout.ports.get(&link.index)) {
                // Negotiated ones are within them.
                let remotes: JointPrefixSet<IpNet> = connection.remotes_at_hub().into_iter().collect();
                let outermost = remotes.iter().filter(|remote| remotes.get_spm(remote).as_ref() == Some(remote));
                regions.extend(outermost.map(|net| Region { scope: SHARED_SCOPE + port, within: Some(net) }));
            }
        }
        regions
    }

    fn carried(&self, chosen: impl Fn(&str, &Connection) -> bool) -> Vec<Carried<'a>> {
        let Inputs { config, negotiated, .. } = self.inputs;
        let chosen = config.connections.iter().filter(|(name, connection)| chosen(name, connection));
        chosen.map(|(name, connection)| Carried { name, connection, agreed: negotiated.get(name) }).collect()
    }

    /// Numbers connections.
    fn number(&mut self, connections: &[Carried<'a>]) -> Result<(), Full> {
        for Carried { name, connection, agreed } in connections {
            let slot = self.layout.connections.take((*name).to_owned())?;
            let segment = self.layout.segments.take(&connection.segment)?;
            let flags = if connection.reverse_path == ReversePath::Off { NO_REVERSE_PATH } else { 0 };
            self.owners.insert(slot, owner(slot, segment) | flags);
            let scope =
                self.layout.scopes.take(((*name).to_owned(), connection.interface.clone(), agreed.is_some()))?;
            self.numbers.insert(name, Numbers { slot, scope });
        }
        Ok(())
    }

    /// Compiles each connection's own selectors, for the egress check.
    fn egress_selectors(&mut self, connections: &[Carried<'a>]) -> Result<(), Full> {
        for carried in connections {
            let Numbers { slot, scope } = self.numbers[carried.name];
            self.scope(scope, &to_site(slot, carried.connection, carried.agreed))?;
        }
        Ok(())
    }

    /// Attaches connections of an interface, which has so many in all.
    fn attach_connections(&mut self, link: &Link, connections: &[Carried<'a>], users: usize) -> Result<(), Full> {
        let port = self.port(link)?;
        let only = connections.first().filter(|_| users == 1);
        let connection = only.map_or(UNATTRIBUTED, |only| self.numbers[only.name].slot);
        let scope = if let Some(Carried { name, agreed: None, .. }) = only {
            // Its ingress selectors equal its egress selectors.
            self.numbers[name].scope
        } else {
            let scope = SHARED_SCOPE + port;
            let sent = |carried: &Carried<'_>| carried.sent(self.numbers[carried.name].slot);
            let all: Vec<Selector> = connections.iter().flat_map(sent).collect();
            self.scope(scope, &all)?;
            scope
        };
        let translations = self.translations(link, connections)?;
        self.attach(link, scope, connection, translations);
        Ok(())
    }

    fn vpc(&mut self) -> Result<(), Full> {
        let inputs = self.inputs;
        if let Some(vpc) = &inputs.config.vpc {
            let any = |cidr: &IpNet| IpNet::new_assert(cidr.network(), 0).trunc();
            let pair = |cidr: &IpNet| Pair { remote: *cidr, local: any(cidr), limit: ProtoPorts::NONE };
            let selectors: Vec<Selector> =
                vpc.cidrs.iter().map(|cidr| Selector { connection: VPC, pair: pair(cidr) }).collect();
            self.scope(VPC, &selectors)?;
            if let Some(link) = inputs.host.link(&vpc.interface) {
                self.port(link)?;
                self.entries.tables.mss_limits.insert(VPC, mss_limits(MssClamp::Auto, Some(link)));
                self.attach(link, VPC, VPC, NO_TRANSLATIONS);
                self.links(link.index, &[]);
                self.links_to_sites(link.index);
            }
        }
        Ok(())
    }

    fn port(&mut self, link: &Link) -> Result<u32, Full> {
        let port = self.layout.ports.take(link.index)?;
        self.entries.tables.ports.insert(port, link.index);
        Ok(port)
    }

    fn attach(&mut self, link: &Link, scope: u32, connection: u32, translations: u32) {
        let ethernet = if link.ethernet { Attachment::ETHERNET } else { 0 };
        let flags = Attachment::PRESENT | ethernet | attachment_flags(&self.inputs.config.policy_routes, self.before);
        let attachment = Attachment { scope, connection, mac: link.mac.unwrap_or_default(), flags, translations };
        self.entries.tables.attachments.insert(link.index, attachment);
    }

    /// The VLAN interfaces above attachments.
    fn vlans(&mut self) {
        for upper in self.inputs.host.links.values() {
            if let Some((ifindex, id)) = upper.vlan
                && self.entries.tables.attachments.contains_key(&ifindex)
            {
                self.entries.tables.vlans.insert(Vlan { ifindex, id: u32::from(id) }, upper.index);
            }
        }
    }

    /// Compiles selectors of a scope.
    fn scope(&mut self, scope: u32, selectors: &[Selector]) -> Result<(), Full> {
        for compiled in selectors::compile(selectors) {
            let connection = self.owners[&compiled.connection];
            let mut truncated = compiled.truncated.clone();
            let policy = match compiled.admits_any_local() {
                true => ANY_LOCAL,
                false => self.policy(compiled.policy.into(), &mut truncated)?,
            };
            let remote = Remote { policy, connection };
            let PolicyTables { v4, v6, .. } = &mut self.entries.tables;
            match compiled.remote {
                IpNet::V4(net) => v4.remote(scope, net.network().octets(), net.prefix_len(), remote),
                IpNet::V6(net) => v6.remote(scope, net.network().octets(), net.prefix_len(), remote),
            }
            if !truncated.is_empty() {
                self.entries.truncated.insert((scope, compiled.remote), truncated);
            }
        }
        Ok(())
    }

    /// Compiles a policy for one more remote prefix; returns its id.
    fn policy(&mut self, policy: Arc<Policy>, truncated: &mut BTreeSet<u32>) -> Result<u32, Full> {
        let id = self.layout.policies.take(Arc::clone(&policy))?;
        for (local, owner) in &*policy {
            let value = self.local(id, owner, truncated);
            let PolicyTables { v4, v6, .. } = &mut self.entries.tables;
            match local {
                IpNet::V4(net) => v4.local(id, net.network().octets(), net.prefix_len(), value),
                IpNet::V6(net) => v6.local(id, net.network().octets(), net.prefix_len(), value),
            }
        }
        self.layout.uses.add_policy(id, policy);
        Ok(id)
    }

    /// The owner of a local prefix of a policy, with its rules in the table of port rules.
    fn local(&mut self, policy: u32, owner: &Owner, truncated: &mut BTreeSet<u32>) -> Local {
        let mut rules = [Rule::NONE; RULES_PER_ENTRY];
        for (rule, (limit, connection)) in rules.iter_mut().zip(&owner.limits) {
            *rule = limit.rule(self.owners[connection]);
        }
        let limits = if owner.limits.is_empty() {
            NO_PORT_RULES
        } else if let Ok(limits) = self.layout.limits.take(rules) {
            self.entries.tables.limits.insert(limits, rules);
            self.layout.uses.add_limits(limits, policy);
            limits
        } else {
            // Sites influence the number of rules: an excess must not prevent writing the other entries.
            truncated.extend(owner.limits.iter().map(|(_, connection)| *connection));
            ADMITS_NOTHING
        };
        Local { connection: self.owners[&owner.connection], rules: limits }
    }
}

/// The MSS limits of a connection or the VPC on a link.
fn mss_limits(clamp: MssClamp, link: Option<&Link>) -> MssLimits {
    match clamp {
        MssClamp::Auto => link.map_or(MssLimits::NONE, |link| MssLimits::of_mtu(link.mtu)),
        MssClamp::Off => MssLimits::NONE,
        MssClamp::Bytes(bytes) => MssLimits { v4: bytes, v6: bytes },
    }
}

fn by_interface(connections: Vec<Carried<'_>>) -> BTreeMap<&str, Vec<Carried<'_>>> {
    let mut by_interface = BTreeMap::<&str, Vec<Carried<'_>>>::new();
    for carried in connections {
        by_interface.entry(&carried.connection.interface).or_default().push(carried);
    }
    by_interface
}

impl Carried<'_> {
    /// Its ingress selectors; none without an SA.
    fn sent(&self, slot: u32) -> Vec<Selector> {
        match self.agreed {
            Some(agreed) => with_slot(slot, agreed_at_hub(self.connection, agreed)),
            None => with_slot(slot, of_file(self.connection)),
        }
    }
}

/// Egress selectors of a connection. Without an SA, the file's apply, so that packets reach the IKE daemon and can
/// trigger negotiation.
fn to_site(slot: u32, connection: &Connection, agreed: Option<&NegotiatedSelectors>) -> Vec<Selector> {
    let pairs = agreed.into_iter().flat_map(|agreed| agreed_at_hub(connection, agreed));
    let mut selectors = with_slot(slot, pairs);
    if agreed.is_none_or(|agreed| agreed.on_demand || agreed.pairs.is_empty()) {
        selectors.extend(with_slot(slot, of_file(connection)));
    }
    selectors
}

fn with_slot(connection: u32, pairs: impl Iterator<Item = Pair>) -> Vec<Selector> {
    pairs.map(|pair| Selector { connection, pair }).collect()
}

/// The pairs from the configuration file, by the hub's addresses.
fn of_file(connection: &Connection) -> impl Iterator<Item = Pair> {
    connection.remotes_at_hub().into_iter().flat_map(|remote| {
        connection.local_cidrs.iter().map(move |local| Pair { remote, local: *local, limit: ProtoPorts::NONE })
    })
}

/// The negotiated pairs, by the hub's addresses: the SAs have the site's own.
fn agreed_at_hub(connection: &Connection, agreed: &NegotiatedSelectors) -> impl Iterator<Item = Pair> {
    agreed.pairs.iter().flat_map(|pair| {
        connection.translate.prefixes_at_hub(pair.remote).into_iter().map(move |remote| Pair { remote, ..*pair })
    })
}

impl<A: Ord> FamilyMaps<A> {
    fn remote(&mut self, scope: u32, address: A, length: u8, remote: Remote) {
        self.remotes.insert(scoped(scope, address, length), remote);
    }

    fn local(&mut self, policy: u32, address: A, length: u8, local: Local) {
        self.locals.insert(scoped(policy, address, length), local);
    }
}

/// A prefix within a scope.
pub(super) fn scoped<A>(scope: u32, address: A, length: u8) -> Prefix<Scoped<A>> {
    Prefix { data: Scoped::new(scope, address), length: SCOPE_BITS as u8 + length }
}
