//! Rules across the IPsec sections of several connections, and for the files they name.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    super::{
        address::SiteAddress,
        diagnostic::{DiagnosticReport, Located, Problem, join, quoted},
        draft::{ConnectionDraft, Draft},
        tunnels::connection_of,
    },
    Identity, IpsecDraft,
    draft::IdentityDraft,
    per_cpu,
    read::files,
    responder,
    secret::{Secret, SecretError, SecretFault, check_key},
    validity,
};

/// Whether to check the files that a configuration names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// Validate the text only.
    Unseen,
    /// The configuration is for this host: check them.
    Here,
}

pub fn validate(draft: &Draft, files: Files, report: &mut DiagnosticReport<'_>) {
    let draft = &*draft.with_members();
    let sites = draft.sites();
    check_local_ids(draft, report);
    check_identities(draft, &sites, report);
    responder::validate(draft, &sites, report);
    per_cpu::validate(draft, &sites, report);
    check_if_ids(draft, report);
    if files == Files::Here {
        check_files(draft, report);
    }
}

/// The addresses of customer gateways, by name.
pub type Sites<'d> = HashMap<&'d str, &'d Located<SiteAddress>>;

/// The identities of hub and site.
pub type IdPair = (Identity, Identity);

/// The address of a connection's customer gateway.
pub(super) fn site_of<'d>(sites: &Sites<'d>, connection: &ConnectionDraft) -> Option<&'d Located<SiteAddress>> {
    sites.get(connection.customer_gateway.as_ref()?.value.as_str()).copied()
}

pub(super) fn with_ipsec(draft: &Draft) -> impl Iterator<Item = (&ConnectionDraft, &IpsecDraft)> {
    draft.connections.iter().filter_map(|connection| Some((connection, connection.ipsec.as_ref()?)))
}

/// The path of a key of `ipsec` as it is written, or of the section: in a tunnel only if the key is that tunnel's own.
pub(super) fn ipsec_path(connection: &ConnectionDraft, key: &str) -> String {
    let of = match &connection.of_tunnel {
        Some(tunnel) if !tunnel.ipsec_keys.contains(&key) => join("connection", connection_of(&connection.name.value)),
        _ => connection.path(),
    };
    let path = join(&of, "ipsec");
    if key.is_empty() { path } else { join(&path, key) }
}

/// The hub identifies itself by its address unless `local_id` is set, so one of the two is required.
fn check_local_ids(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let Some(gateway) = draft.gateway.as_ref().filter(|gateway| !gateway.may_have_address) else { return };
    debug_assert!(gateway.address.is_none(), "it may have none");
    for (connection, ipsec) in with_ipsec(draft).filter(|(_, ipsec)| matches!(ipsec.local_id, IdentityDraft::Absent)) {
        let problem = Problem::new("the hub has no IKE identity for this connection");
        let help = "add address = \"203.0.113.1\", the hub's public address, to [gateway], or local_id here";
        report.error(ipsec.at, ipsec_path(connection, ""), problem.help(help));
    }
}

/// The identities of hub and site, if both are known.
pub fn identities(
    draft: &Draft,
    sites: &Sites<'_>,
    connection: &ConnectionDraft,
    ipsec: &IpsecDraft,
) -> Option<IdPair> {
    let hub = || Some(draft.gateway.as_ref()?.address?.value.into());
    let site = || Identity::of_site(&site_of(sites, connection)?.value);
    Some((ipsec.local_id.or(hub)?, ipsec.remote_id.or(site)?))
}

