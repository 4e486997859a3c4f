//! Initiates what is missing.

use std::{collections::BTreeSet, mem};

use tokio::time::Instant;
use tracing::warn;

use super::{
    super::{
        super::{
            desired::name_of,
            event::ChildSa,
            message::Message,
            missing::missing,
            session::{Session, SessionError},
            table::Tunnel,
        },
        retries::Lack,
    },
    DriverTask,
};
use crate::config::ipsec::StartAction;

impl DriverTask {
    /// Schedules the next attempt for a tunnel in this state.
    pub(super) fn set_retry(&mut self, name: &str, state: &Tunnel) {
        let lack = match self.config.tunnel(name) {
            Some(tunnel) if tunnel.ipsec.start == StartAction::Start => {
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

    /// Initiates the children without SAs, and those whose selectors the site has narrowed: a rekeying would keep them
    /// narrow, as the site answers it with the selectors of the old SA. That SA carries traffic until another one
    /// replaces it. With `children`, rekeys all other child SAs. Returns at once; events report the result. The inner
    /// error is strongSwan's refusal.
    pub(super) async fn renegotiate(
        &mut self,
        session: &mut Session,
        name: &str,
        children: bool,
    ) -> Result<Result<Vec<String>, String>, SessionError> {
        let charon_name = name_of(name);
        let Some(tunnel) = self.config.tunnel(name).filter(|_| self.loaded.connections.contains_key(&charon_name))
        else {
            return Ok(Err(format!("connection {name} has no IPsec loaded into strongSwan")));
        };
        let state = self.table.tunnel(&charon_name);
        let missing = missing(&tunnel, &state);
        let initiated: BTreeSet<&str> = missing.iter().map(|missing| missing.child.as_str()).collect();
        let narrowed = state.children.iter().filter(|child| initiated.contains(child.name.as_str()));
        let narrowed: BTreeSet<u64> = narrowed.map(|child| child.id).collect();
        let rekeyed = state.children.iter().map(|child| child.name.as_str());
        let rekeyed: BTreeSet<&str> = rekeyed.filter(|child| children && !initiated.contains(child)).collect();
        if !narrowed.is_empty() {
            self.replacing.insert(charon_name.clone(), narrowed);
        }
        let commands = initiated.iter().map(|child| ("initiate", *child));
        let commands = commands.chain(rekeyed.iter().map(|child| ("rekey", *child)));
        let mut done = Vec::new();
        for (command, child) in commands {
            let mut message = Message::default().with("child", child).with("ike", &charon_name);
            if command == "initiate" {
                message = message.with("timeout", "-1");
            }
            match session.request(command, &message).await {
                Err(error) if error.is_refusal() => {
                    warn!(connection = name, "{error}");
                    return Ok(Err(error.to_string()));
                }
                result => result.map(|_| done.push(format!("{command} {child}")))?,
            }
        }
        Ok(Ok(done))
    }

    /// Closes the narrowed child SAs of changed connections if newer ones admit as much.
    pub(super) async fn close_replaced(&mut self, session: &mut Session) -> Result<(), SessionError> {
        for name in mem::take(&mut self.replaced) {
            let Some(old) = self.replacing.get_mut(&name) else { continue };
            let state = self.table.tunnel(&name);
            let redundant = redundant(&state, old);
            old.retain(|id| !redundant.contains(id) && state.children.iter().any(|child| child.id == *id));
            if old.is_empty() {
                self.replacing.remove(&name);
            }
            for id in redundant {
                let message = Message::default().with("child-id", id.to_string()).with("timeout", "-1");
                // It may have ended meanwhile.
                match session.request("terminate", &message).await {
                    Err(error) if !error.is_refusal() => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// The old child SAs whose selectors a newer SA of the same child has, too.
fn redundant(state: &Tunnel, old: &BTreeSet<u64>) -> Vec<u64> {
    let (old, new): (Vec<&ChildSa>, Vec<&ChildSa>) = state.children.iter().partition(|child| old.contains(&child.id));
    let has_all = |new: &ChildSa, old: &ChildSa| new.name == old.name && new.pairs().is_superset(&old.pairs());
    old.into_iter().filter(|old| new.iter().any(|new| has_all(new, old))).map(|old| old.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipsec::vici::selector::TrafficSelector;

    #[test]
    fn narrowed_sas_are_redundant_once_a_newer_one_admits_as_much() {
        let sa = |id, name: &str, remote: &str| {
            let selectors =
                |text: &str| text.split(' ').map(|text| TrafficSelector::parse(text).expect("one")).collect();
            ChildSa {
                id,
                name: name.into(),
                state: "INSTALLED".into(),
                spi_in: String::new(),
                spi_out: String::new(),
                bytes_in: 0,
                bytes_out: 0,
                age: 0,
                local: selectors("192.168.0.0/24"),
                remote: selectors(remote),
            }
        };
        let old = sa(1, "a", "10.1.0.0/24");
        for (what, new, expected) in [
            ("wider", vec![sa(2, "a", "10.1.0.0/24 10.1.1.0/24")], vec![1]),
            ("the same", vec![sa(2, "a", "10.1.0.0/24")], vec![1]),
            ("another part", vec![sa(2, "a", "10.1.1.0/24")], vec![]),
            ("of another child", vec![sa(2, "b", "10.1.0.0/24")], vec![]),
            ("none", vec![], vec![]),
        ] {
            let children = [vec![old.clone()], new].concat();
            let state = Tunnel { children, ..Tunnel::default() };
            assert_eq!(redundant(&state, &[1].into()), expected, "{what}");
        }
    }
}
