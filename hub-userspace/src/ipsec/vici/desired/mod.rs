//! The desired state of charon for a configuration, and the steps to reach it. Pure, except for reading files.

mod loaded;
mod per_cpu;
pub mod wider;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use imbl::OrdMap;
use ipnet::IpNet;
use zeroize::Zeroizing;

pub use self::loaded::Loaded;
use super::message::Message;
use crate::config::{
    Config, SiteAddress,
    ipsec::{
        Auth, IkeV1Mode, IkeVersion, StartAction, TunnelParameters,
        secret::{Secret, check_key, read_text},
    },
};

/// Prefix of our names. Other objects of charon are left alone.
const PREFIX: &str = "vpnhub-";
/// Rekey before ESP's 32-bit sequence numbers run out: at a million packets per second that takes about an hour.
const REKEY_PACKETS: &str = "3600000000";
/// Maximum size of a PEM file in bytes: slightly below the maximum length of a message's value.
const LONGEST_PEM: usize = 60_000;

/// charon's name for a connection.
pub fn name_of(connection: &str) -> String {
    format!("{PREFIX}{connection}")
}

/// The connection with this name in charon, if it is ours.
pub fn connection_of(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
}

/// The desired state of charon. `Debug` shows no secrets.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct DesiredState {
    /// By charon's name.
    pub connections: BTreeMap<String, Message>,
    pub secrets: BTreeMap<String, SharedSecret>,
    pub keys: BTreeMap<PathBuf, Pem>,
    pub authorities: BTreeMap<PathBuf, Pem>,
    /// The hub's own; they are part of the connections.
    certificates: BTreeMap<PathBuf, Pem>,
    /// Connections that cannot be configured, by our name, with the reason.
    pub problems: OrdMap<String, String>,
    /// Connections that use a file, by our names.
    users: BTreeMap<PathBuf, BTreeSet<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedSecret {
    pub secret: Secret,
    pub file: PathBuf,
    /// Identities that use it: hub and site.
    pub owners: [String; 2],
}

impl SharedSecret {
    /// Whether both are the same for charon.
    fn is_same(&self, other: &Self) -> bool {
        (&self.secret, &self.owners) == (&other.secret, &other.owners)
    }
}

/// The PEM text of a certificate or a key. Its memory is overwritten on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem(Zeroizing<String>);

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem")
    }
}

/// A command that loads an object into charon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    pub command: &'static str,
    pub message: Message,
    pub loaded: Loaded,
}

/// An object of charon to remove, by charon's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unload {
    Connection(String),
    Secret(String),
}

impl DesiredState {
    /// Reads the files referenced by the configuration. A standby hub desires nothing.
    pub fn of(config: &Config) -> Self {
        let mut desired = Self::default();
        if !config.role.has_tunnels() {
            return desired;
        }
        for tunnel in config.tunnels() {
            if let Err(problem) = desired.add(&tunnel) {
                desired.problems.insert(tunnel.name.to_owned(), problem);
            }
        }
        desired
    }

    fn add(&mut self, tunnel: &TunnelParameters<'_>) -> Result<(), String> {
        let name = name_of(tunnel.name);
        let message = match &tunnel.ipsec.auth {
            Auth::Psk { file } => {
                let secret = Secret::read(file).map_err(|error| error.to_string())?;
                let owners = [tunnel.local_id.to_string(), tunnel.remote_id.to_string()];
                self.secrets.insert(name.clone(), SharedSecret { secret, file: file.clone(), owners });
                connection(tunnel, None)
            }
            Auth::Certificate { certificate, private_key, ca } => {
                check_key(private_key).map_err(|error| error.to_string())?;
                let (certificate_text, key) = (pem(certificate)?, pem(private_key)?);
                if let Some(ca) = ca {
                    self.authorities.insert(ca.clone(), pem(ca)?);
                }
                self.keys.insert(private_key.clone(), without_parameters(key));
                self.certificates.insert(certificate.clone(), certificate_text.clone());
                for file in [Some(private_key), Some(certificate), ca.as_ref()].into_iter().flatten() {
                    self.users.entry(file.clone()).or_default().insert(tunnel.name.to_owned());
                }
                connection(tunnel, Some((&certificate_text, ca.as_deref().map(pem).transpose()?.as_ref())))
            }
        };
        self.connections.insert(name, message);
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.secrets.is_empty()
    }

    /// Connections for which the contents of a file have changed, by our names.
    pub fn renewed_since(&self, old: &Self) -> BTreeSet<String> {
        let is_other = |new: &BTreeMap<PathBuf, Pem>, old: &BTreeMap<PathBuf, Pem>, file: &PathBuf| match old.get(file)
        {
            Some(pem) => new.get(file).is_some_and(|other| other != pem),
            None => false,
        };
        let files = self.users.iter().filter(|(file, _)| {
            is_other(&self.keys, &old.keys, file)
                || is_other(&self.authorities, &old.authorities, file)
                || is_other(&self.certificates, &old.certificates, file)
        });
        let secrets = self.secrets.iter().filter(|(name, new)| match old.secrets.get(*name) {
            Some(old) => old.file == new.file && old.secret != new.secret,
            None => false,
        });
        let secrets = secrets.filter_map(|(name, _)| connection_of(name).map(str::to_owned));
        files.flat_map(|(_, users)| users.iter().cloned()).chain(secrets).collect()
    }

