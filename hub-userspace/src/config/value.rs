//! Validates one value of the file: type, syntax and range. Rules across values are in [`super::rules`].

use std::{net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use toml::de::DeValue;

use super::{
    diagnostic::{Problem, counted, quoted},
    model::{LookupKind, Service},
    suggest::nearest,
};

/// Bytes of a kernel interface name without the terminating NUL (`IFNAMSIZ` - 1, linux/if.h).
const MAX_INTERFACE_BYTES: usize = 15;
/// Bytes of a unix socket's path without the terminating NUL (`sockaddr_un`, unix(7)).
const MAX_SOCKET_BYTES: usize = 107;
const MAX_NAME_CHARACTERS: usize = 63;
const GATEWAY_NAME_CHARACTERS: RangeInclusive<usize> = 2..=128;
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);
const DELAYS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

pub(super) type Read<T> = Result<T, Problem>;

/// A value's type, for messages.
pub(super) fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {}", quoted(text)),
        DeValue::Integer(number) if number.as_str().len() <= 20 => format!("the integer {number}"),
        DeValue::Integer(_) => "a huge integer".to_owned(),
        DeValue::Float(number) => {
            format!("the number {}", quoted(number.as_str()).trim_matches('"'))
        }
        DeValue::Boolean(flag) => format!("{flag}"),
        DeValue::Datetime(_) => "a date or time".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

pub(super) fn wrong_type(expected: &str, found: &DeValue<'_>) -> Problem {
    Problem::new(format!("must be {expected}, is {}", describe(found)))
}

pub(super) fn string<'v>(value: &'v DeValue<'_>) -> Read<&'v str> {
    value.as_str().ok_or_else(|| {
        let problem = wrong_type("a string", value);
        match value {
            DeValue::Integer(number) => problem.help(format!("put it in quotes: \"{number}\"")),
            DeValue::Array(items) if items.len() == 1 => problem.help("write the one value without the brackets"),
            _ => problem.help("write text in quotes"),
        }
    })
}

pub(super) fn boolean(value: &DeValue<'_>) -> Read<bool> {
    value.as_bool().ok_or_else(|| {
        let problem = wrong_type("true or false", value);
        match value.as_str().map(str::to_lowercase).as_deref() {
            Some(flag @ ("true" | "false")) => problem.help(format!("write {flag} without quotes")),
            _ => problem.help("write true or false, without quotes"),
        }
    })
}

/// Data structure for the look-up of routes and selectors.
pub(super) fn lookup(value: &DeValue<'_>) -> Read<LookupKind> {
    match string(value)? {
        "compiled" => Ok(LookupKind::Compiled),
        "lpm" => Ok(LookupKind::Lpm),
        other => {
            let problem = Problem::new(format!("must be \"compiled\" or \"lpm\", is {}", quoted(other)));
            Err(problem.help("write \"compiled\" for speed, \"lpm\" where memory is scarce"))
        }
    }
}

/// A whole number within `range`.
pub(super) fn integer(value: &DeValue<'_>, range: RangeInclusive<u32>) -> Read<u32> {
    let expected = || format!("a whole number from {} to {}", range.start(), range.end());
    let DeValue::Integer(number) = value else {
        let problem = wrong_type(&expected(), value);
        return Err(match value.as_str().and_then(|text| text.parse::<u32>().ok()) {
            Some(number) => problem.help(format!("write {number} without quotes")),
            None if value.is_float() => problem.help("write it without a fraction"),
            None => problem.help("write a whole number"),
        });
    };
    i128::from_str_radix(number.as_str(), number.radix())
        .ok()
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            wrong_type(&expected(), value).help(format!("choose a number from {} to {}", range.start(), range.end()))
        })
}

/// Name of the gateway. For display only, so any script is allowed.
pub(super) fn gateway_name(value: &DeValue<'_>) -> Read<String> {
    let name = string(value)?;
    let length = name.chars().count();
    if !GATEWAY_NAME_CHARACTERS.contains(&length) {
        return Err(Problem::new(format!("{} has {}", quoted(name), counted(length, "character")))
            .help("give the gateway a name of 2 to 128 characters"));
    }
    if name.chars().any(char::is_control) {
        return Err(Problem::new(format!("{} has control characters in it", quoted(name)))
            .help("use letters, digits, blanks and signs only"));
    }
    Ok(name.to_owned())
}

/// Name of a connection or customer gateway: used in commands, socket paths and metrics.
pub(super) fn check_name(name: &str) -> Read<()> {
    let advice = "use 1 to 63 of A-Z a-z 0-9 . _ -";
    if name.is_empty() {
        return Err(Problem::new("the name is empty").help(advice));
    }
    if let Some(odd) = name.chars().find(|&c| !c.is_ascii_alphanumeric() && !"._-".contains(c)) {
        let odd = quoted(&odd.to_string());
        return Err(Problem::new(format!("the name {} has {odd} in it", quoted(name))).help(advice));
    }
    if name.len() > MAX_NAME_CHARACTERS {
        return Err(Problem::new(format!("the name {} has {} characters", quoted(name), name.len())).help(advice));
    }
    Ok(())
}

