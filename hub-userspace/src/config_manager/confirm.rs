//! Reloads, and reloads that are reverted unless confirmed.
//!
//! `reload --confirm` saves the previous and the new files in the store. Without a confirmation in time the agent
//! reverts to the previous ones. It does not write the files, so they differ from the configuration in force. An
//! agent that starts therefore also uses the previous files, until the files are edited or reloaded. The same applies
//! to an agent that restarts while the confirmation is pending: the new configuration may be the reason for the
//! restart.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    sync::oneshot,
    task::block_in_place,
    time::{Instant, sleep_until, timeout},
};
use tracing::{error, warn};

use super::{
    ChangeCause, ChangeError, Changed, ConfigManager, Made, SETTLING, Stopwatch, Timings, answer::renewed_text,
};
use crate::{
    agent::{Request, Transition},
    config::{Config, Confirmation, FileSet, difference::Difference, load_files, load_texts},
    store::{Batch, SourceText, Unconfirmed},
};

/// Warning of a start that does not use the files.
pub(super) const RESUMED: &str = "the last reload was not confirmed: the configuration before it is in force until the \
    files are edited or `vpnhub reload` is run";

/// A reload that awaits confirmation, or was not confirmed.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    unconfirmed: Unconfirmed,
    /// Time of the revert; `None` after it.
    deadline: Option<(Instant, f64)>,
}

impl Trial {
    /// The files to start with if the current ones are those of an unconfirmed reload.
    pub fn resume(texts: &[SourceText], unconfirmed: Unconfirmed) -> Option<(FileSet, Self)> {
        if texts != unconfirmed.after {
            return None;
        }
        let files = load_texts(unconfirmed.before.clone());
        let files = files
            .inspect_err(
                |_| warn!(name: "reload_revert_invalid", "the configuration before the last reload is no longer valid"),
            )
            .ok()?;
        Some((files, Self { unconfirmed, deadline: None }))
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.map(|(instant, _)| instant)
    }
}

/// Waits until the deadline; forever if there is none.
pub(super) async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Stores in a configuration the confirmation that a status shows.
pub(super) fn mark(config: &mut Config, trial: Option<&Trial>) {
    let confirmation = trial.map(|trial| match trial.deadline {
        Some((_, until)) => Confirmation::Pending { until },
        None => Confirmation::Reverted,
    });
    if config.provenance.confirmation != confirmation {
        Arc::make_mut(&mut config.provenance).confirmation = confirmation;
    }
}

impl ConfigManager {
    pub(super) async fn reload(&mut self, confirm: Option<Duration>, uid: Option<u32>) -> Result<Changed, ChangeError> {
        let watch = Stopwatch::start();
        let path = self.in_force.path().to_owned();
        let files = block_in_place(|| load_files(&path))?;
        let is_other = files.texts != self.in_force.files().texts;
        if !is_other && confirm.is_some() {
            // A pending confirmation keeps its deadline.
            let took = Timings::default();
            return Ok(Changed::nothing("nothing to confirm: nothing has changed", self.file_warnings(), took));
        }
        let before = match &self.trial {
            // The last confirmed files, regardless of later attempts.
            Some(trial) => trial.unconfirmed.before.clone(),
            None => self.in_force.files().texts.clone(),
        };
        let unconfirmed = confirm.filter(|_| is_other).map(|_| Unconfirmed { before, after: files.texts.clone() });
        let old = self.trial.take();
        self.trial = unconfirmed.as_ref().zip(confirm).map(|(unconfirmed, after)| {
            let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + after;
            let deadline = Some((Instant::now() + after, until.as_secs_f64()));
            Trial { unconfirmed: unconfirmed.clone(), deadline }
        });
        let is_settled = old.is_some() && self.trial.is_none();
        if !is_other && !is_settled {
            let warnings = self.file_warnings();
            let renewed = self.read_secrets().await?;
            return Ok(Changed::renewed(&renewed, warnings, Timings::default()));
        }
        let batch = Batch { unconfirmed: Some(unconfirmed), ..Batch::default() };
        let cause =
            ChangeCause { uid, action: if confirm.is_some() { "reload --confirm" } else { "reload" }.to_owned() };
        let made = self.take_files(files, batch, cause, watch).await;
        if made.is_err() && !matches!(made, Err(ChangeError::NotApplied(_))) {
            self.trial = old;
        }
        let Made { difference, took, warnings } = made?;
        let warnings = self.file_warnings().into_iter().chain(warnings).collect();
        let renewed = self.read_secrets().await?;
        if difference.is_empty() {
            return Ok(Changed::renewed(&renewed, warnings, took));
        }
        let limit = match confirm {
            Some(time) => format!("; reverted in {} s, unless `vpnhub confirm` confirms it", time.as_secs_f64()),
            None => String::new(),
        };
        let renewed = renewed_text(&renewed);
        Ok(Changed::now(format!("reloaded: {difference}{renewed}{limit}"), difference, warnings, took))
    }

