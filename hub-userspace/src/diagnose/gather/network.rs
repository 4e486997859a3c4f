//! Interfaces, rules and paths of the network namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::number;
use crate::{
    api_types::status::{ConnectionStatus, FullStatus},
    diagnose::facts::{ConfigFacts, InterfaceFacts, NeighbourFacts, NetworkFacts, OtherEndFacts, PathFacts, PathMtu},
    kernel::{
        netlink::{DeviceQueries, Guard, GuardError, Link, Links, OtherEnd, Paths, Survey},
        sysctl,
    },
};

/// Reads the network namespace of this process, which is the agent's.
pub async fn network(
    status: Option<&FullStatus>,
    config: Option<&ConfigFacts>,
    unchecked: &mut Vec<String>,
) -> Option<NetworkFacts> {
    let Survey { links, other_ends, rules, has_own_rules } = match Survey::take().await {
        Ok(survey) => survey,
        Err(error) => {
            unchecked.push(format!("interfaces and rules are not checked: {error}"));
            Survey::default()
        }
    };
    let mut names = BTreeSet::new();
    if let Some(FullStatus { status, .. }) = status {
        let members = status.connections.iter().flat_map(ConnectionStatus::members);
        names.extend(members.map(|connection| connection.interface.as_str()));
        names.extend(status.vpc.iter().map(|vpc| vpc.interface.as_str()));
        names.extend(status.underlays.iter().map(|underlay| underlay.interface.as_str()));
    }
    names.extend(config.iter().flat_map(|facts| facts.config.underlays.keys()).map(String::as_str));
    let mut devices = DeviceQueries::open().ok();
    let mut vlans = BTreeMap::<u32, Vec<String>>::new();
    for link in links.values() {
        if let Some((below, _)) = link.vlan {
            vlans.entry(below).or_default().push(link.name.clone());
        }
    }
    let mut interfaces = BTreeMap::new();
    for name in names {
        if let Some(link) = links.named(name) {
            let other_end = other_ends.get(&link.index).copied();
            let vlans = vlans.remove(&link.index).unwrap_or_default();
            let facts = InterfaceFacts { vlans, ..interface(link, &links, other_end, devices.as_mut()) };
            interfaces.insert(name.to_owned(), facts);
        }
    }
    let flag = |path| number::<u32>(path).map(|value| value != 0);
    Some(NetworkFacts {
        forwarding: ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"].map(flag),
        neighbours: [("arp_cache", "ipv4"), ("ndisc_cache", "ipv6")].map(|(table, family)| neighbours(table, family)),
        has_table: has_table(unchecked).await,
        paths: paths(status, config, &links).await,
        interfaces,
        cpus: std::thread::available_parallelism().ok().map(Into::into),
        rules,
        has_own_rules,
    })
}

/// Questions that the kernel does not answer are left open.
fn interface(
    link: &Link,
    links: &Links,
    other_end: Option<OtherEnd>,
    devices: Option<&mut DeviceQueries>,
) -> InterfaceFacts {
    let name = link.name.as_str();
    let strict = |name: &str| number(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).unwrap_or(0);
    let sysfs = sysfs(name, link.index);
    let (mut xdp_features, mut offloads, mut gro_there) = (None, None, None);
    if let Some(devices) = devices {
        xdp_features = devices.xdp_features(link.index).ok().flatten();
        offloads = devices.offloads(link.index).ok().flatten();
        if let Some(OtherEnd::Here { ifindex, .. }) = other_end {
            gro_there = devices.offloads(ifindex).ok().flatten().map(|offloads| offloads.contains("rx-gro"));
        }
    }
    let other_end = other_end.map(|end| match end {
        OtherEnd::Elsewhere => OtherEndFacts { name: None, has_napi: None },
        OtherEnd::Here { ifindex, has_xdp } => OtherEndFacts {
            name: links.get(&ifindex).map(|link| link.name.clone()),
            has_napi: if has_xdp { Some(true) } else { gro_there },
        },
    });
    let driver = sysfs.as_ref().and_then(|directory| fs::read_link(directory.join("device/driver")).ok());
    InterfaceFacts {
        rp_filter: strict("all").max(strict(name)),
        enabled_settings: sysctl::enabled_settings(name),
        is_hardware: sysfs.as_ref().is_some_and(|directory| directory.join("device").exists()),
        queues: sysfs.as_deref().and_then(queues),
        driver: driver.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()),
        xdp_features,
        offloads,
        vlans: Vec::new(),
        other_end,
        link: link.clone(),
    }
}

