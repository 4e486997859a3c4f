//! Disables router advertisements, redirects and source routes on the attachments of sites.
//!
//! A router advertisement gives the hub an address and a default route (RFC 4862, `net/ipv6/ndisc.c`). A redirect
//! changes the next hop. A source route in a packet to the hub (RFC 791) changes the destination. All are off on every
//! attachment of a site before the program is attached, and are restored if another process changes them. The VPC's
//! interface is left alone: a host with one NIC may depend on its advertisements.
//!
//! With `forwarding` off the kernel takes IPv4 redirects where *either* `all` or the interface has them on
//! (`IN_DEV_RX_REDIRECTS`, include/linux/inetdevice.h); a gateway has it on, where both must be.

mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use self::watch::{SysctlWatch, Watched};
use crate::{config::Config, kernel::netlink::HostState, rate_limit::RestoreSchedule};

/// Sysctls of an interface: the path before its name, and the file name.
const OFF: [(&str, &str); 4] = [
    ("ipv6/conf", "accept_ra"),
    ("ipv6/conf", "accept_redirects"),
    ("ipv4/conf", "accept_redirects"),
    ("ipv4/conf", "accept_source_route"),
];
/// Shows the network namespace of the reading process.
const ROOT: &str = "/proc/sys/net";

/// The kernel's replies carry the mark of the packet they answer (ip-sysctl.rst), so that the nftables table recognizes
/// them.
const REFLECT: [&str; 2] = ["ipv4/fwmark_reflect", "ipv6/fwmark_reflect"];

/// Makes the kernel choose among a route's next hops by a hash that includes ports. The program has set that hash
/// (`fib_multipath_hash`, `net/ipv4/route.c`; `rt6_multipath_hash`, net/ipv6/route.c).
const BY_PORTS: [&str; 2] = ["ipv4/fib_multipath_hash_policy", "ipv6/fib_multipath_hash_policy"];

/// The desired sysctls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Attachments of sites by name: index and MTU. The MTU is included because the kernel recreates the IPv6 settings
    /// when the MTU rises above the minimum again (`addrconf_notify`, net/ipv6/addrconf.c).
    links: BTreeMap<String, (u32, u32)>,
    /// The kernel must choose among next hops as the program does: needed once a destination has several. It applies to
    /// the whole network namespace and is never reset: the kernel has no narrower setting.
    by_ports: bool,
}

impl Settings {
    /// Updates from configuration and host state; returns whether anything changed. `by_ports`: a destination has
    /// several next hops.
    pub fn follow(&mut self, config: &Config, host: &HostState, by_ports: bool) -> bool {
        let names = config.connections.values().map(|connection| &connection.interface);
        let links = names.filter_map(|name| host.link(name)).map(|link| (link.name.clone(), (link.index, link.mtu)));
        let new = Self { links: links.collect(), by_ports: self.by_ports || by_ports };
        let differs = *self != new;
        *self = new;
        differs
    }

    /// The interfaces were removed. Their indices may be reused.
    pub fn forget(&mut self, interfaces: &BTreeSet<u32>) {
        self.links.retain(|_, (index, _)| !interfaces.contains(index));
    }
}

/// Delay before values that another process has changed are restored: it often changes several.
const SETTLE: Duration = Duration::from_millis(100);
/// Minimum time between restorations after a burst.
const INTERVAL: Duration = Duration::from_secs(1);

/// Writes the sysctls.
#[derive(Debug)]
pub struct Sysctls {
    /// `None` if the kernel refuses it: the periodic audit still finds all changes.
    watch: Option<SysctlWatch>,
    schedule: RestoreSchedule,
    /// Index and MTU of an interface when its settings were last written.
    settled: BTreeMap<String, (u32, u32)>,
    /// Whether the settings of the network namespace are written.
    by_ports: bool,
    reflect: bool,
    /// Failures by the interface's name, so that each is logged once.
    failed: BTreeMap<String, String>,
}

impl Sysctls {
    /// Needs a runtime.
    pub fn start() -> Self {
        let watch = SysctlWatch::start(Path::new(ROOT)).inspect_err(|error| {
            warn!(name: "sysctl_not_followed", "changes of sysctls by other processes cannot be followed, an audit finds them later: {error}");
        });
        Self {
            watch: watch.ok(),
            schedule: RestoreSchedule::new(SETTLE, INTERVAL),
            settled: BTreeMap::new(),
            by_ports: false,
            reflect: false,
            failed: BTreeMap::new(),
        }
    }

