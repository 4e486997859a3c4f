//! Sites must have disjoint addresses, as the hub sees them: `remote_cidrs` after `translate`.
//!
//! A *site* is a set of connections: those to one customer gateway, and those that are next hops of one destination
//! (redundant paths to the same place). Within a site prefixes may overlap, and longest prefix match decides. Between
//! sites, and between a site and the VPC, the later prefix in the file is checked against the earlier one: equal or
//! inside is an error, containing is a warning. So each pair is reported once. A default prefix (`0.0.0.0/0`, `::/0`)
//! contains everything and conflicts with nothing.
//!
//! A `hub` prefix of a translation is for one site alone: any overlap with another one or with the VPC is an error.
//! Within a site, `hub` prefixes may overlap if they lead to the same addresses of the site.
//!
//! Connections on one interface are distinguished by address alone. There, any overlap of their `remote_cidrs` is an
//! error, even within a site or with a default prefix. The translations of an interface are in one table, so no `site`
//! prefix may reach into the `remote_cidrs` of another connection, and no `hub` prefix may overlap hub-side addresses of
//! another one. Their peers may be equal or not: a peer is for sending only.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{
    diagnostic::{DiagnosticReport, Located, Problem, join, quoted},
    draft::{ConnectionDraft, Draft, RouteDraft},
    overlap::{Claim, Conflict, Relation, conflicts},
    translate::{Translation, TranslationDraft},
    tunnels::connection_of,
};

/// `members`: the draft with a connection for each tunnel.
pub(super) fn validate(draft: &Draft, members: &Draft, report: &mut DiagnosticReport<'_>) {
    let mut validate = Validator { draft, members, report, sites: Sites::of_draft(draft), reported: HashSet::new() };
    validate.shared_interfaces();
    validate.hub_prefixes();
    validate.selectors();
    validate.routes();
}

/// Origin of a claim.
#[derive(Clone, Copy)]
enum ClaimOrigin<'d> {
    Vpc,
    Selector(&'d ConnectionDraft),
    /// What translations leave of this element of `remote_cidrs`.
    Remainder(&'d ConnectionDraft, IpNet),
    /// The prefix `site` of a translation.
    Site(&'d ConnectionDraft, &'d TranslationDraft),
    /// The prefix `hub` of a translation.
    Hub(&'d ConnectionDraft, &'d TranslationDraft),
    Route(&'d RouteDraft, &'d str),
}

impl ClaimOrigin<'_> {
    /// The owner in messages, as in "10.0.0.0/8 of ...".
    fn owner(self) -> String {
        match self {
            Self::Vpc => "the VPC".to_owned(),
            Self::Selector(connection) | Self::Site(connection, _) | Self::Hub(connection, _) => {
                quoted(&connection.name.value)
            }
            Self::Remainder(connection, whole) => format!("{} (a part of {whole})", quoted(&connection.name.value)),
            Self::Route(_, next_hop) => quoted(next_hop),
        }
    }

    fn path(self) -> String {
        match self {
            Self::Vpc => "vpc.cidrs".to_owned(),
            Self::Selector(connection) | Self::Remainder(connection, _) => join(&connection.path(), "remote_cidrs"),
            Self::Site(connection, translation) => join(&translation.path(&connection.path()), "site"),
            Self::Hub(connection, translation) => join(&translation.path(&connection.path()), "hub"),
            Self::Route(route, _) => join(&route.path(), "destination"),
        }
    }

    /// The connection that the prefix is behind, or "" for the VPC (not a valid connection name).
    fn name(&self) -> &str {
        match self {
            Self::Vpc => "",
            Self::Selector(connection)
            | Self::Remainder(connection, _)
            | Self::Site(connection, _)
            | Self::Hub(connection, _) => &connection.name.value,
            Self::Route(_, next_hop) => next_hop,
        }
    }
}

/// Prefixes to compare; each has its origin at the same index.
#[derive(Default)]
struct Claims<'d> {
    claims: Vec<Claim>,
    origins: Vec<ClaimOrigin<'d>>,
}