/// The paths of each connection, as far as there are routes.
async fn paths(
    status: Option<&FullStatus>,
    config: Option<&ConfigFacts>,
    links: &Links,
) -> BTreeMap<String, PathFacts> {
    let (Some(FullStatus { status, .. }), Ok(mut paths)) = (status, Paths::open()) else {
        return BTreeMap::new();
    };
    let config = config.map(|facts| &facts.config);
    let mut found = BTreeMap::new();
    for member in status.connections.iter().flat_map(ConnectionStatus::members) {
        let connection = config.and_then(|config| config.connections.get(&member.name));
        let sa = member.ipsec.as_ref().and_then(|ipsec| ipsec.outside.as_ref());
        let configured = || config?.customer_gateways.get(&connection?.customer_gateway)?.address.ip();
        let site = sa.and_then(|sa| sa.remote).or_else(configured);
        let hub = sa.and_then(|sa| sa.local).or(config.and_then(|config| config.gateway.address));
        let mut facts = PathFacts::default();
        if let Some(site) = site {
            facts.outside = path(&mut paths, links, site, hub, None).await;
        }
        let check = connection.and_then(|connection| connection.health_check.as_ref());
        if let Some((check, tunnel)) = check.zip(links.named(&member.interface)) {
            for destination in &check.destinations {
                let to = path(&mut paths, links, *destination, Some(check.source), Some(tunnel.index)).await;
                let smallest = facts.inside.as_ref().and_then(|inside| inside.known).unwrap_or(u32::MAX);
                if to.as_ref().and_then(|to| to.known).is_some_and(|known| known < smallest) {
                    facts.inside = to;
                }
            }
        }
        found.insert(member.name.clone(), facts);
    }
    found
}

async fn path(
    paths: &mut Paths,
    links: &Links,
    destination: IpAddr,
    from: Option<IpAddr>,
    interface: Option<u32>,
) -> Option<PathMtu> {
    let path = paths.to(destination, from, interface).await.ok()??;
    let link = links.get(&path.ifindex)?;
    Some(PathMtu { destination, interface: link.name.clone(), link: link.mtu, known: path.mtu })
}

/// The interface's directory, if /sys shows the network namespace of this process.
fn sysfs(name: &str, index: u32) -> Option<PathBuf> {
    let directory = Path::new("/sys/class/net").join(name);
    (number(directory.join("ifindex")) == Some(index)).then_some(directory)
}

fn queues(directory: &Path) -> Option<[usize; 2]> {
    let (mut receive, mut transmit) = (0, 0);
    for entry in fs::read_dir(directory.join("queues")).ok()? {
        let name = entry.ok()?.file_name();
        let name = name.to_str()?;
        receive += usize::from(name.starts_with("rx-"));
        transmit += usize::from(name.starts_with("tx-"));
    }
    Some([receive, transmit])
}

/// The first number of each line but the first is the number of entries, in hexadecimal, the same for all CPUs
/// (`neigh_stat_seq_show`, net/core/neighbour.c).
fn neighbours(table: &str, family: &str) -> Option<NeighbourFacts> {
    let text = fs::read_to_string(format!("/proc/net/stat/{table}")).ok()?;
    let entries = u64::from_str_radix(text.lines().nth(1)?.split_whitespace().next()?, 16).ok()?;
    let limit = number(format!("/proc/sys/net/{family}/neigh/default/gc_thresh3"))?;
    Some(NeighbourFacts { entries, limit })
}

async fn has_table(unchecked: &mut Vec<String>) -> Option<bool> {
    let guard = match Guard::open().await {
        Ok(guard) => guard,
        Err(GuardError::Permission) => return None,
        Err(error) => {
            unchecked.push(format!("the nftables table inet vpnhub is not checked: {error}"));
            return None;
        }
    };
    guard.is_there().await.ok()
}
