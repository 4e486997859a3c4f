//! Where a customer gateway is: an address, a DNS name, or unknown.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};
use toml::de::DeValue;

use super::{
    diagnostic::{Problem, quoted},
    value::{self, Read},
};

/// The text for an unknown address.
const ANY: &str = "any";
/// RFC 1035 section 2.3.4, without the final dot.
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// A customer gateway's address. Displays, and is stored, as in the file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum SiteAddress {
    Ip(IpAddr),
    /// A host name in lower case (RFC 1123 section 2.1), which the IKE daemon resolves at each attempt.
    Name(String),
    /// The site is known by its identity alone.
    Any,
}

impl SiteAddress {
    /// The address, if the file has it.
    pub const fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Name(_) | Self::Any => None,
        }
    }

    pub const fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }
}

impl From<IpAddr> for SiteAddress {
    fn from(address: IpAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for SiteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
            Self::Any => f.write_str(ANY),
        }
    }
}

impl From<SiteAddress> for String {
    fn from(address: SiteAddress) -> Self {
        address.to_string()
    }
}

/// The text is neither an address, a host name nor `any`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoSiteAddress(String);

impl FromStr for SiteAddress {
    type Err = NoSiteAddress;

    fn from_str(text: &str) -> Result<Self, NoSiteAddress> {
        of_text(text).map_err(|problem| NoSiteAddress(problem.sentence()))
    }
}

impl TryFrom<String> for SiteAddress {
    type Error = NoSiteAddress;

    fn try_from(text: String) -> Result<Self, NoSiteAddress> {
        text.parse()
    }
}

/// The address of a site's device.
pub(super) fn site_address(value: &DeValue<'_>) -> Read<SiteAddress> {
    value::string(value).and_then(of_text)
}

fn of_text(text: &str) -> Read<SiteAddress> {
    if text == ANY {
        return Ok(SiteAddress::Any);
    }
    if is_meant_as_any(text) {
        let help = "write \"any\" for a site whose address is not known";
        return Err(Problem::new(format!("{} is not an address", quoted(text))).help(help));
    }
    if looks_like_address(text) {
        return value::address_of_host(text).map(SiteAddress::Ip);
    }
    match wrong_name(text) {
        None => Ok(SiteAddress::Name(text.to_ascii_lowercase())),
        Some((what, help)) => Err(Problem::new(format!("{} {what}", quoted(text))).help(help)),
    }
}

fn is_meant_as_any(text: &str) -> bool {
    ["*", "%any", "%any4", "%any6", "0.0.0.0/0", "::/0"].contains(&text) || text.eq_ignore_ascii_case(ANY)
}

/// Whether the text is meant as an address: it is one, it has the letters of one, or it begins with one. The last label
/// of a host name is never a number (RFC 1123 section 2.1).
fn looks_like_address(text: &str) -> bool {
    let start = text.trim().split(['/', '%']).next().unwrap_or_default();
    let is_number = |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit());
    let is_v6_letter = |byte: u8| byte.is_ascii_hexdigit() || b":.".contains(&byte);
    let is_v6 = start.matches(':').count() > 1 && start.bytes().all(is_v6_letter);
    start.parse::<IpAddr>().is_ok() || is_v6 || start.split('.').all(is_number)
}

/// What is wrong with a host name, and what to write instead.
fn wrong_name(text: &str) -> Option<(String, String)> {
    let advice = "write an address such as \"198.51.100.10\", a DNS name such as \"site.example.net\", or \"any\"";
    let wrong = |what: &str, help: String| Some((what.to_owned(), help));
    if text.is_empty() {
        return wrong("is empty", advice.to_owned());
    }
    if text.contains('*') {
        let help = "name one host, or write \"any\" for a site whose address is not known";
        return wrong("matches several hosts", help.to_owned());
    }
    if let Some(bare) = bare(text) {
        return wrong("is not an address or host name alone", format!("write {}", quoted(&bare)));
    }
    if !text.is_ascii() {
        let help = "write the name in its ASCII form, which begins with \"xn--\"";
        return wrong("has characters that no host name has", help.to_owned());
    }
    if let Some(odd) = text.chars().find(|c| !c.is_ascii_alphanumeric() && !"-.".contains(*c)) {
        let odd = quoted(&odd.to_string());
        return Some((format!("is not a host name: it has {odd} in it"), advice.to_owned()));
    }
    let labels = || text.split('.');
    if labels().any(|label| label.is_empty() || label.starts_with('-') || label.ends_with('-')) {
        let help = "between two dots are letters, digits and -, and no - at either end";
        return wrong("is not a host name", help.to_owned());
    }
    if text.len() > LONGEST_NAME || labels().any(|label| label.len() > LONGEST_LABEL) {
        let help = format!("a name has at most {LONGEST_NAME} characters, and {LONGEST_LABEL} between two dots");
        return wrong("is too long for a host name", help);
    }
    if labels().count() == 1 {
        let help = format!("write the name with its domain, such as {}", quoted(&format!("{text}.example.net")));
        return wrong("is neither an address nor a full host name", help);
    }
    if labels().next_back().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit())) {
        return wrong("is neither an address nor a host name: it ends with a number", advice.to_owned());
    }
    None
}

