//! Traffic selectors in charon's notation: `10.0.0.0/24`, `10.0.0.1..10.0.0.9`, with a suffix such as `[tcp/443]` if
//! limited to a protocol or ports.

use std::{fmt, net::IpAddr};

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};
use serde::{Deserialize, Serialize};

use super::names::Names;
use crate::policy::ports::Ports;

/// One traffic selector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TrafficSelector {
    /// A range is several prefixes.
    pub prefixes: Vec<IpNet>,
    /// Protocol and ports in charon's notation; `None`: all.
    pub limit: Option<String>,
}

impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes: Vec<String> = self.prefixes.iter().map(IpNet::to_string).collect();
        f.write_str(&prefixes.join(" "))?;
        self.limit.iter().try_for_each(|limit| write!(f, "[{limit}]"))
    }
}

/// Maximum number of prefixes for an address range.
const MOST_PREFIXES: usize = 256;

impl TrafficSelector {
    /// `None` if there are no addresses: `dynamic`, before the peer has sent its own.
    pub fn parse(text: &str) -> Option<Self> {
        let (addresses, limit) = match text.split_once('[') {
            Some((addresses, rest)) => (addresses, Some(rest.strip_suffix(']')?.to_owned())),
            None => (text, None),
        };
        let prefixes = match addresses.split_once("..") {
            Some((first, last)) => range(first.parse().ok()?, last.parse().ok()?)?,
            None => vec![prefix(addresses)?],
        };
        Some(Self { prefixes, limit })
    }
}

impl TrafficSelector {
    /// Protocol and ports as numbers; `None` if not supported, such as `OPAQUE`: packets without visible ports.
    pub fn scope(&self, names: &Names) -> Option<(Option<u8>, Ports)> {
        let Some(limit) = &self.limit else { return Some((None, Ports::ANY)) };
        let (protocol, ports) = match limit.split_once('/') {
            Some((protocol, ports)) => (protocol, Some(ports)),
            None => (limit.as_str(), None),
        };
        let protocol = match protocol {
            "" | "any" | "%any" | "0" => None,
            name => Some(names.protocol(name)?),
        };
        let Some(ports) = ports else { return Some((protocol, Ports::ANY)) };
        let one = |text| match protocol {
            Some(1 | 58) => message(text),
            protocol => names.port(text, protocol),
        };
        // Service names may contain hyphens.
        let range = match (one(ports), ports.split_once('-')) {
            (Some(port), _) => Ports::one(port),
            (None, Some((first, last))) => Ports { first: one(first)?, last: one(last)? },
            (None, None) => return None,
        };
        (range.first <= range.last).then_some((protocol, range))
    }
}

/// Type and code of an ICMP message as one number: `8`, `3(4)`.
fn message(text: &str) -> Option<u16> {
    let (kind, code) = match text.split_once('(') {
        Some((kind, code)) => (kind, code.strip_suffix(')')?),
        None => (text, "0"),
    };
    Some(u16::from_be_bytes([kind.parse().ok()?, code.parse().ok()?]))
}

fn prefix(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().map(|prefix| prefix.trunc()).or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()
}

fn range(first: IpAddr, last: IpAddr) -> Option<Vec<IpNet>> {
    let subnets = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => IpSubnets::V4(Ipv4Subnets::new(first, last, 0)),
        (IpAddr::V6(first), IpAddr::V6(last)) => IpSubnets::V6(Ipv6Subnets::new(first, last, 0)),
        _ => return None,
    };
    let prefixes: Vec<IpNet> = subnets.take(MOST_PREFIXES).collect();
    (!prefixes.is_empty()).then_some(prefixes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_selector_of_every_form_is_parsed() {
        for (text, prefixes, limit) in [
            ("10.10.10.0/24", "10.10.10.0/24", None),
            ("0.0.0.0/0", "0.0.0.0/0", None),
            ("fd00:10::/64", "fd00:10::/64", None),
            ("10.0.0.1/32[tcp/https]", "10.0.0.1/32", Some("tcp/https")),
            ("10.0.0.0/24[17/1000-2000]", "10.0.0.0/24", Some("17/1000-2000")),
            ("10.0.0.1..10.0.0.6", "10.0.0.1/32 10.0.0.2/31 10.0.0.4/31 10.0.0.6/32", None),
            ("10.0.0.0..10.0.1.255[udp]", "10.0.0.0/23", Some("udp")),
            ("fd00::..fd00::3", "fd00::/126", None),
            ("10.0.0.7", "10.0.0.7/32", None),
        ] {
            let found = TrafficSelector::parse(text).expect(text);
            let shown: Vec<String> = found.prefixes.iter().map(IpNet::to_string).collect();
            assert_eq!((shown.join(" ").as_str(), found.limit.as_deref()), (prefixes, limit), "{text}");
        }
        for text in ["dynamic", "", "10.0.0.0/33", "10.0.0.0/24[tcp", "10.0.0.9..10.0.0.1", "10.0.0.1..fd00::1"] {
            assert_eq!(TrafficSelector::parse(text), None, "{text}");
        }
    }

    #[test]
    fn selector_limit_is_parsed_to_numbers() {
        let names = Names::of(
            "",
            "https 443/tcp
http-alt 8080/tcp
",
        );
        let any = Ports::ANY;
        let range = |first, last| Ports { first, last };
        for (limit, expected) in [
            ("tcp", Some((Some(6), any))),
            ("17", Some((Some(17), any))),
            ("0", Some((None, any))),
            ("tcp/22", Some((Some(6), Ports::one(22)))),
            ("tcp/https", Some((Some(6), Ports::one(443)))),
            ("tcp/http-alt", Some((Some(6), Ports::one(8080)))),
            ("udp/1024-2047", Some((Some(17), range(1024, 2047)))),
            ("0/500", Some((None, Ports::one(500)))),
            ("icmp/8", Some((Some(1), Ports::one(0x0800)))),
            ("icmp/3(4)", Some((Some(1), Ports::one(0x0304)))),
            ("ipv6-icmp/128-129(255)", Some((Some(58), range(0x8000, 0x81ff)))),
            ("tcp/OPAQUE", None),
            ("udp/https", None),
            ("tcp/2-1", None),
            ("tcp/", None),
            ("tcp/1-", None),
            ("nothing", None),
            ("icmp/8(", None),
            ("icmp/256", None),
            ("tcp/65536", None),
        ] {
            let selector = TrafficSelector { prefixes: Vec::new(), limit: Some(limit.to_owned()) };
            assert_eq!(selector.scope(&names), expected, "{limit}");
        }
    }
}
