//! Rules across entries: references, quota, interfaces. Rules for prefixes are in [`super::sites`].

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::{
    diagnostic::{DiagnosticReport, Located, Problem, join, quoted},
    draft::{ConnectionDraft, Draft},
    entries::MAX_CONNECTIONS,
    ipsec::IpsecDraft,
    learn, marks, metrics, policy_routes,
    read::Unread,
    routes, segments, sites,
    suggest::nearest,
    translate,
    tunnels::{self, connection_of},
};

/// Unresolved references that get a suggestion: each is compared with every name.
const MAX_SUGGESTIONS: usize = 100;
/// Candidates for suggestions; more names than the maximum quota are not compared.
const MAX_CANDIDATES: usize = MAX_CONNECTIONS as usize;

/// Maximum number of underlay interfaces.
const MAX_UNDERLAYS: usize = 64;

/// Warning for a customer gateway.
pub(super) const UNUSED: &str = "no connection uses this customer gateway";
/// Warning for a connection.
pub(super) const UNROUTED: &str = "no route has this connection as its next hop: nothing is sent to the site";

/// Validates the draft as a whole. Names that `unread` may define are not reported as missing.
pub(super) fn validate(draft: &Draft, unread: &Unread, report: &mut DiagnosticReport<'_>) {
    check_names(draft, report);
    check_quota(draft, report);
    check_numbers(draft, report);
    metrics::validate(draft, report);
    learn::validate(draft, report);
    tunnels::validate(draft, report);
    let members = draft.with_members();
    check_interfaces(&members, report);
    check_underlays(draft, report);
    check_peers(&members, report);
    check_same_addresses(&members, report);
    segments::validate(draft, unread, report);
    let all_gateways_known = check_customer_gateways(draft, unread, report);
    let all_hops_known = check_next_hops(draft, unread, report);
    // Warn of unused entries only if all references resolve: a broken reference may mean the unused entry.
    if unread.is_empty() && all_gateways_known {
        warn_of_unused_gateways(draft, report);
    }
    // A routing daemon may bring the routes.
    if unread.is_empty() && all_hops_known && draft.learn.is_none() {
        warn_of_unrouted_connections(draft, report);
    }
    translate::validate(draft, &members, report);
    routes::validate(draft, unread, report);
    policy_routes::validate(draft, routes::default_routes_may_be(draft, unread), report);
    sites::validate(draft, &members, report);
}

/// Names are unique across files; within a file TOML ensures it.
fn check_names(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let segments = draft.segments.iter().map(|segment| ("segment", &segment.name));
    let gateways = draft.customer_gateways.iter().map(|gateway| ("customer_gateway", &gateway.name));
    let connections = draft.connections.iter().map(|connection| ("connection", &connection.name));
    let underlays = draft.underlays.iter().map(|underlay| ("underlay", &underlay.name));
    let mut first = HashMap::new();
    for (kind, Located { value: name, at }) in segments.chain(gateways).chain(connections).chain(underlays) {
        if let Some(&other) = first.get(&(kind, name)) {
            let place = report.place(*at, other);
            let problem =
                Problem::new(format!("{} {} is already defined ({place})", kind.replace('_', " "), quoted(name)));
            report.conflict(
                *at,
                join(kind, name),
                problem.help("remove one of the two, or give it another name"),
                other,
            );
        } else {
            first.insert((kind, name), *at);
        }
    }
}

/// The first connection above the limit, and all of the store's above it. `count` is how many each counts for.
pub(super) fn too_many<'d>(
    draft: &'d Draft,
    most: usize,
    count: impl Fn(&ConnectionDraft) -> usize,
    report: &DiagnosticReport<'_>,
) -> Vec<&'d ConnectionDraft> {
    let mut sum = 0;
    let over = draft.connections.iter().filter(|connection| {
        sum += count(connection);
        sum > most
    });
    let reported = over.enumerate();
    let reported = reported.filter(|(index, connection)| *index == 0 || report.origin(connection.name.at).is_none());
    reported.map(|(_, connection)| connection).collect()
}

fn check_quota(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let Some(quota) = draft.gateway.as_ref().and_then(|gateway| gateway.max_connections) else {
        return;
    };
    let over = too_many(draft, quota.value as usize, |_| 1, report);
    let count = draft.connections.len();
    let problem = Problem::new(format!("{count} connections, and gateway.max_connections allows {}", quota.value));
    let problem = if count <= MAX_CANDIDATES {
        problem.help(format!("set max_connections = {count} in [gateway], or remove connections from here on"))
    } else {
        problem.help(format!("remove connections from here on; the quota goes up to {MAX_CONNECTIONS}"))
    };
    for connection in over {
        report.too_many(connection.name.at, connection.path(), problem.clone());
    }
}