/// The address or name within a URL, or before a port, a prefix length or a final dot.
fn bare(text: &str) -> Option<String> {
    let host = text.trim();
    let host = host.split_once("://").map_or(host, |(_, host)| host);
    let host = host.split(['/', '%']).next().unwrap_or_default();
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (host != text).then(|| of_text(host).ok()).flatten().map(|address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_name_and_any_are_read_and_displayed_as_in_the_file() {
        for (text, expected) in [
            ("198.51.100.10", SiteAddress::Ip([198, 51, 100, 10].into())),
            ("2001:db8::10", SiteAddress::Ip("2001:db8::10".parse().expect("an address"))),
            ("site.example.net", SiteAddress::Name("site.example.net".into())),
            ("1st-site.example.net", SiteAddress::Name("1st-site.example.net".into())),
            ("10.example", SiteAddress::Name("10.example".into())),
            ("xn--bcher-kva.example", SiteAddress::Name("xn--bcher-kva.example".into())),
            ("any", SiteAddress::Any),
        ] {
            let address: SiteAddress = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((&address, address.to_string().as_str()), (&expected, text));
            let json = serde_json::to_value(&address).expect("a string");
            assert_eq!((json.as_str(), serde_json::from_value(json.clone()).ok()), (Some(text), Some(address)));
        }
        // Names do not differ in case (RFC 4343).
        assert_eq!("Site.Example.NET".parse(), Ok(SiteAddress::Name("site.example.net".into())));
        let longest = format!("{}.example.net", vec!["a".repeat(59); 4].join("."));
        assert_eq!(longest.len(), 251);
        assert!(longest.parse::<SiteAddress>().is_ok());
    }

    #[test]
    fn other_text_is_rejected_with_a_remedy() {
        let label = "a".repeat(64);
        let long = vec!["a".repeat(60); 5].join(".");
        for (text, what, remedy) in [
            ("", "is empty", "or \"any\""),
            ("198.51.100.300", "is not an IPv4 or IPv6 address", "write an address such as"),
            ("198.51.100", "is not an IPv4 or IPv6 address", "write an address such as"),
            ("10.0.0.0/8", "is not an IPv4 or IPv6 address", "write the address alone: \"10.0.0.0\""),
            ("fe80::1%eth0", "is not an IPv4 or IPv6 address", "write the address alone: \"fe80::1\""),
            ("2001:db8::12345", "is not an IPv4 or IPv6 address", "write an address such as"),
            ("0.0.0.0", "is the unspecified address", "write an address such as"),
            ("::", "is the unspecified address", "write an address such as"),
            ("127.0.0.1", "is a loopback address", "write an address such as"),
            ("198.51.100.10:500", "is not an address or host name alone", "write \"198.51.100.10\""),
            ("[2001:db8::10]:500", "is not an address or host name alone", "write \"2001:db8::10\""),
            ("site.example.net:500", "is not an address or host name alone", "write \"site.example.net\""),
            ("https://site.example.net/x", "is not an address or host name alone", "write \"site.example.net\""),
            ("site.example.net.", "is not an address or host name alone", "write \"site.example.net\""),
            (" site.example.net", "is not an address or host name alone", "write \"site.example.net\""),
            ("host:500", "is not a host name: it has \":\" in it", "or \"any\""),
            ("*", "is not an address", "write \"any\""),
            ("%any", "is not an address", "write \"any\""),
            ("0.0.0.0/0", "is not an address", "write \"any\""),
            ("Any", "is not an address", "write \"any\""),
            ("*.example.net", "matches several hosts", "name one host"),
            ("host", "is neither an address nor a full host name", "\"host.example.net\""),
            ("site_1.example.net", "is not a host name: it has \"_\" in it", "or \"any\""),
            ("a b.example.net", "is not a host name: it has \" \" in it", "or \"any\""),
            ("bücher.example", "has characters that no host name has", "\"xn--\""),
            ("-site.example.net", "is not a host name", "no - at either end"),
            ("site..example.net", "is not a host name", "between two dots"),
            (".", "is not a host name", "between two dots"),
            (&format!("{label}.net"), "is too long for a host name", "63 between two dots"),
            (&long, "is too long for a host name", "at most 253 characters"),
            ("site.example.7", "it ends with a number", "or \"any\""),
        ] {
            let error = text.parse::<SiteAddress>().expect_err(text).to_string();
            assert!(error.contains(what) && error.contains("; help: ") && error.contains(remedy), "{text}: {error}");
        }
    }
}
