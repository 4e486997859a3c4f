//! Hub configurations, to modify before writing: `to_string` gives the file.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::{env, fmt};

use super::{Site, VPC};

/// If set, the look-up that hubs are configured for.
const LOOKUP: &str = "VPNHUB_TEST_LOOKUP";

/// The hub of a world of offices, by default with every feature enabled.
#[derive(Debug, Clone)]
pub struct HubConfig {
    pub spoke_to_spoke: bool,
    pub allow_default_route: bool,
    /// In the file's syntax; `None` uses the default.
    pub services: Option<&'static str>,
    /// Further contents of `[gateway]`, where connections have IPsec.
    pub public: Option<PublicSide>,
    pub connections: Vec<ConnectionConfig>,
    pub routes: Vec<RouteConfig>,
    /// Contents of `[learn]`; `None`: no such section.
    pub learn: Option<&'static str>,
    /// Further sections, such as `[[policy_route]]`.
    pub sections: String,
    /// Further customer gateways, for tunnels: name and address.
    pub customer_gateways: Vec<(String, Ipv4Addr)>,
}

/// The hub's public side, as its sites reach it.
#[derive(Debug, Clone)]
pub struct PublicSide {
    pub address: IpAddr,
    /// The VICI socket of its charon.
    pub vici_socket: PathBuf,
}

/// `[connection.NAME.ipsec]`, and the site's public address.
#[derive(Debug, Clone)]
pub struct IpsecConfig {
    /// An address, a DNS name or `any`.
    pub site: String,
    pub auth: AuthConfig,
    /// IKE identities of the hub and the site; the default is their addresses.
    pub local_id: Option<String>,
    pub remote_id: Option<String>,
    /// The initiator: `start` (the hub), `trap` or `none` (the site).
    pub start: &'static str,
    /// `if_id` of an xfrm interface that the agent creates.
    pub if_id: Option<u32>,
    pub encap: bool,
    /// In the file's syntax.
    pub dpd_delay: &'static str,
    /// MTU of the xfrm interface, in the file's syntax; `None` uses the default.
    pub interface_mtu: Option<&'static str>,
    /// The proposal of ESP; `None` uses the defaults.
    pub esp: Option<&'static str>,
}

/// Authentication of hub and site: the hub's files.
#[derive(Debug, Clone)]
pub enum AuthConfig {
    Psk(PathBuf),
    Certificate { certificate: PathBuf, private_key: PathBuf, ca: PathBuf },
}

/// One `[connection.NAME]`, with a customer gateway of its own.
#[derive(Debug, Clone)]
pub struct ConnectionConfig {
    pub name: String,
    /// Connections to one site use the same name.
    pub customer_gateway: String,
    pub interface: String,
    pub peer: Option<IpAddr>,
    /// In the file's syntax, instead of interface, peer and health check.
    pub tunnels: Option<String>,
    pub local_cidrs: Vec<String>,
    pub remote_cidrs: Vec<String>,
    /// From the hub's end of the link to the site's, every 100 ms, down after 3 misses.
    pub health_check: bool,
    /// More keys of the health check, in the file's syntax, each after a comma. `destination` replaces that of the link.
    pub health_keys: String,
    /// In the file's syntax; `None` uses the default.
    pub up_delay: Option<String>,
    pub ipsec: Option<IpsecConfig>,
    /// In the file's syntax; `None` uses the default.
    pub selectors: Option<&'static str>,
    /// In the file's syntax; `None` uses the default.
    pub mss_clamp: Option<&'static str>,
    /// The site's own prefixes and those at the hub.
    pub translate: Vec<[String; 2]>,
}

/// One `[[route]]`.
#[derive(Debug, Clone)]
pub struct RouteConfig {
    pub destination: String,
    pub next_hop: String,
    pub weight: u8,
    pub publish: bool,
}

impl HubConfig {
    /// One connection per site, named after its place, that allows all of the site's networks, and a published route to
    /// each.
    pub fn offices(sites: &[Site]) -> Self {
        let connections = sites.iter().map(|site| ConnectionConfig::to_site(site, 0)).collect();
        let mut config = Self {
            spoke_to_spoke: true,
            allow_default_route: false,
            services: None,
            public: None,
            connections,
            routes: Vec::new(),
            learn: None,
            sections: String::new(),
            customer_gateways: Vec::new(),
        };
        for site in sites {
            config.add_routes(site, 0, 100);
        }
        config
    }

    /// Adds a connection over the second link of a site, named after its place with `-2` appended. The two links share
    /// the site's routes by these weights: first link, second link.
    #[must_use]
    pub fn second_link(mut self, site: &Site, [first, second]: [u8; 2]) -> Self {
        for route in self.routes.iter_mut().filter(|route| route.next_hop == site.place) {
            route.weight = first;
        }
        self.connections.push(ConnectionConfig::to_site(site, 1));
        self.add_routes(site, 1, second);
        self
    }

