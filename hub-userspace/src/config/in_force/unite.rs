//! The union of files and store. The files take precedence; of two stored objects in conflict, the older one does.
//!
//! Segments, customer gateways and connections come first, then the routes and policy routes through those in force. Each step validates all
//! candidates together with the files, by the files' own rules. A candidate is set aside if it breaks a rule against
//! the files, or against a candidate that breaks none. The rest is validated again. So each round settles everything
//! except chains of conflicts, and always the oldest of a chain.

use std::collections::HashMap;

use super::{
    super::{
        diagnostic::{ALL_BEFORE, DiagnosticReport, Severity},
        draft::Draft,
        ipsec::{self, Files},
        load::FileSet,
        model::Config,
        provenance::{Origin, SetAside},
        read::Unread,
        rules,
    },
    stored::{self, Candidate, with_path},
};
use crate::store::{ObjectId, Objects};

/// The configuration in force, and the objects of the store that are not part of it.
#[derive(Debug)]
pub(super) struct United {
    pub config: Config,
    pub set_aside: Vec<(ObjectId, String)>,
    /// Warnings about objects of the store that are in force.
    pub warnings: Vec<(ObjectId, String)>,
}

/// The message about an object that the file also defines.
pub(super) fn same_as(origin: &Origin) -> String {
    format!("{origin} also defines it: remove it there or from the store")
}

pub(super) fn unite(files: &FileSet, objects: &Objects) -> Option<United> {
    let mut provenance = files.provenance();
    let mut draft = files.draft.clone();
    let (mut warnings, mut set_aside) = (Vec::new(), Vec::new());
    if [&objects.segments, &objects.customer_gateways, &objects.connections].into_iter().any(|named| !named.is_empty())
    {
        let (candidates, wrong) = stored::named(objects);
        set_aside.extend(wrong);
        let candidates = candidates.into_iter().filter(|candidate| {
            let origin = match &candidate.id {
                ObjectId::Segment(name) => provenance.segment(name),
                ObjectId::CustomerGateway(name) => provenance.customer_gateway(name),
                _ => provenance.connection(&candidate.id.name()),
            };
            let is_new = origin == Origin::Store;
            if !is_new {
                set_aside.push((candidate.id.clone(), same_as(&origin)));
            }
            is_new
        });
        let candidates = candidates.collect();
        let found = settle(files, &mut draft, candidates, &mut set_aside);
        if objects.routes.is_empty() && objects.policy_routes.is_empty() {
            warnings = found;
        } else {
            // Whether a connection has a route is not known before the routes are added.
            warnings.extend(found.into_iter().filter(|(_, warning)| !warning.contains(rules::UNROUTED)));
        }
    }
    if !objects.routes.is_empty() {
        let mut of_files = HashMap::new();
        for (index, route) in files.draft.routes.iter().enumerate() {
            if let (Some(destination), Some(next_hop)) = (route.destination, &route.next_hop) {
                of_files.insert((destination.value, next_hop.value.as_str()), index);
            }
        }
        let candidates = stored::routes(objects).filter(|candidate| {
            let ObjectId::Route((destination, next_hop)) = &candidate.id else { return false };
            let defined = of_files.get(&(*destination, next_hop.as_str()));
            if let Some(&index) = defined {
                set_aside.push((candidate.id.clone(), same_as(&provenance.route(index))));
            }
            defined.is_none()
        });
        let candidates = candidates.collect();
        warnings.extend(settle(files, &mut draft, candidates, &mut set_aside));
    }
    if !objects.policy_routes.is_empty() {
        let of_files = files.draft.policy_routes.iter().enumerate();
        let of_files: HashMap<_, usize> = of_files.filter_map(|(index, route)| Some((route.id()?, index))).collect();
        let candidates = stored::policy_routes(objects).filter(|candidate| {
            let ObjectId::PolicyRoute(id) = &candidate.id else { return false };
            let defined = of_files.get(id);
            if let Some(&index) = defined {
                set_aside.push((candidate.id.clone(), same_as(&provenance.policy_route(index))));
            }
            defined.is_none()
        });
        let candidates = candidates.collect();
        warnings.extend(settle(files, &mut draft, candidates, &mut set_aside));
    }
    set_aside.sort();
    provenance.set_aside = set_aside.iter().map(shown).collect();
    let mut config = draft.into_config(provenance)?;
    // A connection comes before its tunnels.
    for (name, up) in &objects.admin {
        config.set_enabled(name, *up);
    }
    Some(United { config, set_aside, warnings })
}