/// Each connection needs its own number in the marks.
fn check_numbers(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let Some(mark) = draft.dataplane.as_ref().and_then(|dataplane| dataplane.mark) else {
        return;
    };
    let most = marks::most_connections(mark.value);
    let count = draft.connections.iter().map(ConnectionDraft::numbers).sum();
    let help = if count <= MAX_CANDIDATES {
        format!("give the mask {} bits below the flag, or remove connections from here on", marks::bits_for(count))
    } else {
        "remove connections from here on".to_owned()
    };
    let what = match draft.connections.iter().any(|connection| connection.numbers() > 1) {
        true => "tunnels and connections without tunnels",
        false => "connections",
    };
    for connection in too_many(draft, most, ConnectionDraft::numbers, report) {
        let place = report.place(connection.name.at, mark.at);
        let problem =
            Problem::new(format!("{count} {what}, and the mask of dataplane.mark ({place}) has numbers for {most}"));
        report.too_many(connection.name.at, connection.path(), problem.help(help.as_str()));
    }
}

fn check_interfaces(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let Some(vpc) = draft.vpc.as_ref().and_then(|vpc| vpc.interface.as_ref()) else {
        return;
    };
    for connection in &draft.connections {
        let Some(interface) = connection.interface.as_ref().filter(|own| own.value == vpc.value) else {
            continue;
        };
        let problem = Problem::new(format!(
            "{} is the VPC's interface ({})",
            quoted(&vpc.value),
            report.place(interface.at, vpc.at)
        ));
        let path = join(&connection.path(), "interface");
        report.error(interface.at, path, problem.help("name the interface that carries this connection's traffic"));
    }
}

/// Each is read and written in one turn of the agent's loop.
fn check_underlays(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    if let Some(first) = draft.underlays.get(MAX_UNDERLAYS) {
        let problem = Problem::new(format!("more than {MAX_UNDERLAYS} underlay interfaces"));
        report.error(first.name.at, first.path(), problem.help("remove those on which no encrypted packets arrive"));
    }
}

/// A peer is a neighbour on the link. Connections that share an interface may have different ones.
fn check_peers(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    for connection in &draft.connections {
        let Some(peer) = connection.peer else {
            continue;
        };
        let remote = connection.remote_cidrs.items.iter().map(|item| item.value);
        if let Some(own) = remote.filter(|prefix| prefix.prefix_len() != 0).find(|prefix| prefix.contains(&peer.value))
        {
            let problem = Problem::new(format!("{} lies in the site's own {own}", peer.value))
                .help("name the link's other end, such as \"169.254.10.2\", not a host behind it; remove peer if the interface has no link layer");
            report.error(peer.at, join(&connection.path(), "peer"), problem);
        }
    }
}

/// Customer gateways whose sites present an identity of their own, on every connection.
fn identified(draft: &Draft) -> HashSet<&str> {
    let mut identified = HashMap::new();
    for connection in &draft.connections {
        let Some(gateway) = &connection.customer_gateway else { continue };
        let is_identified = connection.ipsec.as_ref().is_some_and(IpsecDraft::has_remote_id);
        *identified.entry(gateway.value.as_str()).or_insert(true) &= is_identified;
    }
    identified.into_iter().filter_map(|(name, is_identified)| is_identified.then_some(name)).collect()
}

/// Several sites behind one address need identities of their own.
fn check_same_addresses(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let identified = identified(draft);
    let mut first: HashMap<_, (&str, usize)> = HashMap::new();
    for gateway in &draft.customer_gateways {
        let Some(address) = gateway.address.as_ref().filter(|address| !address.value.is_any()) else {
            continue;
        };
        let name = gateway.name.value.as_str();
        if let Some(&(other, at)) = first.get(&address.value) {
            if identified.contains(name) && identified.contains(other) {
                continue;
            }
            let problem = Problem::new(format!(
                "{} is also {}'s address ({})",
                address.value,
                quoted(other),
                report.place(address.at, at)
            ));
            let path = join(&join("customer_gateway", name), "address");
            let help = "one customer gateway can have several connections; several sites behind one address need a \
                        remote_id each";
            report.warning(address.at, path, problem.help(help));
        } else {
            first.insert(&address.value, (name, address.at));
        }
    }
}

fn check_customer_gateways(draft: &Draft, unread: &Unread, report: &mut DiagnosticReport<'_>) -> bool {
    let names = draft.customer_gateways.iter().map(|gateway| gateway.name.value.as_str());
    let mut names = KnownNames::new("customer_gateway", names, unread);
    for connection in &draft.connections {
        let own = connection.customer_gateway.as_ref();
        if own.is_some() || connection.tunnels.items.is_empty() {
            names.check(own, || join(&connection.path(), "customer_gateway"), report);
        }
        for tunnel in connection.tunnels.items.iter().filter(|tunnel| tunnel.customer_gateway.is_some()) {
            let path = || join(&tunnel.path(&connection.path()), "customer_gateway");
            names.check(tunnel.customer_gateway.as_ref(), path, report);
        }
    }
    names.all_known
}

