//! `vpnhub diagnose`: facts in, findings out.
//!
//! | file | content |
//! | --- | --- |
//! | `facts` | the facts, as plain values |
//! | `connection` | judges connections and their routes (pure) |
//! | `configuration` | judges the configuration in force: quotas, conflicts, objects set aside, certificates (pure) |
//! | `cpus` | judges how the packets are distributed over the CPUs (pure) |
//! | `driver` | judges what an interface takes from XDP, and its offloads (pure) |
//! | `interface` | judges attachments and underlays (pure) |
//! | `path` | judges the MTU of the paths to the sites (pure) |
//! | `replies` | judges replies to probes that arrive on other interfaces, or are dropped (pure) |
//! | `host` | judges the kernel, its settings, other processes' rules, the agent (pure) |
//! | `remedy` | splits texts of the status into what is wrong and what to do (pure) |
//! | `gather` | reads the facts: /proc, /sys, netlink, files of certificates; for some seconds, replies to probes |
//! | `text` | the findings for people |
//!
//! Every check that finds nothing wrong has a finding with severity `ok`, so that the output shows what was checked.

mod configuration;
mod connection;
mod cpus;
mod driver;
pub mod facts;
pub mod gather;
mod host;
mod interface;
mod path;
mod remedy;
mod replies;
mod text;

use anyhow::{Result, bail};

use self::facts::Facts;
pub use self::text::text;
use crate::{
    api_types::{
        diagnose::{Diagnosis, Finding},
        status::ConnectionStatus,
    },
    config::tunnels::is_meant,
};

/// Judges everything.
pub fn diagnose(facts: &Facts) -> Diagnosis {
    let mut findings = host::judge(facts);
    findings.extend(cpus::judge(facts));
    findings.extend(configuration::judge(facts));
    if let Some(status) = &facts.status {
        findings.extend(interface::judge(status, facts.host.network.as_ref(), facts.config.as_ref(), None));
        findings.extend(connection::judge(status, None));
        findings.extend(path::judge(facts, status, None));
        findings.extend(replies::judge(facts, status, None));
    }
    Diagnosis::new(facts.status.is_some(), findings)
}

/// Judges one connection, its interface and its certificates.
///
/// # Errors
/// When there is no such connection, or no agent that knows it.
pub fn diagnose_connection(facts: &Facts, name: &str) -> Result<Diagnosis> {
    let Some(status) = &facts.status else {
        bail!("no agent answers, and only an agent knows the state of a connection: start it with `vpnhub run`");
    };
    let members = status.status.connections.iter().flat_map(ConnectionStatus::members);
    let found: Vec<_> = members.filter(|member| is_meant(name, &member.name)).collect();
    if found.is_empty() {
        let known: Vec<_> = status.status.connections.iter().map(|connection| connection.name.as_str()).collect();
        match known.is_empty() {
            true => bail!("there is no connection {name:?}; help: no connection is configured"),
            false => bail!("there is no connection {name:?}; help: the connections are {}", known.join(", ")),
        }
    }
    let mut findings: Vec<Finding> =
        found.iter().flat_map(|member| configuration::of_connection(facts, &member.name)).collect();
    let network = facts.host.network.as_ref();
    for member in found {
        findings.extend(interface::judge(status, network, facts.config.as_ref(), Some(&member.interface)));
    }
    findings.extend(connection::judge(status, Some(name)));
    findings.extend(path::judge(facts, status, Some(name)));
    findings.extend(replies::judge(facts, status, Some(name)));
    Ok(Diagnosis::new(true, findings))
}

#[cfg(test)]
mod tests;
