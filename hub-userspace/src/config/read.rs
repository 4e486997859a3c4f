//! Tree to draft: reads the sections, their keys, and each value by itself.

use std::collections::HashSet;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    diagnostic::{DiagnosticReport, Located, Problem, join, quoted},
    draft::Draft,
    policy_routes,
    section::Section,
    segments,
    suggest::nearest,
    tunnels,
    value::{self, describe},
};

pub(super) const SECTIONS: [&str; 11] = [
    "gateway",
    "dataplane",
    "metrics",
    "learn",
    "vpc",
    UNDERLAY,
    SEGMENT,
    "customer_gateway",
    "connection",
    "route",
    "policy_route",
];
/// Only the main file may have them, and [`INCLUDE`].
const MAIN_SECTIONS: [&str; 4] = ["gateway", "dataplane", "metrics", "learn"];
/// Its tables have the names of interfaces.
const UNDERLAY: &str = "underlay";
const SEGMENT: &str = "segment";
/// The one key before all sections.
pub(super) const INCLUDE: &str = "include";
const UNDERLAY_KEYS: &[&str] = &["spread"];
pub(super) const SEGMENT_KEYS: &[&str] = &["reaches"];
const ROUTE_KEYS: &[&str] = &["destination", "next_hop", "weight", "publish"];
pub(super) const CUSTOMER_GATEWAY_KEYS: &[&str] = &["address"];
pub(super) const CONNECTION_KEYS: &[&str] = &[
    "customer_gateway",
    "segment",
    "enabled",
    "interface",
    "peer",
    "local_cidrs",
    "remote_cidrs",
    "translate",
    "health_check",
    "up_delay",
    "ipsec",
    "selectors",
    "reverse_path",
    "mss_clamp",
    tunnels::KEY,
];

/// Role of a text in a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextPart {
    /// The operator's main file.
    Main,
    /// An included file.
    Included,
    /// An object of the store.
    Stored,
}

/// Parts of the file that are missing from the draft because they could not be read.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// Names that an unreadable part may define.
    names: HashSet<String>,
}

impl Unread {
    /// Whether an unreadable part may define the name. That part has been reported already, so the missing name is not.
    pub fn may_define(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether all entries of this kind (`connection`) are unreadable.
    pub fn lacks_all(&self, kind: &str) -> bool {
        self.names.contains(&any(kind))
    }

    /// Whether the draft is complete.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub fn add(&mut self, other: Self) {
        self.names.extend(other.names);
    }
}

/// Converts the tree to a draft and reports errors in its parts.
pub(super) fn read(root: &DeTable<'_>, part: TextPart, report: &mut DiagnosticReport<'_>) -> (Draft, Unread) {
    let mut reader = SectionReader { report, part, unread: Unread::default() };
    let draft = reader.read(root);
    (draft, reader.unread)
}

/// Reads the sections and records the unreadable parts.
pub(super) struct SectionReader<'r, 'l> {
    pub report: &'r mut DiagnosticReport<'l>,
    part: TextPart,
    unread: Unread,
}

