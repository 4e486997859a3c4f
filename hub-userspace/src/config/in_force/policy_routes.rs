//! Changes of policy routes by command.

use std::collections::BTreeMap;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    super::{
        model::{Config, DEFAULT_WEIGHT},
        policy_routes::{DEFAULT_PRIORITY, PolicyRoute},
        provenance::Origin,
    },
    InForce, ProposeError, PutMode, ValidatedChange,
    change::{destination, priority, weight},
};
use crate::store::{Body, ObjectId, Op, PolicyRouteId, PolicyRouteKeys, Stored};

/// Keys of a policy route to add, change or remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyRouteChange {
    #[serde(deserialize_with = "destination")]
    #[schemars(with = "String")]
    pub source: IpNet,
    #[serde(deserialize_with = "destination")]
    #[schemars(with = "String")]
    pub destination: IpNet,
    /// Required to add one, and if there are several with these prefixes.
    pub next_hop: Option<String>,
    /// 1..=100; `None`: unchanged, or the default. So for the others.
    #[serde(default, deserialize_with = "priority", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub priority: Option<u8>,
    /// 0..=100.
    #[serde(default, deserialize_with = "weight", skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub weight: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<bool>,
}

impl PolicyRouteChange {
    fn is_empty(&self) -> bool {
        self.priority.is_none() && self.weight.is_none() && self.publish.is_none()
    }

    /// The keys, with those of `base` where the change has none.
    fn keys(&self, base: PolicyRouteKeys) -> PolicyRouteKeys {
        PolicyRouteKeys {
            priority: self.priority.unwrap_or(base.priority),
            weight: self.weight.unwrap_or(base.weight),
            publish: self.publish.unwrap_or(base.publish),
        }
    }
}

const DEFAULTS: PolicyRouteKeys =
    PolicyRouteKeys { priority: DEFAULT_PRIORITY, weight: DEFAULT_WEIGHT, publish: false };

/// The policy routes in force.
#[derive(Debug, Default)]
pub(super) struct PolicyIndex(BTreeMap<PolicyRouteId, (PolicyRouteKeys, Origin)>);

impl PolicyIndex {
    pub fn of(config: &Config) -> Self {
        let entry = |(index, route): (usize, &PolicyRoute)| {
            let origin = config.provenance.policy_route(index);
            (route.id(), (route.stored_keys(), origin))
        };
        Self(config.policy_routes.iter().enumerate().map(entry).collect())
    }
}

impl InForce {
    pub(super) fn put_policy_route(
        &self,
        change: &PolicyRouteChange,
        mode: PutMode,
    ) -> Result<ValidatedChange, ProposeError> {
        if mode == PutMode::Merge && change.is_empty() {
            return Err(ProposeError::NothingAsked);
        }
        let id = match (&change.next_hop, mode) {
            (Some(next_hop), _) => {
                PolicyRouteId { source: change.source, destination: change.destination, next_hop: next_hop.clone() }
            }
            (None, PutMode::Add) => return Err(ProposeError::NextHopMissing),
            (None, _) => self.pick_policy_route(change)?,
        };
        let stored = self.objects.policy_routes.get(&id);
        if stored.is_none() {
            self.require_connection(&id.next_hop)?;
        }
        let found = self.policy_route(&id);
        let base = found.as_ref().filter(|_| mode == PutMode::Merge).map_or(DEFAULTS, |(keys, _)| *keys);
        let keys = change.keys(base);
        let object = ObjectId::PolicyRoute(id.clone());
        match found {
            Some((same, _)) if same == keys => return Ok(ValidatedChange::nothing(&object)),
            Some((_, origin @ Origin::File { .. })) => return Err(ProposeError::DefinedInFile { id: object, origin }),
            Some(_) if mode == PutMode::Add => return Err(ProposeError::PolicyRouteExists { id }),
            _ => {}
        }
        let number = stored.map_or(self.objects.next_number, |stored| stored.number);
        let op = Op::Put(object.clone(), Stored { number, value: Body::PolicyRoute(keys) });
        self.whole(vec![op], &object)
    }

    pub(super) fn delete_policy_route(&self, change: &PolicyRouteChange) -> Result<ValidatedChange, ProposeError> {
        let id = self.pick_policy_route(change)?;
        let object = ObjectId::PolicyRoute(id.clone());
        if !self.objects.policy_routes.contains_key(&id)
            && let Some((_, origin)) = self.policy_route(&id)
        {
            return Err(ProposeError::DefinedInFile { id: object, origin });
        }
        self.whole(vec![Op::Delete(object.clone())], &object)
    }

    /// A policy route in force, or set aside.
    fn policy_route(&self, id: &PolicyRouteId) -> Option<(PolicyRouteKeys, Origin)> {
        let in_force = self.index.policies.0.get(id).cloned();
        in_force.or_else(|| self.objects.policy_routes.get(id).map(|stored| (stored.value, Origin::Store)))
    }

    /// The policy route that the command refers to, in force or set aside.
    fn pick_policy_route(&self, change: &PolicyRouteChange) -> Result<PolicyRouteId, ProposeError> {
        let (source, destination) = (change.source, change.destination);
        let has_prefixes = |id: &&PolicyRouteId| id.source == source && id.destination == destination;
        let all = self.index.policies.0.keys().chain(self.objects.policy_routes.keys());
        let mut found: Vec<&PolicyRouteId> = all.filter(has_prefixes).collect();
        found.sort();
        found.dedup();
        let wanted = &change.next_hop;
        let named = wanted.as_ref().and_then(|name| found.iter().find(|id| id.next_hop == *name));
        match (found.as_slice(), named) {
            (_, Some(one)) => Ok((*one).clone()),
            ([one], None) if wanted.is_none() => Ok((*one).clone()),
            ([_, _, ..], None) if wanted.is_none() => Err(ProposeError::AmbiguousPolicyRoute {
                source_prefix: source,
                destination,
                next_hops: found.iter().map(|id| id.next_hop.clone()).collect(),
            }),
            _ => Err(ProposeError::NoPolicyRoute { source_prefix: source, destination }),
        }
    }
}
