//! Rules, and those of earlier versions.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{
    super::{GONE, ReconcileFailure},
    ADD, DELETE, ReconcilerTask, UNREADABLE,
};
use crate::kernel::netlink::{
    plan::{Existing, KernelRule},
    wire,
};

#[derive(Default)]
pub(super) struct Rules {
    desired: BTreeSet<KernelRule>,
    /// A dump of them is due.
    pub due: bool,
    /// Failures of the last attempt.
    pub failures: Vec<ReconcileFailure>,
}

impl Rules {
    pub fn want(&mut self, rules: BTreeSet<KernelRule>) {
        self.due |= rules != self.desired;
        self.desired = rules;
    }
}

impl ReconcilerTask {
    /// Adds the missing rules, then deletes all others of ours.
    pub(super) async fn write_rules(&mut self) -> Result<()> {
        let mut existing = Existing::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = RouteNetlinkMessage::GetRule(wire::all::rules(family));
            for object in self.requests.list("reading the rules", request).await.context(UNREADABLE)? {
                if let RouteNetlinkMessage::NewRule(shown) = object {
                    existing.note_rule(&shown);
                }
            }
        }
        self.rules.due = false;
        let mut missing = self.rules.desired.clone();
        // Each is needed once.
        existing.rules.retain(|shown| !wire::read_rule(shown).is_some_and(|rule| missing.remove(&rule)));
        let additions = missing.iter().rev().map(|rule| {
            // In descending order: the rule to continue at exists before the one that continues there.
            (rule.to_string(), RouteNetlinkMessage::NewRule(wire::rule(rule)), ADD)
        });
        let (added, mut failures) = self.make(additions.collect(), &[]).await?;
        self.done.added += added;
        let deletions = existing.rules.iter().map(|rule| {
            let message = RouteNetlinkMessage::DelRule(wire::rule_deletion(rule));
            ("rule that is no longer used".to_owned(), message, DELETE)
        });
        let (deleted, more) = self.make(deletions.collect(), GONE).await?;
        self.done.deleted += deleted;
        failures.extend(more);
        self.rules.failures = failures;
        Ok(())
    }
}
