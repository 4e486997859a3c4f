//! Loads the desired state into charon.

use std::{collections::BTreeMap, mem};

use imbl::OrdMap;
use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    super::super::{
        desired::{
            DesiredState, Load, Loaded, Unload, connection_of,
            wider::{Waiting, may_wait, narrowed},
        },
        message::Message,
        per_cpu,
        session::{Session, SessionError},
    },
    super::retries::Lack,
    DriverTask,
};
use crate::config::Role;

/// Objects that are sent to charon before its answers are read: fewer wake-ups of both. Changes of tunnels wait for so
/// many.
pub(super) const BATCH: usize = 16;

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
        for leftover in self.desired.leftovers(&connections, &secrets) {
            unload(session, leftover, self.config.role).await?;
        }
        Ok(())
    }

    /// Notes the connections whose SAs have part of the desired selectors: an earlier agent has kept them.
    pub(super) async fn adopt(&mut self, session: &mut Session) -> Result<(), SessionError> {
        self.adopted.clear();
        if !self.desired.connections.keys().any(|name| self.table.is_up(name)) {
            return Ok(());
        }
        let listed = session.list("list-conns", "list-conn", &Message::default()).await?;
        for (name, loaded) in listed.iter().flat_map(Message::sections).filter(|(name, _)| self.table.is_up(name)) {
            if let Some(narrow) = self.desired.connections.get(name).and_then(|desired| narrowed(desired, loaded)) {
                self.adopted.insert(name.to_owned(), narrow);
            }
        }
        Ok(())
    }

    /// Loads the differences into charon. A refusal is a problem of the connections that use the object. It is loaded
    /// again with the next change of the configuration or reload.
    ///
    /// charon would end the SAs of a connection with other certificates or more selectors. Only a new negotiation needs
    /// these, so they are loaded when the connection is down. Until then additional selectors get SAs of their own.
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
        self.fit_version(session).await?;
        let mut loads = self.desired.loads_from(&self.loaded);
        let unloads = self.desired.unloads_from(&self.loaded);
        let before = mem::replace(&mut self.loaded, self.desired.clone());
        self.refusals.0.clear();
        self.deferred.clear();
        loads.retain_mut(|load| !self.defer(load, &before));
        for batch in loads.chunks(BATCH) {
            let requests: Vec<(&str, &Message)> = batch.iter().map(|load| (load.command, &load.message)).collect();
            for (load, refusal) in batch.iter().zip(session.request_all(&requests).await?) {
                if let Some(why) = refusal {
                    self.refused(&load.loaded, &why);
                }
            }
            self.absorb(session)?;
            // A tunnel that comes up or fails meanwhile does not wait for the others to be loaded.
            self.publish();
        }
        for gone in unloads {
            unload(session, gone, self.config.role).await?;
            self.absorb(session)?;
            self.publish();
        }
        let config = &self.config;
        self.retries.retain(|name| {
            config.role.has_tunnels() && config.connections.get(name).is_some_and(|found| found.ipsec.is_some())
        });
        Ok(())
    }

    /// Desires only what charon's version has.
    async fn fit_version(&mut self, session: &mut Session) -> Result<(), SessionError> {
        if !self.desired.has_per_cpu_sas() {
            // It may have been removed from the desired state before, for this charon.
            let is_desired = self.config.tunnels().any(|tunnel| tunnel.ipsec.esp.per_cpu_sas);
            self.lacks_per_cpu_sas = self.lacks_per_cpu_sas.take().filter(|_| is_desired);
            return Ok(());
        }
        let version = match &self.version {
            Some(version) => version.clone(),
            None => {
                session.request("version", &Message::default()).await?.value("version").unwrap_or_default().to_owned()
            }
        };
        let lacks = !per_cpu::has_per_cpu_sas(&version);
        if lacks {
            if self.lacks_per_cpu_sas.as_ref() != Some(&version) {
                warn!(name: "per_cpu_sas_missing", "{}", per_cpu::missing(&version));
            }
            self.desired = mem::take(&mut self.desired).without_per_cpu_sas(&self.config);
        }
        self.lacks_per_cpu_sas = lacks.then(|| version.clone());
        self.version = Some(version);
        Ok(())
    }

    /// Defers the load of a connection that is up, if its SAs may stay. Returns whether there is nothing to load.
    fn defer(&mut self, load: &mut Load, before: &DesiredState) -> bool {
        let Loaded::Connection(name) = &load.loaded else { return false };
        let Some(new) = self.desired.connections.get(name) else { return false };
        if let Some(narrow) = self.adopted.remove(name) {
            load.message = Message::default().with_section(name, narrow.clone());
            self.loaded.connections.insert(name.clone(), narrow);
            self.deferred.insert(name.clone());
            return false;
        }
        let old = before.connections.get(name).filter(|_| self.table.is_up(name));
        let Some((old, waiting)) = old.and_then(|old| Some((old, may_wait(old, new)?))) else { return false };
        self.loaded.connections.insert(name.clone(), old.clone());
        self.deferred.insert(name.clone());
        if let (Waiting::Selectors, Some(name)) = (waiting, connection_of(name)) {
            self.retries.soon(name, Lack::Selectors, Instant::now());
        }
        true
    }

    /// charon has refused to load an object.
    fn refused(&mut self, loaded: &Loaded, why: &str) {
        let problem = format!("strongSwan refuses {loaded}: {why}; {}", loaded.remedy());
        for name in self.desired.users(loaded) {
            warn!(name: "connection_not_loaded", connection = name, "{problem}");
        }
        self.loaded.forget(loaded);
        self.refusals.0.insert(loaded.clone(), problem);
    }
}

async fn unload(session: &mut Session, unload: Unload, role: Role) -> Result<(), SessionError> {
    match unload {
        Unload::Secret(name) => tolerate(session.request("unload-shared", &Message::default().with("id", name)).await),
        Unload::Connection(name) => {
            // Unload the connection first, so that nothing initiates it again.
            let unload = Message::default().with("name", &name);
            tolerate(session.request("unload-conn", &unload).await)?;
            let shown = connection_of(&name).unwrap_or(&name).to_owned();
            let why = if role.has_tunnels() { "its [ipsec] section was removed" } else { "this hub is standby" };
            info!(name: "sa_closed", connection = shown, "its SAs are closed: {why}");
            let terminate = Message::default().with("ike", name).with("timeout", "-1");
            // There may be no SA to terminate.
            match session.request("terminate", &terminate).await {
                Err(error) if !error.is_refusal() => Err(error),
                _ => Ok(()),
            }
        }
    }
}

/// Logs a refusal without ending the session.
fn tolerate(result: Result<Message, SessionError>) -> Result<(), SessionError> {
    match result {
        Err(error) if error.is_refusal() => {
            warn!(name: "strongswan_load_failed", "{error}");
            Ok(())
        }
        result => result.map(drop),
    }
}