    /// Gives a site's connection two tunnels, `a` over its first link and `b` over its second, with these weights. With
    /// `health_check`, each is checked from the hub's end of its link to the site's.
    #[must_use]
    pub fn two_tunnels(mut self, site: &Site, weights: [u8; 2], health_check: bool) -> Self {
        let tunnel = |(name, link): (&str, u8)| {
            let (device, peer, weight) = (site.hub_device(link), site.peer4(link), weights[usize::from(link)]);
            let check = match health_check {
                true => format!(
                    ", health_check = {{ source = \"{}\", destination = \"{peer}\", interval = \"100ms\" }}",
                    Ipv4Addr::from(u32::from(peer) - 1)
                ),
                false => String::new(),
            };
            format!("{{ name = \"{name}\", interface = \"{device}\", peer = \"{peer}\", weight = {weight}{check} }}")
        };
        self.connection(&site.place).tunnels = Some([("a", 0), ("b", 1)].map(tunnel).join(", "));
        self
    }

    /// Replaces a site's connection with several, each with a name and the part of the site's networks routed to it.
    #[must_use]
    pub fn split(mut self, site: &Site, parts: &[(&str, [&str; 2])]) -> Self {
        self.connections.retain(|connection| connection.name != site.place);
        self.routes.retain(|route| route.next_hop != site.place);
        for (name, prefixes) in parts {
            self.connections.push(ConnectionConfig {
                name: (*name).to_owned(),
                customer_gateway: (*name).to_owned(),
                remote_cidrs: prefixes.map(str::to_owned).to_vec(),
                ..ConnectionConfig::to_site(site, 0)
            });
            self.routes.extend(prefixes.map(|prefix| RouteConfig {
                destination: prefix.to_owned(),
                next_hop: (*name).to_owned(),
                weight: 100,
                publish: true,
            }));
        }
        self
    }

    /// Unpublishes all routes.
    #[must_use]
    pub fn unpublished(mut self) -> Self {
        for route in &mut self.routes {
            route.publish = false;
        }
        self
    }

    /// The connection of this name.
    ///
    /// # Panics
    /// When there is none.
    pub fn connection(&mut self, name: &str) -> &mut ConnectionConfig {
        let found = self.connections.iter_mut().find(|connection| connection.name == name);
        found.unwrap_or_else(|| panic!("there is no connection {name:?}"))
    }

    fn add_routes(&mut self, site: &Site, link: u8, weight: u8) {
        for destination in [site.network4().to_string(), site.network6().to_string()] {
            let next_hop = connection_name(site, link);
            self.routes.push(RouteConfig { destination, next_hop, weight, publish: true });
        }
    }
}

fn connection_name(site: &Site, link: u8) -> String {
    if link == 0 { site.place.to_string() } else { format!("{}-{}", site.place, link + 1) }
}

impl ConnectionConfig {
    /// The connection over a link of a site; `link` 1 is the second.
    pub fn to_site(site: &Site, link: u8) -> Self {
        Self {
            name: connection_name(site, link),
            customer_gateway: format!("{}-office", site.place),
            interface: site.hub_device(link),
            peer: Some(site.peer4(link).into()),
            tunnels: None,
            local_cidrs: vec!["0.0.0.0/0".into(), "::/0".into()],
            remote_cidrs: vec![site.network4().to_string(), site.network6().to_string()],
            health_check: false,
            health_keys: String::new(),
            up_delay: None,
            ipsec: None,
            selectors: None,
            mss_clamp: None,
            translate: Vec::new(),
        }
    }
}

