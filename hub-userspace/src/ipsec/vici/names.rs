//! Names of protocols and services. charon prints the names known on its host, and agent and charon share a host.

use std::{collections::HashMap, fs, sync::LazyLock};

use crate::policy::ports;

/// Protocols by name, and ports by service and protocol.
#[derive(Debug, Default)]
pub struct Names {
    protocols: HashMap<String, u8>,
    services: HashMap<(String, String), u16>,
}

/// The names of this host, read at first use.
static HOST: LazyLock<Names> = LazyLock::new(|| {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    Names::of(&read("/etc/protocols"), &read("/etc/services"))
});

impl Names {
    pub fn host() -> &'static Self {
        &HOST
    }

    /// Parses protocols(5) and services(5). Invalid lines are ignored.
    pub fn of(protocols: &str, services: &str) -> Self {
        let mut names = Self::default();
        names.protocols.extend(ports::NAMES.map(|(name, number)| (name.to_owned(), number)));
        for (name, number, _) in entries(protocols) {
            if let Ok(number) = number.parse() {
                names.protocols.insert(name.to_owned(), number);
            }
        }
        for (name, number, aliases) in entries(services) {
            if let Some((port, protocol)) = number.split_once('/')
                && let Ok(port) = port.parse()
            {
                for name in aliases.chain([name]) {
                    names.services.insert((name.to_owned(), protocol.to_owned()), port);
                }
            }
        }
        names
    }

    /// A protocol by its number or its name.
    pub fn protocol(&self, text: &str) -> Option<u8> {
        text.parse().ok().or_else(|| self.protocols.get(text).copied())
    }

    /// A port by number, or by its service name with this protocol. If the protocol has no ports, the service of any
    /// protocol applies.
    pub fn port(&self, text: &str, protocol: Option<u8>) -> Option<u16> {
        if let Ok(port) = text.parse() {
            return Some(port);
        }
        let with = |protocol: &str| self.services.get(&(text.to_owned(), protocol.to_owned())).copied();
        match protocol {
            Some(6) => with("tcp"),
            Some(17) => with("udp"),
            _ => ["tcp", "udp", "sctp", "dccp"].into_iter().find_map(with),
        }
    }
}

/// The first word of each line, the second, and the rest.
fn entries(file: &str) -> impl Iterator<Item = (&str, &str, impl Iterator<Item = &str>)> {
    file.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        Some((words.next()?, words.next()?, words))
    })
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn protocol_and_port_names_resolve_from_files() {
        let names =
            Names::of("# all\nip 0 IP\nl2tp\t115 L2TP # 2\nbad x\n", "https 443/tcp web # s\nntp 123/udp\nbad\n");
        assert_eq!(
            ["l2tp", "tcp", "6", "nothing", "256"].map(|text| names.protocol(text)),
            [Some(115), Some(6), Some(6), None, None]
        );
        assert_eq!((names.port("https", Some(6)), names.port("web", Some(6))), (Some(443), Some(443)));
        assert_eq!((names.port("https", Some(17)), names.port("ntp", Some(17))), (None, Some(123)));
        assert_eq!(
            (names.port("ntp", None), names.port("65535", Some(6)), names.port("65536", None)),
            (Some(123), Some(65535), None)
        );
    }
}
