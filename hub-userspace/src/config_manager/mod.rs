//! Changes of the configuration at run time: by command, or by reading the files again.
//!
//! Every change is validated first: against all rules and the capacity of the kernel program's tables. It is then
//! written to the store and put in force. If the kernel rejects something after that, the agent retries, as with any
//! other failure: the store has the desired state, and a rollback could be rejected as well. Changes are serialized,
//! so that they cannot interfere. They run outside the agent's loop, because reading a large file takes time.

mod answer;
mod confirm;
mod reload_state;
mod role;
mod stopwatch;

use std::{
    path::Path,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot},
    task::block_in_place,
    time::{sleep, timeout},
};

pub use self::{
    answer::{ChangeError, Changed, Timings},
    reload_state::ReloadState,
    role::RoleChange,
};
use self::{
    answer::{GRACE, RELEASING, SETTLING, concerning},
    confirm::Trial,
    role::NextRole,
    stopwatch::Stopwatch,
};
use crate::{
    agent::{Request, Snapshot, Transition},
    config::{
        Config, Diagnostic, FileSet, LoadError, Role,
        difference::Difference,
        in_force::{Admin, InForce, ObjectChange, ProposedChange, PutMode, PutObject, ValidatedChange},
        load_texts, read_texts, show_object,
    },
    store::{Batch, Body, ObjectId, Op, Opened, PolicyRouteKeys, Store, StoreError, WriteState, audit},
};

/// A requested change.
#[derive(Debug)]
pub enum ConfigChange {
    Edit(ObjectChange),
    /// Reads the files again; with a time, reverts after it unless confirmed.
    Reload(Option<std::time::Duration>),
    /// Confirms a temporary reload.
    Confirm,
    Role(RoleChange),
}

/// A request to the [`ConfigManager`].
pub enum ChangeRequest {
    Change {
        change: ConfigChange,
        /// User of the client; `None`: a signal.
        uid: Option<u32>,
        answer: oneshot::Sender<Result<Changed, ChangeError>>,
    },
    /// The keys of a stored object, in force or not.
    Stored(ObjectId, oneshot::Sender<Option<Value>>),
    /// This many of the newest entries of the audit log.
    Audit(usize, oneshot::Sender<Result<Vec<audit::AuditEntry>, StoreError>>),
    /// A copy of the store.
    Backup(oneshot::Sender<Result<Vec<u8>, StoreError>>),
}

/// A change that was made: the difference, and warnings of the rules and the kernel.
struct Made {
    difference: Difference,
    took: Timings,
    warnings: Vec<String>,
}

/// Origin of a change, for the audit log.
struct ChangeCause {
    uid: Option<u32>,
    action: String,
}

/// Makes changes, one at a time.
pub struct ConfigManager {
    in_force: InForce,
    store: Store,
    /// A reload that awaits confirmation, or was not confirmed.
    trial: Option<Trial>,
    /// In force.
    role: Role,
    /// The rest of a change of role.
    next_role: Option<NextRole>,
    reloads: ReloadState,
    agent: mpsc::Sender<Request>,
}

/// Files and store at the start of an agent.
pub struct InitialConfig {
    config: Option<Config>,
    /// Possible mistakes, one line each.
    pub warnings: Vec<String>,
    in_force: InForce,
    store: Store,
    trial: Option<Trial>,
    role: Role,
}

