//! Rules for destination routes: default routes, duplicates, and destinations outside the selectors.

use std::collections::HashMap;

use ipnet::IpNet;

use super::{
    diagnostic::{DiagnosticReport, Located, Problem, join, quoted},
    draft::{ConnectionDraft, Draft},
    read::Unread,
    translate::Translations,
};

pub(super) fn validate(draft: &Draft, unread: &Unread, report: &mut DiagnosticReport<'_>) {
    if !default_routes_may_be(draft, unread) {
        for route in &draft.routes {
            if let Some(destination) = route.destination {
                refuse_default(destination, &route.path(), report);
            }
        }
    }
    check_duplicates(draft, report);
    check_selectors(draft, report);
}

/// Whether default routes are allowed, or may be in an unreadable part of the file.
pub(super) fn default_routes_may_be(draft: &Draft, unread: &Unread) -> bool {
    let said = draft.gateway.as_ref().map(|gateway| gateway.allow_default_route);
    let unsaid = unread.may_define("gateway") || unread.may_define("allow_default_route");
    match said {
        Some(Some(allowed)) => allowed.value || unsaid,
        Some(None) => true,
        None => unsaid,
    }
}

/// Reports a default destination of the route at `path`.
pub(super) fn refuse_default(destination: Located<IpNet>, path: &str, report: &mut DiagnosticReport<'_>) {
    if destination.value.prefix_len() != 0 {
        return;
    }
    let problem = Problem::new(format!("{} matches all packets that no other route matches", destination.value));
    let help = "set allow_default_route = true in [gateway] if that is intended";
    report.error(destination.at, join(path, "destination"), problem.help(help));
}

/// Routes with the same destination and next hop are duplicates.
fn check_duplicates(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let mut first = HashMap::new();
    for route in &draft.routes {
        let (Some(destination), Some(next_hop)) = (route.destination, &route.next_hop) else {
            continue;
        };
        let hop = next_hop.value.as_str();
        if let Some(&first) = first.get(&(destination.value, hop)) {
            let place = report.place(route.at, first);
            let problem = Problem::new(format!(
                "the route to {} via {} is already defined on {place}",
                destination.value,
                quoted(hop)
            ));
            report.conflict(
                route.at,
                route.path(),
                problem.help("remove one of the two, or change its next_hop"),
                first,
            );
        } else {
            first.insert((destination.value, hop), destination.at);
        }
    }
}

/// Warns of destinations outside the next hop's remote selectors, as the hub sees them: packets to them are routed, then dropped.
fn check_selectors(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let coverage = coverage(draft);
    for route in &draft.routes {
        let (Some(destination), Some(next_hop)) = (route.destination, &route.next_hop) else {
            continue;
        };
        let Some(coverage) = coverage.get(next_hop.value.as_str()) else {
            continue;
        };
        if let Some(problem) = coverage.check(&destination.value, &next_hop.value) {
            report.warning(destination.at, join(&route.path(), "destination"), problem);
        }
    }
}

/// The prefixes of each connection without errors in them, by its name.
pub(super) fn coverage(draft: &Draft) -> HashMap<&str, Coverage> {
    let sound = draft.connections.iter().filter(|connection| connection.remote_cidrs.sound);
    let coverage = |connection: &ConnectionDraft| {
        let remotes = connection.remote_cidrs.items.iter().map(|item| item.value);
        connection.translate.unchanged(&connection.remote_cidrs)?;
        connection.translate.translations().map(|translations| Coverage::of(remotes, translations))
    };
    sound.filter_map(|connection| Some((connection.name.value.as_str(), coverage(connection)?))).collect()
}

/// How much of a destination a connection's remote selectors cover.
#[derive(Debug, PartialEq, Eq)]
enum RouteSpan {
    Whole,
    Part,
    None,
}

/// A connection's remote selectors as the hub sees them.
#[derive(Debug)]
pub(super) struct Coverage {
    /// The fewest prefixes: disjoint and sorted.
    at_hub: Vec<IpNet>,
    translations: Translations,
}

