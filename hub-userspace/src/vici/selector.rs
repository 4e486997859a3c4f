//! Traffic selectors as charon writes them: `10.0.0.0/24`, `10.0.0.1..10.0.0.9`, with `[tcp/443]` behind where they are for
//! a protocol or ports alone.

use std::{fmt, net::IpAddr};

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

/// What one traffic selector says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrafficSelector {
    /// A range is several.
    pub prefixes: Vec<IpNet>,
    /// Protocol and ports, as charon writes them; `None`: all.
    pub limit: Option<String>,
}

impl fmt::Display for TrafficSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefixes: Vec<String> = self.prefixes.iter().map(IpNet::to_string).collect();
        f.write_str(&prefixes.join(" "))?;
        self.limit.iter().try_for_each(|limit| write!(f, "[{limit}]"))
    }
}

/// Most prefixes that a range of addresses can need.
const MOST_PREFIXES: usize = 256;

impl TrafficSelector {
    /// `None` for what is no addresses: `dynamic`, before the peer has said its own.
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
    fn every_form_is_read() {
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
}