impl InitialConfig {
    /// Reads the files, opens the store and merges them.
    ///
    /// # Errors
    /// When a file is invalid, or the store cannot be read.
    pub fn open(file: &Path, state: &Path, instance: &str) -> anyhow::Result<Self> {
        let whole = |diagnostic: Box<Diagnostic>| LoadError { file: file.to_owned(), diagnostics: vec![*diagnostic] };
        let texts = read_texts(file).map_err(whole)?;
        let Opened { mut store, objects, unconfirmed } = Store::open(state, instance)?;
        let mut warnings = Vec::new();
        let is_remembered = unconfirmed.is_some();
        if let Some(why) = store.read_only() {
            warnings.push(format!("{} cannot be written, changes are refused: {why}", store.file().display()));
        }
        let resumed = unconfirmed.and_then(|unconfirmed| Trial::resume(&texts, unconfirmed));
        let (files, trial) = if let Some((files, trial)) = resumed {
            warnings.push(confirm::RESUMED.to_owned());
            (files, Some(trial))
        } else {
            let error = |diagnostics| LoadError { file: file.to_owned(), diagnostics };
            let files = load_texts(texts).map_err(error)?;
            // Obsolete. If this write fails, the next start compares it with the files again.
            if is_remembered {
                drop(store.commit(&Batch { unconfirmed: Some(None), ..Batch::default() }, objects.next_number));
            }
            (files, None)
        };
        let united = InForce::new(files, objects);
        let (in_force, mut config) = united.ok_or_else(|| anyhow::anyhow!("{} is empty", file.display()))?;
        let name = file.display().to_string();
        warnings.extend(in_force.file_warnings().into_iter().map(|found| found.in_file(&name)));
        let set_aside = in_force.set_aside();
        warnings.extend(
            set_aside.iter().map(|found| format!("set aside: {} {}: {}", found.kind, found.name, found.reason)),
        );
        confirm::mark(&mut config, trial.as_ref());
        let stored = in_force.objects().role.as_ref();
        let role = role::at_start(config.gateway.role_at_boot, stored, role::boot().as_deref());
        config.role = role;
        Ok(Self { config: Some(config), warnings, in_force, store, trial, role })
    }

    /// The configuration in force, for the agent.
    pub fn take_config(&mut self) -> Config {
        self.config.take().expect("it is taken once")
    }
}

impl ConfigManager {
    /// Creates the manager from the result of [`InitialConfig::open`] and the agent that runs its configuration.
    pub fn new(start: InitialConfig, agent: mpsc::Sender<Request>) -> Self {
        let InitialConfig { in_force, store, trial, role, .. } = start;
        Self { in_force, store, trial, role, next_role: None, reloads: ReloadState::default(), agent }
    }

    /// Whether the store is writable, for a status.
    pub fn write_state(&self) -> WriteState {
        self.store.write_state()
    }

    /// Whether the last reload succeeded, for metrics.
    pub fn reload_state(&self) -> ReloadState {
        self.reloads.clone()
    }

    /// Serves until all senders are dropped. Needs a multi-threaded runtime.
    pub async fn run(mut self, mut orders: mpsc::Receiver<ChangeRequest>) {
        loop {
            let deadline = self.trial.as_ref().and_then(Trial::deadline);
            let role = self.next_role.as_ref().map(NextRole::next_look);
            let order = tokio::select! {
                order = orders.recv() => order,
                () = confirm::reached(deadline) => {
                    self.revert().await;
                    continue;
                }
                () = confirm::reached(role) => {
                    self.continue_role().await;
                    continue;
                }
            };
            let Some(order) = order else { return };
            self.serve(order).await;
        }
    }

    async fn serve(&mut self, order: ChangeRequest) {
        // The client may have disconnected: the change is made anyway.
        match order {
            ChangeRequest::Change { change, uid, answer } => {
                let result = match change {
                    ConfigChange::Edit(edit) => self.edit(&edit, uid).await,
                    ConfigChange::Reload(confirm) => {
                        let result = self.reload(confirm, uid).await;
                        self.reloads.set(result.is_ok());
                        result
                    }
                    ConfigChange::Confirm => self.confirm(uid).await,
                    ConfigChange::Role(change) => return self.change_role(change, uid, answer).await,
                };
                drop(answer.send(result));
            }
            ChangeRequest::Stored(id, answer) => {
                let found = self.in_force.objects().get(&id).map(|stored| match stored.value {
                    Body::Table(keys) => Value::Object(keys),
                    Body::PolicyRoute(PolicyRouteKeys { priority, weight, publish }) => {
                        json!({ "priority": priority, "weight": weight, "publish": publish })
                    }
                    Body::Route(keys) => json!({ "weight": keys.weight, "publish": keys.publish }),
                });
                drop(answer.send(found));
            }
            ChangeRequest::Audit(most, answer) => drop(answer.send(block_in_place(|| self.store.audit(most)))),
            ChangeRequest::Backup(answer) => drop(answer.send(block_in_place(|| self.store.backup()))),
        }
    }

