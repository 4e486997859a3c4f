//! A tunnel from the site's point of view: the hub's remote end is the site's local end.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::Serialize;

use super::{PLACEHOLDER, PeerConfigError};
use crate::config::{
    Config, SiteAddress,
    ipsec::{
        Algorithm, Auth, Form, Identity, IkeV1Mode, IkeVersion, Proposal, StartAction, TunnelParameters, group_number,
        secret::Secret,
    },
    segments,
    translate::{Translation, Translations},
    tunnels::connection_of,
};

pub const AUTH_PSK: &str = "psk";
pub const AUTH_CERTIFICATE: &str = "certificate";
/// Longest name: Huawei accepts 15 characters, and a number may follow.
const LONGEST_OBJECT: usize = 12;

/// The template's variables. They include the secret: never log them. `Debug` is not implemented for this reason.
#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "templates ask for them one by one")]
pub struct Site {
    /// The connection's name.
    pub name: String,
    /// The gateway's name.
    pub hub: String,
    /// The connection's name in a form that all devices accept: letters, digits and `-`, at most 12 characters.
    pub object: String,
    /// The site, by its own addresses.
    pub local: TunnelEnd,
    /// The site's public address for comments: an address, or what is known of it.
    pub place: String,
    /// How the hub recognizes the site, if not by a fixed address: a sentence.
    pub recognized: Option<String>,
    /// By which addresses others know the site, if not by its own: a sentence.
    pub translated: Option<String>,
    /// The hub.
    pub remote: TunnelEnd,
    /// Selectors of the tunnel: each of the site's prefixes with each of the hub's, of the same family.
    pub pairs: Vec<PeerPair>,
    /// All local prefixes that the hub admits, separated by commas.
    pub admitted: String,
    /// The hub admits more than `pairs`: it has a default prefix, and `pairs` has the known prefixes behind the hub.
    pub narrowed: bool,
    /// `psk` or `certificate`.
    pub auth: &'static str,
    /// The secret or its placeholder.
    pub secret: String,
    /// 1 or 2.
    pub version: u8,
    pub aggressive: bool,
    /// Which side initiates: `start` or `trap`.
    pub start: &'static str,
    pub encap: bool,
    /// Seconds; 0 turns dead peer detection off.
    pub dpd: u64,
    pub ike: Phase,
    pub esp: Phase,
    pub pfs: bool,
    /// An SA for each CPU.
    pub per_cpu_sas: bool,
    /// `None`: it is the only tunnel.
    pub tunnel: Option<SiteTunnel>,
}

/// One of several tunnels at a site.
#[derive(Serialize)]
pub struct SiteTunnel {
    /// Of the xfrm interface.
    pub if_id: u32,
    pub interface: String,
    /// Of the routes: the smallest is preferred.
    pub metric: u32,
    /// The site's own address, if it is fixed.
    pub source: Option<IpAddr>,
}

#[derive(Serialize)]
pub struct TunnelEnd {
    /// As in the hub's file.
    pub address: String,
    pub id: String,
    /// `ipv4`, `ipv6`, `fqdn`, `mail`, `dn` or `keyid`.
    pub form: &'static str,
    pub prefixes: Vec<PeerPrefix>,
}

#[derive(Clone, Serialize)]
pub struct PeerPrefix {
    pub cidr: String,
    pub address: IpAddr,
    pub length: u8,
    pub ipv6: bool,
    /// As `255.255.255.0`; empty for IPv6.
    pub mask: String,
    /// As `0.0.0.255`.
    pub wildcard: String,
}

#[derive(Serialize)]
pub struct PeerPair {
    pub local: PeerPrefix,
    pub remote: PeerPrefix,
}

#[derive(Serialize)]
pub struct Phase {
    /// In order of preference.
    pub proposals: Vec<Algorithms>,
    /// Seconds.
    pub lifetime: u64,
}

/// A proposal in strongSwan's keywords; an absent part is the empty string.
#[derive(Clone, Serialize)]
pub struct Algorithms {
    pub text: String,
    pub encryption: &'static str,
    pub integrity: &'static str,
    pub prf: &'static str,
    pub group: &'static str,
    /// IANA's number of the group; 0 for none.
    pub group_number: u16,
    pub aead: bool,
}

