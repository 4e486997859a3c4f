//! Reloads, and those that end by themselves unless confirmed.
//!
//! `reload --confirm` remembers in the store what was in force before and what it takes. Without a confirmation in time
//! the agent goes back. It does not write the files, so they say something else than what is in force then: an agent that
//! starts takes what was in force before, too, until the files are edited or reloaded. The same goes for an agent that is
//! restarted while the confirmation is open: what it was restarted for may be the new configuration.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    task::block_in_place,
    time::{Instant, sleep_until},
};
use tracing::{error, warn};

use super::{ChangeCause, ChangeError, Changed, ConfigManager, Made, Stopwatch};
use crate::{
    agent::{Request, Transition},
    config::{Config, Confirmation, FileSet, difference::Difference, load_files, load_texts},
    store::{Batch, SourceText, Unconfirmed},
};

/// What a start says that does not take the files.
pub(super) const RESUMED: &str = "the last reload was not confirmed: what was in force before it is in force, until the \
    files are edited or `vpnhub reload`";

/// A reload that is to be confirmed, or was not.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    unconfirmed: Unconfirmed,
    /// When it ends; nothing where it has ended.
    deadline: Option<(Instant, f64)>,
}

impl Trial {
    /// What an agent starts with whose files are those of a reload that was not confirmed.
    pub fn resume(texts: &[SourceText], unconfirmed: Unconfirmed) -> Option<(FileSet, Self)> {
        if texts != unconfirmed.after {
            return None;
        }
        let files = load_texts(unconfirmed.before.clone());
        let files =
            files.inspect_err(|_| warn!("what was in force before the last reload cannot be taken any more")).ok()?;
        Some((files, Self { unconfirmed, deadline: None }))
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.deadline.map(|(instant, _)| instant)
    }
}

/// Never, without a time.
pub(super) async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Notes in a configuration what a status shows of it.
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
            // One that is open stays so, with its time.
            let took = super::Timings::default();
            return Ok(Changed::nothing("nothing to confirm: nothing has changed", self.file_warnings(), took));
        }
        let before = match &self.trial {
            // Confirmed last, whatever has been tried since.
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
            // A secret may be another one all the same.
            self.agent.send(Request::ReadSecrets).await.map_err(|_| ChangeError::Stopping)?;
            return Ok(Changed::nothing("reloaded: nothing has changed", warnings, super::Timings::default()));
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
        if difference.is_empty() {
            self.agent.send(Request::ReadSecrets).await.map_err(|_| ChangeError::Stopping)?;
            return Ok(Changed::nothing("reloaded: nothing has changed", warnings, took));
        }
        let limit = match confirm {
            Some(time) => format!("; for {} s, unless `vpnhub confirm` keeps it", time.as_secs_f64()),
            None => String::new(),
        };
        Ok(Changed::now(format!("reloaded: {difference}{limit}"), difference, warnings, took))
    }

    fn file_warnings(&self) -> Vec<String> {
        let file = self.in_force.path().display().to_string();
        let set_aside = self.in_force.set_aside();
        let set_aside =
            set_aside.iter().map(|found| format!("set aside: {} {}: {}", found.kind, found.name, found.reason));
        self.in_force.file_warnings().into_iter().map(|found| found.in_file(&file)).chain(set_aside).collect()
    }

    /// Keeps what a reload has put in force for a time.
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
        let (difference, took) = (Difference::default(), super::Timings::default());
        Ok(Changed::now("confirmed: the configuration stays in force".to_owned(), difference, Vec::new(), took))
    }

    /// Goes back to what was in force before a reload that nobody has confirmed.
    pub(super) async fn revert(&mut self) {
        let Some(trial) = &mut self.trial else { return };
        trial.deadline = None;
        let before = trial.unconfirmed.before.clone();
        let files = match block_in_place(|| load_texts(before)) {
            Ok(files) => files,
            Err(found) => {
                let first = found.first().map(ToString::to_string).unwrap_or_default();
                return error!(
                    "the reload was not confirmed, and what was in force before cannot be taken any more: {first}"
                );
            }
        };
        let cause = ChangeCause { uid: None, action: "reload not confirmed".to_owned() };
        // The store remembers both already, so that a full disk is not in the way.
        match self.take_files(files, Batch::default(), cause, Stopwatch::start()).await {
            Ok(Made { difference, .. }) => {
                warn!("the reload was not confirmed, back to what was in force before: {difference}");
            }
            Err(error) => error!("the reload was not confirmed, and going back failed: {error}"),
        }
    }
}