    async fn edit(&mut self, edit: &ObjectChange, uid: Option<u32>) -> Result<Changed, ChangeError> {
        let watch = Stopwatch::start();
        let mut proposal = block_in_place(|| self.in_force.propose(edit))?;
        if let ObjectChange::Put(PutObject { id, mode: PutMode::Replace, .. }) = edit
            && self.is_in_force(id, &proposal).await?
        {
            proposal = ValidatedChange::nothing(id);
        }
        let (object, is_nothing) = (proposal.object.clone(), proposal.is_nothing());
        let created = proposal.before.is_null() && !proposal.after.is_null();
        let is_stored_only = matches!(proposal.change, ProposedChange::Nothing);
        let cause = ChangeCause { uid, action: edit.action() };
        let Made { difference, took, mut warnings } = self.make(proposal, Batch::default(), cause, watch).await?;
        if is_nothing {
            return Ok(Changed::nothing("nothing to change: already in effect", warnings, took));
        }
        let message = match edit {
            ObjectChange::Admin(Admin { connection, up: true }) => {
                format!("connection {connection}: administratively up")
            }
            ObjectChange::Admin(Admin { connection, up: false }) => {
                warnings.extend(self.still_carrying(connection).await);
                format!("connection {connection}: administratively down")
            }
            // The object is set aside.
            _ if is_stored_only || difference.is_empty() => {
                format!("{object} changed in the store: the configuration in force is the same")
            }
            _ => difference.to_string(),
        };
        Ok(Changed { created, ..Changed::now(message, difference, warnings, took) })
    }

    /// Whether the object is already in force with the proposal's keys: at most, its defaults are written differently.
    async fn is_in_force(&self, id: &ObjectId, proposal: &ValidatedChange) -> Result<bool, ChangeError> {
        let ProposedChange::Whole(config) = &proposal.change else { return Ok(false) };
        let old = self.ask(Request::Config).await?;
        let shown = show_object(config, id);
        Ok(shown.is_some() && shown == show_object(&old, id))
    }

    /// Puts other files in force. On a failure the previous configuration stays in force.
    async fn take_files(
        &mut self,
        files: FileSet,
        batch: Batch,
        cause: ChangeCause,
        watch: Stopwatch,
    ) -> Result<Made, ChangeError> {
        let proposal = block_in_place(|| self.in_force.propose_files(files));
        let proposal = proposal.ok_or_else(|| {
            let file = self.in_force.path().to_owned();
            ChangeError::Load(LoadError { file, diagnostics: Vec::new() })
        })?;
        self.make(proposal, batch, cause, watch).await
    }

