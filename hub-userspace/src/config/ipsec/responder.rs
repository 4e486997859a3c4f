//! Rules for a hub that responds: how the IKE daemon finds the connection, and the secret, of a site that begins.
//!
//! A connection must match the site's address and the identities that both ends present. A connection with the address
//! itself precedes one with `any`. In main mode of
//! `IKEv1` the secret must be found before the site presents its identity.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use super::{
    super::{
        address::SiteAddress,
        diagnostic::{DiagnosticReport, Located, Problem, join, quoted},
        draft::{ConnectionDraft, Draft},
        model::SelectorSource,
        tunnels::connection_of,
    },
    IkeV1Mode, IpsecDraft, StartAction,
    rules::{IdPair, Sites, identities, ipsec_path, site_of, with_ipsec},
};

pub(super) fn validate(draft: &Draft, sites: &Sites<'_>, report: &mut DiagnosticReport<'_>) {
    check_any(draft, sites, report);
    check_kernel_selectors(draft, sites, report);
    check_distinct(draft, sites, report);
    check_main_mode(draft, sites, report);
}

fn gateway_name(connection: &ConnectionDraft) -> String {
    quoted(connection.customer_gateway.as_ref().map_or("", |name| name.value.as_str()))
}

/// A site without an address is known by its identity, and begins.
fn check_any(draft: &Draft, sites: &Sites<'_>, report: &mut DiagnosticReport<'_>) {
    for (connection, ipsec) in with_ipsec(draft) {
        let Some(site) = site_of(sites, connection).filter(|site| site.value.is_any()) else { continue };
        if !ipsec.has_remote_id() {
            let place = report.place(ipsec.at, site.at);
            let name = gateway_name(connection);
            let problem =
                Problem::new(format!("nothing identifies the site: {name} has the address \"any\" ({place})"));
            let help = "add remote_id = \"site.example.net\", the identity that the site's device presents";
            report.error(ipsec.at, ipsec_path(connection, ""), problem.help(help));
        }
        if let Some(start) = ipsec.start.filter(|start| start.value != StartAction::None) {
            let place = report.place(start.at, site.at);
            let name = gateway_name(connection);
            let problem = Problem::new(format!("the hub cannot begin: {name} has the address \"any\" ({place})"));
            let help = "write start = \"none\", so that the site begins, or give the customer gateway an address or a DNS name";
            report.error(start.at, ipsec_path(connection, "start"), problem.help(help));
        }
    }
}

/// The kernel's policies are found by `if_id`, or else by the site's address.
fn check_kernel_selectors(draft: &Draft, sites: &Sites<'_>, report: &mut DiagnosticReport<'_>) {
    for (connection, _) in with_ipsec(draft).filter(|(_, ipsec)| ipsec.if_id.is_none()) {
        let Some(selectors) = connection.selectors.filter(|found| found.value == SelectorSource::Xfrm) else {
            continue;
        };
        let Some(site) = site_of(sites, connection).filter(|site| site.value.ip().is_none()) else { continue };
        let place = report.place(selectors.at, site.at);
        let problem = Problem::new(format!(
            "the kernel's policies cannot be found by the address of {}, which is {} ({place})",
            gateway_name(connection),
            quoted(&site.value.to_string())
        ));
        let help = "add if_id to the connection's ipsec, or write selectors = \"ike\"";
        let path = join(&connection.path(), "selectors");
        report.error(selectors.at, path, problem.help(help));
    }
}

/// What the IKE daemon compares to find the connection of a site that begins.
#[derive(PartialEq, Eq, Hash)]
struct Presented<'d> {
    site: &'d SiteAddress,
    ids: IdPair,
    version: Version,
    auth: Authentication<'d>,
}

#[derive(PartialEq, Eq, Hash, Clone, Copy)]
enum Version {
    MainMode,
    AggressiveMode,
    V2,
}

#[derive(PartialEq, Eq, Hash)]
enum Authentication<'d> {
    Secret,
    Certificate { ca: Option<&'d Path> },
}

fn version(ipsec: &IpsecDraft) -> Option<Version> {
    let ike = ipsec.ike.as_ref()?;
    let is_aggressive = ike.mode.is_some_and(|mode| mode.value == IkeV1Mode::Aggressive);
    Some(match (ike.version?.value, is_aggressive) {
        (1, false) => Version::MainMode,
        (1, true) => Version::AggressiveMode,
        _ => Version::V2,
    })
}

/// Two connections that only the site initiates must differ: the daemon would always select the first one.
fn check_distinct(draft: &Draft, sites: &Sites<'_>, report: &mut DiagnosticReport<'_>) {
    let mut first: HashMap<Presented<'_>, &ConnectionDraft> = HashMap::new();
    for (connection, ipsec) in with_ipsec(draft) {
        let Some(site) = site_of(sites, connection) else { continue };
        let waits = site.value.is_any() || ipsec.start.is_some_and(|start| start.value == StartAction::None);
        let (true, Some(ids), Some(version)) = (waits, identities(draft, sites, connection, ipsec), version(ipsec))
        else {
            continue;
        };
        let auth = match &ipsec.psk_file {
            Some(_) => Authentication::Secret,
            None => Authentication::Certificate { ca: ipsec.ca.as_ref().map(|ca| ca.value.as_path()) },
        };
        let remote_id = ids.1.to_string();
        let presented = Presented { site: &site.value, ids, version, auth };
        let Some(other) = first.get(&presented) else {
            first.insert(presented, connection);
            continue;
        };
        // Tunnels of one connection are reported already.
        if connection.of_tunnel.is_some() && connection_of(&connection.name.value) == connection_of(&other.name.value) {
            continue;
        }
        let place = report.place(ipsec.at, other.name.at);
        let problem = Problem::new(format!(
            "a site that begins as {} cannot be told from that of connection {} ({place})",
            quoted(&remote_id),
            quoted(&other.name.value)
        ));
        let help = "give each connection a remote_id of its own, or make them one connection with all prefixes";
        report.conflict(ipsec.at, ipsec_path(connection, ""), problem.help(help), other.name.at);
    }
}

