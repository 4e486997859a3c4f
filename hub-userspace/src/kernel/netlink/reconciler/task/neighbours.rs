//! Sets and deletes neighbours, and detects changes of them by other processes.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{Context as _, Result, bail};
use rtnetlink::packet_route::{RouteNetlinkMessage, neighbour::NeighbourMessage};
use rustix::io::Errno;
use tracing::warn;

use super::{DELETE, ReconcilerTask, SET, UNREADABLE};
use crate::kernel::netlink::{
    plan::{Existing, KernelNeighbour},
    reconciler::{GONE, NEIGHBOUR_TABLE_FULL, ReconcileFailure},
    socket::Refusal,
    wire,
};

/// Neighbours. They are few, so all of them are read from the kernel at each change.
#[derive(Default)]
pub(super) struct Neighbours {
    desired: BTreeSet<KernelNeighbour>,
    /// The kernel's neighbours must be compared with the desired ones.
    pub due: bool,
    /// Obsolete neighbours found by that comparison.
    pub to_delete: Vec<(u32, IpAddr)>,
    /// Failures of the last attempt.
    pub failures: Vec<ReconcileFailure>,
}

impl Neighbours {
    pub fn want(&mut self, desired: BTreeSet<KernelNeighbour>) {
        self.due |= desired != self.desired;
        self.desired = desired;
    }

    pub fn is_due(&self) -> bool {
        self.due || !self.to_delete.is_empty()
    }

    /// Whether a desired neighbour differs from its current state; `None`: it does not exist.
    pub fn is_disturbed(&self, key: (u32, IpAddr), now: Option<&NeighbourMessage>) -> bool {
        let Some(desired) = self.with_key(key) else { return false };
        let mut existing = Existing::default();
        if let Some(now) = now {
            existing.note_neighbour(now);
        }
        let difference = existing.neighbours_to(&[desired].into());
        !difference.to_set.is_empty() || !difference.taken.is_empty()
    }

    fn with_key(&self, (ifindex, address): (u32, IpAddr)) -> Option<KernelNeighbour> {
        let managed = KernelNeighbour::Managed { ifindex, address };
        let permanent = |mac| KernelNeighbour::Permanent { ifindex, address, mac };
        match self.desired.contains(&managed) {
            true => Some(managed),
            false => self.desired.range(permanent([0; 6])..=permanent([u8::MAX; 6])).next().copied(),
        }
    }
}

/// A pending change of a rule or neighbour: its name, the message, its `NLM_F_*` flags.
pub(super) type KernelChange = (String, RouteNetlinkMessage, u16);

impl ReconcilerTask {
    pub(super) async fn set_neighbours(&mut self) -> Result<()> {
        let mut existing = Existing::default();
        let request = RouteNetlinkMessage::GetNeighbour(wire::all::neighbours());
        for object in self.requests.list("reading the neighbours", request).await.context(UNREADABLE)? {
            if let RouteNetlinkMessage::NewNeighbour(shown) = object {
                existing.note_neighbour(&shown);
            }
        }
        let difference = existing.neighbours_to(&self.neighbours.desired);
        if std::mem::take(&mut self.others.is_restoring) && !difference.to_set.is_empty() {
            let neighbours = difference.to_set.len();
            warn!(name: "neighbours_disturbed", neighbours, "another process changed or removed neighbours of the agent: the agent restores them");
        }
        self.neighbours.due = false;
        self.neighbours.to_delete = difference.to_delete;
        self.neighbours.failures = difference.taken.iter().map(taken).collect();
        let changes = difference.to_set.iter().map(|neighbour| {
            let message = RouteNetlinkMessage::NewNeighbour(wire::neighbour(neighbour));
            (neighbour.to_string(), message, SET)
        });
        let (made, failures) = self.make(changes.collect(), &[]).await?;
        self.done.added += made;
        self.neighbours.failures.extend(failures);
        Ok(())
    }

    pub(super) async fn delete_neighbours(&mut self) -> Result<()> {
        let changes = std::mem::take(&mut self.neighbours.to_delete).into_iter().map(|key| {
            let name = format!("neighbour {} on interface {}", key.1, key.0);
            (name, RouteNetlinkMessage::DelNeighbour(wire::bare_neighbour(key)), DELETE)
        });
        let (made, failures) = self.make(changes.collect(), GONE).await?;
        self.done.deleted += made;
        self.neighbours.failures.extend(failures);
        Ok(())
    }

    /// Makes changes; returns the number of successes, and the failures. Errors in `harmless` count as neither.
    pub(super) async fn make(
        &mut self,
        changes: Vec<KernelChange>,
        harmless: &[Errno],
    ) -> Result<(usize, Vec<ReconcileFailure>)> {
        let (names, messages): (Vec<_>, Vec<_>) =
            changes.into_iter().map(|(name, message, flags)| (name, (message, flags))).unzip();
        let results = self.requests.change("changing rules or neighbours", messages).await?;
        let mut made = 0;
        let mut failures = Vec::new();
        for (object, result) in names.into_iter().zip(results) {
            match result {
                Ok(()) => made += 1,
                Err(refusal) if harmless.iter().any(|errno| refusal.is(*errno)) => {}
                Err(refusal) if refusal.is(Errno::PERM) => bail!("{object}: {refusal}"),
                Err(refusal) => {
                    failures.push(ReconcileFailure { object, reason: reason(&refusal), destination: None });
                }
            }
        }
        Ok((made, failures))
    }
}

fn reason(refusal: &Refusal) -> String {
    match refusal.is(Errno::NOBUFS) {
        true => NEIGHBOUR_TABLE_FULL.to_owned(),
        false => refusal.to_string(),
    }
}

fn taken(neighbour: &KernelNeighbour) -> ReconcileFailure {
    let reason = "another process set a permanent entry with another link address; remove that entry".to_owned();
    ReconcileFailure { object: neighbour.to_string(), reason, destination: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_neighbour_table_is_reported_with_the_sysctl_to_raise() {
        let full = reason(&Refusal { errno: Errno::NOBUFS.raw_os_error(), detail: None });
        assert!(
            full.contains("neighbour table is full") && full.contains("net.ipv4.neigh.default.gc_thresh3"),
            "{full}"
        );
    }

    #[test]
    fn neighbour_of_a_key_is_found_whatever_its_kind() {
        let address: IpAddr = "10.1.0.9".parse().expect("an address");
        let managed = KernelNeighbour::Managed { ifindex: 1, address };
        let permanent = |ifindex| KernelNeighbour::Permanent { ifindex, address, mac: [2; 6] };
        let mut neighbours = Neighbours::default();
        neighbours.want([managed, permanent(2), permanent(4)].into());
        assert_eq!(neighbours.with_key((1, address)), Some(managed));
        assert_eq!(neighbours.with_key((2, address)), Some(permanent(2)));
        assert_eq!(neighbours.with_key((3, address)), None);
        assert!(neighbours.is_disturbed((2, address), None) && !neighbours.is_disturbed((3, address), None));
    }
}
