//! The configuration in force: quotas, conflicts, objects set aside, certificates. Pure.

use std::collections::BTreeMap;

use super::{
    facts::{CertificateFacts, ConfigFacts, Facts},
    remedy,
};
use crate::{
    api_types::{
        diagnose::{Area, Code, Finding, Severity},
        status::{FullStatus, RouteStatus},
    },
    config::{Config, Confirmation, Diagnostic, Role, SetAside, ipsec::Invalid},
};

/// Percentage of a quota from which on it is reported.
const NEARLY_FULL: usize = 80;

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(config) = &facts.config {
        findings.extend(quotas(&config.config));
        let mut found: Vec<_> = config.warnings.iter().map(warning).collect();
        if found.is_empty() {
            let message = "its validation has no warnings";
            found.push(Finding::ok(Area::Configuration, "configuration", Code::ConfigurationWarning, message));
        }
        findings.append(&mut found);
        findings.extend(certificates(config, None));
    }
    if let Some(status) = &facts.status {
        findings.extend(objects(status));
        let at_boot = facts.config.as_ref().map(|found| found.config.gateway.role_at_boot);
        findings.extend(role(status.status.gateway.role, at_boot.unwrap_or_default()));
    }
    findings
}

/// What concerns one connection.
pub fn of_connection(facts: &Facts, name: &str) -> Vec<Finding> {
    facts.config.as_ref().map_or_else(Vec::new, |config| certificates(config, Some(name)))
}

/// A role that the hub keeps by itself is in order.
fn role(role: Role, at_boot: Role) -> Option<Finding> {
    let message = role.sentence();
    match role {
        Role::Active => None,
        Role::Standby if at_boot == Role::Standby => {
            Some(Finding::ok(Area::Configuration, "role", Code::Role, message))
        }
        Role::Withdrawn | Role::Standby => {
            let action = "`vpnhub active` to use it again";
            Some(Finding::warning(Area::Configuration, "role", Code::Role, message, action))
        }
    }
}

fn quotas(config: &Config) -> impl Iterator<Item = Finding> {
    let quotas = [
        ("connections", "gateway.max_connections", config.configured().count(), config.gateway.max_connections),
        ("policy routes", "gateway.max_policy_routes", config.policy_routes.len(), config.gateway.max_policy_routes),
    ];
    // Most hubs have no policy routes.
    let quotas = quotas.into_iter().filter(|(objects, _, used, _)| *used > 0 || *objects == "connections");
    quotas.map(|(objects, key, used, limit)| {
        let full = if used >= limit { ": no further ones can be added" } else { "" };
        let message = format!("{used} of {limit} {objects} are in use{full}");
        let action = format!("raise [gateway] {} before more are needed", key.trim_start_matches("gateway."));
        match used * 100 > limit * NEARLY_FULL {
            true => Finding::warning(Area::Configuration, key, Code::Quota, message, action),
            false => Finding::ok(Area::Configuration, key, Code::Quota, message),
        }
    })
}

fn warning(found: &Diagnostic) -> Finding {
    let Diagnostic { path, message, help, .. } = found;
    // A prefix that contains another site's; one inside another site's is an error of the file.
    let code = match help.as_deref() {
        Some(help) if help.starts_with("the longer prefix wins") => Code::RouteConflict,
        _ => Code::ConfigurationWarning,
    };
    let path = if path.is_empty() { "configuration" } else { path };
    // The lines are those of `config show`.
    let message = message.replace("(line ", "(line of `vpnhub config show`: ");
    let action = help.as_deref().unwrap_or("`vpnhub config show` shows it with its origin");
    Finding::warning(Area::Configuration, path, code, message, action)
}

