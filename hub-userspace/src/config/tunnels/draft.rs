//! The tunnels of a connection, as far as they could be read, and the members that they expand to.

use std::{borrow::Cow, net::IpAddr};

use super::{
    super::{
        diagnostic::{Located, join},
        draft::{ConnectionDraft, Draft},
        health_check::HealthCheckDraft,
        ipsec::{IdentityDraft, StartAction},
    },
    member_name,
    read::KEY,
};

/// The readable tunnels of a connection, in the file's order. Empty if it has none.
#[derive(Debug, Clone)]
pub(in crate::config) struct TunnelsDraft {
    pub items: Vec<TunnelDraft>,
    /// The connection has the key.
    pub is_present: bool,
    /// Every tunnel was readable, and has the required keys.
    pub sound: bool,
}

#[derive(Debug, Clone)]
pub(in crate::config) struct TunnelDraft {
    /// Its number in the list, counted from 1.
    pub number: usize,
    pub at: usize,
    pub name: Option<Located<String>>,
    pub interface: Option<Located<String>>,
    pub weight: Option<Located<u8>>,
    /// `None`: the connection's, as the following ones.
    pub customer_gateway: Option<Located<String>>,
    pub peer: Option<Located<IpAddr>>,
    pub health_check: Option<HealthCheckDraft>,
    pub ipsec: Option<TunnelIpsecDraft>,
}

/// The keys of a connection's `ipsec` that a tunnel has for itself.
#[derive(Debug, Clone)]
pub(in crate::config) struct TunnelIpsecDraft {
    pub at: usize,
    pub if_id: Option<Located<u32>>,
    /// The tunnel has the key, perhaps with an invalid value.
    pub has_if_id: bool,
    pub start: Option<Located<StartAction>>,
    pub local_id: IdentityDraft,
    pub remote_id: IdentityDraft,
}

impl TunnelIpsecDraft {
    fn keys(&self) -> Vec<&'static str> {
        let is_there = |id: &IdentityDraft| !matches!(id, IdentityDraft::Absent);
        let all = [
            ("if_id", self.if_id.is_some()),
            ("start", self.start.is_some()),
            ("local_id", is_there(&self.local_id)),
            ("remote_id", is_there(&self.remote_id)),
        ];
        all.into_iter().filter_map(|(key, is_there)| is_there.then_some(key)).collect()
    }
}

impl TunnelDraft {
    /// The path in messages; `connection` is the connection's.
    pub fn path(&self, connection: &str) -> String {
        format!("{}[{}]", join(connection, KEY), self.number)
    }
}

/// Which tunnel a draft of a member is for.
#[derive(Debug, Clone)]
pub(in crate::config) struct OfTunnel {
    pub path: String,
    /// The keys of `ipsec` that the tunnel has for itself.
    pub ipsec_keys: Vec<&'static str>,
    pub weight: Option<u8>,
}

impl ConnectionDraft {
    /// The references to customer gateways: of the connection, or of its tunnels.
    pub fn gateways(&self) -> impl Iterator<Item = &Located<String>> {
        let own = self.customer_gateway.iter();
        own.chain(self.tunnels.items.iter().filter_map(|tunnel| tunnel.customer_gateway.as_ref()))
    }

    /// How many of the program's connections it takes.
    pub fn numbers(&self) -> usize {
        self.tunnels.items.len().max(1)
    }

    /// The members: one for each tunnel with a name, or the connection itself.
    pub fn into_members(self) -> Vec<Self> {
        if self.tunnels.items.is_empty() {
            return vec![self];
        }
        let none = TunnelsDraft { items: Vec::new(), is_present: false, sound: true };
        let member = |tunnel: &TunnelDraft| {
            let name = tunnel.name.as_ref()?;
            let mut ipsec = self.ipsec.clone();
            let ipsec_keys = tunnel.ipsec.as_ref().map(TunnelIpsecDraft::keys).unwrap_or_default();
            if let (Some(ipsec), Some(own)) = (&mut ipsec, &tunnel.ipsec) {
                ipsec.if_id = own.if_id.or(ipsec.if_id);
                ipsec.start = own.start.or(ipsec.start);
                for (inherited, own) in [(&mut ipsec.local_id, &own.local_id), (&mut ipsec.remote_id, &own.remote_id)] {
                    if !matches!(own, IdentityDraft::Absent) {
                        *inherited = own.clone();
                    }
                }
            }
            let own_or = |own: &Option<Located<String>>, inherited: &Option<Located<String>>| {
                own.clone().or_else(|| inherited.clone())
            };
            Some(Self {
                name: Located { value: member_name(&self.name.value, &name.value), at: tunnel.at },
                customer_gateway: own_or(&tunnel.customer_gateway, &self.customer_gateway),
                interface: tunnel.interface.clone(),
                peer: tunnel.peer,
                health_check: tunnel.health_check.clone().or_else(|| self.health_check.clone()),
                ipsec,
                tunnels: none.clone(),
                of_tunnel: Some(OfTunnel {
                    path: tunnel.path(&self.path()),
                    ipsec_keys,
                    weight: tunnel.weight.map(|weight| weight.value),
                }),
                ..self.clone()
            })
        };
        self.tunnels.items.iter().filter_map(member).collect()
    }
}

impl Draft {
    /// The draft with the members of connections with tunnels in their place, without routes.
    pub fn with_members(&self) -> Cow<'_, Self> {
        if self.connections.iter().all(|connection| connection.tunnels.items.is_empty()) {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self {
            gateway: self.gateway.clone(),
            dataplane: self.dataplane.clone(),
            vpc: self.vpc.clone(),
            underlays: self.underlays.clone(),
            segments: self.segments.clone(),
            customer_gateways: self.customer_gateways.clone(),
            connections: self.connections.iter().cloned().flat_map(ConnectionDraft::into_members).collect(),
            ..Self::default()
        })
    }
}
