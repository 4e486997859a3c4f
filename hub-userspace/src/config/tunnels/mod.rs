//! `tunnels` of a connection: several interfaces to one site, under one name.
//!
//! The configuration in force has a [`Connection`] for each tunnel, its *member*, named `CONNECTION/TUNNEL`. Members are
//! equal in everything that the connection defines, such as prefixes and segment. So program, health checks, SAs, counters
//! and events know connections only. Routes name the connection: its share of a route's flows is distributed over its
//! tunnels ([`crate::routing::rib::active`]).

mod draft;
mod read;
mod rules;
#[cfg(test)]
mod tests;
mod text;

use super::model::{Config, Connection};

#[cfg(test)]
pub(super) use self::read::{IPSEC_KEYS, KEYS};
pub(super) use self::{
    draft::{OfTunnel, TunnelDraft, TunnelIpsecDraft, TunnelsDraft},
    read::KEY,
    rules::validate,
    text::connection_text,
};

/// Between the names of a connection and its tunnel. Configured names do not contain it.
const SEPARATOR: char = '/';

/// Maximum number of tunnels of a connection.
pub const MAX_TUNNELS: usize = 8;

/// The name of a tunnel's member.
pub fn member_name(connection: &str, tunnel: &str) -> String {
    format!("{connection}{SEPARATOR}{tunnel}")
}

/// The connection that a member belongs to; a connection without tunnels is its own member.
pub fn connection_of(member: &str) -> &str {
    member.split_once(SEPARATOR).map_or(member, |(connection, _)| connection)
}

/// The name of a member's tunnel; `None` for a connection without tunnels.
pub fn tunnel_of(member: &str) -> Option<&str> {
    member.split_once(SEPARATOR).map(|(_, tunnel)| tunnel)
}

/// Whether a name that an operator gave, of a connection or of one of its tunnels, means this member.
pub fn is_meant(given: &str, member: &str) -> bool {
    given == member || given == connection_of(member)
}

impl Config {
    /// The members of a connection, by name; of one tunnel, if `name` is that of its member. Empty if there is no such
    /// connection.
    pub fn members<'c>(&'c self, name: &str) -> impl Iterator<Item = (&'c String, &'c Connection)> + use<'c> {
        let prefix = format!("{name}{SEPARATOR}");
        let tunnels = self.connections.range(prefix.clone()..).take_while(move |(name, _)| name.starts_with(&prefix));
        self.connections.get_key_value(name).into_iter().chain(tunnels)
    }

    /// Applies a stored state of a connection or of a tunnel. A tunnel of a connection that is down is down.
    pub(super) fn set_enabled(&mut self, name: &str, enabled: bool) {
        let members: Vec<String> = self.members(name).map(|(member, _)| member.clone()).collect();
        for member in members {
            let is_tunnel = member == name && tunnel_of(name).is_some();
            if let Some(connection) = self.connections.get_mut(&member) {
                connection.enabled = enabled && (connection.enabled || !is_tunnel);
            }
        }
    }

    /// As [`Self::members`]; any one of them.
    pub fn any_member(&self, name: &str) -> Option<&Connection> {
        self.members(name).next().map(|(_, connection)| connection)
    }

    /// The names of the connections as configured, each with its members' entries.
    pub fn configured(&self) -> impl Iterator<Item = (&str, Vec<(&String, &Connection)>)> {
        let mut all = self.connections.iter().peekable();
        std::iter::from_fn(move || {
            let first = all.next()?;
            let name = connection_of(first.0);
            let mut members = vec![first];
            while let Some(next) = all.next_if(|(other, _)| connection_of(other) == name) {
                members.push(next);
            }
            Some((name, members))
        })
    }

    /// The names of a connection's members for a message: `x/a, x/b`; empty if it has no tunnels.
    pub fn tunnel_names(&self, name: &str) -> String {
        let members = self.members(name).map(|(member, _)| member.as_str());
        members.filter(|member| tunnel_of(member).is_some()).collect::<Vec<_>>().join(", ")
    }
}
