//! Validates changes of the store: incrementally if possible, else together with everything else.

use std::collections::HashSet;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{
    super::{
        difference::{ChangedRoute, Difference},
        model::{DEFAULT_WEIGHT, Route},
        provenance::Origin,
        role::Role,
        tunnels::{connection_of, member_name, tunnel_of},
    },
    AddRoute, Admin, DeleteRoute, InForce, Next, ObjectChange, ProposeError, ProposedChange, PutMode, PutObject,
    SetRoute, ValidatedChange,
    index::Index,
    stored,
    unite::unite,
};
use crate::store::{Body, Keys, ObjectId, Op, RouteId, RouteKeys, Stored, StoredRole};

impl InForce {
    /// Validates a change without applying it.
    ///
    /// # Errors
    /// If the change conflicts with existing objects, breaks a rule, or concerns an object of a file.
    pub fn propose(&self, change: &ObjectChange) -> Result<ValidatedChange, ProposeError> {
        match change {
            ObjectChange::AddRoute(add) => self.add_route(add),
            ObjectChange::SetRoute(set) => self.set_route(set),
            ObjectChange::DeleteRoute(delete) => self.delete_route(delete),
            ObjectChange::Put(put) => self.put(put),
            ObjectChange::Delete(id) => self.delete(id),
            ObjectChange::Admin(admin) => self.admin(admin),
            ObjectChange::PutPolicyRoute(change, mode) => self.put_policy_route(change, *mode),
            ObjectChange::DeletePolicyRoute(change) => self.delete_policy_route(change),
        }
    }

    fn add_route(&self, add: &AddRoute) -> Result<ValidatedChange, ProposeError> {
        let id = (add.destination, add.next_hop.clone());
        let keys = RouteKeys { weight: add.weight.unwrap_or(DEFAULT_WEIGHT), publish: add.publish };
        self.require_connection(&add.next_hop)?;
        match self.route(&id) {
            Some(found) if found == keys => Ok(ValidatedChange::nothing(&ObjectId::Route(id))),
            Some(RouteKeys { weight, publish })
                if self.index.route(&id).is_none_or(|entry| entry.of_file.is_none()) =>
            {
                Err(ProposeError::RouteExists { destination: id.0, next_hop: id.1, weight, publish })
            }
            _ => self.put_route(id, keys),
        }
    }

    fn set_route(&self, set: &SetRoute) -> Result<ValidatedChange, ProposeError> {
        if set.weight.is_none() && set.publish.is_none() && !set.replace {
            return Err(ProposeError::NothingAsked);
        }
        let id = match &set.next_hop {
            Some(next_hop) => (set.destination, next_hop.clone()),
            None => self.pick(set.destination, None)?,
        };
        let base = self.route(&id).filter(|_| !set.replace);
        let base = base.unwrap_or(RouteKeys { weight: DEFAULT_WEIGHT, publish: false });
        let keys =
            RouteKeys { weight: set.weight.unwrap_or(base.weight), publish: set.publish.unwrap_or(base.publish) };
        if self.route(&id) == Some(keys) {
            return Ok(ValidatedChange::nothing(&ObjectId::Route(id)));
        }
        self.put_route(id, keys)
    }

    /// Adds a stored route, or changes its keys.
    fn put_route(&self, id: RouteId, keys: RouteKeys) -> Result<ValidatedChange, ProposeError> {
        let in_force = self.index.route(&id);
        let stored = self.objects.routes.get(&id);
        if let Some(of_file) = in_force.and_then(|entry| entry.of_file) {
            let origin = self.files.provenance().route(of_file);
            return Err(ProposeError::DefinedInFile { id: ObjectId::Route(id), origin });
        }
        if stored.is_none() {
            self.require_connection(&id.1)?;
        }
        let number = stored.map_or(self.objects.next_number, |stored| stored.number);
        let op = Op::Put(ObjectId::Route(id.clone()), Stored { number, value: Body::Route(keys) });
        let new = route(&id, keys);
        let mut difference = Difference::default();
        let warnings = match (stored, in_force) {
            // No rule depends on a route's weight, or on whether it is published.
            (Some(_), Some(entry)) => {
                difference.routes.changed.push(ChangedRoute { from: route(&id, entry.keys), to: new });
                Vec::new()
            }
            (None, None) if !self.is_set_aside(id.0) => match self.index.add(&id) {
                Some(warnings) => {
                    difference.routes.added.push(new);
                    warnings
                }
                None => return self.whole(vec![op], &ObjectId::Route(id)),
            },
            _ => return self.whole(vec![op], &ObjectId::Route(id)),
        };
        Ok(self.small(difference, vec![op], warnings, &ObjectId::Route(id.clone()), Next::Route(id, Some(keys))))
    }