/// A name that another section defines; the rules check that it exists.
pub(super) fn reference(value: &DeValue<'_>) -> Read<String> {
    string(value).map(str::to_owned)
}

/// A network interface name.
pub(super) fn interface(value: &DeValue<'_>) -> Read<String> {
    let name = string(value)?;
    check_interface(name).map(|()| name.to_owned())
}

/// Whether the name is valid for the kernel (`dev_valid_name`, net/core/dev.c).
pub(super) fn check_interface(name: &str) -> Read<()> {
    let shown = quoted(name);
    if name.is_empty() {
        return Err(Problem::new("the interface name is empty").help("name the interface as `ip link` shows it"));
    }
    if name.len() > MAX_INTERFACE_BYTES {
        let why = if name.is_ascii() { "" } else { " (a character outside ASCII takes several)" };
        return Err(Problem::new(format!(
            "{shown} is {} bytes long{why}, the kernel allows at most {MAX_INTERFACE_BYTES}",
            name.len()
        ))
        .help("give the interface a shorter name, here and where it is created"));
    }
    if matches!(name, "." | "..") {
        return Err(
            Problem::new(format!("{shown} is not an interface name")).help("name the interface as `ip link` shows it")
        );
    }
    if let Some(odd) = name.chars().find(|&c| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        let odd = quoted(&odd.to_string());
        return Err(Problem::new(format!("{shown} has {odd} in it, which no interface name may have"))
            .help("name the interface as `ip link` shows it"));
    }
    Ok(())
}

/// Address of one host: a device, a link neighbour, an end of a health check.
pub(super) fn host_address(value: &DeValue<'_>) -> Read<IpAddr> {
    string(value).and_then(address_of_host)
}

/// As [`host_address`], of a text.
pub(super) fn address_of_host(text: &str) -> Read<IpAddr> {
    let advice = "write an address such as \"198.51.100.10\" or \"2001:db8::10\"";
    let Ok(address) = text.parse::<IpAddr>() else {
        let problem = Problem::new(format!("{} is not an IPv4 or IPv6 address", quoted(text)));
        let bare = text.trim().split(['/', '%']).next().and_then(|bare| bare.parse::<IpAddr>().ok());
        return Err(match bare {
            Some(bare) => problem.help(format!("write the address alone: \"{bare}\"")),
            None => problem.help(advice),
        });
    };
    if let Some(mapped) = ipv4_mapped(address) {
        return Err(Problem::new(format!("{} is an IPv4-mapped IPv6 address", quoted(text)))
            .help(format!("write the IPv4 address: \"{mapped}\"")));
    }
    match kind_of_no_host(address) {
        Some(kind) => Err(Problem::new(format!("{address} is {kind}, not the address of one host")).help(advice)),
        None => Ok(address),
    }
}

/// The IPv4 address in `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2); such addresses do not occur in packets.
pub(super) fn ipv4_mapped(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => address.to_ipv4_mapped().map(IpAddr::V4),
    }
}

fn kind_of_no_host(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_multicast() => Some("a multicast address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_unspecified() => Some("the unspecified address"),
        IpAddr::V4(address) if address.is_broadcast() => Some("the broadcast address"),
        // RFC 1122 section 3.2.1.3 and RFC 1112 section 4.
        IpAddr::V4(address) if address.octets()[0] == 0 => Some("an address of \"this network\" (0.0.0.0/8)"),
        IpAddr::V4(address) if address.octets()[0] >= 240 => Some("a reserved address (240.0.0.0/4)"),
        _ => None,
    }
}

/// A service on the hub that sites may reach.
pub(super) fn service(value: &DeValue<'_>) -> Read<Service> {
    let text = string(value)?;
    text.parse().map_err(|_| {
        let problem = Problem::new(format!("{} is not a service", quoted(text)));
        match text.to_lowercase().replace(':', "/").parse::<Service>() {
            Ok(meant) => problem.help(format!("did you mean {}?", quoted(&meant.to_string()))),
            Err(_) => {
                problem.help("write \"icmp\", or protocol and port from 1 to 65535, such as \"tcp/179\" or \"udp/53\"")
            }
        }
    })
}

/// One of a fixed set of words.
pub(super) fn choice<T: Copy>(value: &DeValue<'_>, choices: &[(&str, T)]) -> Read<T> {
    let word = string(value)?;
    if let Some((_, found)) = choices.iter().find(|(name, _)| *name == word) {
        return Ok(*found);
    }
    let problem = Problem::new(format!("{} is not one of the choices", quoted(word)));
    let all = choices.iter().map(|(name, _)| quoted(name)).collect::<Vec<_>>();
    Err(match nearest(word, choices.iter().map(|(name, _)| *name)) {
        Some(meant) => problem.help(format!("did you mean {}?", quoted(meant))),
        None => problem.help(format!("write {}", all.join(" or "))),
    })
}

