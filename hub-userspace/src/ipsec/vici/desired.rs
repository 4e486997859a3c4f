//! The desired state of charon for a configuration, and the steps to reach it. Pure, except for reading files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::message::Message;
use crate::config::{
    Config,
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
    /// Connections that cannot be configured, by our name, with the reason.
    pub problems: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedSecret {
    pub secret: Secret,
    /// Identities that use it: hub and site.
    pub owners: [String; 2],
}

/// The PEM text of a certificate or a key. Its memory is overwritten on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem(Zeroizing<String>);

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pem")
    }
}

/// A change of charon's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CharonStep {
    Load { command: &'static str, message: Message },
    UnloadConnection(String),
    UnloadSecret(String),
}

impl DesiredState {
    /// Reads the files referenced by the configuration.
    pub fn of(config: &Config) -> Self {
        let mut desired = Self::default();
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
                self.secrets.insert(name.clone(), SharedSecret { secret, owners });
                connection(tunnel, None)
            }
            Auth::Certificate { certificate, private_key, ca } => {
                check_key(private_key).map_err(|error| error.to_string())?;
                let (certificate, key) = (pem(certificate)?, pem(private_key)?);
                if let Some(ca) = ca {
                    self.authorities.insert(ca.clone(), pem(ca)?);
                }
                self.keys.insert(private_key.clone(), key);
                connection(tunnel, Some((&certificate, ca.as_deref().map(pem).transpose()?.as_ref())))
            }
        };
        self.connections.insert(name, message);
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.secrets.is_empty()
    }

    /// The steps from the state loaded before to this one. Secrets are loaded before the connections that need them,
    /// and removed after.
    pub fn steps_from(&self, loaded: &Self) -> Vec<CharonStep> {
        let mut steps = Vec::new();
        let load = |command, message| CharonStep::Load { command, message };
        for (path, pem) in self.authorities.iter().filter(|(path, pem)| loaded.authorities.get(*path) != Some(*pem)) {
            let message = Message::default().with("type", "X509").with("flag", "CA").with("data", pem.0.as_str());
            debug_assert!(path.is_absolute(), "a rule says so");
            steps.push(load("load-cert", message));
        }
        for (_, pem) in self.keys.iter().filter(|(path, pem)| loaded.keys.get(*path) != Some(*pem)) {
            steps.push(load("load-key", Message::default().with("type", "any").with("data", pem.0.as_str())));
        }
        for (name, shared) in self.secrets.iter().filter(|(name, shared)| loaded.secrets.get(*name) != Some(*shared)) {
            let message = Message::default().with("id", name).with("type", "IKE").with("data", shared.secret.expose());
            steps.push(load("load-shared", message.with_list("owners", shared.owners.clone())));
        }
        for (name, message) in &self.connections {
            if loaded.connections.get(name) != Some(message) {
                steps.push(load("load-conn", Message::default().with_section(name, message.clone())));
            }
        }
        let gone = loaded.connections.keys().filter(|name| !self.connections.contains_key(*name));
        steps.extend(gone.cloned().map(CharonStep::UnloadConnection));
        let gone = loaded.secrets.keys().filter(|name| !self.secrets.contains_key(*name));
        steps.extend(gone.cloned().map(CharonStep::UnloadSecret));
        steps
    }

    /// The steps that remove undesired leftovers of an earlier agent from charon.
    pub fn steps_to_clean(&self, connections: &[String], secrets: &[String]) -> Vec<CharonStep> {
        let ours = |names: &[String], desired: &BTreeSet<&String>| -> Vec<String> {
            names.iter().filter(|name| connection_of(name).is_some() && !desired.contains(*name)).cloned().collect()
        };
        let connections = ours(connections, &self.connections.keys().collect());
        let secrets = ours(secrets, &self.secrets.keys().collect());
        connections
            .into_iter()
            .map(CharonStep::UnloadConnection)
            .chain(secrets.into_iter().map(CharonStep::UnloadSecret))
            .collect()
    }
}

