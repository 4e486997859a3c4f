//! A connection's section of a configuration file: one for all its members.

use super::{
    super::{
        health_check,
        model::Connection,
        show::{self, string},
    },
    read::KEY,
    tunnel_of,
};

/// The section of a connection with these members.
pub(in crate::config) fn connection_text(text: &mut String, name: &str, members: &[(&String, &Connection)]) {
    let Some((_, first)) = members.first() else { return };
    if first.tunnel_weight.is_none() {
        show::connection(text, name, first, None);
        return;
    }
    let all = || members.iter().map(|(_, member)| *member);
    let is_shared = |key: fn(&Connection) -> Option<String>| all().all(|member| key(member) == key(first));
    let shared = Shared {
        customer_gateway: all().all(|member| member.customer_gateway == first.customer_gateway),
        health_check: all().all(|member| member.health_check == first.health_check),
        ipsec: IPSEC_KEYS.map(|(_, key)| is_shared(key)),
    };
    let tunnels: Vec<String> = members.iter().map(|(name, member)| shared.tunnel(name, member)).collect();
    let tunnels = format!("{KEY} = [\n    {},\n]\n", tunnels.join(",\n    "));
    let mut base = Connection::clone(first);
    base.enabled = all().any(|member| member.enabled);
    base.peer = None;
    if !shared.health_check {
        base.health_check = None;
    }
    if let Some(ipsec) = &mut base.ipsec {
        let [_, _, local_id, remote_id] = shared.ipsec;
        ipsec.if_id = None;
        ipsec.local_id = ipsec.local_id.take().filter(|_| local_id);
        ipsec.remote_id = ipsec.remote_id.take().filter(|_| remote_id);
    }
    show::connection(text, name, &base, Some((shared.customer_gateway, &tunnels)));
}

type IpsecKey = fn(&Connection) -> Option<String>;

/// The keys of `ipsec` that a tunnel may have for itself, with their values. `if_id` differs always.
const IPSEC_KEYS: [(&str, IpsecKey); 4] = [
    ("if_id", |connection| Some(connection.ipsec.as_ref()?.if_id?.to_string())),
    ("start", |connection| Some(string(connection.ipsec.as_ref()?.start.name()))),
    ("local_id", |connection| Some(string(connection.ipsec.as_ref()?.local_id.as_ref()?))),
    ("remote_id", |connection| Some(string(connection.ipsec.as_ref()?.remote_id.as_ref()?))),
];

/// The keys that all tunnels have from the connection.
struct Shared {
    customer_gateway: bool,
    health_check: bool,
    /// Of [`IPSEC_KEYS`].
    ipsec: [bool; IPSEC_KEYS.len()],
}

impl Shared {
    /// A tunnel as an inline table.
    fn tunnel(&self, name: &str, member: &Connection) -> String {
        let mut keys = vec![
            format!("name = {}", string(tunnel_of(name).unwrap_or_default())),
            format!("interface = {}", string(&member.interface)),
            format!("weight = {}", member.tunnel_weight.unwrap_or_default()),
        ];
        if !self.customer_gateway {
            keys.push(format!("customer_gateway = {}", string(&member.customer_gateway)));
        }
        keys.extend(member.peer.map(|peer| format!("peer = {}", string(&peer))));
        if let Some(check) = member.health_check.as_ref().filter(|_| !self.health_check) {
            keys.push(format!("health_check = {}", health_check::text(check)));
        }
        let differing = IPSEC_KEYS.iter().zip(self.ipsec).filter(|(_, is_shared)| !is_shared);
        let ipsec = differing.filter_map(|((key, value), _)| Some(format!("{key} = {}", value(member)?)));
        let ipsec: Vec<String> = ipsec.collect();
        if !ipsec.is_empty() {
            keys.push(format!("ipsec = {{ {} }}", ipsec.join(", ")));
        }
        format!("{{ {} }}", keys.join(", "))
    }
}
