//! The table's chains and counters. Pure.

use hub_common::Mark;

use super::wire::{Messages, NLM_F_CREATE, NftMessage, attribute, big32, text};

/// The parameters of the rules themselves; everything else is in sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub mark: Mark,
    /// 0 is the default group of all interfaces: the rules then ignore groups.
    pub group: u32,
}

/// `NFTA_CHAIN_*`.
const CHAIN_NAME: u16 = 3;
const HOOK: u16 = 4;
const POLICY: u16 = 5;
const TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;

/// A chain; a base chain if it has a `hook`.
#[derive(Debug, Clone, Copy)]
pub struct Chain {
    pub name: &'static str,
    /// `NF_INET_*` and priority.
    hook: Option<(u32, i32)>,
}

const fn base(name: &'static str, hook: u32, priority: i32) -> Chain {
    Chain { name, hook: Some((hook, priority)) }
}

const fn regular(name: &'static str) -> Chain {
    Chain { name, hook: None }
}

/// `NF_IP_PRI_RAW`, `NF_IP_PRI_FILTER`.
const RAW: i32 = -300;
const FILTER: i32 = 0;

pub const NO_ROUTE: &str = "no_route";
pub const MARKED: &str = "marked";
pub const UNMARKED: &str = "unmarked";
pub const INPUT_SITE: &str = "input_site";
pub const INPUT_SITE6: &str = "input_site6";
pub const INPUT_NOT_LOCAL: &str = "input_not_local";
pub const FORWARD_FROM_SITE: &str = "forward_from_site";
pub const FORWARD_TO_SITE: &str = "forward_to_site";
pub const OUTPUT_SITE: &str = "output_site";
pub const OUTPUT_SITE6: &str = "output_site6";
pub const OUTPUT_ANSWER: &str = "output_answer";
pub const OUTPUT_ACCEPT: &str = "output_accept";
pub const OUTPUT_ACCEPT6: &str = "output_accept6";
pub const CLEAR_MARK: &str = "clear_mark";

pub const CHAINS: [Chain; 19] = [
    base("prerouting", 0, RAW),
    base("input", 1, FILTER),
    base("forward", 2, FILTER),
    base("output", 3, FILTER),
    base("postrouting", 4, FILTER),
    regular(MARKED),
    regular(NO_ROUTE),
    regular(UNMARKED),
    regular(INPUT_SITE),
    regular(INPUT_SITE6),
    regular(INPUT_NOT_LOCAL),
    regular(FORWARD_FROM_SITE),
    regular(FORWARD_TO_SITE),
    regular(OUTPUT_SITE),
    regular(OUTPUT_SITE6),
    regular(OUTPUT_ANSWER),
    regular(OUTPUT_ACCEPT),
    regular(OUTPUT_ACCEPT6),
    regular(CLEAR_MARK),
];

/// The counters: one for each place that drops.
pub mod counter {
    pub const UNMARKED: &str = "unmarked";
    pub const NO_ROUTE: &str = "no_route";
    pub const INPUT_NOT_LOCAL: &str = "input_not_local";
    pub const INPUT_NO_SERVICE: &str = "input_no_service";
    pub const FORWARD_FROM_SITE: &str = "forward_from_site";
    pub const FORWARD_TO_SITE: &str = "forward_to_site";
    pub const OUTPUT: &str = "output";

    pub const ALL: [&str; 7] =
        [UNMARKED, NO_ROUTE, INPUT_NOT_LOCAL, INPUT_NO_SERVICE, FORWARD_FROM_SITE, FORWARD_TO_SITE, OUTPUT];
}

impl Chain {
    /// Whether a chain of the kernel has the same hook and priority as this one, or like this one no hook.
    pub fn is_like(&self, shown: &[u8]) -> bool {
        let hook = attribute(shown, HOOK).map(|hook| {
            let number = |kind| attribute(hook, kind).and_then(big32);
            (number(HOOK_NUMBER), number(HOOK_PRIORITY).map(u32::cast_signed))
        });
        let filters = attribute(shown, TYPE).is_none_or(|kind| text(kind) == "filter");
        filters && hook == self.hook.map(|(number, priority)| (Some(number), Some(priority)))
    }

    pub fn name_of(shown: &[u8]) -> &str {
        attribute(shown, CHAIN_NAME).map(text).unwrap_or_default()
    }

    /// Creates the chain. If it `exists`, sets its policy to accept.
    pub fn create(&self, messages: &mut Messages, exists: bool) {
        const NF_ACCEPT: u32 = 1;
        messages.message(NftMessage::NewChain, NLM_F_CREATE, |message| {
            message.string(CHAIN_NAME, self.name);
            let Some((number, priority)) = self.hook else {
                return;
            };
            message.u32(POLICY, NF_ACCEPT);
            if !exists {
                message.nest(HOOK, |message| {
                    message.u32(HOOK_NUMBER, number);
                    message.u32(HOOK_PRIORITY, priority.cast_unsigned());
                });
                message.string(TYPE, "filter");
            }
        });
    }

    /// Creates a chain without a hook, unless it exists.
    pub fn create_regular(name: &str, messages: &mut Messages) {
        messages.message(NftMessage::NewChain, NLM_F_CREATE, |message| message.string(CHAIN_NAME, name));
    }

    pub fn is_base(shown: &[u8]) -> bool {
        attribute(shown, HOOK).is_some()
    }

    pub fn delete(name: &str, messages: &mut Messages) {
        messages.message(NftMessage::DeleteChain, 0, |message| message.string(CHAIN_NAME, name));
    }
}