fn certificates(facts: &ConfigFacts, only: Option<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for ((name, file), certificate) in &facts.certificates {
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let file = file.display();
        let error = |code, message, action: String| Finding::error(Area::Connection, name, code, message, action);
        findings.push(match certificate {
            CertificateFacts::Valid => {
                let message = format!("the certificate in {file} is valid for 30 days or more");
                Finding::ok(Area::Connection, name, Code::Certificate, message)
            }
            CertificateFacts::Invalid(Invalid::Expires(end)) => Finding::warning(
                Area::Connection,
                name,
                Code::CertificateExpiresSoon,
                format!("the certificate in {file} expires on {end}"),
                "renew it, then `vpnhub reload`",
            ),
            CertificateFacts::Invalid(Invalid::Expired(end)) => error(
                Code::CertificateExpired,
                format!("the certificate in {file} expired on {end}"),
                "renew it, then `vpnhub reload`: negotiation fails with it".to_owned(),
            ),
            CertificateFacts::Invalid(Invalid::Early(begin)) => error(
                Code::Certificate,
                format!("the certificate in {file} is valid from {begin} on only"),
                "check the clock of this host, or wait: negotiation fails with it".to_owned(),
            ),
            CertificateFacts::Invalid(Invalid::Unreadable) => error(
                Code::Certificate,
                format!("{file} has no certificate in PEM form that can be read"),
                "put the certificate there, as `openssl x509 -outform PEM` writes it".to_owned(),
            ),
            CertificateFacts::Missing(reason) => error(
                Code::Certificate,
                format!("{file} cannot be read: {reason}"),
                "put the certificate there, then `vpnhub reload`".to_owned(),
            ),
            // In `Facts::unchecked`.
            CertificateFacts::Denied => continue,
        });
    }
    findings
}

/// What the agent reports.
fn objects(FullStatus { status, store, metrics }: &FullStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    let error = |subject: &str, code, text: &str, otherwise: &str| {
        remedy::finding(Severity::Error, Area::Configuration, subject, code, text, otherwise)
    };
    let warning = |subject: &str, code, text: &str, otherwise: &str| {
        remedy::finding(Severity::Warning, Area::Configuration, subject, code, text, otherwise)
    };
    for SetAside { kind, name, reason } in &status.set_aside {
        let subject = format!("{} {name}", kind.replace('_', " "));
        let otherwise = format!("delete it by command, or change the file so that they no longer conflict: {reason}");
        let mut finding = warning(&subject, Code::SetAside, reason, &otherwise);
        finding.message = format!("set aside, so it is not in force: {}", finding.message);
        findings.push(finding);
    }
    if status.set_aside.is_empty() {
        let message = "no object of the store is set aside";
        findings.push(Finding::ok(Area::Configuration, "store", Code::SetAside, message));
    }
    if let Some(problem) = store.as_ref().and_then(|store| store.problem.as_deref()) {
        let mut finding = error("store", Code::ChangesRejected, problem, "make its directory writable for the agent");
        finding.message = format!("changes by command are refused: {}", finding.message);
        findings.push(finding);
    }
    if let Some(metrics) = metrics
        && let Some(problem) = &metrics.problem
    {
        let otherwise = "change [metrics] listen, or end the process that listens there";
        let mut finding = warning("metrics.listen", Code::MetricsNotServed, problem, otherwise);
        finding.message = format!("metrics are not served on {}: {}", metrics.listen, finding.message);
        findings.push(finding);
    }
    if let Some(confirmation) = &status.confirmation {
        let (message, action) = match confirmation {
            Confirmation::Pending { .. } => {
                ("the last reload is reverted soon", "`vpnhub confirm` if the new configuration works")
            }
            Confirmation::Reverted => (
                "the last reload was not confirmed: the configuration before it is in force",
                "edit the files, then `vpnhub reload`",
            ),
        };
        findings.push(Finding::warning(Area::Configuration, "reload", Code::ReloadNotConfirmed, message, action));
    }
    let otherwise = "the agent retries; remove what other processes have put in its place";
    let problems = status.problems.iter();
    findings.extend(problems.map(|problem| error("kernel", Code::KernelObjectMissing, problem, otherwise)));
    let mut failed = BTreeMap::<&str, Vec<&RouteStatus>>::new();
    for route in &status.routes {
        if let Some(problem) = &route.problem {
            failed.entry(problem).or_default().push(route);
        }
    }
    for (problem, routes) in failed {
        let subject = format!("route {}", routes[0].destination);
        let mut finding = error(&subject, Code::RouteNotPublished, problem, otherwise);
        finding.message = match routes.len() {
            1 => finding.message,
            count => format!("{} ({count} routes)", finding.message),
        };
        findings.push(finding);
    }
    findings
}
