//! Validates a prefix of the file: its syntax, its host bits, and whether packets to it can be forwarded.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::IntErrorKind,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::de::DeValue;

use super::{
    diagnostic::{Problem, quoted},
    value::{Read, ipv4_mapped, string},
};

/// Use of a prefix; determines which prefixes are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Destination of a route, or a VPC prefix: packets to it are forwarded.
    Forwarding,
    /// A side of an SA. It may include the link addresses of the tunnel (usually from 169.254.0.0/16).
    Selector,
    /// A side of a translation: packets to each of its addresses are forwarded.
    Translation,
}

/// A prefix without host bits that is valid for `purpose`.
pub(super) fn prefix(value: &DeValue<'_>, purpose: Purpose) -> Read<IpNet> {
    of_text(string(value)?, purpose)
}

/// As [`prefix`], for a text from outside the file.
pub(super) fn of_text(text: &str, purpose: Purpose) -> Read<IpNet> {
    let prefix = parse_prefix(text)?;
    if purpose == Purpose::Translation
        && let Some((range, kind)) =
            never_forwarded(purpose).find(|(range, _)| prefix.contains(range) && *range != prefix)
    {
        let problem = Problem::new(format!("{prefix} contains {range}, which is {kind} and never forwarded"));
        return Err(problem.help("write narrower prefixes, of hosts behind the gateway"));
    }
    match unusable(&prefix, purpose) {
        Some(kind) => Err(Problem::new(format!("{prefix} is {kind}, which is never forwarded"))
            .help("remove it, or write a prefix of hosts behind the gateway")),
        None => Ok(prefix),
    }
}

fn parse_prefix(text: &str) -> Read<IpNet> {
    let not_a_prefix = || Problem::new(format!("{} is not an IPv4 or IPv6 prefix", quoted(text)));
    let advice = "write a prefix such as \"10.10.10.0/24\" or \"fd00:10::/64\"";
    if text.trim() != text {
        return Err(not_a_prefix().help("remove the blanks around it"));
    }
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| not_a_prefix().help(advice))?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let Some(length) = length else {
        return Err(Problem::new(format!("{} has no prefix length", quoted(text)))
            .help(format!("write \"{address}/{longest}\" for this one address")));
    };
    let prefix = IpNet::new(address, prefix_length(text, address, length)?)
        .map_err(|_| not_a_prefix().help(format!("the length is 0 to {longest}")))?;
    if let (Some(IpAddr::V4(mapped)), 96..) = (ipv4_mapped(address), prefix.prefix_len()) {
        let unmapped = Ipv4Net::new(mapped, prefix.prefix_len() - 96).map_err(|_| not_a_prefix())?;
        return Err(Problem::new(format!("{} is an IPv4-mapped IPv6 prefix", quoted(text)))
            .help(format!("write the IPv4 prefix: \"{}\"", unmapped.trunc())));
    }
    if prefix != prefix.trunc() {
        return Err(Problem::new(format!("{} has host bits set", quoted(text))).help(format!(
            "write \"{}\" for the network, or \"{address}/{longest}\" for the one address",
            prefix.trunc()
        )));
    }
    Ok(prefix)
}

fn prefix_length(text: &str, address: IpAddr, length: &str) -> Read<u8> {
    let (family, longest) = if address.is_ipv4() { ("IPv4", 32) } else { ("IPv6", 128) };
    let range = format!("an {family} prefix length is 0 to {longest}");
    if let Some(mask) = length.parse().ok().and_then(|mask| ipnet::ip_mask_to_prefix(mask).ok()) {
        return Err(Problem::new(format!("{} has a netmask for its length", quoted(text)))
            .help(format!("write \"{address}/{mask}\"")));
    }
    let digits_only = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    match length.parse::<u8>() {
        Ok(length) if digits_only && length <= longest => Ok(length),
        Err(error) if !digits_only && *error.kind() != IntErrorKind::PosOverflow => {
            Err(Problem::new(format!("{} has a prefix length that is not a number", quoted(text))).help(range))
        }
        _ => Err(Problem::new(format!("{} has a prefix length of {}", quoted(text), quoted(length).trim_matches('"')))
            .help(range)),
    }
}