impl<'d> Claims<'d> {
    fn add(&mut self, prefix: Located<IpNet>, owner: usize, origin: ClaimOrigin<'d>) {
        let Located { value: prefix, at } = prefix;
        self.claims.push(Claim { prefix, owner, at });
        self.origins.push(origin);
    }

    /// The addresses in packets on the connection, and those that its translations take for the site's.
    fn add_site_side(&mut self, connection: &'d ConnectionDraft, owner: usize) {
        let remotes = &connection.remote_cidrs.items;
        for remote in remotes {
            self.add(*remote, owner, ClaimOrigin::Selector(connection));
        }
        // With errors in the translations they are not compared.
        let is_sound = connection.translate.translations().is_some();
        for translation in connection.translate.items.iter().filter(|_| is_sound) {
            if !remotes.iter().any(|remote| remote.value.contains(&translation.site.value)) {
                self.add(translation.site, owner, ClaimOrigin::Site(connection, translation));
            }
        }
    }

    /// The addresses by which the hub knows the site. A default prefix conflicts with nothing.
    fn add_hub_side(&mut self, connection: &'d ConnectionDraft, owner: usize) {
        // With errors in the translations it is not known.
        let Some(unchanged) = connection.translate.unchanged(&connection.remote_cidrs) else { return };
        for translation in &connection.translate.items {
            self.add(translation.hub, owner, ClaimOrigin::Hub(connection, translation));
        }
        for (item, prefix) in unchanged.into_iter().filter(|(item, _)| item.value.prefix_len() != 0) {
            let origin = match prefix == item.value {
                true => ClaimOrigin::Selector(connection),
                false => ClaimOrigin::Remainder(connection, item.value),
            };
            self.add(Located { value: prefix, at: item.at }, owner, origin);
        }
    }
}

struct Validator<'d, 'r, 'l> {
    draft: &'d Draft,
    members: &'d Draft,
    report: &'r mut DiagnosticReport<'l>,
    sites: Sites<'d>,
    /// Prefixes already reported for a connection, so that its selector and its route do not both report one.
    reported: HashSet<(String, IpNet)>,
}

impl<'d> Validator<'d, '_, '_> {
    fn shared_interfaces(&mut self) {
        let mut sharing: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (index, connection) in self.members.connections.iter().enumerate() {
            if let Some(interface) = &connection.interface {
                let on_it = sharing.entry(&interface.value).or_default();
                // Two tunnels of one connection on it are reported already.
                let name = |index: usize| connection_of(&self.members.connections[index].name.value);
                if on_it.last().is_none_or(|last| name(*last) != name(index)) {
                    on_it.push(index);
                }
            }
        }
        for (interface, members) in sharing.into_iter().filter(|(_, members)| members.len() > 1) {
            let (mut at_site, mut at_hub) = (Claims::default(), Claims::default());
            for index in members {
                let connection = &self.members.connections[index];
                at_site.add_site_side(connection, index);
                at_hub.add_hub_side(connection, index);
            }
            let more = format!(", and both are on interface {}", quoted(interface));
            for conflict in conflicts(&at_site.claims) {
                let problem = self.describe(&at_site, &conflict, &more);
                let help = "connections on one interface are distinguished only by source address: give each its own \
                    interface, or prefixes that do not overlap";
                self.error(&at_site, &conflict, problem.help(help));
            }
            for conflict in conflicts(&at_hub.claims) {
                // Others are as on the site side.
                let is_of_hub = |claim: usize| matches!(at_hub.origins[claim], ClaimOrigin::Hub(..));
                if is_of_hub(conflict.claim) || is_of_hub(conflict.earlier) {
                    let problem = self.describe(&at_hub, &conflict, &more);
                    let help = "the translations of an interface are for all its connections: give each connection its \
                                own interface, or hub prefixes that do not overlap";
                    self.error(&at_hub, &conflict, problem.help(help));
                }
            }
        }
    }

