//! Loads the desired state into charon.

use std::{collections::BTreeMap, mem};

use imbl::OrdMap;
use tracing::{info, warn};

use super::{
    super::super::{
        desired::{CharonStep, DesiredState, Loaded, connection_of, differs_in_certificates_alone},
        message::Message,
        session::{Session, SessionError},
    },
    DriverTask,
};

/// What charon has refused to load, with its reason.
#[derive(Debug, Default)]
pub struct Refusals(BTreeMap<Loaded, String>);

impl Refusals {
    /// The problems of connections, by our names: what charon has refused, and what cannot be configured at all.
    pub fn problems(&self, desired: &DesiredState) -> OrdMap<String, String> {
        let mut problems = desired.problems.clone();
        for (loaded, why) in &self.0 {
            for name in desired.users(loaded) {
                if !problems.contains_key(name) {
                    problems.insert(name.to_owned(), why.clone());
                }
            }
        }
        problems
    }
}

impl DriverTask {
    /// Removes leftovers of an earlier agent from charon, and records the objects that may stay.
    pub(super) async fn clean(&mut self, session: &mut Session) -> Result<(), SessionError> {
        let nothing = Message::default();
        let connections = session.request("get-conns", &nothing).await?.list("conns").to_vec();
        let secrets = session.request("get-shared", &nothing).await?.list("keys").to_vec();
        for step in self.desired.steps_to_clean(&connections, &secrets) {
            self.carry_out(session, step).await?;
        }
        Ok(())
    }

    /// Loads the differences into charon. A refusal is a problem of the connections that use the object. It is loaded
    /// again with the next change of the configuration or reload.
    ///
    /// charon would end the SAs of a connection with other certificates. Only a new negotiation needs these, so they
    /// are loaded when the connection is down.
    pub(super) async fn load(&mut self, session: &mut Session) -> Result<(), SessionError> {
        // Until all are loaded, only the tunnels that change are published.
        self.all_changed = false;
        self.publish();
        let result = self.load_differences(session).await;
        // Problems may have come or gone.
        self.all_changed = true;
        result
    }

    async fn load_differences(&mut self, session: &mut Session) -> Result<(), SessionError> {
        let steps = self.desired.steps_from(&self.loaded);
        let before = mem::replace(&mut self.loaded, self.desired.clone());
        self.refusals.0.clear();
        self.deferred.clear();
        for step in steps {
            if let CharonStep::Load { loaded: Loaded::Connection(name), .. } = &step
                && self.table.is_up(name)
                && let Some((old, new)) = before.connections.get(name).zip(self.desired.connections.get(name))
                && differs_in_certificates_alone(old, new)
            {
                self.loaded.connections.insert(name.clone(), old.clone());
                self.deferred.insert(name.clone());
                continue;
            }
            self.carry_out(session, step).await?;
            self.absorb(session)?;
            // A tunnel that comes up or fails meanwhile does not wait for the others to be loaded.
            self.publish();
        }
        let config = &self.config;
        self.retries.retain(|name| config.connections.get(name).is_some_and(|found| found.ipsec.is_some()));
        Ok(())
    }

    async fn carry_out(&mut self, session: &mut Session, step: CharonStep) -> Result<(), SessionError> {
        match step {
            CharonStep::Load { command, message, loaded } => match session.request(command, &message).await {
                Err(SessionError::Refused { command: _, why }) => {
                    let problem = format!("strongSwan refuses {loaded}: {why}; {}", loaded.remedy());
                    for name in self.desired.users(&loaded) {
                        warn!(connection = name, "{problem}");
                    }
                    self.loaded.forget(&loaded);
                    self.refusals.0.insert(loaded, problem);
                    Ok(())
                }
                result => result.map(drop),
            },
            CharonStep::UnloadSecret(name) => {
                tolerate(session.request("unload-shared", &Message::default().with("id", name)).await)
            }
            CharonStep::UnloadConnection(name) => {
                // Unload the connection first, so that nothing initiates it again.
                let unload = Message::default().with("name", &name);
                tolerate(session.request("unload-conn", &unload).await)?;
                let shown = connection_of(&name).unwrap_or(&name).to_owned();
                info!(connection = shown, "its SAs are closed: its [ipsec] section was removed");
                let terminate = Message::default().with("ike", name).with("timeout", "-1");
                // There may be no SA to terminate.
                match session.request("terminate", &terminate).await {
                    Err(error) if !error.is_refusal() => Err(error),
                    _ => Ok(()),
                }
            }
        }
    }
}

/// Logs a refusal without ending the session.
fn tolerate(result: Result<Message, SessionError>) -> Result<(), SessionError> {
    match result {
        Err(error) if error.is_refusal() => {
            warn!("{error}");
            Ok(())
        }
        result => result.map(drop),
    }
}
