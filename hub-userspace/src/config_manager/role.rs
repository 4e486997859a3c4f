//! The hub's role: `vpnhub active` and `vpnhub standby`.
//!
//! A change of role has up to two steps. `standby` withdraws the published routes, waits, and then has strongSwan
//! unload the tunnels. `active` with a time to wait has strongSwan load the tunnels first and publishes when they are up.
//! In between the role is [`Role::Withdrawn`]. The store has the last step's role from the beginning, so an agent that
//! restarts in between begins with that one.

use std::{fs, time::Duration};

use tokio::{sync::oneshot, time::Instant};
use tracing::{info, warn};

use super::{ChangeCause, ChangeError, Changed, ConfigManager, Stopwatch};
use crate::{
    agent::Request,
    config::{Role, difference::Difference},
    store::{Batch, StoredRole},
};

/// A new identifier at each boot (proc(5)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Interval of asking whether the tunnels are up.
const LOOK: Duration = Duration::from_millis(100);

/// A requested role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleChange {
    pub role: Role,
    /// Time between the two steps: at [`Role::Active`] the longest wait for tunnels.
    pub after: Duration,
}

type RoleAnswer = oneshot::Sender<Result<Changed, ChangeError>>;

/// The second step of a change of role.
pub(super) struct NextRole {
    role: Role,
    /// When it is due at the latest.
    due: Instant,
    uid: Option<u32>,
    /// Of the first step.
    warnings: Vec<String>,
    answer: RoleAnswer,
}

impl NextRole {
    /// When to call [`ConfigManager::continue_role`].
    pub fn next_look(&self) -> Instant {
        match self.role {
            Role::Active => self.due.min(Instant::now() + LOOK),
            Role::Withdrawn | Role::Standby => self.due,
        }
    }
}

/// This boot; `None` if the kernel does not tell.
pub(super) fn boot() -> Option<String> {
    fs::read_to_string(BOOT_ID).ok().map(|id| id.trim().to_owned())
}

/// The role of an agent that starts. The stored one counts if it is of this boot, or if the hub is to keep its role over
/// a boot, which is what `at_boot` other than standby means.
pub(super) fn at_start(at_boot: Role, stored: Option<&StoredRole>, boot: Option<&str>) -> Role {
    match stored {
        Some(stored) if at_boot != Role::Standby || (boot.is_some() && stored.boot.as_deref() == boot) => stored.role,
        _ => at_boot,
    }
}

impl ConfigManager {
    /// Begins a change of role. `answer` is sent when the last step is in force.
    pub(super) async fn change_role(&mut self, change: RoleChange, uid: Option<u32>, answer: RoleAnswer) {
        let RoleChange { role, after } = change;
        if let Some(other) = self.next_role.take() {
            drop(other.answer.send(Err(ChangeError::OtherRole(role))));
        }
        let is_in_force = self.role == role;
        let is_two_steps = match role {
            Role::Active => self.role == Role::Standby && !after.is_zero(),
            Role::Withdrawn => false,
            Role::Standby => true,
        };
        let first = if is_two_steps && !is_in_force { Role::Withdrawn } else { role };
        let result = self.take_role(first, Some(role), uid).await;
        let warnings = match result {
            // The client may have gone.
            _ if first == role => return drop(answer.send(result)),
            Ok(changed) => changed.warnings,
            // In force in part, and tried again.
            Err(error @ ChangeError::NotApplied(_)) => vec![error.to_string()],
            Err(error) => return drop(answer.send(Err(error))),
        };
        let next = NextRole { role, due: Instant::now() + after, uid, warnings, answer };
        if after.is_zero() { self.end_role(next).await } else { self.next_role = Some(next) }
    }

    /// Takes the second step if it is due.
    pub(super) async fn continue_role(&mut self) {
        let Some(next) = self.next_role.take() else { return };
        let is_due = next.due <= Instant::now()
            || (next.role == Role::Active && self.ask(Request::TunnelsUp).await.unwrap_or(true));
        if is_due { self.end_role(next).await } else { self.next_role = Some(next) }
    }

    async fn end_role(&mut self, next: NextRole) {
        let NextRole { role, due: _, uid, mut warnings, answer } = next;
        let result = self.take_role(role, None, uid).await.map(|changed| {
            warnings.extend(changed.warnings);
            Changed { warnings, ..changed }
        });
        drop(answer.send(result));
    }

    /// Puts a role in force. `stored` is the one for the store; `None`: it has it.
    async fn take_role(&mut self, role: Role, stored: Option<Role>, uid: Option<u32>) -> Result<Changed, ChangeError> {
        let watch = Stopwatch::start();
        let action = stored.unwrap_or(role).name().to_owned();
        let stored = stored.map(|role| StoredRole { role, boot: boot() });
        let proposal = self.in_force.propose_role((self.role, role), stored);
        if proposal.is_nothing() {
            return Ok(Changed::nothing("nothing to change: already in effect", Vec::new(), super::Timings::default()));
        }
        let is_changed = self.role != role;
        let before = std::mem::replace(&mut self.role, role);
        let cause = ChangeCause { uid, action };
        let made = self.make(proposal, Batch::default(), cause, watch).await.inspect_err(|error| {
            if !matches!(error, ChangeError::NotApplied(_)) {
                self.role = before;
            }
        })?;
        if is_changed {
            info!(name: "role_changed", role = role.name(), "{}", role.sentence());
        }
        for warning in &made.warnings {
            warn!(name: "role_warning", "{warning}");
        }
        match is_changed {
            true => Ok(Changed::now(role.sentence().to_owned(), Difference::default(), made.warnings, made.took)),
            false => Ok(Changed::nothing("nothing to change: already in effect", made.warnings, made.took)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_role_counts_after_a_boot_unless_the_hub_boots_as_standby() {
        let stored = |role, boot: &str| Some(StoredRole { role, boot: Some(boot.to_owned()) });
        let (active, withdrawn, standby) = (Role::Active, Role::Withdrawn, Role::Standby);
        for (at_boot, stored, expected) in [
            (active, None, active),
            (active, stored(standby, "this"), standby),
            (active, stored(standby, "earlier"), standby),
            (active, stored(withdrawn, "earlier"), withdrawn),
            (standby, None, standby),
            (standby, stored(active, "this"), active),
            (standby, stored(active, "earlier"), standby),
            // The store of another host.
            (standby, stored(withdrawn, "other"), standby),
        ] {
            assert_eq!(at_start(at_boot, stored.as_ref(), Some("this")), expected, "{at_boot} {stored:?}");
        }
        assert_eq!(at_start(standby, stored(active, "this").as_ref(), None), standby, "an unknown boot is another one");
    }
}