impl Site {
    pub fn of(config: &Config, name: &str, secret: Option<&Secret>) -> Result<Self, PeerConfigError> {
        let tunnel = config.tunnel(name).ok_or_else(|| PeerConfigError::NoIpsec(name.to_owned()))?;
        let hub = tunnel.hub.ok_or(PeerConfigError::NoAddress)?;
        if let Some(site) = tunnel.site.ip().filter(|site| site.is_ipv4() != hub.is_ipv4()) {
            return Err(PeerConfigError::MixedVersions { hub: hub.to_string(), site: site.to_string() });
        }
        let ipsec = tunnel.ipsec;
        let (remote, narrowed) = hub_prefixes(config, &tunnel);
        if remote.is_empty() {
            return Err(PeerConfigError::NothingBehind(name.to_owned(), tunnel.connection.segment.clone()));
        }
        let local = end(tunnel.site.to_string(), &tunnel.remote_id, &tunnel.connection.remote_cidrs);
        let remote = end(hub.to_string(), &tunnel.local_id, &remote);
        let is_psk = matches!(ipsec.auth, Auth::Psk { .. });
        Ok(Self {
            name: name.to_owned(),
            hub: config.gateway.name.clone(),
            object: object(name),
            pairs: pairs(&local.prefixes, &remote.prefixes),
            local,
            place: place(tunnel.site),
            recognized: recognized(&tunnel),
            translated: translated(&tunnel.connection.translate),
            remote,
            admitted: tunnel.connection.local_cidrs.iter().map(IpNet::to_string).collect::<Vec<_>>().join(","),
            narrowed,
            auth: if is_psk { AUTH_PSK } else { AUTH_CERTIFICATE },
            secret: secret.map_or(PLACEHOLDER, Secret::expose).to_owned(),
            version: ipsec.ike.version.number(),
            aggressive: ipsec.ike.version == IkeVersion::V1(IkeV1Mode::Aggressive),
            // One side initiates at once. The other side does so when there is traffic and no tunnel.
            start: if ipsec.start == StartAction::None { "start" } else { "trap" },
            encap: ipsec.encap,
            dpd: ipsec.dpd_delay.as_secs(),
            ike: phase(&ipsec.ike.proposals, ipsec.ike.lifetime),
            esp: phase(&ipsec.esp.proposals, ipsec.esp.lifetime),
            pfs: ipsec.has_pfs(),
            per_cpu_sas: ipsec.esp.per_cpu_sas,
            tunnel: None,
        })
    }
}

/// The destinations that the site sends into the tunnel, and whether the hub admits more.
///
/// If the hub admits any destination, the site would send all its traffic into the tunnel, including that to the
/// Internet. The site's configuration therefore has the known prefixes behind the hub, and negotiation narrows the
/// selectors to these; `IKEv1` does not support narrowing. If nothing is known of a family, the site gets no default
/// prefix of that family; so there may be none at all.
fn hub_prefixes(config: &Config, tunnel: &TunnelParameters<'_>) -> (Vec<IpNet>, bool) {
    let all = &tunnel.connection.local_cidrs;
    let own = connection_of(tunnel.name);
    let is_default = |prefix: &IpNet| prefix.prefix_len() == 0;
    let is_of = |one: &IpNet, other: &IpNet| one.addr().is_ipv4() == other.addr().is_ipv4();
    if !all.iter().any(is_default) {
        return (all.clone(), false);
    }
    let vpc = config.vpc.iter().filter(|_| config.reaches(&tunnel.connection.segment, segments::VPC));
    let behind = vpc.flat_map(|vpc| &vpc.cidrs).copied();
    let others = config.routes.iter().filter(|route| {
        let is_alternative =
            || config.routes.iter().any(|other| other.destination == route.destination && other.next_hop == own);
        let is_reached = || {
            let other = config.any_member(&route.next_hop);
            other.is_some_and(|other| config.reaches(&tunnel.connection.segment, &other.segment))
        };
        route.next_hop != own && is_reached() && !is_alternative()
    });
    // A family of which nothing is known has no destination to send there.
    let is_known = |prefix: &IpNet, known: &[IpNet]| known.iter().any(|known| is_of(known, prefix));
    // Destinations are as the hub sees them, so as this site does. By an address that it uses itself it reaches no one.
    let known = behind.chain(others.map(|route| route.destination));
    let known: Vec<IpNet> = known.flat_map(|prefix| tunnel.connection.translate.without_site(prefix)).collect();
    if tunnel.ipsec.ike.version != IkeVersion::V2 {
        let useful = all.iter().filter(|prefix| !is_default(prefix) || is_known(prefix, &known));
        return (useful.copied().collect(), false);
    }
    let has_site = |prefix: &IpNet| tunnel.connection.remote_cidrs.iter().any(|own| is_of(own, prefix));
    let mut prefixes = Vec::new();
    let mut narrowed = false;
    for prefix in all.iter().filter(|prefix| has_site(prefix)) {
        let within: Vec<IpNet> =
            known.iter().filter(|known| is_of(known, prefix) && !is_default(known)).copied().collect();
        if is_default(prefix) && !within.is_empty() {
            narrowed = true;
            prefixes.extend(within);
        } else if is_default(prefix) && !is_known(prefix, &known) {
            narrowed = true;
        } else {
            prefixes.push(*prefix);
        }
    }
    (IpNet::aggregate(&prefixes), narrowed)
}

