//! Generates the configuration of the site's device that matches the hub's: `vpnhub peer-config`.
//!
//! [`site::Site`] is the tunnel from the site's point of view, with local and remote swapped. Each format has a
//! template in `templates/`, except `json`. To support a new device, add a template and a variant of [`Format`].

mod cloud;
mod device;
pub mod site;
mod templates;
mod tunnels;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::config::{
    Config,
    ipsec::{
        Auth,
        secret::{Secret, SecretError},
    },
};
use site::Site;

/// Replaces the secret in the output.
pub const PLACEHOLDER: &str = "<PRE-SHARED-KEY>";

/// Configuration syntax of the site's device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// strongSwan's ipsec.conf and ipsec.secrets.
    Strongswan,
    /// strongSwan's swanctl.conf.
    Swanctl,
    /// Cisco IOS and IOS XE.
    CiscoIos,
    /// Cisco ASA, 9.0 or later.
    CiscoAsa,
    /// Huawei USG firewalls and AR routers.
    Huawei,
    /// H3C firewalls and routers, Comware 7.
    H3c,
    /// Juniper SRX.
    Juniper,
    /// Fields of the cloud's `DownloadVpnConnectionConfig`.
    Json,
}

impl Format {
    pub const ALL: [Self; 8] = [
        Self::Strongswan,
        Self::Swanctl,
        Self::CiscoIos,
        Self::CiscoAsa,
        Self::Huawei,
        Self::H3c,
        Self::Juniper,
        Self::Json,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Strongswan => "strongswan",
            Self::Swanctl => "swanctl",
            Self::CiscoIos => "cisco-ios",
            Self::CiscoAsa => "cisco-asa",
            Self::Huawei => "huawei",
            Self::H3c => "h3c",
            Self::Juniper => "juniper",
            Self::Json => "json",
        }
    }

    /// Whether templates support certificates; other devices import theirs with commands of their own.
    const fn has_certificates(self) -> bool {
        matches!(self, Self::Strongswan | Self::Swanctl)
    }

    const fn has_ipv6(self) -> bool {
        !matches!(self, Self::CiscoIos | Self::Huawei | Self::H3c)
    }
}

/// Why no configuration can be generated.
#[derive(Debug, thiserror::Error)]
pub enum PeerConfigError {
    #[error("there is no connection \"{name}\"; help: the connections are {}", .known.join(", "))]
    NoConnection { name: String, known: Vec<String> },
    #[error("connection {0} has no IPsec; help: add [connection.{0}.ipsec] with psk_file = \"/etc/vpnhub/{0}.psk\"")]
    NoIpsec(String),
    #[error(
        "the hub's public address, at which the site reaches it, is not configured; \
         help: add address = \"203.0.113.1\", the hub's public address, to [gateway]"
    )]
    NoAddress,
    #[error(
        "the hub's address {hub} and the site's {site} are not of one IP version; \
         help: give the customer gateway an address of the hub's version"
    )]
    MixedVersions { hub: String, site: String },
    #[error(
        "connection {0} reaches nothing that the hub knows, and with its default local prefix the site would send all \
         its traffic into the tunnel; help: configure the VPC, routes to other connections, or what segment \"{1}\" \
         reaches; or write the destinations as local_cidrs of connection {0}"
    )]
    NothingBehind(String, String),
    #[error("{format} configurations support pre-shared keys only; help: use --format swanctl, or psk_file")]
    Certificates { format: &'static str },
    #[error("{format} configurations support IPv4 only, and {what} is not; help: use --format swanctl")]
    Ipv6 { format: &'static str, what: String },
    #[error(
        "{format}: such a configuration sends a pair of prefixes into one tunnel, and connection {name} has several; help: \
         write that of one tunnel for each of the site's devices, {tunnels}, or use --format swanctl or json"
    )]
    OneTunnel { format: &'static str, name: String, tunnels: String },
    #[error("{format}: {why}")]
    Device { format: &'static str, why: String },
    #[error("connection {0} has a certificate, not a secret; help: leave --with-secret out")]
    NoSecret(String),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// The site's configuration. Only `with_secret` reads the secret from its file and includes it.
pub fn render(config: &Config, name: &str, format: Format, with_secret: bool) -> Result<String, PeerConfigError> {
    let members: Vec<&String> = config.members(name).map(|(member, _)| member).collect();
    let Some(connection) = config.any_member(name) else {
        return Err(PeerConfigError::NoConnection {
            name: name.to_owned(),
            known: config.configured().map(|(name, _)| name.to_owned()).collect(),
        });
    };
    let Some(ipsec) = &connection.ipsec else { return Err(PeerConfigError::NoIpsec(name.to_owned())) };
    let secret = match &ipsec.auth {
        Auth::Psk { file } if with_secret => Some(Secret::read(file)?),
        Auth::Certificate { .. } if with_secret => return Err(PeerConfigError::NoSecret(name.to_owned())),
        _ => None,
    };
    match members.as_slice() {
        [only] => write(&Site::of(config, only, secret.as_ref())?, format),
        _ => tunnels::write(config, name, format, secret.as_ref()),
    }
}

fn write(site: &Site, format: Format) -> Result<String, PeerConfigError> {
    let device = format.name();
    if site.auth == site::AUTH_CERTIFICATE && !format.has_certificates() {
        return Err(PeerConfigError::Certificates { format: device });
    }
    if !format.has_ipv6() {
        let no = |what: String| Err(PeerConfigError::Ipv6 { format: device, what });
        // A fixed address of the site is of the same IP version.
        if site.remote.address.contains(':') {
            return no(format!("the hub's address {}", site.remote.address));
        }
        if !site.pairs.iter().any(|pair| !pair.local.ipv6) {
            return no("none of its prefixes".to_owned());
        }
    }
    match format {
        Format::Json => Ok(cloud::json(site)),
        _ => templates::render(format, site),
    }
}