impl SectionReader<'_, '_> {
    fn read<'a>(&mut self, root: &'a DeTable<'a>) -> Draft {
        self.check_sections(root);
        let mut draft = Draft {
            include: self.include(root),
            gateway: self.single(root, "gateway", Self::gateway),
            dataplane: self.single(root, "dataplane", Self::dataplane),
            metrics: self.single(root, "metrics", Self::metrics),
            learn: self.single(root, "learn", Self::learn),
            vpc: self.single(root, "vpc", Self::vpc),
            ..Draft::default()
        };
        for (name, table) in self.named(root, UNDERLAY) {
            draft.underlays.push(self.underlay(name, &table));
        }
        for (name, table) in self.named(root, SEGMENT) {
            draft.segments.push(self.segment(name, &table));
        }
        for (name, table) in self.named(root, "customer_gateway") {
            draft.customer_gateways.push(self.customer_gateway(name, &table));
        }
        for (name, table) in self.named(root, "connection") {
            draft.connections.push(self.connection(name, &table));
        }
        for (number, table) in self.listed(root, "route", ROUTE_KEYS) {
            draft.routes.push(self.route(number, &table));
        }
        for (number, table) in self.listed(root, "policy_route", policy_routes::KEYS) {
            draft.policy_routes.push(self.policy_route(number, &table));
        }
        draft
    }

    /// The patterns of `include`; empty if the key is invalid or not allowed.
    fn include(&mut self, root: &DeTable<'_>) -> Vec<Located<String>> {
        let Some(found) = root.get(INCLUDE).filter(|_| self.part == TextPart::Main) else { return Vec::new() };
        let patterns = || {
            let elements = found.get_ref().as_array()?.iter();
            let pattern = |element: &Spanned<DeValue<'_>>| {
                Some(Located { value: element.get_ref().as_str()?.to_owned(), at: element.span().start })
            };
            elements.map(pattern).collect::<Option<Vec<_>>>()
        };
        patterns().unwrap_or_else(|| {
            let problem = Problem::new("must be a list of file names").help("write include = [\"routes.d/*.toml\"]");
            self.report.error(found.span().start, INCLUDE, problem);
            Vec::new()
        })
    }

    /// Reports unknown or misplaced sections, and a missing `[gateway]`.
    fn check_sections(&mut self, root: &DeTable<'_>) {
        let absent = || SECTIONS.into_iter().filter(|&name| !root.contains_key(name));
        let mut misspelt = HashSet::new();
        for (key, content) in root {
            let name = key.get_ref();
            if self.part == TextPart::Included && (MAIN_SECTIONS.contains(&name.as_ref()) || name == INCLUDE) {
                let problem = Problem::new(format!("{} is not allowed in an included file", quoted(name)));
                self.report.error(key.span().start, "", problem.help("move it to the main file"));
            }
            if SECTIONS.contains(&name.as_ref()) || name == INCLUDE {
                continue;
            }
            if self.report.is_full() {
                self.report.error_with(key.span().start, || (String::new(), Problem::new("")));
                self.unread.names.insert(name.clone().into_owned());
                continue;
            }
            let kind = if content.get_ref().is_table() || content.get_ref().is_array() { "section" } else { "key" };
            let problem = Problem::new(format!("unknown {kind} {}", quoted(name)));
            let problem = match nearest(name, absent()).or_else(|| nearest(name, SECTIONS)) {
                Some(meant) => {
                    misspelt.insert(meant);
                    problem.help(format!("did you mean {}?", quoted(meant)))
                }
                None => problem.help(format!("the sections are {}", SECTIONS.join(", "))),
            };
            self.report.error(key.span().start, "", problem);
            self.unread.names.insert(name.clone().into_owned());
            if let DeValue::Table(below) = content.get_ref() {
                self.unread.names.extend(below.keys().map(|key| key.get_ref().clone().into_owned()));
            }
        }
        let may_be_there = misspelt.contains("gateway") || self.unread.may_define("gateway");
        if self.part == TextPart::Main && !root.contains_key("gateway") && !may_be_there {
            let problem = Problem::new("the section [gateway] is missing");
            self.report.error(0, "", problem.help("add [gateway] with name = \"my-hub\""));
        }
    }

    /// The table as a section with `keys`; `shape` is the expected form, for the error message.
    pub fn open<'a>(
        &mut self,
        table: &'a Spanned<DeValue<'a>>,
        path: String,
        keys: &'static [&'static str],
        shape: &str,
    ) -> Option<Section<'a>> {
        let at = table.span().start;
        if let DeValue::Table(below) = table.get_ref() {
            return Some(Section::open(below, path, at, keys, self.report));
        }
        let problem = Problem::new(format!("must be a table, is {}", describe(table.get_ref())));
        self.report.error(at, path, problem.help(format!("write {shape}")));
        None
    }

    fn single<'a, T>(
        &mut self,
        root: &'a DeTable<'a>,
        name: &str,
        read: impl FnOnce(&mut Self, &'a Spanned<DeValue<'a>>) -> Option<T>,
    ) -> Option<T> {
        read(self, root.get(name)?)
    }

    /// The tables `[kind.NAME]`, in the file's order.
    fn named<'a>(&mut self, root: &'a DeTable<'a>, kind: &str) -> Vec<(Located<String>, Section<'a>)> {
        let Some(entries) = root.get(kind) else {
            return Vec::new();
        };
        let (keys, check): (_, fn(&str) -> value::Read<()>) = match kind {
            UNDERLAY => (UNDERLAY_KEYS, value::check_interface),
            SEGMENT => (SEGMENT_KEYS, segments::check_name),
            "connection" => (CONNECTION_KEYS, value::check_name),
            _ => (CUSTOMER_GATEWAY_KEYS, value::check_name),
        };
        let shape = format!("a section [{kind}.NAME] for each");
        let DeValue::Table(entries) = entries.get_ref() else {
            let problem = Problem::new(format!("must be named tables, is {}", describe(entries.get_ref())));
            self.report.error(entries.span().start, kind, problem.help(format!("write {shape}")));
            // References to these entries cannot be validated.
            self.unread.names.insert(any(kind));
            return Vec::new();
        };
        let mut found = Vec::new();
        for (key, table) in entries {
            let name = key.get_ref().clone().into_owned();
            let path = join(kind, &name);
            if let Some((at, dotted)) = dotted(kind, &name, table, keys) {
                let problem = Problem::new(format!("the name {} has a dot and no quotes", quoted(&dotted)));
                self.report.error(at, path, problem.help(format!("write [{}]", join(kind, &dotted))));
                continue;
            }
            if let Some(section) = self.open(table, path.clone(), keys, &shape) {
                if let Err(problem) = check(&name) {
                    self.report.error(key.span().start, path, problem);
                }
                found.push((Located { value: name, at: key.span().start }, section));
            } else {
                self.unread.names.insert(name);
            }
        }
        found.sort_by_key(|(_, section)| section.at);
        found
    }

    /// The `[[kind]]` tables with their numbers.
    fn listed<'a>(
        &mut self,
        root: &'a DeTable<'a>,
        kind: &str,
        keys: &'static [&'static str],
    ) -> Vec<(usize, Section<'a>)> {
        let shape = format!("[[{kind}]] before each {}", kind.replace('_', " "));
        let Some(routes) = root.get(kind) else {
            return Vec::new();
        };
        let DeValue::Array(elements) = routes.get_ref() else {
            let problem = Problem::new(format!("must be a list of tables, is {}", describe(routes.get_ref())));
            self.report.error(routes.span().start, kind, problem.help(format!("write {shape}")));
            self.unread.names.insert(any(kind));
            return Vec::new();
        };
        let mut found = Vec::new();
        for (index, table) in elements.iter().enumerate() {
            let path = format!("{kind}[{}]", index + 1);
            match self.open(table, path.clone(), keys, &shape) {
                Some(section) => found.push((index + 1, section)),
                None => _ = self.unread.names.insert(path),
            }
        }
        found
    }
}

/// The name of an interface that was written without quotes, as in `[underlay.eth0.100]`, and its position.
fn dotted(kind: &str, name: &str, table: &Spanned<DeValue<'_>>, keys: &[&str]) -> Option<(usize, String)> {
    let below = table.get_ref().as_table().filter(|_| kind == UNDERLAY)?;
    let mut tables =
        below.iter().filter(|(key, found)| found.get_ref().is_table() && !keys.contains(&key.get_ref().as_ref()));
    tables.next().map(|(key, _)| (key.span().start, format!("{name}.{}", key.get_ref())))
}

/// A placeholder for all names of a kind; valid names contain no brackets.
fn any(kind: &str) -> String {
    format!("[{kind}]")
}