    fn delete_route(&self, delete: &DeleteRoute) -> Result<ValidatedChange, ProposeError> {
        let id = self.pick(delete.destination, delete.next_hop.as_deref())?;
        let in_force = self.index.route(&id);
        if let Some(of_file) = in_force.and_then(|entry| entry.of_file)
            && !(self.objects.routes.contains_key(&id) && delete.next_hop.is_some())
        {
            let origin = self.files.provenance().route(of_file);
            return Err(ProposeError::DefinedInFile { id: ObjectId::Route(id), origin });
        }
        let op = Op::Delete(ObjectId::Route(id.clone()));
        let Some(entry) = in_force.filter(|entry| entry.of_file.is_none() && !self.may_free(id.0)) else {
            return self.whole(vec![op], &ObjectId::Route(id));
        };
        let Some(warnings) = self.index.delete(&id) else { return self.whole(vec![op], &ObjectId::Route(id)) };
        let mut difference = Difference::default();
        difference.routes.removed.push(route(&id, entry.keys));
        Ok(self.small(difference, vec![op], warnings, &ObjectId::Route(id.clone()), Next::Route(id, None)))
    }

    /// Whether a route to this destination is set aside. Together with a new route it may join two sites into one.
    fn is_set_aside(&self, destination: IpNet) -> bool {
        self.set_aside.iter().any(|(id, _)| matches!(id, ObjectId::Route((other, _)) if *other == destination))
    }

    /// Whether the removal of a route to this destination may bring a set-aside route into force.
    fn may_free(&self, destination: IpNet) -> bool {
        self.set_aside.iter().any(|(id, _)| match id {
            ObjectId::Route((other, _)) => other.contains(&destination) || destination.contains(other),
            _ => false,
        })
    }

    fn put(&self, put: &PutObject) -> Result<ValidatedChange, ProposeError> {
        let PutObject { id, keys, mode } = put;
        self.require_not_of_file(id)?;
        let stored = self.objects.get(id);
        let before = match &stored {
            Some(Stored { value: Body::Table(keys), .. }) => Some(keys),
            _ => None,
        };
        let mut after = before.filter(|_| *mode == PutMode::Merge).cloned().unwrap_or_default();
        after.extend(keys.clone());
        // `null` removes a key.
        after.retain(|_, value| !value.is_null());
        if before == Some(&after) {
            return Ok(ValidatedChange::nothing(id));
        }
        if *mode == PutMode::Add && before.is_some() {
            return Err(ProposeError::Exists { id: id.clone() });
        }
        stored::candidate(id, &after).map_err(ProposeError::Refused)?;
        let mut ops = self.states_of_gone_tunnels(id, &after);
        let number = stored.map_or(self.objects.next_number, |stored| stored.number);
        ops.push(Op::Put(id.clone(), Stored { number, value: Body::Table(after) }));
        self.whole(ops, id)
    }

    /// Removes the administrative states of tunnels that a connection with these keys does not have.
    fn states_of_gone_tunnels(&self, id: &ObjectId, keys: &Keys) -> Vec<Op> {
        let ObjectId::Connection(connection) = id else { return Vec::new() };
        let tunnels = keys.get("tunnels").and_then(Value::as_array).into_iter().flatten();
        let tunnels: HashSet<&str> = tunnels.filter_map(|keys| keys.get("name")?.as_str()).collect();
        let of_it = self.objects.admin.keys().filter(|name| connection_of(name) == connection);
        let gone = of_it.filter(|name| tunnel_of(name).is_some_and(|tunnel| !tunnels.contains(tunnel)));
        gone.map(|name| Op::Admin(name.clone(), None)).collect()
    }

    fn delete(&self, id: &ObjectId) -> Result<ValidatedChange, ProposeError> {
        if self.objects.get(id).is_none() {
            self.require_not_of_file(id)?;
            let names: Vec<String> = match id {
                ObjectId::Segment(_) => self.objects.segments.keys().cloned().collect(),
                ObjectId::CustomerGateway(_) => self.objects.customer_gateways.keys().cloned().collect(),
                _ => self.objects.connections.keys().cloned().collect(),
            };
            return Err(ProposeError::Unknown { kind: id.kind(), name: id.name(), known: names });
        }
        let mut ops = vec![Op::Delete(id.clone())];
        if let ObjectId::Connection(name) = id
            && self.files.provenance().connection(name) == Origin::Store
        {
            let of_it = self.objects.admin.keys().filter(|other| connection_of(other) == name);
            ops.extend(of_it.map(|name| Op::Admin(name.clone(), None)));
        }
        self.whole(ops, id)
    }

