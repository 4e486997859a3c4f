//! `[learn]`: the kernel table of a routing daemon whose routes are learned.

use std::{fmt, str::FromStr};

use hub_common::maps::MAX_PREFIXES;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::{
    diagnostic::{DiagnosticReport, Problem, counted, join, quoted},
    draft::{Draft, LearnDraft},
    entries::TABLE_LOCAL,
    suggest::nearest,
    value::{self, Read},
};
use crate::kernel::netlink::{INTERNAL_PROTOCOL, MAIN_TABLE, PROTOCOL};

/// Default table to follow: `main`.
pub(super) const DEFAULT_TABLE: u32 = MAIN_TABLE;
/// Default quota of learned routes per connection.
pub const DEFAULT_MAX_LEARNED: u32 = 50;
/// As many as the route table holds.
pub(super) const MAX_LEARNED: u32 = 1 << 20;

/// A route's origin, `rtm_protocol` in `struct rtmsg` (include/uapi/linux/rtnetlink.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RouteProtocol(pub u8);

/// `RTPROT_*` of include/uapi/linux/rtnetlink.h, by the names of iproute2's `rt_protos`.
const NAMES: [(&str, u8); 23] = [
    ("redirect", 1),
    ("kernel", 2),
    ("boot", 3),
    ("static", 4),
    ("gated", 8),
    ("ra", 9),
    ("mrt", 10),
    ("zebra", 11),
    ("bird", 12),
    ("dnrouted", 13),
    ("xorp", 14),
    ("ntk", 15),
    ("dhcp", 16),
    ("keepalived", 18),
    ("babel", 42),
    ("ovn", 84),
    ("openr", 99),
    ("bgp", 186),
    ("isis", 187),
    ("ospf", 188),
    ("rip", 189),
    ("eigrp", 192),
    ("unspec", 0),
];

impl fmt::Display for RouteProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// The text is neither a number from 0 to 255 nor a known name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a routing protocol")]
pub struct NoProtocol;

impl FromStr for RouteProtocol {
    type Err = NoProtocol;

    fn from_str(text: &str) -> Result<Self, NoProtocol> {
        if let Some((_, number)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(Self(*number));
        }
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits).map(Self).ok_or(NoProtocol)
    }
}

impl RouteProtocol {
    /// The default protocols: BIRD, and FRR's BGP.
    pub fn defaults() -> Vec<Self> {
        vec![Self(12), Self(186)]
    }

    /// Why its routes are never learned.
    fn refusal(self) -> Option<&'static str> {
        Some(match self.0 {
            PROTOCOL | INTERNAL_PROTOCOL => "has the agent's own routes, which would come back to it",
            11 => "has the copies that zebra makes of any route, the agent's own included",
            0..=2 | 9 => "has routes that the kernel or any host on a link makes, not a routing daemon",
            _ => return None,
        })
    }
}

/// A name of `rt_protos`, or a number.
pub(super) fn protocol(value: &DeValue<'_>) -> Read<RouteProtocol> {
    const HELP: &str = "write a name such as \"bird\" or \"bgp\", or a number from 3 to 255 as the daemon's routes show \
                        it in `ip -d route`";
    let protocol = if let DeValue::Integer(_) = value {
        let number = value::integer(value, 0..=255).map_err(|problem| problem.help(HELP))?;
        RouteProtocol(u8::try_from(number).unwrap_or_default())
    } else {
        let text = value::string(value).map_err(|problem| problem.help(HELP))?;
        text.parse().map_err(|_| {
            let problem = Problem::new(format!("{} is not a routing protocol", quoted(text)));
            match nearest(text, NAMES.iter().map(|(name, _)| *name)) {
                Some(meant) => problem.help(format!("did you mean {}?", quoted(meant))),
                None => problem.help(HELP),
            }
        })?
    };
    match protocol.refusal() {
        Some(why) => {
            let problem = Problem::new(format!("protocol {protocol} {why}: its routes are never learned"));
            Err(problem.help("list the protocol of the routing daemon alone, such as \"bird\" or \"bgp\""))
        }
        None => Ok(protocol),
    }
}

/// The kernel table to follow.
pub(super) fn table(value: &DeValue<'_>) -> Read<u32> {
    match value::integer(value, 1..=u32::MAX)? {
        TABLE_LOCAL => Err(Problem::new(format!("{TABLE_LOCAL} is the kernel's table of local addresses"))
            .help("name the table that the routing daemon writes to: 254 (main), or one of its own")),
        table => Ok(table),
    }
}

/// Warns of destination routes that leave no address for learned routes, and of a quota that is none.
pub(super) fn validate(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let Some(learn) = &draft.learn else { return };
    check_room(draft, learn, report);
    let is_default = |prefix: IpNet| prefix.prefix_len() == 0;
    for route in &draft.routes {
        let Some(destination) = route.destination.filter(|destination| is_default(destination.value)) else { continue };
        let problem = Problem::new(format!(
            "{} comes before all learned routes of this IP version: none of them is used",
            destination.value
        ));
        let help = "let the routing daemon announce the default route instead, or write routes for narrower prefixes";
        report.warning(destination.at, join(&route.path(), "destination"), problem.help(help));
    }
}

/// All routes of an IP version are in one table of the kernel program.
fn check_room(draft: &Draft, learn: &LearnDraft, report: &mut DiagnosticReport<'_>) {
    let Some(most) = learn.max_per_connection else { return };
    let count = draft.connections.len() as u64;
    let all = count * u64::from(most.value) + draft.routes.len() as u64;
    if all <= u64::from(MAX_PREFIXES) {
        return;
    }
    let learned = counted(draft.connections.len(), "connection");
    let problem = Problem::new(format!(
        "{learned} may learn {} routes beside {} configured ones, and the kernel program has room for {MAX_PREFIXES} of \
         each IP version",
        count * u64::from(most.value),
        draft.routes.len()
    ));
    let each = u64::from(MAX_PREFIXES).saturating_sub(draft.routes.len() as u64) / count.max(1);
    let help = format!("set max_per_connection to {each} at most, unless the routing daemon limits the routes");
    report.warning(most.at, "learn.max_per_connection", problem.help(help));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_names_or_numbers() {
        for (text, number) in [("bird", 12), ("bgp", 186), ("186", 186), ("42", 42), ("255", 255)] {
            assert_eq!(text.parse(), Ok(RouteProtocol(number)), "{text}");
        }
        for text in ["", "birds", "+12", "-1", "256", "0x0c", "bgp "] {
            assert_eq!(text.parse::<RouteProtocol>(), Err(NoProtocol), "{text}");
        }
        for number in 0..=u8::MAX {
            let protocol = RouteProtocol(number);
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
        }
    }

    #[test]
    fn protocols_that_could_loop_are_refused() {
        for number in [118, 119, 11, 0, 1, 2, 9] {
            assert!(RouteProtocol(number).refusal().is_some(), "{number}");
        }
        for number in [3, 4, 12, 16, 42, 186, 188, 200] {
            assert!(RouteProtocol(number).refusal().is_none(), "{number}");
        }
    }
}