/// Ranges that are never forwarded (RFC 6890): the parse stage passes them to the host or drops them.
const NEVER_FORWARDED: [(IpNet, &str); 7] = [
    (v4([224, 0, 0, 0], 4), "multicast"),
    (v4([127, 0, 0, 0], 8), "loopback"),
    (v4([240, 0, 0, 0], 4), "reserved (240.0.0.0/4)"),
    (v4([0, 0, 0, 0], 8), "unspecified (0.0.0.0/8)"),
    (v6(0xff00, 0, 8), "multicast"),
    (v6(0, 1, 128), "loopback"),
    (v6(0, 0, 128), "unspecified"),
];
const LINK_LOCAL: [(IpNet, &str); 2] = [(v4([169, 254, 0, 0], 16), "link-local"), (v6(0xfe80, 0, 10), "link-local")];

const fn v4(octets: [u8; 4], length: u8) -> IpNet {
    let [a, b, c, d] = octets;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

/// The prefix of an address by its first and last 16 bits.
const fn v6(first: u16, last: u16, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last), length))
}

/// Why `prefix` is invalid for `purpose`. A prefix that merely contains invalid ranges is valid.
fn unusable(prefix: &IpNet, purpose: Purpose) -> Option<&'static str> {
    never_forwarded(purpose).find(|(range, _)| range.contains(prefix)).map(|&(_, kind)| kind)
}

/// What a prefix is that the program never forwards, such as "link-local"; `None` for others.
pub fn never_forwarded_as(prefix: IpNet) -> Option<&'static str> {
    unusable(&prefix, Purpose::Forwarding)
}

fn never_forwarded(purpose: Purpose) -> impl Iterator<Item = &'static (IpNet, &'static str)> {
    let also: &[_] = if purpose == Purpose::Selector { &[] } else { &LINK_LOCAL };
    NEVER_FORWARDED.iter().chain(also)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_prefix_error_suggests_correction() {
        let cases = [
            ("10.10.10.1/24", "\"10.10.10.0/24\" for the network"),
            ("10.10.10.1", "\"10.10.10.1/32\""),
            ("fd00::1", "\"fd00::1/128\""),
            ("fd00::1/64", "\"fd00::/64\""),
            ("10.0.0.0/255.0.0.0", "\"10.0.0.0/8\""),
            ("::ffff:10.1.2.3/112", "\"10.1.0.0/16\""),
            ("10.0.0.0/33", "0 to 32"),
            ("fd00::/129", "0 to 128"),
            ("10.0.0.0/+8", "0 to 32"),
            ("10.0.0.0/", "0 to 32"),
            ("10.0.0.0/99999999999999999999", "0 to 32"),
            (" 10.0.0.0/8", "blanks"),
            ("010.0.0.0/8", "such as"),
            ("", "such as"),
        ];
        for (text, advice) in cases {
            let help = parse_prefix(text).expect_err(text).help.expect(text);
            assert!(help.contains(advice), "{text}: {help}");
        }
    }

    #[test]
    fn prefix_containing_unusable_ones_is_usable() {
        for text in ["0.0.0.0/0", "::/0", "128.0.0.0/1", "fe00::/7", "10.0.0.0/8", "64:ff9b::/96"] {
            let prefix = parse_prefix(text).expect(text);
            assert_eq!(unusable(&prefix, Purpose::Forwarding), None, "{text}");
        }
    }

    #[test]
    fn translated_prefix_contains_no_unusable_one() {
        for text in ["0.0.0.0/0", "128.0.0.0/1", "168.0.0.0/5", "fe00::/7", "::/8"] {
            let problem = of_text(text, Purpose::Translation).expect_err(text);
            assert!(problem.message.starts_with(&format!("{text} contains ")), "{problem:?}");
        }
        for text in ["169.254.0.0/16", "169.254.1.0/24", "224.0.0.0/4", "::1/128"] {
            let problem = of_text(text, Purpose::Translation).expect_err(text);
            assert!(problem.message.contains(" is "), "{problem:?}");
        }
        for text in ["192.168.1.0/24", "10.0.0.0/8", "fd00::/8", "64:ff9b::/96"] {
            of_text(text, Purpose::Translation).expect(text);
        }
    }

    #[test]
    fn link_local_prefix_is_usable_in_selectors_only() {
        let prefix = parse_prefix("169.254.10.0/30").expect("a prefix");
        assert_eq!(unusable(&prefix, Purpose::Selector), None);
        assert_eq!(unusable(&prefix, Purpose::Forwarding), Some("link-local"));
    }
}