    /// `admin.connection` is the name of a connection or of one of its tunnels. A tunnel is up if both are.
    fn admin(&self, admin: &Admin) -> Result<ValidatedChange, ProposeError> {
        let Admin { connection: name, up } = admin;
        let id = ObjectId::Connection(name.clone());
        let connection = connection_of(name);
        let unknown = || self.unknown_connection(name);
        let defined = self.own_enabled(connection).ok_or_else(unknown)?;
        let tunnels = self.index.tunnels(connection);
        let own = match tunnel_of(name) {
            None => defined,
            Some(tunnel) if tunnels.is_some_and(|tunnels| tunnels.iter().any(|other| other == tunnel)) => true,
            Some(_) => return Err(unknown()),
        };
        let state = |name: &str, own: bool| self.objects.admin.get(name).copied().unwrap_or(own);
        let is_connection_up = state(connection, defined);
        let mut warnings = Vec::new();
        if *up && name != connection && !is_connection_up {
            let help = format!("bring it up, too, with `vpnhub connection up {connection}`");
            warnings.push(format!("connection {connection} is down, so its tunnels are: {help}"));
        }
        if state(name, own) == *up {
            return Ok(ValidatedChange { warnings, ..ValidatedChange::nothing(&id) });
        }
        // No override is stored if the definition has the same state.
        let op = Op::Admin(name.clone(), (own != *up).then_some(*up));
        // The members whose state differs.
        let changed: Vec<String> = match (tunnels, name == connection) {
            (None, _) => Vec::new(),
            (Some([]), _) => vec![name.clone()],
            (Some(_), false) => Vec::from_iter(is_connection_up.then(|| name.clone())),
            (Some(tunnels), true) => {
                let members = tunnels.iter().map(|tunnel| member_name(connection, tunnel));
                members.filter(|member| state(member, true)).collect()
            }
        };
        let mut proposal = match changed.is_empty() {
            false => {
                let mut difference = Difference::default();
                let enabled = |member| (member, vec!["enabled".to_owned()]);
                difference.connections.changed.extend(changed.into_iter().map(enabled));
                self.small(difference, vec![op], warnings, &id, Next::Nothing)
            }
            true => ValidatedChange { ops: vec![op], warnings, ..ValidatedChange::nothing(&id) },
        };
        let state = |up: bool| json!(if up { "up" } else { "down" });
        (proposal.before, proposal.after) = (state(!up), state(*up));
        Ok(proposal)
    }

    /// Changes the hub's role. `stored` is the one to store, if it is to be stored.
    pub fn propose_role(&self, (from, to): (Role, Role), stored: Option<StoredRole>) -> ValidatedChange {
        let role = |role: Role| json!(role.name());
        let stored = stored.filter(|stored| self.objects.role.as_ref() != Some(stored));
        let (before, after) = match (&stored, &self.objects.role) {
            (Some(stored), was) => (was.as_ref().map_or(Value::Null, |was| role(was.role)), role(stored.role)),
            (None, _) => (role(from), role(to)),
        };
        let change = match from == to {
            true => ProposedChange::Nothing,
            false => ProposedChange::Small(Difference { role: Some(to), ..Difference::default() }),
        };
        let ops = stored.into_iter().map(Op::Role).collect();
        let object = "role".to_owned();
        ValidatedChange { change, ops, warnings: Vec::new(), object, before, after, next: Next::Nothing }
    }

    /// The administrative state in a connection's definition, even if the connection is set aside.
    fn own_enabled(&self, name: &str) -> Option<bool> {
        let mut of_files = self.files.draft.connections.iter();
        if let Some(found) = of_files.find(|connection| connection.name.value == name) {
            return found.enabled.map(|enabled| enabled.value);
        }
        let stored = self.objects.connections.get(name)?;
        Some(stored.value.get("enabled").and_then(Value::as_bool).unwrap_or(true))
    }

    /// Merges the files with the store as changed by `ops`.
    pub(super) fn whole(&self, ops: Vec<Op>, id: &ObjectId) -> Result<ValidatedChange, ProposeError> {
        let mut objects = self.objects.clone();
        for op in &ops {
            objects.apply(op);
        }
        let united = unite(&self.files, &objects).ok_or_else(|| ProposeError::Refused(Vec::new()))?;
        let was: HashSet<&ObjectId> = self.set_aside.iter().map(|(id, _)| id).collect();
        let (mut warnings, mut refused) = (Vec::new(), Vec::new());
        for (other, reason) in &united.set_aside {
            match (other == id, was.contains(other)) {
                (true, false) => refused.push(reason.clone()),
                (true, true) => warnings.push(format!("{id} stays set aside: {reason}")),
                (false, false) => refused.push(format!("{other} would no longer be in force: {reason}")),
                (false, true) => {}
            }
        }
        if !refused.is_empty() {
            return Err(ProposeError::Refused(capped(refused)));
        }
        let about = united.warnings.iter().filter(|(other, _)| other == id);
        warnings.extend(about.map(|(_, warning)| warning.clone()));
        let index = Box::new(Index::of(&united.config));
        let next = Next::Whole { index, set_aside: united.set_aside, files: None };
        let (before, after) = self.audited(id, &ops);
        let change = ProposedChange::Whole(Box::new(united.config));
        Ok(ValidatedChange { change, ops, warnings, object: id.to_string(), before, after, next })
    }

