//! Segments: groups of connections, and what each group reaches.

use std::collections::{HashMap, HashSet};

use hub_common::maps::SEGMENTS;

use super::{
    diagnostic::{DiagnosticReport, Problem, join, quoted},
    draft::Draft,
    model::Config,
    read::Unread,
    rules::KnownNames,
    value,
};

/// The name of the VPC side in `reaches`.
pub const VPC: &str = "vpc";
/// The segment of connections that name none.
pub const DEFAULT: &str = "default";

/// Maximum number of segments that the configuration defines. Each may need two numbers of the kernel program while the
/// configuration changes, and so may the default segment.
const MAX_SEGMENTS: usize = (SEGMENTS / 2 - 2) as usize;

/// A group of connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// [`VPC`], [`DEFAULT`] and names of segments.
    pub reaches: Vec<String>,
}

impl Config {
    /// Whether two segments reach each other; the VPC side is [`VPC`]. Symmetric, because replies go the other way.
    ///
    /// The VPC and the default segment admit each segment that lists them; other segments must list each other. So a
    /// segment reaches itself only if it lists itself.
    pub fn reaches(&self, one: &str, other: &str) -> bool {
        let lists = |one: &str, other: &str| {
            self.segments.get(one).is_some_and(|segment| segment.reaches.iter().any(|reached| reached == other))
        };
        match (one, other) {
            (VPC, VPC) => true,
            (VPC, site) | (site, VPC) => site == DEFAULT || lists(site, VPC),
            _ if !self.gateway.spoke_to_spoke => false,
            (DEFAULT, DEFAULT) => true,
            (DEFAULT, named) | (named, DEFAULT) => lists(named, DEFAULT),
            _ => lists(one, other) && lists(other, one),
        }
    }
}

/// Checks the name of a `[segment.NAME]`.
pub(super) fn check_name(name: &str) -> value::Read<()> {
    value::check_name(name)?;
    let reserved = match name {
        VPC => "the VPC side",
        DEFAULT => "the segment of all connections without one; it reaches itself and the VPC",
        _ => return Ok(()),
    };
    Err(Problem::new(format!("{} is {reserved}", quoted(name))).help("give this segment another name"))
}

/// Validates references to segments, and their number.
pub(super) fn validate(draft: &Draft, unread: &Unread, report: &mut DiagnosticReport<'_>) {
    let names = || draft.segments.iter().map(|segment| segment.name.value.as_str());
    let mut known = KnownNames::new("segment", names().chain([DEFAULT]), unread);
    for connection in &draft.connections {
        let path = || join(&connection.path(), "segment");
        match &connection.segment {
            Some(segment) if segment.value == VPC => {
                let problem = Problem::new("\"vpc\" is the VPC side, not a segment of connections");
                report.error(segment.at, path(), problem.help("name a segment, or remove the key"));
            }
            segment => known.check(segment.as_ref(), path, report),
        }
    }
    let mut known = KnownNames::new("segment", names().chain([VPC, DEFAULT]), unread);
    for segment in &draft.segments {
        for reached in &segment.reaches.items {
            known.check(Some(reached), || join(&segment.path(), "reaches"), report);
        }
    }
    check_number(draft, report);
    if unread.is_empty() {
        warn_of_one_sided(draft, report);
        warn_of_published(draft, report);
    }
}

/// Routes published to the VPC side by connections whose segment does not reach it.
fn warn_of_published(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let sound = draft.segments.iter().filter(|segment| segment.reaches.sound);
    let apart = sound.filter(|segment| !segment.reaches.items.iter().any(|reached| reached.value == VPC));
    let apart: HashSet<&str> = apart.map(|segment| segment.name.value.as_str()).collect();
    let segments = draft.connections.iter().filter_map(|connection| {
        let segment = connection.segment.as_ref()?.value.as_str();
        apart.contains(segment).then_some((connection.name.value.as_str(), segment))
    });
    let segments: HashMap<&str, &str> = segments.collect();
    for route in &draft.routes {
        let (Some(publish), Some(next_hop)) = (&route.publish, &route.next_hop) else { continue };
        let Some(segment) = segments.get(next_hop.value.as_str()).filter(|_| publish.value) else { continue };
        let problem = Problem::new(format!(
            "segment {} of connection {} does not reach the VPC side: packets of the VPC that follow the published \
             route are dropped as isolated",
            quoted(segment),
            quoted(&next_hop.value)
        ));
        let help = format!("add \"vpc\" to the reaches of segment {}, or remove publish", quoted(segment));
        report.warning(publish.at, join(&route.path(), "publish"), problem.help(help));
    }
}