    fn hub_prefixes(&mut self) {
        let mut all = self.vpc();
        // Those of a site that lead to the same addresses do not conflict.
        let mut owners = HashMap::new();
        for (index, connection) in self.draft.connections.iter().enumerate() {
            for translation in &connection.translate.items {
                let next = owners.len();
                let owner = *owners.entry((self.sites.site(index), shift(&translation.value()))).or_insert(next);
                all.add(translation.hub, owner, ClaimOrigin::Hub(connection, translation));
            }
        }
        let name = |claim: usize| all.origins[claim].name();
        // Those within a connection are reported already.
        for conflict in conflicts(&all.claims).into_iter().filter(|found| name(found.claim) != name(found.earlier)) {
            let problem = self.describe(&all, &conflict, "");
            let site = |claim: usize| self.sites.connection(name(claim)).map(|index| self.sites.site(index));
            let help = match (site(conflict.claim), site(conflict.earlier)) {
                (Some(here), Some(there)) if here == there => {
                    "connections to one site translate a hub prefix to the same site prefix: change one of the two"
                }
                (Some(_), Some(_)) => "each site needs hub prefixes of its own: change one of the two",
                _ => "the sites and the VPC need addresses of their own: change one of the two",
            };
            self.error(&all, &conflict, problem.help(help));
        }
    }

    fn selectors(&mut self) {
        let mut all = self.vpc();
        for (index, connection) in self.draft.connections.iter().enumerate() {
            all.add_hub_side(connection, self.sites.site(index));
        }
        self.between_sites(&all);
    }

    fn routes(&mut self) {
        let mut all = self.vpc();
        for route in &self.draft.routes {
            let (Some(destination), Some(next_hop)) = (route.destination, &route.next_hop) else {
                continue;
            };
            let Some(index) = self.sites.connection(&next_hop.value) else {
                continue;
            };
            if destination.value.prefix_len() != 0 {
                all.add(destination, self.sites.site(index), ClaimOrigin::Route(route, &next_hop.value));
            }
        }
        self.between_sites(&all);
    }

    fn vpc(&self) -> Claims<'d> {
        let mut all = Claims::default();
        let prefixes = self.draft.vpc.iter().flat_map(|vpc| &vpc.cidrs.items);
        prefixes
            .filter(|item| item.value.prefix_len() != 0)
            .for_each(|item| all.add(*item, usize::MAX, ClaimOrigin::Vpc));
        all
    }

    fn between_sites(&mut self, all: &Claims<'d>) {
        let mut found = conflicts(&all.claims);
        // One element of a list may be several claims, of which the first one with an error is reported.
        found.sort_by_key(|conflict| conflict.relation == Relation::Contains);
        for conflict in found {
            let problem = self.describe(all, &conflict, "");
            let (here, there) = (all.origins[conflict.claim], all.origins[conflict.earlier]);
            match conflict.relation {
                Relation::EqualOrInside if matches!((here, there), (ClaimOrigin::Vpc, _) | (_, ClaimOrigin::Vpc)) => {
                    self.error(
                        all,
                        &conflict,
                        problem.help("the sites and the VPC need addresses of their own: change one of the two"),
                    );
                }
                Relation::EqualOrInside => {
                    let help = "sites need addresses of their own: change or translate one of the two; \
                                if both lead to one site, give them the same customer_gateway";
                    self.error(all, &conflict, problem.help(help));
                }
                Relation::Contains => {
                    let help = format!(
                        "the longer prefix wins: the rest goes to {}; narrow this one if that is not intended",
                        here.owner()
                    );
                    self.warning(all, &conflict, problem.help(help));
                }
            }
        }
    }

    fn describe(&self, all: &Claims<'d>, conflict: &Conflict, more: &str) -> Problem {
        let (claim, earlier) = (all.claims[conflict.claim], all.claims[conflict.earlier]);
        let (here, there) = (all.origins[conflict.claim].owner(), all.origins[conflict.earlier].owner());
        let place = self.report.place(claim.at, earlier.at);
        Problem::new(match conflict.relation {
            _ if claim.prefix == earlier.prefix => {
                format!("{} of {here} also belongs to {there} ({place}){more}", claim.prefix)
            }
            Relation::EqualOrInside => {
                format!("{} of {here} lies in {} of {there} ({place}){more}", claim.prefix, earlier.prefix)
            }
            Relation::Contains => {
                format!("{} of {here} contains {} of {there} ({place}){more}", claim.prefix, earlier.prefix)
            }
        })
    }

    fn error(&mut self, all: &Claims<'d>, conflict: &Conflict, problem: Problem) {
        if self.is_news(all, conflict) {
            let (claim, earlier) = (all.claims[conflict.claim].at, all.claims[conflict.earlier].at);
            self.report.conflict(claim, all.origins[conflict.claim].path(), problem, earlier);
        }
    }

    fn warning(&mut self, all: &Claims<'d>, conflict: &Conflict, problem: Problem) {
        if self.is_news(all, conflict) {
            self.report.warning(all.claims[conflict.claim].at, all.origins[conflict.claim].path(), problem);
        }
    }

    fn is_news(&mut self, all: &Claims<'d>, conflict: &Conflict) -> bool {
        let origin = all.origins[conflict.claim];
        let prefix = match origin {
            ClaimOrigin::Remainder(_, whole) => whole,
            _ => all.claims[conflict.claim].prefix,
        };
        self.reported.insert((origin.name().to_owned(), prefix))
    }
}