    fn small(
        &self,
        difference: Difference,
        ops: Vec<Op>,
        warnings: Vec<String>,
        id: &ObjectId,
        next: Next,
    ) -> ValidatedChange {
        let (before, after) = self.audited(id, &ops);
        ValidatedChange {
            change: ProposedChange::Small(difference),
            ops,
            warnings,
            object: id.to_string(),
            before,
            after,
            next,
        }
    }

    /// An object's keys before and after the change.
    fn audited(&self, id: &ObjectId, ops: &[Op]) -> (Value, Value) {
        let value = |body: Body| serde_json::to_value(body).unwrap_or_default();
        let before = self.objects.get(id).map(|stored| value(stored.value)).unwrap_or_default();
        let after = ops.iter().find_map(|op| match op {
            Op::Put(_, stored) => Some(value(stored.value.clone())),
            _ => None,
        });
        (before, after.unwrap_or_default())
    }

    /// The keys of a route in force, or set aside.
    fn route(&self, id: &RouteId) -> Option<RouteKeys> {
        let in_force = self.index.route(id).map(|entry| entry.keys);
        in_force.or_else(|| self.objects.routes.get(id).map(|stored| stored.value))
    }

    /// The route that the command refers to, in force or set aside.
    fn pick(&self, destination: IpNet, next_hop: Option<&str>) -> Result<RouteId, ProposeError> {
        let mut next_hops: Vec<String> = self.index.next_hops(destination).map(str::to_owned).collect();
        let stored = self.objects.routes.range((destination, String::new())..);
        let stored =
            stored.map(|((other, next_hop), _)| (other, next_hop)).take_while(|(other, _)| **other == destination);
        for (_, next_hop) in stored {
            if !next_hops.contains(next_hop) {
                next_hops.push(next_hop.clone());
            }
        }
        match (next_hops.as_slice(), next_hop) {
            ([], _) => Err(ProposeError::NoRoute { destination }),
            ([one], None) => Ok((destination, one.clone())),
            (_, None) => Err(ProposeError::Ambiguous { destination, next_hops }),
            (some, Some(name)) if some.iter().any(|hop| hop == name) => Ok((destination, name.to_owned())),
            (_, Some(name)) => Err(ProposeError::NoSuchHop { destination, next_hop: name.to_owned(), next_hops }),
        }
    }

    pub(super) fn require_connection(&self, name: &str) -> Result<(), ProposeError> {
        self.index.tunnels(name).map(|_| ()).ok_or_else(|| self.unknown_connection(name))
    }

    fn unknown_connection(&self, name: &str) -> ProposeError {
        let connection = connection_of(name);
        let tunnels = self.index.tunnels(connection).filter(|tunnels| !tunnels.is_empty());
        let known = match tunnels {
            Some(tunnels) => tunnels.iter().map(|tunnel| member_name(connection, tunnel)).collect(),
            None => self.index.connections().map(str::to_owned).collect(),
        };
        ProposeError::Unknown { kind: "connection", name: name.to_owned(), known }
    }

    fn require_not_of_file(&self, id: &ObjectId) -> Result<(), ProposeError> {
        let provenance = self.files.provenance();
        let origin = match id {
            ObjectId::Segment(name) => provenance.segment(name),
            ObjectId::CustomerGateway(name) => provenance.customer_gateway(name),
            ObjectId::Connection(name) => provenance.connection(name),
            ObjectId::Route(_) | ObjectId::PolicyRoute(_) => Origin::Store,
        };
        match origin {
            Origin::Store | Origin::Learned => Ok(()),
            origin @ Origin::File { .. } => Err(ProposeError::DefinedInFile { id: id.clone(), origin }),
        }
    }
}

fn route((destination, next_hop): &RouteId, RouteKeys { weight, publish }: RouteKeys) -> Route {
    Route { destination: *destination, next_hop: next_hop.clone(), weight, publish }
}

/// The first few, and the number of the rest.
fn capped(mut sentences: Vec<String>) -> Vec<String> {
    const MOST: usize = 10;
    if sentences.len() > MOST {
        let more = sentences.len() - MOST;
        sentences.truncate(MOST);
        sentences.push(format!("and {more} more"));
    }
    sentences
}
