//! Rules for packets that a policy route has sent to a connection (`net/core/fib_rules.c`). There are none without policy
//! routes: each rule costs time for every packet of the host that needs a route.

use std::fmt;

use super::Family;

/// Priorities of the rules. The kernel's rule for the main table has 32766.
const OWN: u32 = 1178;
const MARKED: u32 = OWN + 1;
const END: u32 = OWN + 2;

/// A rule, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelRule {
    pub family: Family,
    pub kind: RuleKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleKind {
    /// The hub's own packets continue at [`RuleKind::End`]: ICMP errors have the mark of the packet that they answer, but
    /// go back to its sender. It also spares them the rules in between.
    Own,
    /// Packets that the program has admitted to one connection use the table of that connection.
    Marked { mark: u32, mask: u32, table: u32 },
    /// Has no effect.
    End,
}

impl KernelRule {
    /// The rule that [`RuleKind::Own`] continues at.
    pub const END: u32 = END;

    pub const fn priority(&self) -> u32 {
        match self.kind {
            RuleKind::Own => OWN,
            RuleKind::Marked { .. } => MARKED,
            RuleKind::End => END,
        }
    }
}

impl fmt::Display for KernelRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        write!(f, "{family} rule with priority {}", self.priority())
    }
}
