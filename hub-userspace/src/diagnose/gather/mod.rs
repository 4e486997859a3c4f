//! Reads the facts: the agent's status and configuration, /proc, /sys, netlink, files of certificates.
//!
//! What cannot be read is unknown, and gives no finding. Missing permissions are reported.
//!
//! - `network`: interfaces, rules and paths of the network namespace;
//! - `replies`: listens for replies to probes, if some were lost.

mod network;
mod replies;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::net::UnixStream,
    path::Path,
    str::FromStr,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use rustix::process::geteuid;
use tokio::time::Instant;

use self::network::network;
use super::facts::{CertificateFacts, ConfigFacts, CpuLoad, DatapathFacts, Facts, HostFacts, IkeFacts, MemoryFacts};
use crate::{
    api::Client,
    api_types::status::{FullStatus, Status},
    config::{
        self, Config,
        ipsec::{Auth, invalid_certificate},
    },
    datapath::{self, Instance},
    kernel::network_namespace,
};

/// `STA_UNSYNC` (timex.h).
const UNSYNCHRONIZED: i32 = 0x40;
/// Time for which packets are counted.
const LOAD_TIME: Duration = Duration::from_secs(1);

/// Reads everything. `socket` is the agent's, `instance` that of the datapath if no agent answers.
///
/// # Errors
/// When an agent listens, but cannot be asked.
pub async fn gather(client: &Client, socket: &Path, instance: &Instance) -> Result<Facts> {
    let mut facts = Facts::default();
    let began = Instant::now();
    match client.status().await {
        Ok(status) => {
            match client.config().await.map(|text| config::parse(&text)) {
                Ok(Ok((config, warnings))) => facts.config = Some(config_facts(config, warnings, &mut facts.unchecked)),
                Ok(Err(errors)) => facts.unchecked.push(format!(
                    "the configuration in force is not checked: it has {} errors for this version of vpnhub",
                    errors.len()
                )),
                Err(error) => facts.unchecked.push(format!("the configuration in force is not checked: {error:#}")),
            }
            facts.status = Some(status);
        }
        // As `vpnhub status`: without the permission, or from an agent that is stuck, nothing is known.
        Err(error) if listens(socket) => return Err(error),
        Err(error) => {
            facts.no_agent = Some(format!("{error:#}"));
            facts.datapath = datapath(instance, &mut facts.unchecked);
        }
    }
    facts.host = host(facts.status.as_ref(), facts.config.as_ref(), &mut facts.unchecked).await;
    if let Some(FullStatus { status, .. }) = &facts.status {
        // At the same time: both take some seconds.
        let load = cpu_load(client, status, began);
        let replies = replies::stray_replies(client, &facts, status);
        (facts.cpu_load, facts.stray_replies) = tokio::join!(load, replies);
    }
    Ok(facts)
}

/// `before` is the status when the diagnosis began. Waits until a second has passed since, if packets may arrive.
async fn cpu_load(client: &Client, before: &Status, began: Instant) -> Option<CpuLoad> {
    let packets = |status: &Status| status.cpus.iter().map(|cpu| (cpu.cpu, cpu.packets)).collect::<BTreeMap<_, _>>();
    let old = packets(before);
    if old.len() < 2 || old.values().all(|packets| *packets == 0) {
        return None;
    }
    tokio::time::sleep_until(began + LOAD_TIME).await;
    let new = client.status().await.ok()?.status;
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    // An agent that has been replaced meanwhile may start from zero.
    let rate = |(cpu, packets): (u32, u64)| {
        let counted = packets.saturating_sub(*old.get(&cpu)?);
        Some((cpu, counted.saturating_mul(1000) / millis))
    };
    Some(CpuLoad { packets_per_second: packets(&new).into_iter().filter_map(rate).collect() })
}

fn datapath(instance: &Instance, unchecked: &mut Vec<String>) -> DatapathFacts {
    if !geteuid().is_root() {
        unchecked.push("the datapath in the kernel is not checked: only root may read it".to_owned());
        return DatapathFacts::Unknown;
    }
    match datapath::running(instance) {
        Ok(Some(running)) => DatapathFacts::Running(running.into()),
        Ok(None) => DatapathFacts::Missing,
        Err(error) => {
            unchecked.push(format!("the datapath in the kernel is not checked: {error}"));
            DatapathFacts::Unknown
        }
    }
}

fn listens(socket: &Path) -> bool {
    match UnixStream::connect(socket) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused),
    }
}