fn place(site: &SiteAddress) -> String {
    match site {
        SiteAddress::Ip(address) => address.to_string(),
        SiteAddress::Name(name) => format!("the address of {name}"),
        SiteAddress::Any => "the site's public address".to_owned(),
    }
}

fn recognized(tunnel: &TunnelParameters<'_>) -> Option<String> {
    let id = &tunnel.remote_id;
    match tunnel.site {
        SiteAddress::Ip(_) => None,
        SiteAddress::Name(name) => Some(format!(
            "The hub resolves {name}: its DNS record must follow the site's address. The site's identity is {id}."
        )),
        SiteAddress::Any => {
            Some(format!("The hub accepts this site from any address, and recognizes it by its identity {id} alone."))
        }
    }
}

fn translated(translations: &Translations) -> Option<String> {
    let pairs = translations.iter().map(|Translation { site, hub }| format!("{site} as {hub}"));
    let pairs: Vec<String> = pairs.collect();
    let sentence = || {
        format!("The hub translates the site's addresses: others see {}. Do not translate them here.", pairs.join(", "))
    };
    (!pairs.is_empty()).then(sentence)
}

fn end(address: String, id: &Identity, prefixes: &[IpNet]) -> TunnelEnd {
    let form = match id.form() {
        Form::Address if id.to_string().contains(':') => "ipv6",
        Form::Address => "ipv4",
        Form::Fqdn => "fqdn",
        Form::Mail => "mail",
        Form::Dn => "dn",
        Form::KeyId => "keyid",
    };
    TunnelEnd { address, id: id.to_string(), form, prefixes: prefixes.iter().map(prefix).collect() }
}

fn prefix(prefix: &IpNet) -> PeerPrefix {
    let (mask, wildcard) = match prefix {
        IpNet::V4(prefix) => (prefix.netmask().to_string(), Ipv4Addr::from(!u32::from(prefix.netmask())).to_string()),
        IpNet::V6(_) => Default::default(),
    };
    PeerPrefix {
        cidr: prefix.to_string(),
        address: prefix.network(),
        length: prefix.prefix_len(),
        ipv6: matches!(prefix, IpNet::V6(_)),
        mask,
        wildcard,
    }
}

fn pairs(local: &[PeerPrefix], remote: &[PeerPrefix]) -> Vec<PeerPair> {
    let pair = |local: &PeerPrefix, remote: &PeerPrefix| {
        (local.ipv6 == remote.ipv6).then(|| PeerPair { local: local.clone(), remote: remote.clone() })
    };
    local.iter().flat_map(|local| remote.iter().filter_map(move |remote| pair(local, remote))).collect()
}

fn phase(proposals: &[Proposal], lifetime: std::time::Duration) -> Phase {
    Phase { proposals: proposals.iter().map(algorithms).collect(), lifetime: lifetime.as_secs() }
}

