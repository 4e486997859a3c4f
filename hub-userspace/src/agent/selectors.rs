//! Selectors in force, as the SAs have them: followed, logged, told to whoever listens.

use hub_common::maps::LIMIT_RULES;
use tracing::{info, warn};

use super::Agent;
use crate::{
    agreement::agreements,
    event::{Event, now},
    selectors::{Agreement, Pair},
};

impl Agent {
    /// Follows the SAs; whether what they admit is otherwise than before. One that takes another's place changes nothing.
    pub(super) fn agree(&mut self) -> bool {
        let agreements = agreements(&self.config, &self.ike.view(), &self.agreements);
        if agreements == self.agreements {
            return false;
        }
        let before = std::mem::replace(&mut self.agreements, agreements);
        for (name, agreement) in &self.agreements {
            if before.get(name) != Some(agreement) {
                self.untold_selectors.insert(name.clone());
            }
        }
        true
    }

    /// Logs and tells those that are new.
    pub(super) fn tell_selectors(&mut self) {
        for name in std::mem::take(&mut self.untold_selectors) {
            let (Some(agreement), Some(state)) = (self.agreements.get(&name), self.states.get(&name)) else { continue };
            let selectors = texts(agreement);
            match selectors.is_empty() {
                true => info!(connection = name, "no SA: nothing is admitted from it"),
                false => info!(connection = name, "SAs are for {}", selectors.join(", ")),
            }
            for problem in self.selector_problems(&name) {
                warn!(connection = name, "{problem}");
            }
            let reason = self.state_reason(&name, *state);
            let (state, was) = (*state, Some(*state));
            // Nobody may be listening.
            drop(self.events.send(Event {
                time: now(),
                connection: name,
                state,
                was,
                reason,
                selectors: Some(selectors),
            }));
        }
    }

    /// Those in force, where SAs tell them.
    pub(super) fn selectors_of(&self, name: &str) -> Option<Vec<String>> {
        self.agreements.get(name).map(texts)
    }

    /// What of a connection's SAs is not admitted, and why.
    pub(super) fn selector_problems(&self, name: &str) -> Vec<String> {
        let unreadable = self.ike.view().tunnels.get(name).map(|tunnel| tunnel.unreadable()).unwrap_or_default();
        let unreadable =
            unreadable.into_iter().map(|text| format!("the traffic selector {text} is not understood: not admitted"));
        let slot = self.layout.ingress.connections.get(name);
        let cut = slot.filter(|slot| self.ingress.cut.contains(slot)).map(|_| {
            format!(
                "its SAs have more limits to protocols and ports than the kernel program has room for ({LIMIT_RULES} for \
                 a pair of addresses): the rest is not admitted"
            )
        });
        unreadable.chain(cut).collect()
    }
}

fn texts(agreement: &Agreement) -> Vec<String> {
    agreement.pairs.iter().map(Pair::to_string).collect()
}