fn pem(file: &Path) -> Result<Pem, String> {
    let text = read_text(file, LONGEST_PEM).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    match text {
        Some(text) if text.contains("-----BEGIN ") => Ok(Pem(text)),
        _ => Err(format!("{} is not a certificate or key in PEM format", file.display())),
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
        .with_list("remote_addrs", [tunnel.site.to_string()])
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
    let mut children = Message::default();
    for (name, local, remote) in child_selectors(tunnel) {
        let (lifetime, renewed) = (ipsec.esp.lifetime.as_secs(), ipsec.esp.lifetime.as_secs() * 9 / 10);
        let mut child = Message::default()
            .with_list("local_ts", local.iter().map(IpNet::to_string))
            .with_list("remote_ts", remote.iter().map(IpNet::to_string))
            .with_list("esp_proposals", texts(&ipsec.esp.proposals))
            .with("rekey_time", seconds(renewed))
            .with("life_time", seconds(lifetime))
            .with("rekey_packets", REKEY_PACKETS)
            .with("start_action", ipsec.start.name());
        if ipsec.start == StartAction::Start {
            child = child.with("dpd_action", "start").with("close_action", "start");
        }
        if let Some(id) = ipsec.if_id {
            child = child.with("if_id_in", id.to_string()).with("if_id_out", id.to_string());
        }
        children = children.with_section(&name, child);
    }
    message.with_section("local-1", local).with_section("remote-1", remote).with_section("children", children)
}

/// The children of a connection, by name: one for `IKEv2`. `IKEv1` allows one prefix per side, so it needs one child
/// per pair.
fn child_selectors(tunnel: &TunnelParameters<'_>) -> Vec<(String, Vec<IpNet>, Vec<IpNet>)> {
    let name = name_of(tunnel.name);
    let (local, remote) = (&tunnel.connection.local_cidrs, &tunnel.connection.remote_cidrs);
    if tunnel.ipsec.ike.version == IkeVersion::V2 {
        return vec![(name, local.clone(), remote.clone())];
    }
    let pairs = local.iter().flat_map(|local| remote.iter().map(move |remote| (*local, *remote)));
    let pairs = pairs.filter(|(local, remote)| local.addr().is_ipv4() == remote.addr().is_ipv4());
    pairs.zip(1..).map(|((local, remote), number)| (format!("{name}-{number}"), vec![local], vec![remote])).collect()
}

/// charon's names of a connection's children.
pub fn children_of(message: &Message) -> Vec<String> {
    let children = message.section("children").into_iter().flat_map(Message::sections);
    children.map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const SECRET: &str = "kept-to-itself-0123456789";

    fn config(folder: &Path, ipsec: &str) -> Config {
        let psk = folder.join("psk");
        fs::write(&psk, SECRET).expect("written");
        fs::set_permissions(&psk, fs::Permissions::from_mode(0o600)).expect("set");
        let text = format!(
            r#"
[gateway]
name = "hub"
address = "203.0.113.1"
[customer_gateway.a]
address = "198.51.100.1"
[connection.a]
customer_gateway = "a"
interface = "xfrm-a"
local_cidrs = ["192.168.0.0/24", "fd00:1::/64"]
remote_cidrs = ["10.10.10.0/24", "10.10.11.0/24"]
[connection.a.ipsec]
psk_file = "{}"
{ipsec}
[connection.b]
customer_gateway = "a"
interface = "tun-b"
local_cidrs = ["0.0.0.0/0"]
remote_cidrs = ["10.20.0.0/16"]
"#,
            psk.display()
        );
        crate::config::parse(&text).unwrap_or_else(|errors| panic!("{errors:#?}")).0
    }

    fn commands(steps: &[CharonStep]) -> Vec<String> {
        let command = |step: &CharonStep| match step {
            CharonStep::Load { command, .. } => (*command).to_owned(),
            CharonStep::UnloadConnection(name) => format!("unload-conn {name}"),
            CharonStep::UnloadSecret(name) => format!("unload-shared {name}"),
        };
        steps.iter().map(command).collect()
    }

    #[test]
    fn connection_message_matches_configuration() {
        let folder = tempfile::tempdir().expect("a folder");
        let desired = DesiredState::of(&config(folder.path(), "if_id = 7\nencap = true\nesp.lifetime = \"1h\""));
        assert_eq!(desired.connections.keys().collect::<Vec<_>>(), ["vpnhub-a"]);
        let message = &desired.connections["vpnhub-a"];
        assert_eq!(message.list("remote_addrs"), ["198.51.100.1"]);
        assert_eq!((message.value("version"), message.value("encap")), (Some("2"), Some("yes")));
        assert_eq!((message.value("rekey_time"), message.value("over_time")), (Some("77760s"), Some("8640s")));
        assert_eq!(message.list("proposals"), crate::config::ipsec::DEFAULT_IKE_PROPOSALS);
        let id = |end| message.section(end).and_then(|end| end.value("id"));
        assert_eq!((id("local-1"), id("remote-1")), (Some("203.0.113.1"), Some("198.51.100.1")));
        let child = message.section("children").and_then(|all| all.section("vpnhub-a")).expect("a child");
        assert_eq!(child.list("local_ts"), ["192.168.0.0/24", "fd00:1::/64"]);
        assert_eq!(child.list("remote_ts"), ["10.10.10.0/24", "10.10.11.0/24"]);
        assert_eq!((child.value("if_id_in"), child.value("if_id_out")), (Some("7"), Some("7")));
        assert_eq!((child.value("life_time"), child.value("rekey_time")), (Some("3600s"), Some("3240s")));
        assert_eq!((child.value("start_action"), child.value("close_action")), (Some("start"), Some("start")));
        assert_eq!(desired.secrets["vpnhub-a"].owners, ["203.0.113.1", "198.51.100.1"]);
        assert!(!format!("{desired:?} {:?}", desired.steps_from(&DesiredState::default())).contains(SECRET));
    }

    #[test]
    fn ikev1_connection_has_one_child_per_pair_of_one_family() {
        let folder = tempfile::tempdir().expect("a folder");
        let desired =
            DesiredState::of(&config(folder.path(), "allow_weak = true\nike = { version = 1, mode = \"aggressive\" }"));
        let message = &desired.connections["vpnhub-a"];
        assert_eq!((message.value("version"), message.value("aggressive")), (Some("1"), Some("yes")));
        assert_eq!(children_of(message), ["vpnhub-a-1", "vpnhub-a-2"]);
        let child = message.section("children").and_then(|all| all.section("vpnhub-a-2")).expect("a child");
        assert_eq!(
            (child.list("local_ts").join(" "), child.list("remote_ts").join(" ")),
            ("192.168.0.0/24".to_owned(), "10.10.11.0/24".to_owned())
        );
    }

    #[test]
    fn changed_connections_and_secrets_are_reloaded_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let nothing = DesiredState::default();
        let first = DesiredState::of(&config(folder.path(), ""));
        assert_eq!(commands(&first.steps_from(&nothing)), ["load-shared", "load-conn"]);
        assert!(first.steps_from(&first).is_empty());
        let other = DesiredState::of(&config(folder.path(), "encap = true"));
        assert_eq!(commands(&other.steps_from(&first)), ["load-conn"]);
        let renamed = DesiredState::of(&config(folder.path(), "remote_id = \"site.example.com\""));
        assert_eq!(commands(&renamed.steps_from(&first)), ["load-shared", "load-conn"]);
        assert_eq!(commands(&nothing.steps_from(&first)), ["unload-conn vpnhub-a", "unload-shared vpnhub-a"]);
    }

    #[test]
    fn leftovers_are_unloaded_and_foreign_objects_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let desired = DesiredState::of(&config(folder.path(), ""));
        let names = ["vpnhub-a", "vpnhub-old", "roadwarrior"].map(str::to_owned);
        assert_eq!(
            commands(&desired.steps_to_clean(&names, &names)),
            ["unload-conn vpnhub-old", "unload-shared vpnhub-old"]
        );
    }

    #[test]
    fn unusable_secret_is_problem_of_its_connection() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config(folder.path(), "");
        fs::set_permissions(folder.path().join("psk"), fs::Permissions::from_mode(0o644)).expect("set");
        let desired = DesiredState::of(&config);
        assert!(desired.is_empty());
        let problem = &desired.problems["a"];
        assert!(problem.contains("chmod 600") && !problem.contains(SECRET), "{problem}");
    }
}