fn algorithms(proposal: &Proposal) -> Algorithms {
    let Proposal { encryption, integrity, prf, group } = proposal;
    let name = |algorithm: Option<&'static Algorithm>| algorithm.map_or("", |found| found.name);
    Algorithms {
        text: proposal.to_string(),
        encryption: encryption.name,
        integrity: name(*integrity),
        prf: name(*prf),
        group: name(*group),
        group_number: group.and_then(group_number).unwrap_or_default(),
        aead: integrity.is_none(),
    }
}

/// A name that every device accepts; a long name is truncated and made unique by a checksum.
fn object(name: &str) -> String {
    let plain: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let plain = plain.trim_matches('-');
    if plain == name && name.len() <= LONGEST_OBJECT && name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return name.to_owned();
    }
    // FNV-1a: stable across machines and versions.
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let start: String = plain.chars().take(LONGEST_OBJECT - 7).collect();
    format!("v-{start}-{:04x}", hash & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::{Site, object};

    /// The hub's prefixes in the site's configuration, for a VPC with IPv4 alone and these keys of the connection.
    fn prefixes_of(version: u8, segment: &str, local: &str, remote: &str) -> Result<Vec<String>, String> {
        let text = format!(
            r#"
[gateway]
name = "hub"
address = "203.0.113.1"
[vpc]
interface = "vpc0"
cidrs = ["192.168.0.0/24"]
[segment.quarantine]
reaches = []
[customer_gateway.a]
address = "198.51.100.1"
[connection.a]
customer_gateway = "a"
interface = "xfrm-a"
segment = "{segment}"
local_cidrs = [{local}]
remote_cidrs = [{remote}]
[connection.a.ipsec]
psk_file = "/nowhere/psk"
allow_weak = true
ike = {{ version = {version} }}
"#
        );
        let config = crate::config::parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0;
        let site = Site::of(&config, "a", None).map_err(|error| error.to_string())?;
        Ok(site.remote.prefixes.into_iter().map(|prefix| prefix.cidr).collect())
    }

    #[test]
    fn default_prefix_of_a_family_of_which_nothing_is_known_is_not_for_the_site() {
        let (defaults, sites) = (r#""0.0.0.0/0", "::/0""#, r#""10.61.0.0/16", "fd61::/48""#);
        let prefixes = |version, local| prefixes_of(version, "default", local, sites).expect("it reaches the VPC");
        assert_eq!(prefixes(2, defaults), ["192.168.0.0/24"]);
        assert_eq!(prefixes(1, defaults), ["0.0.0.0/0"], "IKEv1 does not narrow");
        assert_eq!(prefixes(2, r#""0.0.0.0/0", "fd30::/64""#), ["192.168.0.0/24", "fd30::/64"]);
    }

    #[test]
    fn site_that_reaches_nothing_gets_no_default_prefix_but_an_error() {
        for version in [1, 2] {
            for (segment, local, remote) in
                [("quarantine", r#""0.0.0.0/0""#, r#""10.61.0.0/16""#), ("default", r#""::/0""#, r#""fd61::/48""#)]
            {
                let error = prefixes_of(version, segment, local, remote).expect_err("it reaches nothing");
                assert!(error.starts_with("connection a reaches nothing that the hub knows"), "{error}");
                assert!(error.contains(segment), "{error}");
            }
            let own = prefixes_of(version, "quarantine", r#""10.0.0.0/8""#, r#""10.61.0.0/16""#);
            assert_eq!(own, Ok(vec!["10.0.0.0/8".to_owned()]), "what the file names");
        }
    }

    #[test]
    fn object_names_fit_devices_and_stay_distinct() {
        assert_eq!(object("shanghai"), "shanghai");
        for name in ["shanghai.dc-1", "a_b", "1st", "a-very-long-name-of-a-connection", "-", "."] {
            let object = object(name);
            assert!(object.len() <= 12 && object.starts_with("v-"), "{object}");
            assert!(object.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'), "{object}");
        }
        assert_ne!(object("a-very-long-name-1"), object("a-very-long-name-2"));
    }
}