impl fmt::Display for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[gateway]\nname = \"test-hub\"\nspoke_to_spoke = {}", self.spoke_to_spoke)?;
        if self.allow_default_route {
            writeln!(f, "allow_default_route = true")?;
        }
        if let Some(services) = self.services {
            writeln!(f, "services = {services}")?;
        }
        if let Some(PublicSide { address, vici_socket }) = &self.public {
            writeln!(f, "address = \"{address}\"\nvici_socket = \"{}\"", vici_socket.display())?;
        }
        if let Ok(lookup) = env::var(LOOKUP) {
            writeln!(f, "\n[dataplane]\nlookup = \"{lookup}\"")?;
        }
        if let Some(learn) = self.learn {
            writeln!(f, "\n[learn]\n{learn}")?;
        }
        writeln!(f, "\n[vpc]\ninterface = \"{}\"", VPC.hub_device)?;
        writeln!(f, "cidrs = [\"192.168.0.0/24\", \"fd00:192:168::/64\"]\n")?;
        let mut gateways: BTreeMap<&str, Option<&str>> = BTreeMap::new();
        for connection in &self.connections {
            let address = connection.ipsec.as_ref().map(|ipsec| ipsec.site.as_str());
            let known = gateways.entry(&connection.customer_gateway).or_default();
            *known = known.or(address);
        }
        for ((gateway, address), last) in gateways.into_iter().zip(1..) {
            // Without IPsec this address is unused.
            let address = address.map_or_else(|| Ipv4Addr::new(198, 51, 100, last).to_string(), str::to_owned);
            writeln!(f, "[customer_gateway.{gateway}]\naddress = \"{address}\"\n")?;
        }
        for (gateway, address) in &self.customer_gateways {
            writeln!(f, "[customer_gateway.{gateway}]\naddress = \"{address}\"\n")?;
        }
        for connection in &self.connections {
            connection.fmt(f)?;
        }
        for RouteConfig { destination, next_hop, weight, publish } in &self.routes {
            writeln!(f, "[[route]]\ndestination = \"{destination}\"\nnext_hop = \"{next_hop}\"")?;
            writeln!(f, "weight = {weight}\npublish = {publish}\n")?;
        }
        f.write_str(&self.sections)
    }
}

impl fmt::Display for ConnectionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[connection.{}]\ncustomer_gateway = \"{}\"", self.name, self.customer_gateway)?;
        if let Some(tunnels) = &self.tunnels {
            writeln!(f, "tunnels = [{tunnels}]")?;
        } else {
            writeln!(f, "interface = \"{}\"", self.interface)?;
            self.peer.iter().try_for_each(|peer| writeln!(f, "peer = \"{peer}\""))?;
        }
        if let (true, Some(IpAddr::V4(peer)), None) = (self.health_check, self.peer, &self.tunnels) {
            // The two ends of a /30.
            let hub = Ipv4Addr::from(u32::from(peer) - 1);
            let destination = match self.health_keys.contains("destination") {
                true => String::new(),
                false => format!(", destination = \"{peer}\""),
            };
            let keys = &self.health_keys;
            let check = format!("source = \"{hub}\"{destination}, interval = \"100ms\", retries = 3{keys}");
            writeln!(f, "health_check = {{ {check} }}")?;
        }
        if let Some(up_delay) = &self.up_delay {
            writeln!(f, "up_delay = \"{up_delay}\"")?;
        }
        if let Some(mss_clamp) = self.mss_clamp {
            writeln!(f, "mss_clamp = {mss_clamp}")?;
        }
        if !self.translate.is_empty() {
            let pair = |[site, hub]: &[String; 2]| format!("{{ site = \"{site}\", hub = \"{hub}\" }}");
            writeln!(f, "translate = [{}]", self.translate.iter().map(pair).collect::<Vec<_>>().join(", "))?;
        }
        if let Some(selectors) = self.selectors {
            writeln!(f, "selectors = \"{selectors}\"")?;
        }
        // TOML and Rust debug output write a list of strings alike.
        writeln!(f, "local_cidrs = {:?}\nremote_cidrs = {:?}\n", self.local_cidrs, self.remote_cidrs)?;
        let Some(ipsec) = &self.ipsec else { return Ok(()) };
        let IpsecConfig { site: _, auth, local_id, remote_id, start, if_id, encap, dpd_delay, interface_mtu, esp } =
            ipsec;
        writeln!(f, "[connection.{}.ipsec]\n{auth}", self.name)?;
        for (key, id) in [("local_id", local_id), ("remote_id", remote_id)] {
            if let Some(id) = id {
                writeln!(f, "{key} = \"{id}\"")?;
            }
        }
        match (if_id, &self.tunnels) {
            (Some(_), Some(_)) => writeln!(f, "create_interface = true")?,
            (Some(if_id), None) => writeln!(f, "if_id = {if_id}\ncreate_interface = true")?,
            (None, _) => {}
        }
        if let Some(mtu) = interface_mtu {
            writeln!(f, "interface_mtu = {mtu}")?;
        }
        if let Some(proposal) = esp {
            writeln!(f, "esp = {{ proposals = [\"{proposal}\"] }}")?;
        }
        writeln!(f, "start = \"{start}\"\nencap = {encap}\ndpd_delay = \"{dpd_delay}\"\n")
    }
}

impl fmt::Display for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Psk(file) => write!(f, "psk_file = \"{}\"", file.display()),
            Self::Certificate { certificate, private_key, ca } => write!(
                f,
                "certificate = \"{}\"\nprivate_key = \"{}\"\nca = \"{}\"",
                certificate.display(),
                private_key.display(),
                ca.display()
            ),
        }
    }
}