    /// The connections that use an object, by our names.
    pub fn users<'s>(&'s self, loaded: &'s Loaded) -> impl Iterator<Item = &'s str> {
        let (name, file) = match loaded {
            Loaded::Key(file) | Loaded::Authority(file) => (None, Some(file)),
            Loaded::Secret(name) | Loaded::Connection(name) => (connection_of(name), None),
        };
        let users = file.and_then(|file| self.users.get(file)).into_iter().flatten().map(String::as_str);
        name.into_iter().chain(users)
    }

    /// Removes an object from the state: charon has refused it.
    pub fn forget(&mut self, loaded: &Loaded) {
        match loaded {
            Loaded::Key(file) => drop(self.keys.remove(file)),
            Loaded::Authority(file) => drop(self.authorities.remove(file)),
            Loaded::Secret(name) => drop(self.secrets.remove(name)),
            // charon may still have its previous version, which must be unloaded some day.
            Loaded::Connection(name) => drop(self.connections.insert(name.clone(), Message::default())),
        }
    }

    /// What is to be loaded after this state. Secrets come before the connections that need them.
    pub fn loads_from(&self, loaded: &Self) -> Vec<Load> {
        let mut loads = Vec::new();
        let mut load = |command, message, loaded| loads.push(Load { command, message, loaded });
        for (path, pem) in self.authorities.iter().filter(|(path, pem)| loaded.authorities.get(*path) != Some(*pem)) {
            let message = Message::default().with("type", "X509").with("flag", "CA").with("data", pem.0.as_str());
            debug_assert!(path.is_absolute(), "a rule says so");
            load("load-cert", message, Loaded::Authority(path.clone()));
        }
        for (path, pem) in self.keys.iter().filter(|(path, pem)| loaded.keys.get(*path) != Some(*pem)) {
            let message = Message::default().with("type", "any").with("data", pem.0.as_str());
            load("load-key", message, Loaded::Key(path.clone()));
        }
        for (name, shared) in self
            .secrets
            .iter()
            .filter(|(name, shared)| !loaded.secrets.get(*name).is_some_and(|loaded| loaded.is_same(shared)))
        {
            let message = Message::default().with("id", name).with("type", "IKE").with("data", shared.secret.expose());
            let message = message.with_list("owners", shared.owners.clone());
            load("load-shared", message, Loaded::Secret(name.clone()));
        }
        for (name, message) in &self.connections {
            if loaded.connections.get(name) != Some(message) {
                let message = Message::default().with_section(name, message.clone());
                load("load-conn", message, Loaded::Connection(name.clone()));
            }
        }
        loads
    }

    /// What is then to be removed. Secrets come after the connections that need them.
    pub fn unloads_from(&self, loaded: &Self) -> Vec<Unload> {
        let connections = loaded.connections.keys().filter(|name| !self.connections.contains_key(*name));
        let secrets = loaded.secrets.keys().filter(|name| !self.secrets.contains_key(*name));
        connections.cloned().map(Unload::Connection).chain(secrets.cloned().map(Unload::Secret)).collect()
    }

    /// Undesired leftovers of an earlier agent among these objects of charon.
    pub fn leftovers(&self, connections: &[String], secrets: &[String]) -> Vec<Unload> {
        let ours = |names: &[String], desired: &BTreeSet<&String>| -> Vec<String> {
            names.iter().filter(|name| connection_of(name).is_some() && !desired.contains(*name)).cloned().collect()
        };
        let connections = ours(connections, &self.connections.keys().collect());
        let secrets = ours(secrets, &self.secrets.keys().collect());
        connections.into_iter().map(Unload::Connection).chain(secrets.into_iter().map(Unload::Secret)).collect()
    }
}

fn pem(file: &Path) -> Result<Pem, String> {
    let text = read_text(file, LONGEST_PEM).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    match text {
        Some(text) if text.contains("-----BEGIN ") => Ok(Pem(text)),
        _ => Err(format!("{} is not a certificate or key in PEM format", file.display())),
    }
}

/// The private key without what precedes it: `openssl ecparam -genkey` writes the curve's parameters first, and
/// strongSwan reads only the first block.
fn without_parameters(pem: Pem) -> Pem {
    let key = pem.0.match_indices("-----BEGIN ").find(|(at, _)| {
        let label = pem.0[*at..].lines().next().unwrap_or_default();
        label.ends_with("PRIVATE KEY-----")
    });
    match key {
        Some((at, _)) if at > 0 => Pem(Zeroizing::new(pem.0[at..].to_owned())),
        _ => pem,
    }
}