pub(super) fn shown((id, reason): &(ObjectId, String)) -> SetAside {
    SetAside { kind: id.kind().to_owned(), name: id.name(), reason: reason.clone() }
}

/// Adds the candidates that break no rule to the draft, and the others to `set_aside`. Returns warnings about the added
/// ones.
fn settle(
    files: &FileSet,
    draft: &mut Draft,
    mut candidates: Vec<Candidate>,
    set_aside: &mut Vec<(ObjectId, String)>,
) -> Vec<(ObjectId, String)> {
    let counts = (draft.segments.len(), draft.customer_gateways.len(), draft.connections.len());
    let counts_of_routes = (draft.routes.len(), draft.policy_routes.len());
    loop {
        let mut report = DiagnosticReport::of(files.sources());
        let end = report.end();
        for (index, candidate) in candidates.iter().enumerate() {
            candidate.add_to(draft, end + index);
        }
        // Nothing refers to the numbers of stored routes, except the output of `config show`.
        rules::validate(draft, &Unread::default(), &mut report);
        ipsec::validate(draft, Files::Unseen, &mut report);
        let found = report.take_stored();
        let is_error = |severity| severity == Severity::Error;
        let mut mistakes: Vec<Vec<(String, Option<usize>)>> = vec![Vec::new(); candidates.len()];
        // Rules report the later object. If one reports a file nevertheless, the newest candidate is set aside.
        let blamed = (report.has_errors() && !found.iter().any(|found| is_error(found.diagnostic.severity)))
            .then(|| report.finish().into_iter().find(|found| is_error(found.severity)))
            .flatten();
        if let (Some(blamed), Some(last)) = (blamed, mistakes.last_mut()) {
            last.push((with_path(&blamed), None));
        }
        for found in found.iter().filter(|found| is_error(found.diagnostic.severity)) {
            if let Some(mistakes) = mistakes.get_mut(found.at - end) {
                mistakes.push((found.diagnostic.sentence(), found.against));
            }
        }
        if mistakes.iter().all(Vec::is_empty) {
            let warnings = found.into_iter().filter_map(|found| {
                let candidate = candidates.get(found.at - end)?;
                Some((candidate.id.clone(), found.diagnostic.sentence()))
            });
            return warnings.collect();
        }
        draft.segments.truncate(counts.0);
        draft.customer_gateways.truncate(counts.1);
        draft.connections.truncate(counts.2);
        draft.routes.truncate(counts_of_routes.0);
        draft.policy_routes.truncate(counts_of_routes.1);
        // If there are too many, a candidate that is set aside for another reason makes room.
        let is_full = |found: &(String, Option<usize>)| found.1 == Some(ALL_BEFORE);
        let makes_room = mistakes.iter().position(|found| found.iter().any(|found| !is_full(found)));
        let is_decided = |index: usize| {
            mistakes[index].iter().any(|(_, against)| match *against {
                None => true,
                Some(ALL_BEFORE) => makes_room.is_none_or(|first| first >= index),
                Some(against) => against < end || mistakes.get(against - end).is_some_and(Vec::is_empty),
            })
        };
        let decided: Vec<bool> = (0..candidates.len()).map(is_decided).collect();
        let any_decided = decided.contains(&true);
        let mut index = 0;
        candidates.retain(|candidate| {
            let found = &mistakes[index];
            let goes = if any_decided { decided[index] } else { !found.is_empty() };
            index += 1;
            if goes {
                let reason: Vec<&str> = found.iter().map(|(reason, _)| reason.as_str()).collect();
                set_aside.push((candidate.id.clone(), reason.join("; ")));
            }
            !goes
        });
    }
}