/// In main mode the IKE daemon needs the secret before the site can identify itself: only its address is known.
///
/// So there is one secret for an address, and one for all sites with unknown addresses. A site with a DNS name has an
/// unknown address, too, from the time at which it moves until its name follows.
fn check_main_mode(draft: &Draft, sites: &Sites<'_>, report: &mut DiagnosticReport<'_>) {
    let mut first: HashMap<&SiteAddress, &Located<PathBuf>> = HashMap::new();
    let mut named = Secrets::default();
    for (connection, ipsec) in with_ipsec(draft).filter(|(_, ipsec)| version(ipsec) == Some(Version::MainMode)) {
        let (Some(file), Some(site)) = (&ipsec.psk_file, site_of(sites, connection)) else { continue };
        let site = &site.value;
        let same = first.get(site).copied().filter(|other| other.value != file.value);
        let moving = || match site {
            SiteAddress::Ip(_) => None,
            SiteAddress::Name(_) => first.get(&SiteAddress::Any).copied().filter(|other| other.value != file.value),
            SiteAddress::Any => named.other_than(file),
        };
        let (what, other) = match (same, moving()) {
            (Some(other), _) if site.is_any() => ("another site with the address \"any\"".to_owned(), other),
            (Some(other), _) => (site.to_string(), other),
            (None, Some(other)) if site.is_any() => ("a site with a DNS name, which may move,".to_owned(), other),
            (None, Some(other)) => ("a site with the address \"any\"".to_owned(), other),
            (None, None) => {
                first.entry(site).or_insert(file);
                if matches!(site, SiteAddress::Name(_)) {
                    named.add(file);
                }
                continue;
            }
        };
        let place = report.place(file.at, other.at);
        let problem = Problem::new(format!(
            "{what} has another secret already for IKEv1 in main mode, which finds a secret by the address alone ({place})"
        ));
        let help = "name the same file, or use version = 2";
        report.conflict(file.at, ipsec_path(connection, "psk_file"), problem.help(help), other.at);
    }
}

/// The first secret, and the first one that differs from it.
#[derive(Default)]
struct Secrets<'d> {
    first: Option<&'d Located<PathBuf>>,
    second: Option<&'d Located<PathBuf>>,
}

impl<'d> Secrets<'d> {
    fn add(&mut self, file: &'d Located<PathBuf>) {
        match self.first {
            None => self.first = Some(file),
            Some(first) if first.value != file.value && self.second.is_none() => self.second = Some(file),
            Some(_) => {}
        }
    }

    fn other_than(&self, file: &Located<PathBuf>) -> Option<&'d Located<PathBuf>> {
        [self.first, self.second].into_iter().flatten().find(|other| other.value != file.value)
    }
}

#[cfg(test)]
mod tests {
    use super::StartAction;
    use crate::config::{parse, show};

    fn text(address: &str, ipsec: &str) -> String {
        format!(
            r#"
[gateway]
name = "hub"
address = "203.0.113.1"
[customer_gateway.a]
address = "{address}"
[connection.a]
customer_gateway = "a"
interface = "xfrm-a"
local_cidrs = ["192.168.0.0/24"]
remote_cidrs = ["10.10.10.0/24"]
[connection.a.ipsec]
psk_file = "/nowhere/psk"
{ipsec}
"#
        )
    }

    #[test]
    fn site_with_any_address_begins_by_default() {
        for (address, ipsec, expected) in [
            ("198.51.100.1", "", StartAction::Start),
            ("site.example.net", "", StartAction::Start),
            ("site.example.net", "start = \"trap\"", StartAction::Trap),
            ("any", "remote_id = \"a\"", StartAction::None),
            ("any", "remote_id = \"a\"\nstart = \"none\"", StartAction::None),
        ] {
            let config = parse(&text(address, ipsec)).unwrap_or_else(|errors| panic!("{errors:#?}")).0;
            let start = |config: &crate::config::Config| config.tunnel("a").map(|tunnel| tunnel.ipsec.start);
            assert_eq!(start(&config), Some(expected), "{address} {ipsec}");
            let shown = show(&config);
            assert!(shown.contains(&format!("address = \"{address}\"")), "{shown}");
            let again = parse(&shown).unwrap_or_else(|errors| panic!("{errors:#?}")).0;
            assert_eq!(again, config);
        }
    }

    #[test]
    fn all_mistakes_of_a_site_with_any_address_are_reported_at_once() {
        let errors =
            parse(&text("any", "start = \"start\"").replace("remote_cidrs", "selectors = \"xfrm\"\nremote_cidrs"));
        let errors: Vec<String> = errors.expect_err("three mistakes").iter().map(ToString::to_string).collect();
        for expected in ["nothing identifies the site", "the hub cannot begin", "the kernel's policies cannot be found"]
        {
            assert!(errors.iter().any(|error| error.contains(expected)), "{expected}: {errors:#?}");
        }
    }
}
