//! Changes requested by an operator.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::{
    super::prefix::{self, Purpose},
    PolicyRouteChange,
};
use crate::store::{Keys, ObjectId};

/// A change to the store.
#[derive(Debug, Clone, PartialEq)]
pub enum ObjectChange {
    AddRoute(AddRoute),
    SetRoute(SetRoute),
    DeleteRoute(DeleteRoute),
    /// A connection, a customer gateway or a segment.
    Put(PutObject),
    /// A connection, a customer gateway or a segment.
    Delete(ObjectId),
    Admin(Admin),
    PutPolicyRoute(PolicyRouteChange, PutMode),
    DeletePolicyRoute(PolicyRouteChange),
}

impl ObjectChange {
    /// The command's name.
    pub fn action(&self) -> String {
        let (kind, verb) = match self {
            Self::AddRoute(_) => ("route", "add"),
            Self::SetRoute(_) => ("route", "set"),
            Self::DeleteRoute(_) => ("route", "delete"),
            Self::Put(put) => (put.id.kind(), if put.mode == PutMode::Add { "add" } else { "set" }),
            Self::Delete(id) => (id.kind(), "delete"),
            Self::PutPolicyRoute(_, mode) => ("policy_route", if *mode == PutMode::Add { "add" } else { "set" }),
            Self::DeletePolicyRoute(_) => ("policy_route", "delete"),
            Self::Admin(admin) => ("connection", if admin.up { "up" } else { "down" }),
        };
        format!("{} {verb}", kind.replace('_', "-"))
    }
}

/// A new route. If the route exists with the same keys, this is a no-op; with different keys, it is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddRoute {
    #[serde(deserialize_with = "destination")]
    #[schemars(with = "String")]
    pub destination: IpNet,
    /// Name of a connection.
    pub next_hop: String,
    /// 0..=100; `None` is the default.
    #[serde(default, deserialize_with = "weight")]
    #[schemars(range(max = 100))]
    pub weight: Option<u8>,
    #[serde(default)]
    pub publish: bool,
}

/// A route to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteRoute {
    #[serde(deserialize_with = "destination")]
    #[schemars(with = "String")]
    pub destination: IpNet,
    /// Required only if the destination has several routes.
    pub next_hop: Option<String>,
}

/// The desired keys of a route. Adds the route if it does not exist.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetRoute {
    #[serde(deserialize_with = "destination")]
    #[schemars(with = "String")]
    pub destination: IpNet,
    /// Required if the destination has several routes, or none.
    pub next_hop: Option<String>,
    /// 0..=100; `None` leaves it unchanged; for a new route it is the default.
    #[serde(default, deserialize_with = "weight")]
    #[schemars(range(max = 100))]
    pub weight: Option<u8>,
    /// `None` leaves it unchanged; for a new route it is the default.
    pub publish: Option<bool>,
    /// Sets keys that are `None` to their defaults instead.
    #[serde(skip)]
    pub replace: bool,
}

/// How to write an object's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutMode {
    /// The object must not exist, unless it has the same keys.
    Add,
    /// Leaves other keys unchanged. Adds the object if it does not exist.
    Merge,
    /// Removes other keys. Adds the object if it does not exist.
    Replace,
}

/// Keys of a connection, a customer gateway or a segment, as in the configuration file.
#[derive(Debug, Clone, PartialEq)]
pub struct PutObject {
    pub id: ObjectId,
    pub keys: Keys,
    pub mode: PutMode,
}

/// A connection's administrative state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    pub connection: String,
    pub up: bool,
}

/// Parses a route's destination from a command.
///
/// # Errors
/// One sentence with the remedy; the rules are those of the file.
pub fn parse_destination(text: &str) -> Result<IpNet, String> {
    prefix::of_text(text, Purpose::Forwarding).map_err(|problem| match problem.help {
        Some(help) => format!("{}: {help}", problem.message),
        None => problem.message,
    })
}

/// Reads a prefix as [`parse_destination`] does.
pub fn destination<'de, D: Deserializer<'de>>(deserializer: D) -> Result<IpNet, D::Error> {
    parse_destination(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Reads a weight, 0..=100, or `null`.
pub fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    number("weight", 0..=100, deserializer)
}

/// Reads a priority, 1..=100, or `null`.
pub fn priority<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    number("priority", 1..=100, deserializer)
}

fn number<'de, D: Deserializer<'de>>(
    key: &str,
    range: RangeInclusive<u8>,
    deserializer: D,
) -> Result<Option<u8>, D::Error> {
    let Some(number) = Option::<u64>::deserialize(deserializer)? else { return Ok(None) };
    let fits = u8::try_from(number).ok().filter(|number| range.contains(number));
    let (first, last) = range.into_inner();
    let refusal = || D::Error::custom(format!("{key} must be a whole number from {first} to {last}, is {number}"));
    fits.map(Some).ok_or_else(refusal)
}