    /// Returns when another process has changed a value. The caller then calls [`Self::set`]. Rate-limited.
    /// Cancel-safe.
    pub async fn disturbed(&mut self) {
        loop {
            let Self { watch, schedule, .. } = self;
            let changed = async {
                match watch {
                    Some(watch) => watch.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = changed => self.note_changes(changed),
                () = schedule.wait() => return,
            }
        }
    }

    /// Schedules a restoration where values differ. Our own writes are reported, too, but do not differ.
    fn note_changes(&mut self, changed: io::Result<BTreeSet<Watched>>) {
        let root = Path::new(ROOT);
        let changed = changed.unwrap_or_else(|error| {
            warn!(name: "sysctl_not_followed", "changes of sysctls by other processes cannot be followed, an audit finds them later: {error}");
            self.watch = None;
            BTreeSet::new()
        });
        for watched in changed {
            let differs = match &watched {
                Watched::Interface(name) => {
                    plan(root, name).is_ok_and(|files| files.iter().any(|file| differs_from(file, "0")))
                }
                Watched::Namespace => {
                    let ones = REFLECT.iter().chain(BY_PORTS.iter().filter(|_| self.by_ports));
                    ones.into_iter().any(|setting| differs_from(&root.join(setting), "1"))
                }
            };
            match watched {
                _ if !differs => continue,
                Watched::Interface(name) => drop(self.settled.remove(&name)),
                Watched::Namespace => (self.by_ports, self.reflect) = (false, false),
            }
            self.schedule.disturbed(Instant::now());
        }
    }

    /// The interfaces were removed. Their indices may be reused.
    pub fn forget(&mut self, interfaces: &BTreeSet<u32>) {
        self.settled.retain(|_, (index, _)| !interfaces.contains(index));
    }

    /// Writes everything that changed since the last call; with `audit`, also restores values that another process
    /// changed.
    pub fn set(&mut self, settings: &Settings, audit: bool) {
        if audit {
            self.settled.clear();
            (self.by_ports, self.reflect) = (false, false);
        }
        self.settled.retain(|name, _| settings.links.contains_key(name));
        self.failed.retain(|name, _| settings.links.contains_key(name));
        if let Some(watch) = &mut self.watch {
            watch.follow(&settings.links);
        }
        for (name, is) in &settings.links {
            if self.settled.get(name) == Some(is) {
                continue;
            }
            match apply(Path::new(ROOT), name) {
                Ok(changed) => {
                    for setting in changed {
                        info!(name: "sysctl_set", interface = name, "{setting} set to 0");
                    }
                    self.settled.insert(name.clone(), *is);
                    self.failed.remove(name);
                }
                Err(failure) => self.note(name, failure.to_string()),
            }
        }
        if !std::mem::replace(&mut self.reflect, true) {
            set_all(REFLECT, "replies to a site may leave by another interface if the route to the site is gone");
        }
        if settings.by_ports && !std::mem::replace(&mut self.by_ports, true) {
            set_all(BY_PORTS, "fragmented packets to destinations with several next hops may be dropped");
        }
    }

    fn note(&mut self, name: &str, failure: String) {
        if self.failed.get(name) != Some(&failure) {
            error!(name: "sysctl_failed",
                interface = name,
                "router advertisements, redirects or source routes from a site may be accepted: {failure}"
            );
        }
        self.failed.insert(name.to_owned(), failure);
    }
}

/// Whether a sysctl exists and has another value.
fn differs_from(path: &Path, value: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|read| read.trim() != value)
}

/// Sets sysctls of the network namespace to 1. `otherwise` describes the consequence of a failure.
fn set_all(settings: [&str; 2], otherwise: &str) {
    for setting in settings {
        let path = Path::new(ROOT).join(setting);
        if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
            continue;
        }
        match fs::write(&path, "1") {
            Ok(()) => info!(name: "sysctl_set", "{setting} set to 1"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(name: "sysctl_failed", "{setting} cannot be set to 1: {error}; {otherwise}"),
        }
    }
}

/// The sysctls of an interface that the agent disables on the attachments of sites and that are on now: name and value.
pub fn enabled_settings(interface: &str) -> Vec<(String, String)> {
    let paths = plan(Path::new(ROOT), interface).unwrap_or_default();
    let enabled = paths.into_iter().filter_map(|path| {
        let value = fs::read_to_string(&path).ok()?.trim().to_owned();
        let name = path.strip_prefix("/proc/sys").ok()?.display().to_string();
        (value != "0").then_some((name, value))
    });
    enabled.collect()
}

#[derive(Debug, thiserror::Error)]
pub enum SysctlFailure {
    #[error("an interface named {0} has no settings of its own: rename it")]
    Name(String),
    #[error("{} cannot be set to 0: {error}; let the agent write there, or set it yourself", .path.display())]
    Write { path: PathBuf, error: io::Error },
}

/// The sysctl files of an interface, below `root`.
///
/// # Errors
/// When the name is reserved for the settings of all interfaces, or is a path that leaves `root`.
fn plan(root: &Path, interface: &str) -> Result<Vec<PathBuf>, SysctlFailure> {
    // The kernel gives interfaces of the first two names no settings (`sysctl_dev_name_is_allowed`, net/core/dev.h).
    if ["all", "default", ".", "..", ""].contains(&interface) || interface.contains('/') {
        return Err(SysctlFailure::Name(interface.to_owned()));
    }
    Ok(OFF.iter().map(|(family, setting)| root.join(family).join(interface).join(setting)).collect())
}

/// Writes the settings that differ; returns which ones. A missing setting is harmless.
fn apply(root: &Path, interface: &str) -> Result<Vec<String>, SysctlFailure> {
    let mut changed = Vec::new();
    for path in plan(root, interface)? {
        let set = || match fs::read_to_string(&path) {
            Ok(value) if value.trim() == "0" => Ok(false),
            Ok(_) => fs::write(&path, "0").map(|()| true),
            Err(error) => Err(error),
        };
        match set() {
            Ok(true) => changed.push(path.strip_prefix(root).unwrap_or(&path).display().to_string()),
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(SysctlFailure::Write { path, error }),
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests;
