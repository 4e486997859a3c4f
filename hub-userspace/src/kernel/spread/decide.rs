//! What to do with the receive queues of an interface. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::mask::CpuMask;
use crate::config::model::Spread;

/// What the agent has done to a receive queue. It is still in effect while the queue has the mask `is`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnMask {
    /// The mask before.
    pub before: CpuMask,
    /// The mask written.
    pub asked: CpuMask,
    /// The mask that the kernel made of it: without CPUs that are isolated.
    pub is: CpuMask,
}

/// A change of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write the mask of all online CPUs. The mask to put back later is `before`.
    Spread { before: CpuMask },
    /// Write the mask that the queue had before.
    PutBack(CpuMask),
    /// Another program has changed the queue, or it is gone.
    Forget,
}

/// The changes by queue. `queues` has the current masks; `own` what the agent has done to them.
pub fn actions(
    spread: Spread,
    online: &CpuMask,
    queues: &BTreeMap<u32, CpuMask>,
    own: &BTreeMap<u32, OwnMask>,
) -> BTreeMap<u32, Action> {
    let is_wanted = match spread {
        Spread::Auto => is_useful(queues.len(), online),
        Spread::Rps => true,
        Spread::Xdp | Spread::Off => false,
    };
    // `auto` never replaces another program's mask.
    let may_replace = |mask: &CpuMask| spread == Spread::Rps || mask.is_empty();
    let action = |number: &u32, is: &CpuMask| {
        let found = own.get(number);
        match found.filter(|own| own.is == *is) {
            Some(own) if is_wanted && may_replace(&own.before) => {
                (own.asked != *online).then(|| Action::Spread { before: own.before.clone() })
            }
            Some(own) => Some(Action::PutBack(own.before.clone())),
            None if is_wanted && may_replace(is) && is != online => Some(Action::Spread { before: is.clone() }),
            None => found.map(|_| Action::Forget),
        }
    };
    let gone = own.keys().filter(|number| !queues.contains_key(number)).map(|number| (*number, Action::Forget));
    queues.iter().filter_map(|(number, is)| Some((*number, action(number, is)?))).chain(gone).collect()
}

/// Whether some CPUs have no receive queue of their own.
fn is_useful(queues: usize, online: &CpuMask) -> bool {
    u32::try_from(queues).is_ok_and(|queues| queues < online.count())
}

/// Whether RPS is in force on all queues, and an explanation.
pub fn outcome(
    spread: Spread,
    online: &CpuMask,
    queues: &BTreeMap<u32, CpuMask>,
    own: &BTreeMap<u32, OwnMask>,
) -> (bool, Option<String>) {
    let is_in_force = !queues.is_empty() && queues.values().all(|mask| !mask.is_empty());
    let others = queues.iter().filter(|(number, mask)| !mask.is_empty() && !own.contains_key(number)).count();
    let reason = match spread {
        Spread::Auto if others > 0 => {
            Some("another program has set rps_cpus, which auto leaves alone; rps replaces it".to_owned())
        }
        Spread::Auto if !is_useful(queues.len(), online) => {
            Some("it has a receive queue for each CPU; if its NIC puts all ESP into one, write rps".to_owned())
        }
        Spread::Off if !is_in_force => Some("off in the configuration".to_owned()),
        // Reported if the XDP program is not in force.
        Spread::Xdp => Some("there is one CPU to distribute to".to_owned()),
        _ => None,
    };
    (is_in_force, reason)
}