fn config_facts(config: Config, warnings: Vec<config::Diagnostic>, unchecked: &mut Vec<String>) -> ConfigFacts {
    let mut certificates = BTreeMap::new();
    for (name, connection) in &config.connections {
        if let Some(Auth::Certificate { certificate, ca, .. }) = connection.ipsec.as_ref().map(|ipsec| &ipsec.auth) {
            for file in [Some(certificate), ca.as_ref()].into_iter().flatten() {
                let facts = self::certificate(file);
                if facts == CertificateFacts::Denied {
                    unchecked.push(format!(
                        "the certificate of {name} is not checked: no permission to read {}",
                        file.display()
                    ));
                }
                certificates.insert((name.clone(), file.clone()), facts);
            }
        }
    }
    let has_ipsec = config.connections.values().any(|connection| connection.ipsec.is_some());
    let ike = has_ipsec.then(|| ike(&config.gateway.vici_socket));
    ConfigFacts { config, warnings, certificates, ike }
}

fn certificate(file: &Path) -> CertificateFacts {
    match invalid_certificate(file, SystemTime::now()) {
        Ok(None) => CertificateFacts::Valid,
        Ok(Some(invalid)) => CertificateFacts::Invalid(invalid),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => CertificateFacts::Denied,
        Err(error) => CertificateFacts::Missing(error.to_string()),
    }
}

fn ike(socket: &Path) -> IkeFacts {
    match UnixStream::connect(socket) {
        Ok(_) => IkeFacts::Listens,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => IkeFacts::Unknown,
        Err(error) => IkeFacts::Silent(format!("{}: {error}", socket.display())),
    }
}

async fn host(status: Option<&FullStatus>, config: Option<&ConfigFacts>, unchecked: &mut Vec<String>) -> HostFacts {
    let of_agent = status.and_then(|status| status.status.gateway.network_namespace);
    let is_here = of_agent.is_none() || of_agent == network_namespace().ok();
    let kernel = rustix::system::uname().release().to_str().ok().map(str::to_owned);
    HostFacts {
        kernel,
        jit: number("/proc/sys/net/core/bpf_jit_enable"),
        has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        missing_bpf: geteuid().is_root().then(datapath::missing_features).flatten(),
        is_synchronized: is_synchronized(),
        memory: fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(memory),
        network: if is_here { network(status, config, unchecked).await } else { None },
    }
}

/// A number in a file of /proc or /sys.
fn number<T: FromStr>(path: impl AsRef<Path>) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Of /proc/meminfo (`proc_meminfo(5)`).
fn memory(text: &str) -> Option<MemoryFacts> {
    let line =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB")?.trim().parse().ok());
    Some(MemoryFacts { total: line("MemTotal:")?, available: line("MemAvailable:")? })
}

/// Whether the kernel's clock is synchronized, as a time daemon has told it.
fn is_synchronized() -> Option<bool> {
    // SAFETY: all fields are integers, for which zero is valid. `modes` 0 changes nothing.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: adjtimex(2) writes to the structure that it is given and keeps no reference.
    let state = unsafe { libc::adjtimex(&raw mut clock) };
    (state != -1).then_some(clock.status & UNSYNCHRONIZED == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_meminfo() {
        let text = "MemTotal:        4024176 kB\nMemFree:          123 kB\nMemAvailable:    2012088 kB\n";
        assert_eq!(memory(text), Some(MemoryFacts { total: 4_024_176, available: 2_012_088 }));
        assert_eq!(memory("MemTotal: 1 kB\n"), None);
        assert_eq!(memory("MemTotal: x kB\nMemAvailable: 1 kB\n"), None);
    }

    #[test]
    fn files_of_certificates_are_told_apart() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("hub.crt");
        assert!(matches!(certificate(&file), CertificateFacts::Missing(reason) if !reason.is_empty()));
        fs::write(&file, "nonsense").expect("ours");
        assert_eq!(certificate(&file), CertificateFacts::Invalid(config::ipsec::Invalid::Unreadable));
    }

    #[test]
    fn socket_without_listener_is_silent() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("charon.vici");
        assert!(matches!(ike(&socket), IkeFacts::Silent(reason) if reason.contains("charon.vici")));
        assert!(!listens(&socket));
        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("ours");
        assert_eq!((ike(&socket), listens(&socket)), (IkeFacts::Listens, true));
        drop(listener);
        assert!(!listens(&socket));
    }
}
