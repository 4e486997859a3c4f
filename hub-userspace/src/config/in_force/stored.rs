//! Converts objects of the store to parts of a draft.

use serde_json::Value;

use super::super::{
    diagnostic::{Diagnostic, DiagnosticReport, Located, Severity},
    draft::{ConnectionDraft, CustomerGatewayDraft, Draft, RouteDraft, SegmentDraft},
    places::Relocate as _,
    policy_routes::PolicyRouteDraft,
    read::{self, TextPart},
    syntax,
};
use crate::store::{Keys, ObjectId, Objects, PolicyRouteId, PolicyRouteKeys, RouteId, RouteKeys, Stored};

/// An object of the store that may come into force.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub id: ObjectId,
    draft: StoredBody,
}

#[derive(Debug, Clone)]
enum StoredBody {
    Segment(Box<SegmentDraft>),
    CustomerGateway(Box<CustomerGatewayDraft>),
    Connection(Box<ConnectionDraft>),
    Route(RouteKeys),
    PolicyRoute(PolicyRouteKeys),
}

impl Candidate {
    /// Adds it to a draft, at this position.
    pub fn add_to(&self, draft: &mut Draft, at: usize) {
        match &self.draft {
            StoredBody::Segment(found) => {
                let mut found = SegmentDraft::clone(found);
                found.relocate(&|_| at);
                draft.segments.push(found);
            }
            StoredBody::CustomerGateway(found) => {
                let mut found = CustomerGatewayDraft::clone(found);
                found.relocate(&|_| at);
                draft.customer_gateways.push(found);
            }
            StoredBody::Connection(found) => {
                let mut found = ConnectionDraft::clone(found);
                found.relocate(&|_| at);
                draft.connections.push(found);
            }
            StoredBody::Route(RouteKeys { weight, publish }) => {
                let ObjectId::Route((destination, next_hop)) = &self.id else { return };
                draft.routes.push(RouteDraft {
                    number: draft.routes.len() + 1,
                    at,
                    destination: Some(Located { value: *destination, at }),
                    next_hop: Some(Located { value: next_hop.clone(), at }),
                    weight: Some(Located { value: *weight, at }),
                    publish: Some(Located { value: *publish, at }),
                });
            }
            StoredBody::PolicyRoute(PolicyRouteKeys { priority, weight, publish }) => {
                let ObjectId::PolicyRoute(PolicyRouteId { source, destination, next_hop }) = &self.id else { return };
                draft.policy_routes.push(PolicyRouteDraft {
                    number: draft.policy_routes.len() + 1,
                    at,
                    source: Some(Located { value: *source, at }),
                    destination: Some(Located { value: *destination, at }),
                    next_hop: Some(Located { value: next_hop.clone(), at }),
                    priority: Some(Located { value: *priority, at }),
                    weight: Some(Located { value: *weight, at }),
                    publish: Some(Located { value: *publish, at }),
                });
            }
        }
    }
}

/// The segments, customer gateways and connections, oldest first in each kind. Those invalid by themselves are returned apart,
/// with the reason.
pub(super) fn named(objects: &Objects) -> (Vec<Candidate>, Vec<(ObjectId, String)>) {
    let (mut good, mut wrong) = (Vec::new(), Vec::new());
    let segments = by_age(objects.segments.iter()).map(|(name, keys)| (ObjectId::Segment(name.clone()), keys));
    let gateways = objects.customer_gateways.iter();
    let gateways = by_age(gateways).map(|(name, keys)| (ObjectId::CustomerGateway(name.clone()), keys));
    let connections = by_age(objects.connections.iter());
    let connections = connections.map(|(name, keys)| (ObjectId::Connection(name.clone()), keys));
    for (id, keys) in segments.chain(gateways).chain(connections) {
        match candidate(&id, keys) {
            Ok(candidate) => good.push(candidate),
            Err(mistakes) => wrong.push((id, mistakes.join("; "))),
        }
    }
    (good, wrong)
}

/// The routes, oldest first.
pub(super) fn routes(objects: &Objects) -> impl Iterator<Item = Candidate> {
    by_age(objects.routes.iter()).map(|(id, keys): (&RouteId, &RouteKeys)| Candidate {
        id: ObjectId::Route(id.clone()),
        draft: StoredBody::Route(*keys),
    })
}

fn by_age<'a, K: 'a, V: 'a>(
    objects: impl Iterator<Item = (&'a K, &'a Stored<V>)>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    let mut all: Vec<_> = objects.collect();
    all.sort_by_key(|(_, stored)| stored.number);
    all.into_iter().map(|(key, stored)| (key, &stored.value))
}

/// The policy routes, oldest first.
pub(super) fn policy_routes(objects: &Objects) -> impl Iterator<Item = Candidate> {
    by_age(objects.policy_routes.iter())
        .map(|(id, keys)| Candidate { id: ObjectId::PolicyRoute(id.clone()), draft: StoredBody::PolicyRoute(*keys) })
}

/// A segment, a customer gateway or a connection, validated by itself.
///
/// # Errors
/// All its errors, one per line.
pub(super) fn candidate(id: &ObjectId, keys: &Keys) -> Result<Candidate, Vec<String>> {
    let name = id.name();
    let table = to_toml(&Value::Object(keys.clone())).map_err(|why| vec![format!("{id}: {why}")])?;
    let of_name = toml::Table::from_iter([(name, table)]);
    let root = toml::Table::from_iter([(id.kind().to_owned(), toml::Value::Table(of_name))]);
    let text = toml::to_string(&root).map_err(|error| vec![format!("{id}: {error}")])?;
    let mut report = DiagnosticReport::new(&text);
    let found = syntax::parse(&text, &mut report);
    let mut draft = found.map(|tree| read::read(tree.get_ref(), TextPart::Stored, &mut report).0).unwrap_or_default();
    if report.has_errors() {
        let errors = report.finish().into_iter().filter(|found| found.severity == Severity::Error);
        return Err(errors.map(|error| with_path(&error)).collect());
    }
    let draft = match id {
        ObjectId::Segment(_) => draft.segments.pop().map(|found| StoredBody::Segment(Box::new(found))),
        ObjectId::CustomerGateway(_) => {
            draft.customer_gateways.pop().map(|found| StoredBody::CustomerGateway(Box::new(found)))
        }
        _ => draft.connections.pop().map(|found| StoredBody::Connection(Box::new(found))),
    };
    draft.map(|draft| Candidate { id: id.clone(), draft }).ok_or_else(|| vec![format!("{id} is empty")])
}

/// The message with its path, for objects without a line.
pub(super) fn with_path(found: &Diagnostic) -> String {
    match found.path.as_str() {
        "" => found.sentence(),
        path => format!("{path}: {}", found.sentence()),
    }
}

/// Converts a value to TOML.
fn to_toml(value: &Value) -> Result<toml::Value, String> {
    Ok(match value {
        Value::Null => return Err("a key is null: leave it out".to_owned()),
        Value::Bool(flag) => toml::Value::Boolean(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => toml::Value::Integer(number),
            (None, Some(number)) => toml::Value::Float(number),
            (None, None) => return Err(format!("{number} is too large")),
        },
        Value::String(text) => toml::Value::String(text.clone()),
        Value::Array(elements) => toml::Value::Array(elements.iter().map(to_toml).collect::<Result<_, _>>()?),
        Value::Object(keys) => {
            let pair = |(key, value): (&String, &Value)| Ok((key.clone(), to_toml(value)?));
            toml::Value::Table(keys.iter().map(pair).collect::<Result<_, String>>()?)
        }
    })
}