fn check_next_hops(draft: &Draft, unread: &Unread, report: &mut DiagnosticReport<'_>) -> bool {
    let mut names =
        KnownNames::new("connection", draft.connections.iter().map(|found| found.name.value.as_str()), unread);
    for route in &draft.routes {
        names.check(route.next_hop.as_ref(), || join(&route.path(), "next_hop"), report);
    }
    for route in &draft.policy_routes {
        names.check(route.next_hop.as_ref(), || join(&route.path(), "next_hop"), report);
    }
    names.all_known
}

/// The names of one kind that references may use.
pub(super) struct KnownNames<'d> {
    kind: &'static str,
    /// In the file's order.
    listed: Vec<&'d str>,
    known: HashSet<&'d str>,
    unread: &'d Unread,
    suggestions_left: usize,
    /// Every reference so far was readable and resolved.
    all_known: bool,
}

impl<'d> KnownNames<'d> {
    pub fn new(kind: &'static str, names: impl Iterator<Item = &'d str>, unread: &'d Unread) -> Self {
        let names: Vec<_> = names.collect();
        Self {
            kind,
            known: names.iter().copied().collect(),
            listed: names,
            unread,
            suggestions_left: MAX_SUGGESTIONS,
            all_known: true,
        }
    }

    pub fn check(
        &mut self,
        name: Option<&Located<String>>,
        path: impl Fn() -> String,
        report: &mut DiagnosticReport<'_>,
    ) {
        let Some(Located { value: name, at }) = name else {
            self.all_known = false;
            return;
        };
        if self.known.contains(name.as_str()) {
            return;
        }
        self.all_known = false;
        if !self.unread.may_define(name) && !self.unread.lacks_all(self.kind) {
            let problem = Problem::new(format!("there is no {} {}", self.kind.replace('_', " "), quoted(name)));
            report.error(*at, path(), problem.help(self.advice(name)));
        }
    }

    fn advice(&mut self, name: &str) -> String {
        let compare = self.suggestions_left > 0 && self.listed.len() <= MAX_CANDIDATES;
        self.suggestions_left = self.suggestions_left.saturating_sub(1);
        let meant = compare.then(|| nearest(name, self.listed.iter().copied())).flatten();
        if self.kind == "connection" && self.known.contains(connection_of(name)) {
            return format!("name connection {}: it distributes its share over its tunnels", connection_of(name));
        }
        match (meant, self.listed.as_slice()) {
            (Some(meant), _) => format!("did you mean {}?", quoted(meant)),
            (None, some @ [_, ..]) if some.len() <= 8 => {
                format!("define it as [{}], or name one of {}", join(self.kind, name), some.join(", "))
            }
            _ => format!("define it as [{}]", join(self.kind, name)),
        }
    }
}

fn warn_of_unused_gateways(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let references = draft.connections.iter().flat_map(ConnectionDraft::gateways);
    let used: HashSet<_> = references.map(|name| name.value.as_str()).collect();
    for gateway in draft.customer_gateways.iter().filter(|gateway| !used.contains(gateway.name.value.as_str())) {
        let problem = Problem::new(UNUSED);
        let path = join("customer_gateway", &gateway.name.value);
        report.warning(gateway.name.at, path, problem.help("add a connection to it, or remove it"));
    }
}

fn warn_of_unrouted_connections(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let next_hops = draft.routes.iter().map(|route| &route.next_hop);
    let next_hops = next_hops.chain(draft.policy_routes.iter().map(|route| &route.next_hop));
    let used: HashSet<_> = next_hops.flatten().map(|name| name.value.as_str()).collect();
    for connection in draft.connections.iter().filter(|connection| !used.contains(connection.name.value.as_str())) {
        let translated = connection.translate.items.first().map(|translation| translation.hub.value);
        let remote = translated.or_else(|| connection.remote_cidrs.items.first().map(|item| item.value));
        report.warning(connection.name.at, connection.path(), unrouted(&connection.name.value, remote));
    }
}

/// The problem of a connection without routes; `remote` is the first of its prefixes as the hub sees them.
pub(super) fn unrouted(name: &str, remote: Option<IpNet>) -> Problem {
    let help = match remote {
        Some(prefix) => format!("add [[route]] with destination = \"{prefix}\" and next_hop = {}", quoted(name)),
        None => format!("add [[route]] with next_hop = {}", quoted(name)),
    };
    Problem::new(UNROUTED).help(help)
}