impl Coverage {
    pub fn of(remote_cidrs: impl IntoIterator<Item = IpNet>, translations: Translations) -> Self {
        let at_hub = remote_cidrs.into_iter().flat_map(|remote| translations.prefixes_at_hub(remote));
        let mut joined = IpNet::aggregate(&at_hub.collect());
        joined.sort_unstable();
        Self { at_hub: joined, translations }
    }

    /// The problem of a route to `destination` by the connection `next_hop`, if any.
    pub fn check(&self, destination: &IpNet, next_hop: &str) -> Option<Problem> {
        let extent = match self.extent(destination) {
            RouteSpan::Whole => return None,
            RouteSpan::Part => "is only partly",
            RouteSpan::None => "is not",
        };
        let list = join(&join("connection", next_hop), "remote_cidrs");
        let view = if self.translations.is_empty() { "" } else { " as the hub sees them" };
        let message =
            format!("{destination} {extent} in {list}{view}: packets outside are dropped as selector_mismatch");
        let hub = self.translations.iter().find_map(|translation| translation.part_at_hub(*destination));
        Some(Problem::new(message).help(match hub {
            Some(hub) => format!("the site's own prefix is translated: use its hub prefix {hub}"),
            None => format!("add it to {list}, here and in the site's own device, or choose another next_hop"),
        }))
    }

    fn extent(&self, destination: &IpNet) -> RouteSpan {
        let after = self.at_hub.partition_point(|prefix| prefix <= destination);
        // A container sorts before its contents, and no prefix disjoint from both sorts in between.
        let container = after.checked_sub(1).map(|before| self.at_hub[before]);
        if container.is_some_and(|container| container.contains(destination)) {
            RouteSpan::Whole
        } else if self.at_hub.get(after).is_some_and(|prefix| destination.contains(prefix)) {
            RouteSpan::Part
        } else {
            RouteSpan::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::translate::Translation, *};

    #[test]
    fn route_coverage_is_of_hub_side_prefixes() {
        let prefix = |text: &str| text.parse::<IpNet>().expect(text);
        let translation = Translation { site: prefix("192.168.1.0/24"), hub: prefix("10.201.1.0/24") };
        let remotes = ["192.168.0.0/23", "10.201.0.0/24"].map(prefix);
        let coverage = Coverage::of(remotes, [translation].into_iter().collect());
        let cases = [
            ("10.201.1.0/24", RouteSpan::Whole),
            // Of two elements of the list, one of them translated.
            ("10.201.0.0/23", RouteSpan::Whole),
            ("192.168.0.0/24", RouteSpan::Whole),
            ("192.168.1.0/24", RouteSpan::None),
            ("192.168.0.0/23", RouteSpan::Part),
        ];
        for (text, expected) in cases {
            assert_eq!(coverage.extent(&prefix(text)), expected, "{text}");
        }
    }

    #[test]
    fn route_coverage_joins_adjacent_selectors() {
        let prefix = |text: &str| text.parse::<IpNet>().expect(text);
        let parts = ["10.0.0.0/9", "10.128.0.0/9", "192.168.1.0/24", "fd00::/16"].map(prefix);
        let coverage = Coverage::of(parts, Translations::default());
        let cases = [
            ("10.0.0.0/8", RouteSpan::Whole),
            ("10.200.0.0/16", RouteSpan::Whole),
            ("192.168.0.0/16", RouteSpan::Part),
            ("192.168.2.0/24", RouteSpan::None),
            ("0.0.0.0/0", RouteSpan::Part),
            ("fd00:1::/32", RouteSpan::Whole),
            ("::/0", RouteSpan::Part),
            ("fe00::/16", RouteSpan::None),
            ("11.0.0.0/8", RouteSpan::None),
        ];
        for (text, expected) in cases {
            assert_eq!(coverage.extent(&prefix(text)), expected, "{text}");
        }
    }
}