    /// Reads secrets and certificates again: they may have changed without the configuration. Returns the connections
    /// that have other ones.
    async fn read_secrets(&self) -> Result<Vec<String>, ChangeError> {
        let (sender, answer) = oneshot::channel();
        self.agent.send(Request::ReadSecrets(sender)).await.map_err(|_| ChangeError::Stopping)?;
        // strongSwan may be slow: the files are loaded even so.
        Ok(timeout(SETTLING, answer).await.ok().and_then(Result::ok).unwrap_or_default())
    }

    fn file_warnings(&self) -> Vec<String> {
        let file = self.in_force.path().display().to_string();
        let set_aside = self.in_force.set_aside();
        let set_aside =
            set_aside.iter().map(|found| format!("set aside: {} {}: {}", found.kind, found.name, found.reason));
        self.in_force.file_warnings().into_iter().map(|found| found.in_file(&file)).chain(set_aside).collect()
    }

    /// Confirms a temporary reload.
    pub(super) async fn confirm(&mut self, uid: Option<u32>) -> Result<Changed, ChangeError> {
        if self.trial.as_ref().and_then(Trial::deadline).is_none() {
            return Err(ChangeError::NothingToConfirm);
        }
        let cause = ChangeCause { uid, action: "confirm".to_owned() };
        let batch = Batch { unconfirmed: Some(None), audit: Some(self.entry(cause)), ..Batch::default() };
        let next_number = self.in_force.objects().next_number;
        block_in_place(|| self.store.commit(&batch, next_number))?;
        self.trial = None;
        let mut config = Config::clone(&*self.ask(Request::Config).await?);
        mark(&mut config, None);
        let step = Arc::new(Transition { difference: Difference::default(), config: Some(Arc::new(config)) });
        let adopted = self.ask(|answer| Request::Commit(step, answer)).await?;
        adopted.map_err(|error| ChangeError::NotApplied(format!("{error:#}")))?;
        let (difference, took) = (Difference::default(), Timings::default());
        Ok(Changed::now("confirmed: the configuration stays in force".to_owned(), difference, Vec::new(), took))
    }

    /// Reverts a reload that was not confirmed.
    pub(super) async fn revert(&mut self) {
        let Some(trial) = &mut self.trial else { return };
        trial.deadline = None;
        // The files are not what is in force.
        self.reloads.set(false);
        let before = trial.unconfirmed.before.clone();
        let files = match block_in_place(|| load_texts(before)) {
            Ok(files) => files,
            Err(found) => {
                let first = found.first().map(ToString::to_string).unwrap_or_default();
                return error!(name: "reload_revert_failed",
                    "the reload was not confirmed, and the configuration before it is no longer valid: {first}"
                );
            }
        };
        let cause = ChangeCause { uid: None, action: "reload not confirmed".to_owned() };
        // The store already has both versions, so that a full disk cannot prevent the revert.
        match self.take_files(files, Batch::default(), cause, Stopwatch::start()).await {
            Ok(Made { difference, .. }) => {
                warn!(name: "reload_reverted", "the reload was not confirmed; reverted to the configuration before it: {difference}");
            }
            Err(error) => {
                error!(name: "reload_revert_failed", "the reload was not confirmed, and reverting it failed: {error}");
            }
        }
    }
}