/// An absolute path, independent of the agent's working directory.
pub(super) fn path(value: &DeValue<'_>) -> Read<PathBuf> {
    let text = string(value)?;
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(Problem::new(format!("{} is not a path", quoted(text))).help("name a file by its absolute path"));
    }
    if !text.starts_with('/') {
        return Err(Problem::new(format!("the path {} does not begin with /", quoted(text))).help(format!(
            "write the absolute path, such as {}",
            quoted(&format!("/etc/vpnhub/{}", text.trim_start_matches("./")))
        )));
    }
    if text.ends_with('/') {
        return Err(Problem::new(format!("{} is a directory", quoted(text))).help("name a file in it"));
    }
    Ok(text.into())
}

/// A unix socket.
pub(super) fn socket(value: &DeValue<'_>) -> Read<PathBuf> {
    let path = path(value)?;
    match path.as_os_str().len() {
        length if length > MAX_SOCKET_BYTES => {
            Err(Problem::new(format!("the path is {length} bytes long, a socket's path at most {MAX_SOCKET_BYTES}"))
                .help("move the socket to a shorter path, here and where it is created"))
        }
        _ => Ok(path),
    }
}

/// A duration in whole seconds; `shown` is the range for messages.
pub(super) fn seconds(value: &DeValue<'_>, range: &RangeInclusive<Duration>, shown: &str) -> Read<Duration> {
    let duration = time(value, range, &format!("choose a time from {shown}"))?;
    if duration.subsec_nanos() == 0 {
        Ok(duration)
    } else {
        let text = quoted(value.as_str().unwrap_or_default());
        Err(Problem::new(format!("{text} has a part of a second")).help("write whole seconds"))
    }
}

/// A duration such as `"3s"`, `"100ms"`, `"1.5s"` or `"1m"`, from 10 ms to 1 h.
pub(super) fn interval(value: &DeValue<'_>) -> Read<Duration> {
    time(value, &INTERVALS, "choose a time from \"10ms\" to \"1h\"")
}

/// As [`interval`], but may be zero.
pub(super) fn delay(value: &DeValue<'_>) -> Read<Duration> {
    time(value, &DELAYS, "choose a time from \"0s\" to \"1h\"")
}

fn time(value: &DeValue<'_>, range: &RangeInclusive<Duration>, advice: &str) -> Read<Duration> {
    let text = match value {
        DeValue::Integer(number) => {
            return Err(
                wrong_type("a time in quotes", value).help(format!("write \"{}s\" for seconds", number.as_str()))
            );
        }
        _ => string(value)?,
    };
    let duration = parse_duration(text).ok_or_else(|| {
        Problem::new(format!("{} is not a time", quoted(text))).help("write a number and ms, s, m or h, such as \"3s\"")
    })?;
    if range.contains(&duration) {
        Ok(duration)
    } else {
        Err(Problem::new(format!("{} is out of range", quoted(text))).help(advice))
    }
}

/// A number and its unit, such as `3s`, `100ms`, `1.5s` or `1m`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    let nanoseconds: u64 = match unit {
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3600 * 1_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    // Integer arithmetic, so that 1.1 s is exact. At most nine digits of fraction, so the product fits 128 bits.
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(nanoseconds) / scale;
    let total = whole.parse::<u64>().ok()?.checked_mul(nanoseconds)?.checked_add(u64::try_from(part).ok()?)?;
    Some(Duration::from_nanos(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_or_rejected() {
        let milliseconds = |text| parse_duration(text).map(|time| time.as_millis());
        let good = [("3s", 3000), ("100ms", 100), ("1.5s", 1500), ("1m", 60_000), ("1h", 3_600_000), ("0.25m", 15_000)];
        for (text, expected) in good {
            assert_eq!(milliseconds(text), Some(expected), "{text}");
        }
        for text in
            ["", "3", "s", "3 s", ".5s", "1.s", "-1s", "+1s", "1e3s", "3sec", "99999999999999999999s", "1.5.5s", "三s"]
        {
            assert_eq!(milliseconds(text), None, "{text}");
        }
    }

    #[test]
    fn interface_names_follow_kernel_rules() {
        let read = |name: &str| interface(&DeValue::String(name.into()));
        for name in ["eth0", "tun-sh", "a", "123456789012345", "上海隧道", "wg@0", "eth0.100"] {
            assert!(read(name).is_ok(), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a b", "a:1", "a\tb", "1234567890123456", "上海上海上海", "a\0"] {
            assert!(read(name).is_err(), "{name}");
        }
    }

    #[test]
    fn names_with_other_characters_are_rejected() {
        for name in ["a", "shanghai-1", "DC_2.east", &"x".repeat(63)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "a b", "上海", "a/b", &"x".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn host_addresses_exclude_special_ranges() {
        let read = |address: &str| host_address(&DeValue::String(address.into()));
        for address in ["198.51.100.10", "169.254.10.2", "fe80::1", "2001:db8::1", "10.0.0.1"] {
            assert!(read(address).is_ok(), "{address}");
        }
        for address in [
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "0.1.2.3",
            "250.0.0.1",
            "::ffff:1.2.3.4",
            "fe80::1%eth0",
            "host",
            "",
        ] {
            assert!(read(address).is_err(), "{address}");
        }
    }
}