    /// Stores a proposal and puts it in force.
    async fn make(
        &mut self,
        mut proposal: ValidatedChange,
        mut batch: Batch,
        cause: ChangeCause,
        mut watch: Stopwatch,
    ) -> Result<Made, ChangeError> {
        let mut warnings = std::mem::take(&mut proposal.warnings);
        let is_of_files = proposal.ops.is_empty();
        let step = match std::mem::replace(&mut proposal.change, ProposedChange::Nothing) {
            ProposedChange::Nothing if proposal.ops.is_empty() => {
                let took = Timings { validating: watch.lap(), ..Timings::default() };
                return Ok(Made { difference: Difference::default(), took, warnings });
            }
            ProposedChange::Nothing => None,
            ProposedChange::Small(difference) => Some(Transition { difference, config: None }),
            ProposedChange::Whole(mut config) => {
                confirm::mark(&mut config, self.trial.as_ref());
                config.role = self.role;
                let old = self.ask(Request::Config).await?;
                let difference = block_in_place(|| Difference::between(&old, &config));
                if let Some(key) = difference.needs_restart() {
                    return Err(ChangeError::Restart(key.to_owned()));
                }
                Some(Transition { difference, config: Some(Arc::from(config)) })
            }
        };
        let step = step.map(Arc::new);
        if let Some(step) = &step {
            self.check_capacity(step).await?;
        }
        let validating = watch.lap();
        let after = match (&step, is_of_files) {
            (Some(step), true) => Value::String(step.difference.to_string()),
            _ => proposal.after.clone(),
        };
        batch.ops.clone_from(&proposal.ops);
        let (object, before) = (proposal.object.clone(), proposal.before.clone());
        batch.audit = Some(audit::AuditEntry { object, before, after, ..self.entry(cause) });
        let next_number = self.in_force.objects().next_number_after(&batch.ops);
        // A hub must change its role, whatever its disk does.
        let is_of_role = proposal.ops.iter().any(|op| matches!(op, Op::Role(_)));
        let must_be_written = !(is_of_files || is_of_role) || matches!(batch.unconfirmed, Some(Some(_)));
        if let Err(error) = block_in_place(|| self.store.commit(&batch, next_number)) {
            if must_be_written {
                return Err(error.into());
            }
            // The files are only read: a full disk must not prevent a reload.
            warnings.push(match is_of_role {
                true => format!("not saved, so an agent that restarts does not know it: {error}"),
                false => format!("not written to the audit log: {error}"),
            });
            // The next command tries again.
            proposal.ops.clear();
        }
        self.in_force.apply(proposal);
        let writing = watch.lap();
        let Some(step) = step else {
            let took = Timings { validating, writing, ..Timings::default() };
            return Ok(Made { difference: Difference::default(), took, warnings });
        };
        let adopted = self.ask(|answer| Request::Commit(Arc::clone(&step), answer)).await?;
        let settled = adopted.map_err(|error| ChangeError::NotApplied(format!("{error:#}")))?;
        let applying = watch.lap();
        warnings.extend(match timeout(SETTLING, settled).await {
            Ok(Ok(Ok(refused))) => concerning(&refused, &step.difference),
            Ok(Ok(Err(error))) => vec![format!("the kernel's own routes are not up to date: {error}")],
            Ok(Err(_)) => return Err(ChangeError::Stopping),
            Err(_) => vec!["the kernel's own routes are still being written".to_owned()],
        });
        let took = Timings { validating, writing, applying, settling: watch.lap() };
        Ok(Made { difference: step.difference.clone(), took, warnings })
    }

    /// Checks whether the program's tables have room. Waits for what earlier changes have replaced, and packets may
    /// still use.
    async fn check_capacity(&self, step: &Arc<Transition>) -> Result<(), ChangeError> {
        let begin = Instant::now();
        loop {
            match self.ask(|answer| Request::CheckCapacity(Arc::clone(step), answer)).await? {
                Err(full) if full.is_passing() && begin.elapsed() < RELEASING => sleep(GRACE).await,
                result => return Ok(result?),
            }
        }
    }

    /// An audit log entry of a change, without the keys.
    fn entry(&self, cause: ChangeCause) -> audit::AuditEntry {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        let object = self.in_force.path().display().to_string();
        let ChangeCause { uid, action } = cause;
        audit::AuditEntry { time, uid, action, object, before: Value::Null, after: Value::Null }
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, ChangeError> {
        let (sender, answer) = oneshot::channel();
        self.agent.send(request(sender)).await.map_err(|_| ChangeError::Stopping)?;
        answer.await.map_err(|_| ChangeError::Stopping)
    }

    /// A connection that was taken down still carries routes without another next hop.
    async fn still_carrying(&self, name: &str) -> Option<String> {
        let snapshot: Snapshot = self.ask(Request::Status).await.ok()?.ok()?;
        let mut carried = snapshot.carrying(name).map(|route| route.destination);
        let first = carried.next()?;
        let more = match carried.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Some(format!("{name} still carries {first}{more}: no other next hop is up; help: add a route via another one"))
    }
}
