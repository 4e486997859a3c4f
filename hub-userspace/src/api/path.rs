//! Paths of objects in requests.

use axum::extract::{
    Path, Query,
    rejection::{PathRejection, QueryRejection},
};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{CONNECTIONS, CUSTOMER_GATEWAYS, POLICY_ROUTES, ROUTES, SEGMENTS};
use crate::{
    config::in_force::{PolicyRouteChange, deserialize_destination},
    store::{ObjectId, PolicyRouteId},
};

pub(super) type PathOf<T> = Result<Path<T>, PathRejection>;
pub(super) type QueryOf<T> = Result<Query<T>, QueryRejection>;

/// The path of a named object.
#[derive(Deserialize, JsonSchema)]
pub(super) struct NamePath {
    /// The object's name.
    pub name: String,
}

/// The path of a route.
#[derive(Deserialize, JsonSchema)]
pub(super) struct RoutePath {
    /// A prefix; its slash is written `%2F`.
    #[serde(deserialize_with = "deserialize_destination")]
    #[schemars(with = "String")]
    pub destination: IpNet,
    /// A connection's name.
    pub next_hop: String,
}

/// The path of a policy route.
#[derive(Deserialize, JsonSchema)]
pub(super) struct PolicyRoutePath {
    /// A prefix; its slash is written `%2F`.
    #[serde(deserialize_with = "deserialize_destination")]
    #[schemars(with = "String")]
    pub source: IpNet,
    /// A prefix; its slash is written `%2F`.
    #[serde(deserialize_with = "deserialize_destination")]
    #[schemars(with = "String")]
    pub destination: IpNet,
    /// A connection's name.
    pub next_hop: String,
}

impl From<PolicyRoutePath> for PolicyRouteChange {
    fn from(PolicyRoutePath { source, destination, next_hop }: PolicyRoutePath) -> Self {
        let (priority, weight, publish) = (None, None, None);
        Self { source, destination, next_hop: Some(next_hop), priority, weight, publish }
    }
}

/// The path of an object.
pub(super) fn path_of(id: &ObjectId) -> String {
    match id {
        ObjectId::Segment(name) => format!("{SEGMENTS}/{}", segment(name)),
        ObjectId::CustomerGateway(name) => format!("{CUSTOMER_GATEWAYS}/{}", segment(name)),
        ObjectId::Connection(name) => format!("{CONNECTIONS}/{}", segment(name)),
        ObjectId::Route((destination, next_hop)) => {
            format!("{ROUTES}/{}/{}", segment(&destination.to_string()), segment(next_hop))
        }
        ObjectId::PolicyRoute(PolicyRouteId { source, destination, next_hop }) => {
            let (source, destination) = (source.to_string(), destination.to_string());
            format!("{POLICY_ROUTES}/{}/{}/{}", segment(&source), segment(&destination), segment(next_hop))
        }
    }
}

/// Encodes a name as a path segment, so that it cannot change the path.
pub(super) fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    name.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