/// The bits in which the two sides differ. Where two `hub` prefixes overlap, they lead to the same addresses if these
/// are equal.
fn shift(&Translation { site, hub }: &Translation) -> u128 {
    match (site.network(), hub.network()) {
        (IpAddr::V4(site), IpAddr::V4(hub)) => u128::from(u32::from(site) ^ u32::from(hub)),
        (IpAddr::V6(site), IpAddr::V6(hub)) => u128::from(site) ^ u128::from(hub),
        // Reported already.
        _ => 0,
    }
}

/// Maps connections to sites: disjoint sets, each represented by one of its members.
pub(super) struct Sites<'d> {
    by_name: HashMap<&'d str, usize>,
    /// The parent of each connection in its set; a representative is its own parent.
    towards: Vec<usize>,
}

impl<'d> Sites<'d> {
    fn of_draft(draft: &'d Draft) -> Self {
        let name = |name: &'d Located<String>| name.value.as_str();
        let gateways = move |connection: &'d ConnectionDraft| connection.gateways().map(name);
        Self::of(
            draft.connections.iter().map(|connection| (connection.name.value.as_str(), gateways(connection))),
            draft.routes.iter().filter_map(|route| Some((route.destination?.value, name(route.next_hop.as_ref()?)))),
        )
    }

    /// From connections (name, customer gateways) and routes (destination, next hop).
    pub fn of(
        connections: impl Iterator<Item = (&'d str, impl Iterator<Item = &'d str>)>,
        routes: impl Iterator<Item = (IpNet, &'d str)>,
    ) -> Self {
        let mut sites = Self { by_name: HashMap::new(), towards: Vec::new() };
        let mut by_gateway = HashMap::new();
        for (index, (name, gateways)) in connections.enumerate() {
            sites.by_name.insert(name, index);
            sites.towards.push(index);
            for gateway in gateways {
                sites.join(*by_gateway.entry(gateway).or_insert(index), index);
            }
        }
        let mut by_destination = HashMap::new();
        for (destination, next_hop) in routes.filter(|(destination, _)| destination.prefix_len() != 0) {
            if let Some(hop) = sites.connection(next_hop) {
                sites.join(*by_destination.entry(destination).or_insert(hop), hop);
            }
        }
        sites
    }

    pub fn connection(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub fn site(&self, mut index: usize) -> usize {
        while self.towards[index] != index {
            index = self.towards[index];
        }
        index
    }

    /// Merges the sites of two connections.
    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.site(one), self.site(other));
        self.towards[one.max(other)] = one.min(other);
    }
}