/// The message for `load-conn`, with the keys of swanctl.conf(5).
fn connection(tunnel: &TunnelParameters<'_>, certificates: Option<(&Pem, Option<&Pem>)>) -> Message {
    let ipsec = tunnel.ipsec;
    let seconds = |seconds: u64| format!("{seconds}s");
    let texts =
        |proposals: &[crate::config::ipsec::Proposal]| proposals.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (lifetime, renewed) = (ipsec.ike.lifetime.as_secs(), ipsec.ike.lifetime.as_secs() * 9 / 10);
    let auth = |id: &str| {
        let auth = if certificates.is_some() { "pubkey" } else { "psk" };
        Message::default().with("auth", auth).with("id", id)
    };
    let (mut local, mut remote) = (auth(&tunnel.local_id.to_string()), auth(&tunnel.remote_id.to_string()));
    if let Some((certificate, ca)) = certificates {
        local = local.with_list("certs", [certificate.0.to_string()]);
        if let Some(ca) = ca {
            remote = remote.with_list("cacerts", [ca.0.to_string()]);
        }
    }
    let mut message = Message::default()
        .with_list("remote_addrs", [remote_address(tunnel.site)])
        .with("version", ipsec.ike.version.number().to_string())
        .with_list("proposals", texts(&ipsec.ike.proposals))
        .with("rekey_time", seconds(renewed))
        .with("over_time", seconds(lifetime - renewed))
        .with("dpd_delay", seconds(ipsec.dpd_delay.as_secs()))
        .with("keyingtries", "0")
        .with("encap", if ipsec.encap { "yes" } else { "no" })
        // A site that connects again has lost its old SAs.
        .with("unique", "replace");
    if ipsec.ike.version == IkeVersion::V1(IkeV1Mode::Aggressive) {
        message = message.with("aggressive", "yes");
    }
    let children = child_selectors(tunnel).into_iter().fold(Message::default(), |children, selectors| {
        let child = child(tunnel, &selectors);
        let child = if ipsec.esp.per_cpu_sas { per_cpu::child(child, ipsec.start) } else { single(child, ipsec.start) };
        children.with_section(&selectors.name, child)
    });
    message.with_section("local-1", local).with_section("remote-1", remote).with_section("children", children)
}

/// A child with one SA.
fn single(child: Message, start: StartAction) -> Message {
    let child = child.with("start_action", start.name());
    match start {
        StartAction::Start => child.with("dpd_action", "start").with("close_action", "start"),
        StartAction::Trap | StartAction::None => child,
    }
}

/// The site's address for charon, which resolves a name at each attempt and for each site that begins.
fn remote_address(site: &SiteAddress) -> String {
    match site {
        SiteAddress::Ip(_) | SiteAddress::Name(_) => site.to_string(),
        SiteAddress::Any => "%any".to_owned(),
    }
}

/// A child without actions of its own.
fn child(tunnel: &TunnelParameters<'_>, selectors: &ChildSelectors) -> Message {
    let esp = &tunnel.ipsec.esp;
    let (lifetime, renewed) = (esp.lifetime.as_secs(), esp.lifetime.as_secs() * 9 / 10);
    let mut child = Message::default()
        .with_list("local_ts", selectors.local.iter().map(IpNet::to_string))
        .with_list("remote_ts", selectors.remote.iter().map(IpNet::to_string))
        .with_list("esp_proposals", esp.proposals.iter().map(ToString::to_string))
        .with("rekey_time", format!("{renewed}s"))
        .with("life_time", format!("{lifetime}s"))
        .with("rekey_packets", REKEY_PACKETS);
    if let Some(id) = tunnel.ipsec.if_id {
        child = child.with("if_id_in", id.to_string()).with("if_id_out", id.to_string());
    }
    child
}

/// The message of a connection with more children, which charon initiates on request only.
pub fn with_children(message: &Message, tunnel: &TunnelParameters<'_>, more: &[ChildSelectors]) -> Message {
    let children = message.section("children").cloned().unwrap_or_default();
    let add = |children: Message, selectors: &ChildSelectors| {
        children.with_section(&selectors.name, child(tunnel, selectors))
    };
    message.clone().without("children").with_section("children", more.iter().fold(children, add))
}

/// The selectors of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildSelectors {
    /// charon's name.
    pub name: String,
    pub local: Vec<IpNet>,
    pub remote: Vec<IpNet>,
}

/// The children of a connection, by name: one for `IKEv2`. `IKEv1` allows one prefix per side, so it needs one child
/// per pair.
pub fn child_selectors(tunnel: &TunnelParameters<'_>) -> Vec<ChildSelectors> {
    let name = name_of(tunnel.name);
    let (local, remote) = (&tunnel.connection.local_cidrs, &tunnel.connection.remote_cidrs);
    if tunnel.ipsec.ike.version == IkeVersion::V2 {
        return vec![ChildSelectors { name, local: local.clone(), remote: remote.clone() }];
    }
    let pairs = local.iter().flat_map(|local| remote.iter().map(move |remote| (*local, *remote)));
    let pairs = pairs.filter(|(local, remote)| local.addr().is_ipv4() == remote.addr().is_ipv4());
    let child = |((local, remote), number): ((IpNet, IpNet), u32)| ChildSelectors {
        name: format!("{name}-{number}"),
        local: vec![local],
        remote: vec![remote],
    };
    pairs.zip(1..).map(child).collect()
}

#[cfg(test)]
mod tests;
