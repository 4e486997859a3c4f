//! The configuration: the operator's files, their rules, and the union of files and store that is in force.
//!
//! Stages of a file: `load` reads the main file and its includes, `syntax` parses each to a tree, `read` converts the
//! tree to a draft (each value with its position), and `rules`, `sites` and `overlap` validate the draft as a whole. A
//! draft without errors becomes a [`Config`]. All semantic errors are reported together, as a list of [`Diagnostic`]s.
//! If the routes have no errors, `bulk` reads them with less time and memory. Nothing here writes a file.
//!
//! [`in_force`] adds the objects of the store to the draft, under the same rules, and validates changes by command.

mod address;
mod bulk;
pub mod check;
mod diagnostic;
pub mod difference;
mod draft;
mod entries;
mod health_check;
pub mod in_force;
pub mod ipsec;
pub mod learn;
mod limits;
mod load;
mod marks;
mod metrics;
pub mod model;
mod mss_clamp;
mod overlap;
mod owner;
mod places;
pub mod policy_routes;
mod prefix;
mod provenance;
mod read;
mod role;
mod routes;
mod rules;
mod section;
pub mod segments;
mod shared;
mod show;
mod sites;
mod suggest;
mod syntax;
pub mod translate;
pub mod tunnels;
mod value;

use std::path::{Path, PathBuf};

pub use address::SiteAddress;
pub use diagnostic::{Diagnostic, Severity};
pub use load::{FileSet, LoadError, Loaded, MAX_FILE_SIZE, load, load_files, load_texts, read_texts};
pub use model::Config;
pub use prefix::never_forwarded_as;
pub use provenance::{Confirmation, Origin, Provenance, SetAside};
pub use role::{Role, STANDBY};
pub use shared::strangers;
pub use show::{show, show_object};
pub use value::parse_duration;

use diagnostic::{DiagnosticReport, Problem};
use draft::Draft;
use ipsec::Files;
use places::Relocate as _;
use read::{TextPart, Unread};

/// Parses and validates a file's text.
///
/// Does not access the files that it names. `Ok` carries the warnings; `Err` carries all errors and warnings. Both are
/// sorted by position.
pub fn parse(text: &str) -> Result<(Config, Vec<Diagnostic>), Vec<Diagnostic>> {
    let validated = validate(&[(Path::new(""), text)], Files::Unseen)?;
    let files = vec![PathBuf::new()];
    validated
        .draft
        .into_config(Provenance::of(files, validated.places))
        .map(|config| (config, validated.warnings))
        .ok_or_else(Vec::new)
}

/// The keys of connections, customer gateways and segments, by the place of their schemas in the API's description.
#[cfg(test)]
pub const fn known_keys() -> [(&'static str, &'static [&'static str]); 13] {
    [
        ("/segment", read::SEGMENT_KEYS),
        ("/customer_gateway", read::CUSTOMER_GATEWAY_KEYS),
        ("/connection", read::CONNECTION_KEYS),
        ("/connection/translate/items/properties", translate::KEYS),
        ("/connection/health_check/properties", health_check::KEYS),
        ("/connection/health_check/properties/degraded/properties", health_check::DEGRADED_KEYS),
        ("/connection/ipsec/properties", ipsec::KEYS),
        ("/connection/ipsec/properties/ike/properties", ipsec::IKE_KEYS),
        ("/connection/ipsec/properties/esp/properties", ipsec::ESP_KEYS),
        ("/connection/tunnels/items/properties", tunnels::KEYS),
        ("/connection/tunnels/items/properties/health_check/properties", health_check::KEYS),
        (
            "/connection/tunnels/items/properties/health_check/properties/degraded/properties",
            health_check::DEGRADED_KEYS,
        ),
        ("/connection/tunnels/items/properties/ipsec/properties", tunnels::IPSEC_KEYS),
    ]
}

/// A valid set of files.
#[derive(Debug)]
struct Validated {
    draft: Draft,
    /// By position.
    warnings: Vec<Diagnostic>,
    places: provenance::Places,
}

/// Validates the main file and its includes as one configuration; `files` selects whether to check the files they name.
fn validate(texts: &[(&Path, &str)], files: Files) -> Result<Validated, Vec<Diagnostic>> {
    let mut report = DiagnosticReport::of(texts.iter().copied());
    limits::check(texts, &mut report);
    if report.has_errors() {
        return Err(report.finish());
    }
    let (mut draft, mut unread, mut is_toml) = (Draft::default(), Unread::default(), true);
    for (index, (_, text)) in texts.iter().enumerate() {
        let part = if index == 0 { TextPart::Main } else { TextPart::Included };
        let mut own = DiagnosticReport::new(text);
        let found = bulk::read(text, bulk::PIECE, part, &mut own).or_else(|| match bulk::is_small(text) {
            true => read_whole(text, part, &mut own),
            false => limits::read_part(text, &mut own),
        });
        report.absorb(own, index);
        is_toml &= found.is_some();
        if let Some((mut found, more)) = found {
            let base = report.base(index);
            if base > 0 {
                found.relocate(&|at| at + base);
            }
            merge(&mut draft, found, &mut report);
            unread.add(more);
        }
    }
    if is_toml {
        rules::validate(&draft, &unread, &mut report);
        shared::validate(&draft, &mut report);
        ipsec::validate(&draft, files, &mut report);
    }
    if report.has_errors() {
        return Err(report.finish());
    }
    let places = draft.places(&report);
    Ok(Validated { draft, warnings: report.finish(), places })
}

/// Adds the contents of an included file.
fn merge(draft: &mut Draft, mut more: Draft, report: &mut DiagnosticReport<'_>) {
    if let (Some(first), Some(second)) = (&draft.vpc, &more.vpc) {
        let place = report.place(second.at, first.at);
        let problem = Problem::new(format!("[vpc] is already defined ({place})")).help("remove one of the two");
        report.error(second.at, "vpc", problem);
    }
    // Only the main file may have these sections.
    draft.gateway = draft.gateway.take().or(more.gateway);
    draft.dataplane = draft.dataplane.take().or(more.dataplane);
    draft.metrics = draft.metrics.take().or(more.metrics);
    draft.learn = draft.learn.take().or(more.learn);
    draft.include.append(&mut more.include);
    draft.vpc = draft.vpc.take().or(more.vpc);
    draft.underlays.append(&mut more.underlays);
    draft.segments.append(&mut more.segments);
    draft.customer_gateways.append(&mut more.customer_gateways);
    draft.connections.append(&mut more.connections);
    draft.routes.append(&mut more.routes);
    draft.policy_routes.append(&mut more.policy_routes);
}

/// The draft of a text, even with errors, as long as it is valid TOML.
fn read_whole(text: &str, part: TextPart, report: &mut DiagnosticReport<'_>) -> Option<(Draft, Unread)> {
    let tree = syntax::parse(text, report)?;
    Some(read::read(tree.get_ref(), part, report))
}