fn check_number(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let count = draft.segments.len();
    for (index, segment) in draft.segments.iter().skip(MAX_SEGMENTS).enumerate() {
        // The first of the files, and all of the store.
        if index == 0 || report.origin(segment.name.at).is_none() {
            let problem = Problem::new(format!("{count} segments, and the kernel program has room for {MAX_SEGMENTS}"));
            let help = "remove segments from here on; connections that reach the same can share one";
            report.too_many(segment.name.at, segment.path(), problem.help(help));
        }
    }
}

/// A segment that lists another one that does not list it.
fn warn_of_one_sided(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let by_name: HashMap<&str, _> =
        draft.segments.iter().map(|segment| (segment.name.value.as_str(), segment)).collect();
    for segment in &draft.segments {
        let name = &segment.name.value;
        for reached in &segment.reaches.items {
            let Some(other) = by_name.get(reached.value.as_str()).filter(|other| other.reaches.sound) else { continue };
            if !other.reaches.items.iter().any(|back| back.value == *name) {
                let problem = Problem::new(format!(
                    "segment {} does not list {} ({}): they do not reach each other",
                    quoted(&reached.value),
                    quoted(name),
                    report.place(reached.at, other.name.at)
                ));
                let help = format!("add {} to its reaches, or remove {} here", quoted(name), quoted(&reached.value));
                report.warning(reached.at, join(&segment.path(), "reaches"), problem.help(help));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn config(spoke_to_spoke: bool) -> Config {
        let text = format!(
            "[gateway]\nname = \"hub\"\nspoke_to_spoke = {spoke_to_spoke}\n\
             [segment.partners]\nreaches = [\"vpc\"]\n\
             [segment.branches]\nreaches = [\"branches\", \"default\", \"factory\", \"partners\"]\n\
             [segment.factory]\nreaches = [\"vpc\", \"branches\"]\n\
             [segment.quarantine]\nreaches = []\n"
        );
        parse(&text).expect("valid").0
    }

    #[test]
    fn segments_reach_what_both_sides_list() {
        const ALL: [&str; 6] = [VPC, DEFAULT, "partners", "branches", "factory", "quarantine"];
        let pairs = |config: &Config| {
            let mut pairs = Vec::new();
            for (index, one) in ALL.iter().enumerate() {
                for other in &ALL[index..] {
                    assert_eq!(config.reaches(one, other), config.reaches(other, one), "{one} {other}");
                    if config.reaches(one, other) {
                        pairs.push((*one, *other));
                    }
                }
            }
            pairs
        };
        let to_vpc = [(VPC, VPC), (VPC, DEFAULT), (VPC, "partners"), (VPC, "factory")];
        let between = [(DEFAULT, DEFAULT), (DEFAULT, "branches"), ("branches", "branches"), ("branches", "factory")];
        assert_eq!(pairs(&config(true)), [to_vpc, between].concat());
        assert_eq!(pairs(&config(false)), to_vpc);
    }

    #[test]
    fn published_route_of_a_segment_without_the_vpc_is_warned_of() {
        let warnings = |segment: &str, publish: bool| {
            let text = format!(
                "[gateway]\nname = \"hub\"\n[vpc]\ninterface = \"vpc0\"\ncidrs = [\"192.168.0.0/24\"]\n\
                 [segment.partners]\nreaches = [\"vpc\"]\n[segment.apart]\nreaches = [\"apart\"]\n\
                 [customer_gateway.site]\naddress = \"198.51.100.1\"\n[connection.a]\ncustomer_gateway = \"site\"\n\
                 interface = \"tun0\"\nlocal_cidrs = [\"0.0.0.0/0\"]\nremote_cidrs = [\"10.1.0.0/16\"]\n\
                 segment = \"{segment}\"\n[[route]]\ndestination = \"10.1.0.0/16\"\nnext_hop = \"a\"\n\
                 publish = {publish}\n"
            );
            let warnings = parse(&text).expect("valid").1;
            warnings.into_iter().map(|warning| warning.message).collect::<Vec<_>>()
        };
        for (segment, publish) in [("apart", false), ("partners", true), (DEFAULT, true)] {
            assert_eq!(warnings(segment, publish), [""; 0], "{segment}");
        }
        assert_eq!(
            warnings("apart", true),
            ["segment \"apart\" of connection \"a\" does not reach the VPC side: packets of the VPC that follow the \
              published route are dropped as isolated"]
        );
    }
}
