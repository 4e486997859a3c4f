//! Initiates what is missing.

use std::collections::BTreeSet;

use ipnet::IpNet;
use tokio::time::Instant;
use tracing::warn;

use super::{
    super::{
        super::{
            desired::{ChildSelectors, name_of, with_children},
            message::Message,
            missing::{MissingSelectors, missing},
            session::{Session, SessionError},
            table::Tunnel,
        },
        retries::Lack,
    },
    DriverTask,
};
use crate::config::ipsec::{IkeVersion, StartAction, TunnelParameters};

impl DriverTask {
    /// Schedules the next attempt for a tunnel in this state.
    pub(super) fn set_retry(&mut self, name: &str, state: &Tunnel) {
        let lack = match self.config.tunnel(name) {
            Some(tunnel) if tunnel.ipsec.start == StartAction::Start && self.config.role.has_tunnels() => {
                // charon is already initiating it.
                if state.ike.as_deref() == Some("CONNECTING") {
                    return;
                }
                let missing = missing(&tunnel, state);
                match missing.iter().all(|missing| missing.is_narrowed) {
                    _ if missing.is_empty() => Lack::Nothing,
                    true => Lack::Selectors,
                    false => Lack::Children,
                }
            }
            _ => Lack::Nothing,
        };
        self.retries.set(name, lack, Instant::now());
    }

    /// Initiates what is missing of the tunnels whose attempt is due. The SAs have just been listed.
    pub(super) async fn retry(&mut self, session: &mut Session) -> Result<(), SessionError> {
        for name in self.retries.take_due(Instant::now()) {
            if !self.table.is_busy(&name_of(&name)) {
                _ = self.renegotiate(session, &name, false).await?;
            }
            self.absorb(session)?;
        }
        Ok(())
    }

    /// Initiates the children without SAs. What the site has narrowed away gets children of its own: a rekeying keeps
    /// the selectors of the old SA, and charon establishes no second SA of the same child. With `children`, also rekeys
    /// all child SAs. Returns at once; events report the result. The inner error is strongSwan's refusal.
    pub(super) async fn renegotiate(
        &mut self,
        session: &mut Session,
        name: &str,
        children: bool,
    ) -> Result<Result<Vec<String>, String>, SessionError> {
        let charon_name = name_of(name);
        let loaded = self.loaded.connections.get(&charon_name);
        let Some((tunnel, message)) = self.config.tunnel(name).zip(loaded) else {
            return Ok(Err(format!("connection {name} has no IPsec loaded into strongSwan")));
        };
        let state = self.table.tunnel(&charon_name);
        if tunnel.site.is_any() && state.ike.as_deref() != Some("ESTABLISHED") {
            let why = "only the site can begin: the customer gateway has the address \"any\"";
            return Ok(Err(why.to_owned()));
        }
        let missing = missing(&tunnel, &state);
        let rest = rest(&tunnel, &state, &missing);
        let initiated = missing.iter().filter(|missing| !missing.is_narrowed).map(|missing| missing.child.clone());
        let initiated: BTreeSet<String> = initiated.chain(rest.iter().map(|child| child.name.clone())).collect();
        let rekeyed: BTreeSet<&str> = state.children.iter().map(|child| child.name.as_str()).collect();
        let mut commands = Vec::new();
        if !rest.is_empty() {
            let connection = with_children(message, &tunnel, &rest);
            commands.push(("load-conn", Message::default().with_section(&charon_name, connection)));
        }
        let of_child = |child: &str| Message::default().with("child", child).with("ike", &charon_name);
        commands.extend(initiated.iter().map(|child| ("initiate", of_child(child).with("timeout", "-1"))));
        commands.extend(rekeyed.iter().filter(|_| children).map(|child| ("rekey", of_child(child))));
        let mut done = Vec::new();
        for (command, message) in commands {
            match session.request(command, &message).await {
                Err(error) if error.is_refusal() => {
                    warn!(name: "initiation_failed", connection = name, "{error}");
                    return Ok(Err(error.to_string()));
                }
                result => _ = result?,
            }
            done.extend(message.value("child").map(|child| format!("{command} {child}")));
        }
        Ok(Ok(done))
    }
}