/// The IKE daemon selects a secret by the two identities, so each pair has only one.
fn check_identities(draft: &Draft, sites: &Sites<'_>, report: &mut DiagnosticReport<'_>) {
    let mut first: HashMap<_, &Located<PathBuf>> = HashMap::new();
    for (connection, ipsec) in with_ipsec(draft) {
        let (Some(file), Some(pair)) = (&ipsec.psk_file, identities(draft, sites, connection, ipsec)) else { continue };
        if pair.0 == pair.1 {
            let problem = Problem::new(format!("hub and site have the same identity {}", quoted(&pair.0.to_string())));
            let help = "give the site a remote_id of its own, or the hub another local_id";
            report.error(ipsec.at, ipsec_path(connection, ""), problem.help(help));
            continue;
        }
        let ids = format!("{} and {}", pair.0, pair.1);
        match first.get(&pair) {
            None => _ = first.insert(pair, file),
            Some(other) if other.value == file.value => {}
            Some(other) => {
                let place = report.place(file.at, other.at);
                let problem = Problem::new(format!("{ids} already have another secret ({place})"));
                let help = "name the same file, or give each connection a remote_id of its own";
                report.conflict(file.at, ipsec_path(connection, "psk_file"), problem.help(help), other.at);
            }
        }
    }
}

/// One `if_id` per xfrm interface, and one interface per `if_id`.
fn check_if_ids(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    let mut interfaces: HashMap<&str, Located<u32>> = HashMap::new();
    let mut ids: HashMap<u32, (&str, usize)> = HashMap::new();
    for (connection, ipsec) in with_ipsec(draft) {
        let (Some(id), Some(interface)) = (ipsec.if_id, &connection.interface) else { continue };
        let name = interface.value.as_str();
        let (problem, against) = match (interfaces.get(name), ids.get(&id.value)) {
            (Some(other), _) if other.value != id.value => {
                let place = report.place(id.at, other.at);
                let problem = Problem::new(format!("{} has the if_id {} already ({place})", quoted(name), other.value));
                let help = "an interface has one if_id: give the connection an interface of its own, or the same if_id";
                (problem.help(help), other.at)
            }
            (_, Some((other, at))) if *other != name => {
                let place = report.place(id.at, *at);
                let problem = Problem::new(format!("{} is the if_id of {} already ({place})", id.value, quoted(other)));
                (problem.help("give each interface an if_id of its own"), *at)
            }
            _ => {
                interfaces.insert(name, id);
                ids.insert(id.value, (name, id.at));
                continue;
            }
        };
        report.conflict(id.at, ipsec_path(connection, "if_id"), problem, against);
    }
}

fn check_files(draft: &Draft, report: &mut DiagnosticReport<'_>) {
    for (connection, ipsec) in with_ipsec(draft) {
        for (key, file) in files(ipsec) {
            let result = match key {
                "psk_file" => Secret::read(&file.value).map(|secret| secret.is_short()),
                "private_key" => check_key(&file.value).map(|()| false),
                _ => check_readable(&file.value).map(|()| false),
            };
            let path = ipsec_path(connection, key);
            let shown = file.value.display().to_string();
            if matches!(key, "certificate" | "ca")
                && result.is_ok()
                && let Some(problem) = validity::problem(&file.value, SystemTime::now())
            {
                report.warning(file.at, path.clone(), problem);
            }
            match result {
                Ok(false) => {}
                Ok(true) => {
                    let problem = Problem::new(format!("the secret in {} is short", quoted(&shown)));
                    report.warning(file.at, path, problem.help("make a new one with `openssl rand -base64 32`"));
                }
                Err(error) => {
                    let help = match (key, &error.fault) {
                        // The help for a secret does not apply to a key pair.
                        ("psk_file", _) | (_, SecretFault::Exposed(_) | SecretFault::Denied) => error.help(),
                        _ => "put the file there, in PEM format".to_owned(),
                    };
                    let problem = Problem::new(format!("{} {}", quoted(&shown), error.fault.message())).help(help);
                    // The file may be for another host, or another user.
                    match error.fault {
                        SecretFault::Missing | SecretFault::Denied => report.warning(file.at, path, problem),
                        _ => report.error(file.at, path, problem),
                    }
                }
            }
        }
    }
}

fn check_readable(file: &Path) -> Result<(), SecretError> {
    let error = |fault| Err(SecretError { file: file.to_owned(), fault });
    match fs::metadata(file) {
        Ok(metadata) if metadata.is_file() => Ok(()),
        Ok(_) => error(SecretFault::NoFile),
        Err(found) => error(SecretFault::of(&found)),
    }
}
