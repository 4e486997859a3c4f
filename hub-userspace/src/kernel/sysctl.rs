//! Disables router advertisements, redirects and source routes on the attachments of sites.
//!
//! A router advertisement gives the hub an address and a default route (RFC 4862, `net/ipv6/ndisc.c`). A redirect
//! changes the next hop. A source route in a packet to the hub (RFC 791) changes the destination. All are off on every
//! attachment of a site before the program is attached, and are restored if another process changes them. The VPC's
//! interface is left alone: a host with one NIC may depend on its advertisements.
//!
//! With `forwarding` off the kernel takes IPv4 redirects where *either* `all` or the interface has them on
//! (`IN_DEV_RX_REDIRECTS`, include/linux/inetdevice.h); a gateway has it on, where both must be.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use tracing::{error, info, warn};

use crate::{config::Config, kernel::netlink::HostState};

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

    /// The interface was removed. Its index may be reused.
    pub fn forget(&mut self, ifindex: u32) {
        self.links.retain(|_, (index, _)| *index != ifindex);
    }
}

/// Writes the sysctls.
#[derive(Debug, Default)]
pub struct Sysctls {
    /// Index and MTU of an interface when its settings were last written.
    settled: BTreeMap<String, (u32, u32)>,
    /// Whether the settings of the network namespace are written.
    by_ports: bool,
    reflect: bool,
    /// Failures by the interface's name, so that each is logged once.
    failed: BTreeMap<String, String>,
}

impl Sysctls {
    /// The interface was removed. Its index may be reused.
    pub fn forget(&mut self, ifindex: u32) {
        self.settled.retain(|_, (index, _)| *index != ifindex);
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
        for (name, is) in &settings.links {
            if self.settled.get(name) == Some(is) {
                continue;
            }
            match apply(Path::new(ROOT), name) {
                Ok(changed) => {
                    for setting in changed {
                        info!(interface = name, "{setting} set to 0");
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
            error!(
                interface = name,
                "router advertisements, redirects or source routes from a site may be accepted: {failure}"
            );
        }
        self.failed.insert(name.to_owned(), failure);
    }
}

/// Sets sysctls of the network namespace to 1. `otherwise` describes the consequence of a failure.
fn set_all(settings: [&str; 2], otherwise: &str) {
    for setting in settings {
        let path = Path::new(ROOT).join(setting);
        if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
            continue;
        }
        match fs::write(&path, "1") {
            Ok(()) => info!("{setting} set to 1"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!("{setting} cannot be set to 1: {error}; {otherwise}"),
        }
    }
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
mod tests {
    use std::{process::Command, thread};

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    /// Runs `ip` in the calling thread's namespace.
    fn ip(arguments: &str) {
        let status = Command::new("ip").args(arguments.split(' ')).status().expect("there is an `ip`");
        assert!(status.success(), "ip {arguments}");
    }

    #[test]
    fn interface_with_dot_accepts_no_ra_and_redirects() {
        let namespace = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("run as root");
            ip("link add eth0.100 type veth peer name other");
            let read = |setting: &str| fs::read_to_string(Path::new(ROOT).join(setting)).expect("it is there");
            fs::write(Path::new(ROOT).join("ipv6/conf/eth0.100/accept_ra"), "2").expect("run as root");
            let changed = apply(Path::new(ROOT), "eth0.100").expect("run as root");
            assert!(changed.contains(&"ipv6/conf/eth0.100/accept_ra".to_owned()), "{changed:?}");
            for (family, setting) in OFF {
                assert_eq!(read(&format!("{family}/eth0.100/{setting}")), "0\n", "{family} {setting}");
            }
            assert_eq!(read("ipv6/conf/other/accept_ra"), "1\n", "another interface is left alone");
            // Below the minimum MTU and back: the kernel recreates the IPv6 settings.
            ip("link set eth0.100 up");
            ip("link set eth0.100 mtu 1000");
            assert!(apply(Path::new(ROOT), "eth0.100").expect("nothing is there").is_empty());
            ip("link set eth0.100 mtu 1500");
            let changed = apply(Path::new(ROOT), "eth0.100").expect("run as root");
            assert_eq!(changed, ["ipv6/conf/eth0.100/accept_ra", "ipv6/conf/eth0.100/accept_redirects"]);
        };
        thread::spawn(namespace).join().expect("it does not panic");
    }

    #[test]
    fn unsafe_interface_name_is_rejected_as_path() {
        let root = Path::new("/proc/sys/net");
        let paths = plan(root, "eth0.100").expect("a dot is part of the name");
        assert_eq!(paths[0], root.join("ipv6/conf/eth0.100/accept_ra"));
        assert_eq!(paths[2], root.join("ipv4/conf/eth0.100/accept_redirects"));
        for name in ["all", "default", ".", "..", "", "a/b", "../all"] {
            assert!(plan(root, name).is_err(), "{name}");
        }
    }

    #[test]
    fn differing_settings_are_written_and_reported() {
        let folder = tempfile::tempdir().expect("a folder");
        let v4 = folder.path().join("ipv4/conf/tun0");
        let v6 = folder.path().join("ipv6/conf/tun0");
        fs::create_dir_all(&v4).expect("it is ours");
        fs::create_dir_all(&v6).expect("it is ours");
        fs::write(v4.join("accept_redirects"), "1\n").expect("it is ours");
        fs::write(v6.join("accept_redirects"), "0\n").expect("it is ours");
        fs::write(v6.join("accept_ra"), "2\n").expect("it is ours");
        fs::write(v4.join("accept_source_route"), "1\n").expect("it is ours");
        let changed = apply(folder.path(), "tun0").expect("it can be written");
        assert_eq!(
            changed,
            ["ipv6/conf/tun0/accept_ra", "ipv4/conf/tun0/accept_redirects", "ipv4/conf/tun0/accept_source_route"]
        );
        assert_eq!(apply(folder.path(), "tun0").expect("it can be written"), Vec::<String>::new());
        assert_eq!(apply(folder.path(), "tun1").expect("nothing is there"), Vec::<String>::new());
    }
}
