//! Initiates what is missing.

use std::collections::BTreeSet;

use tokio::time::Instant;
use tracing::warn;

use super::{
    super::{
        super::{
            desired::name_of,
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

    /// Initiates the children without SAs, and rekeys those whose selectors the site has narrowed: a rekeying proposes
    /// all selectors again, and the SA carries traffic meanwhile. With `children`, rekeys all child SAs. Returns at
    /// once; events report the result. The inner error is strongSwan's refusal.
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
        let with_sa: BTreeSet<&str> = state.children.iter().map(|child| child.name.as_str()).collect();
        let initiated: BTreeSet<&str> =
            missing.iter().filter(|missing| !missing.is_narrowed).map(|missing| missing.child.as_str()).collect();
        let narrowed = missing.iter().filter(|missing| missing.is_narrowed).map(|missing| missing.child.as_str());
        let rekeyed: BTreeSet<&str> = if children { with_sa } else { narrowed.collect() };
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
}