/// Children for selectors that the site has narrowed away: one for `IKEv2`, one for each pair for `IKEv1`. Their names
/// are not in use.
fn rest(tunnel: &TunnelParameters<'_>, state: &Tunnel, missing: &[MissingSelectors]) -> Vec<ChildSelectors> {
    let narrowed: Vec<&MissingSelectors> = missing.iter().filter(|missing| missing.is_narrowed).collect();
    let groups = if tunnel.ipsec.ike.version == IkeVersion::V2 { narrowed.len() } else { 1 };
    let used: BTreeSet<&str> = state.children.iter().map(|child| child.name.as_str()).collect();
    let names = (1..).map(|number| format!("{}-rest-{number}", name_of(tunnel.name)));
    let mut names = names.filter(|name| !used.contains(name.as_str()));
    let prefixes = |pairs: &[&MissingSelectors], side: fn(&MissingSelectors) -> IpNet| {
        let prefixes: BTreeSet<IpNet> = pairs.iter().map(|pair| side(pair)).collect();
        prefixes.into_iter().collect()
    };
    let child = |(pairs, name): (&[&MissingSelectors], String)| ChildSelectors {
        name,
        local: prefixes(pairs, |pair| pair.local),
        remote: prefixes(pairs, |pair| pair.remote),
    };
    narrowed.chunks(groups.max(1)).zip(&mut names).map(child).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipsec::vici::event::ChildSa;

    fn rest_of(version: u8, used: &[&str]) -> Vec<(String, String, String)> {
        let text = format!(
            r#"
[gateway]
name = "hub"
address = "203.0.113.1"
[customer_gateway.a]
address = "198.51.100.1"
[connection.a]
customer_gateway = "a"
interface = "xfrm-a"
local_cidrs = ["192.168.0.0/24"]
remote_cidrs = ["10.1.0.0/24"]
[connection.a.ipsec]
psk_file = "/nowhere/psk"
allow_weak = true
ike = {{ version = {version} }}
"#
        );
        let config = crate::config::parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0;
        let missing = |remote: &str, is_narrowed| MissingSelectors {
            child: "vpnhub-a".into(),
            remote: remote.parse().expect("a prefix"),
            local: "192.168.0.0/24".parse().expect("a prefix"),
            is_narrowed,
        };
        let all = [missing("10.1.0.0/24", true), missing("10.1.1.0/24", true), missing("10.1.2.0/24", false)];
        let child =
            |name: &&str| ChildSa { id: 1, name: (*name).to_owned(), state: "INSTALLED".into(), ..ChildSa::default() };
        let state = Tunnel { children: used.iter().map(child).collect(), ..Tunnel::default() };
        let rest = rest(&config.tunnel("a").expect("it has one"), &state, &all);
        let text = |prefixes: &[IpNet]| prefixes.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" ");
        rest.into_iter().map(|child| (child.name, text(&child.local), text(&child.remote))).collect()
    }

    #[test]
    fn narrowed_selectors_get_children_of_their_own_with_unused_names() {
        let (one, two, both) = ("10.1.0.0/24", "10.1.1.0/24", "10.1.0.0/24 10.1.1.0/24");
        let row = |name: &str, remote: &str| (name.to_owned(), "192.168.0.0/24".to_owned(), remote.to_owned());
        assert_eq!(rest_of(2, &["vpnhub-a"]), [row("vpnhub-a-rest-1", both)]);
        assert_eq!(rest_of(2, &["vpnhub-a", "vpnhub-a-rest-1"]), [row("vpnhub-a-rest-2", both)]);
        assert_eq!(rest_of(1, &["vpnhub-a-rest-1"]), [row("vpnhub-a-rest-2", one), row("vpnhub-a-rest-3", two)]);
    }
}
