//! Children with an SA for each CPU (RFC 9611), and without for an older charon.

use super::{DesiredState, Message, child_selectors, connection_of, single};
use crate::config::{Config, ipsec::StartAction};

/// The key of a child that has an SA for each CPU.
const PER_CPU_SAS: &str = "per_cpu_sas";

impl DesiredState {
    /// Whether a connection has SAs for each CPU.
    pub fn has_per_cpu_sas(&self) -> bool {
        self.connections.values().any(has_per_cpu_sas)
    }

    /// Each child has one SA: charon does not know the key, and would reject the connection.
    #[must_use]
    pub fn without_per_cpu_sas(mut self, config: &Config) -> Self {
        for (name, message) in self.connections.iter_mut().filter(|(_, message)| has_per_cpu_sas(message)) {
            let Some(tunnel) = connection_of(name).and_then(|name| config.tunnel(name)) else { continue };
            let children = child_selectors(&tunnel).into_iter().fold(Message::default(), |children, selectors| {
                children.with_section(&selectors.name, single(super::child(&tunnel, &selectors), tunnel.ipsec.start))
            });
            *message = message.clone().without("children").with_section("children", children);
        }
        self
    }
}

fn has_per_cpu_sas(connection: &Message) -> bool {
    let children = connection.section("children").into_iter().flat_map(Message::sections);
    children.into_iter().any(|(_, child)| child.value(PER_CPU_SAS).is_some())
}

/// A child with an SA for each CPU, which the kernel requests by a trap policy, and one for packets of CPUs without their
/// own. An SA that the site closes is not established again before a packet needs it.
pub(super) fn child(child: Message, start: StartAction) -> Message {
    let child = child.with(PER_CPU_SAS, "yes").with("close_action", "trap");
    match start {
        StartAction::Start => child.with("start_action", "trap|start").with("dpd_action", "start"),
        // A rule excludes `None`.
        StartAction::Trap | StartAction::None => child.with("start_action", "trap").with("dpd_action", "trap"),
    }
}
