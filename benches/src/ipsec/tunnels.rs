//! SAs, policies and interfaces of the tunnels, and the agent's configuration for them: text for `ip -batch`, and TOML.

use std::{fmt::Write as _, net::Ipv4Addr};

use clap::ValueEnum;

/// The hub's interfaces, one for each tunnel.
pub fn device(number: u32) -> String {
    format!("esp{number}")
}

/// A site's interface.
pub const SITE_DEVICE: &str = "esp";
/// The site's end of the link that ESP takes; the hub's are [`UNDER`].
pub const SITE_UNDER: &str = "under";
/// The links to the first two sites.
pub const UNDER: [&str; 2] = ["under-a", "under-b"];
/// Ends of these links: the hub's, and the sites'.
pub const HUB_UNDER: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 5)];
pub const PEERS: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(203, 0, 113, 6)];
/// Fits ESP on a link with 1,500 bytes.
const MTU: u32 = 1400;
/// Peers of all other tunnels, and the networks behind them, a /24 each. No traffic goes there.
const OTHER_PEERS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const OTHER_NETWORKS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);

/// How packets are protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Encryption {
    /// AES-GCM with 128-bit keys
    AesGcm,
    /// No encryption and no authentication: the cost of everything else
    Null,
}

impl Encryption {
    pub fn name(self) -> &'static str {
        match self {
            Self::AesGcm => "aes-gcm",
            Self::Null => "null",
        }
    }

    /// Arguments of `ip xfrm state add`.
    fn algorithm(self) -> &'static str {
        match self {
            Self::AesGcm => "aead rfc4106(gcm(aes)) 0x0102030405060708090a0b0c0d0e0f1011121314 128",
            Self::Null => "enc ecb(cipher_null) \"\" auth digest_null \"\"",
        }
    }
}

/// One end of a tunnel.
#[derive(Clone, Copy)]
pub struct End {
    /// Of the tunnel, from 0.
    pub number: u32,
    pub own: Ipv4Addr,
    pub other: Ipv4Addr,
}

impl End {
    pub fn at_hub(number: u32) -> Self {
        let near = HUB_UNDER.get(number as usize).unwrap_or(&HUB_UNDER[0]);
        let far = PEERS.get(number as usize).copied();
        let other = far.unwrap_or_else(|| Ipv4Addr::from_bits(OTHER_PEERS.to_bits() + number));
        Self { number, own: *near, other }
    }

    pub fn at_site(number: u32) -> Self {
        let Self { own, other, .. } = Self::at_hub(number);
        Self { number, own: other, other: own }
    }

    fn id(self) -> u32 {
        self.number + 1
    }

    /// Two SAs, which the ends distinguish by their addresses. No replay window: the generator repeats a frame.
    pub fn add_sas(self, encryption: Encryption) -> String {
        let (id, algorithm) = (self.id(), encryption.algorithm());
        let more = format!("reqid {id} mode tunnel flag af-unspec {algorithm} if_id {id}");
        self.sas().map(|sa| format!("xfrm state add {sa} {more}\n")).concat()
    }

    pub fn delete_sas(self) -> String {
        self.sas().map(|sa| format!("xfrm state delete {sa}\n")).concat()
    }

    fn sas(self) -> [String; 2] {
        let spi = 0x1000 + self.number;
        [(self.own, self.other), (self.other, self.own)]
            .map(|(from, to)| format!("src {from} dst {to} proto esp spi {spi}"))
    }

    /// The interface, and policies that admit everything on it.
    pub fn add_interface(self, device: &str, under: &str) -> String {
        let Self { own, other, .. } = self;
        let id = self.id();
        let mut lines = format!("link add {device} type xfrm dev {under} if_id {id}\n");
        writeln!(lines, "link set dev {device} mtu {MTU} up").expect("a string takes all");
        for any in ["0.0.0.0/0", "::/0"] {
            for (direction, from, to) in [("out", own, other), ("in", other, own), ("fwd", other, own)] {
                writeln!(
                    lines,
                    "xfrm policy add src {any} dst {any} dir {direction} \
                     tmpl src {from} dst {to} proto esp reqid {id} mode tunnel if_id {id}"
                )
                .expect("a string takes all");
            }
        }
        lines
    }
}

/// IPv4 and IPv6 networks behind a tunnel.
pub fn networks(number: u32) -> [String; 2] {
    let fourth = match number {
        0 => "10.10.10.0/24".to_owned(),
        1 => "10.10.20.0/24".to_owned(),
        _ => format!("{}/24", Ipv4Addr::from_bits(OTHER_NETWORKS.to_bits() + (number << 8))),
    };
    [fourth, format!("fd00:10:{number:x}::/48")]
}

/// Routes for the kernel's own forwarding; the agent adds its own.
pub fn add_routes(attachments: u32) -> String {
    let routes = (0..attachments).flat_map(|number| networks(number).map(|network| (network, device(number))));
    routes.map(|(network, device)| format!("route add {network} dev {device}\n")).collect::<Vec<_>>().concat()
}

/// A connection and its routes for each tunnel.
pub fn config(attachments: u32) -> String {
    let mut text = format!("[gateway]\nname = \"bench-hub\"\nmax_connections = {attachments}\n");
    for number in 0..attachments {
        let End { other, .. } = End::at_hub(number);
        let (name, networks) = (device(number), networks(number));
        write!(
            text,
            "\n[customer_gateway.{name}]\naddress = \"{other}\"\n\
             [connection.{name}]\ncustomer_gateway = \"{name}\"\ninterface = \"{name}\"\n\
             local_cidrs = [\"0.0.0.0/0\", \"::/0\"]\nremote_cidrs = {networks:?}\n"
        )
        .expect("a string takes all");
        for network in &networks {
            write!(text, "[[route]]\ndestination = \"{network}\"\nnext_hop = \"{name}\"\n")
                .expect("a string takes all");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn both_ends_of_tunnel_have_same_sas() {
        for number in [0, 1, 999] {
            let lines =
                |end: End| -> BTreeSet<String> { end.add_sas(Encryption::AesGcm).lines().map(str::to_owned).collect() };
            let hub = lines(End::at_hub(number));
            assert_eq!(hub.len(), 2, "{hub:?}");
            assert_eq!(hub, lines(End::at_site(number)));
        }
    }

    #[test]
    fn tunnels_share_neither_peer_nor_network() {
        let peers: BTreeSet<_> = (0..4000).map(|number| End::at_hub(number).other).collect();
        let networks: BTreeSet<_> = (0..4000).flat_map(networks).collect();
        assert_eq!((peers.len(), networks.len()), (4000, 8000));
    }

    #[test]
    fn configuration_has_connection_and_routes_for_each_tunnel() {
        let text = config(3);
        assert_eq!(text.matches("[connection.").count(), 3);
        assert_eq!(text.matches("[[route]]").count(), 6);
        assert!(text.contains("max_connections = 3\n") && text.contains("\"fd00:10:2::/48\"]"), "{text}");
    }
}
