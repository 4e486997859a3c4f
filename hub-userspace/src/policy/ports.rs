//! Protocol and port limits of a selector pair (RFC 4301 section 4.4.1.1).

use std::fmt;

use hub_common::maps::Rule;

/// ICMP and `ICMPv6` have no ports, but a type and a code.
const ICMP: [u8; 2] = [1, 58];

/// Protocol and ports of a selector pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProtoPorts {
    /// IP protocol number; `None`: any.
    pub protocol: Option<u8>,
    /// On the site's side.
    pub remote: Ports,
    /// On the hub's side.
    pub local: Ports,
}

/// An inclusive port range. For ICMP: type in the high byte, code in the low one, and both sides have the same number
/// (RFC 7296 section 3.13.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    pub first: u16,
    /// At least `first`.
    pub last: u16,
}

impl ProtoPorts {
    /// No limit: all protocols and ports.
    pub const NONE: Self = Self { protocol: None, remote: Ports::ANY, local: Ports::ANY };

    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// Combines the limit of the site's side with that of the hub's side; `None` if no packet can match both.
    pub fn between(remote: (Option<u8>, Ports), local: (Option<u8>, Ports)) -> Option<Self> {
        let protocol = match (remote.0, local.0) {
            (Some(one), Some(other)) if one != other => return None,
            (one, other) => one.or(other),
        };
        Some(Self { protocol, remote: remote.1, local: local.1 })
    }

    /// Whether every packet that matches `other` matches this one.
    pub fn covers(&self, other: &Self) -> bool {
        let same_protocol = self.protocol.is_none() || self.protocol == other.protocol;
        same_protocol && self.remote.covers(other.remote) && self.local.covers(other.local)
    }

    /// The kernel program's rule, for a connection's `COUNTERS` slot.
    pub fn rule(&self, connection: u32) -> Rule {
        let flags = if self.remote.is_any() && self.local.is_any() { 0 } else { Rule::PORTS };
        let range = |ports: Ports| [ports.first, ports.last];
        Rule {
            connection,
            protocol: self.protocol.unwrap_or(0),
            flags,
            padding: [0; 2],
            remote: range(self.remote),
            local: range(self.local),
        }
    }

    /// One side in strongSwan's notation, as `[tcp/22]`; empty without a limit.
    pub fn text(&self, ports: Ports) -> String {
        let protocol = match self.protocol {
            None if ports.is_any() => return String::new(),
            None => "any".to_owned(),
            Some(number) => name(number).map_or_else(|| number.to_string(), str::to_owned),
        };
        let is_icmp = self.protocol.is_some_and(|protocol| ICMP.contains(&protocol));
        let number = |number: u16| match (is_icmp, number.to_be_bytes()) {
            (true, [kind, code]) => format!("{kind}({code})"),
            (false, _) => number.to_string(),
        };
        match (ports.is_any(), ports.first == ports.last) {
            (true, _) => format!("[{protocol}]"),
            (_, true) => format!("[{protocol}/{}]", number(ports.first)),
            _ => format!("[{protocol}/{}-{}]", number(ports.first), number(ports.last)),
        }
    }
}

impl Ports {
    pub const ANY: Self = Self { first: 0, last: u16::MAX };

    pub fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    pub fn is_any(self) -> bool {
        self == Self::ANY
    }

    fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

/// Protocol names as in /etc/protocols.
pub const NAMES: [(&str, u8); 11] = [
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("ipv6-icmp", 58),
    ("ospf", 89),
    ("sctp", 132),
    ("udplite", 136),
];

fn name(protocol: u8) -> Option<&'static str> {
    NAMES.iter().find(|(_, number)| *number == protocol).map(|(name, _)| *name)
}

impl fmt::Display for ProtoPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} === {}", self.text(self.remote), self.text(self.local))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(protocol: u8, remote: Ports, local: Ports) -> ProtoPorts {
        ProtoPorts { protocol: (protocol != 0).then_some(protocol), remote, local }
    }

    #[test]
    fn limit_displays_in_strongswan_notation() {
        let range = Ports { first: 1024, last: 2047 };
        for (limit, expected) in [
            (ProtoPorts::NONE, " === "),
            (limit(6, Ports::one(22), Ports::ANY), "[tcp/22] === [tcp]"),
            (limit(17, Ports::ANY, range), "[udp] === [udp/1024-2047]"),
            (limit(99, Ports::ANY, Ports::ANY), "[99] === [99]"),
            (limit(0, Ports::one(7), Ports::ANY), "[any/7] === "),
            (limit(1, Ports::one(0x0801), Ports { first: 0x0300, last: 0x03ff }), "[icmp/8(1)] === [icmp/3(0)-3(255)]"),
        ] {
            assert_eq!(limit.to_string(), expected);
        }
    }

    #[test]
    fn limits_of_two_sides_merge_unless_disjoint() {
        let ssh = Ports::one(22);
        let between = |remote, local| ProtoPorts::between(remote, local).map(|limit| limit.to_string());
        assert_eq!(between((Some(6), ssh), (Some(6), Ports::ANY)).as_deref(), Some("[tcp/22] === [tcp]"));
        assert_eq!(between((None, Ports::ANY), (Some(17), ssh)).as_deref(), Some("[udp] === [udp/22]"));
        assert_eq!(between((Some(6), ssh), (Some(17), Ports::ANY)), None);
    }

    #[test]
    fn limit_covers_narrower_limit_only() {
        let low = Ports { first: 0, last: 1023 };
        let ssh = limit(6, Ports::one(22), Ports::ANY);
        for (one, other, expected) in [
            (ProtoPorts::NONE, ssh, true),
            (ssh, ProtoPorts::NONE, false),
            (limit(6, low, Ports::ANY), ssh, true),
            (limit(0, low, Ports::ANY), ssh, true),
            (limit(17, low, Ports::ANY), ssh, false),
            (limit(6, low, low), ssh, false),
        ] {
            assert_eq!(one.covers(&other), expected, "{one} over {other}");
        }
    }

    #[test]
    fn rule_ports_flag_is_set_for_port_limits() {
        assert_eq!(limit(6, Ports::ANY, Ports::ANY).rule(7).flags, 0);
        let rule = limit(6, Ports::one(22), Ports::ANY).rule(7);
        assert_eq!((rule.connection, rule.protocol, rule.flags), (7, 6, Rule::PORTS));
        assert_eq!((rule.remote, rule.local), ([22, 22], [0, u16::MAX]));
    }
}
