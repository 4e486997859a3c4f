//! The nftables table that keeps the kernel to what the program has decided: its content, and that it stays so.

use anyhow::{Context as _, Result};
use hub_common::maps::VPC;
use ipnet::IpNet;
use tokio::{runtime::Handle, task::block_in_place};
use tracing::{info, warn};

use crate::{
    config::{
        Config,
        model::{Connection, Service},
    },
    fib::id_allocator::IdAllocator,
    kernel::{
        fd_store,
        netlink::{self, Guard, GuardCounters, HostState, Ruleset, SITES_GROUP},
    },
    policy::selectors::Negotiated,
};

/// The table itself.
pub struct GuardTable {
    guard: Guard,
    /// How often others have changed it.
    disturbances: u64,
}

impl GuardTable {
    /// Goes on with the socket that systemd has kept, if there is one. With `plain_table` the table has no owner, as on a
    /// kernel before 6.9.
    ///
    /// # Errors
    /// When the kernel has no nftables, or this process may not change them.
    pub async fn open(plain_table: bool) -> Result<Self> {
        let guard = match (fd_store::take(), plain_table) {
            (stored, true) => {
                if stored.is_some() {
                    fd_store::forget();
                }
                Guard::open_plain().await?
            }
            (Some(stored), false) => match Guard::resume(stored).await {
                Ok(Some(guard)) => guard,
                unusable => {
                    let why = unusable
                        .err()
                        .map_or("it is of another network namespace".to_owned(), |error| error.to_string());
                    warn!("the socket that systemd has kept is closed: {why}");
                    fd_store::forget();
                    open_and_keep().await?
                }
            },
            (None, false) => open_and_keep().await?,
        };
        if !guard.is_owner() {
            info!(
                "the nftables table inet vpnhub has no owner, which takes Linux 6.9: others can flush it, and it is put back \
                 then"
            );
        }
        Ok(Self { guard, disturbances: 0 })
    }

    /// Waits for the kernel, so that what follows is behind it; in a worker thread of a runtime that has several.
    pub fn apply(&mut self, ruleset: &Ruleset) -> Result<()> {
        let guard = &mut self.guard;
        block_in_place(|| Handle::current().block_on(guard.apply(ruleset)))
            .context("the nftables table inet vpnhub, which keeps the kernel from forwarding past the selectors")
    }

    /// Returns when somebody else has changed the table; [`Self::apply`] is to follow. May be cancelled.
    pub async fn disturbed(&mut self) {
        if let Err(error) = self.guard.disturbed().await {
            warn!("changes of the nftables table inet vpnhub cannot be followed: {error}");
            std::future::pending::<()>().await;
        }
        self.disturbances += 1;
        // Whoever does it all the time must not fill the log.
        if self.disturbances.is_power_of_two() {
            warn!(
                times = self.disturbances,
                "somebody else has changed or removed the nftables table inet vpnhub: it is put back"
            );
        }
    }

    /// What the table has dropped.
    pub fn counters(&mut self) -> Result<GuardCounters> {
        let guard = &mut self.guard;
        Ok(block_in_place(|| Handle::current().block_on(guard.counters()))?)
    }

    /// Removes the table, which opens what it denied.
    pub async fn remove(mut self) -> Result<()> {
        self.guard.remove().await?;
        fd_store::forget();
        Ok(())
    }
}

/// Its socket owns the table also while no agent runs, under systemd.
async fn open_and_keep() -> Result<Guard> {
    let guard = Guard::open().await?;
    if guard.is_owner() {
        guard.with_socket(fd_store::keep);
    }
    Ok(guard)
}

/// Interfaces of all connections.
pub fn sites(config: &Config) -> impl Iterator<Item = &str> {
    config.connections.values().map(|connection| connection.interface.as_str())
}

/// Before any agent runs, at boot: closes the sites' interfaces, whether they are there yet or not. A table that is there
/// already stays as it is: a datapath may be running behind it. Whether there was none.
///
/// # Errors
/// As [`GuardTable::open`].
pub async fn protect(config: &Config) -> Result<bool> {
    let mut guard = Guard::open().await?;
    if guard.is_there().await? {
        return Ok(false);
    }
    let slots = IdAllocator::new("connections", 0..0);
    guard.apply(&ruleset(config, &HostState::default(), &Negotiated::new(), &slots)).await?;
    Ok(true)
}

/// What the table is to say. Pure.
pub fn ruleset(config: &Config, host: &HostState, negotiated: &Negotiated, slots: &IdAllocator<String>) -> Ruleset {
    let mark = config.dataplane.mark;
    let of_connections = config
        .connections
        .iter()
        .filter_map(|(name, connection)| Some((mark.numbered(slots.get(name)?), connection.interface.clone())));
    let of_vpc = config.vpc.iter().map(|vpc| (mark.numbered(VPC), vpc.interface.clone()));
    let output = config.connections.iter().flat_map(|(name, connection)| {
        let agreed = negotiated.get(name).filter(|agreed| !agreed.on_demand && !agreed.pairs.is_empty());
        let pairs: Vec<(IpNet, IpNet)> = match agreed {
            Some(agreed) => agreed.pairs.iter().map(|pair| (pair.local, pair.remote)).collect(),
            None => of_file(connection).collect(),
        };
        pairs.into_iter().chain(of_link(connection, host)).map(|(hub, site)| (connection.interface.clone(), hub, site))
    });
    Ruleset {
        sites: sites(config).map(str::to_owned).collect(),
        // The hub answers itself, too.
        vpc: config.vpc.iter().map(|vpc| vpc.interface.clone()).chain(["lo".to_owned()]).collect(),
        group: SITES_GROUP,
        mark,
        next_hops: of_connections.chain(of_vpc).collect(),
        output: output.filter(|(_, hub, site)| is_v4(*hub) == is_v4(*site)).collect(),
        services: config.gateway.services.iter().map(|service| service_of(*service)).collect(),
    }
}

/// Pairs of the hub's side and the site's.
fn of_file(connection: &Connection) -> impl Iterator<Item = (IpNet, IpNet)> {
    let remotes = &connection.remote_cidrs;
    connection.local_cidrs.iter().flat_map(move |local| remotes.iter().map(move |remote| (*local, *remote)))
}

/// The hub's addresses on the link, and who else is there.
fn of_link(connection: &Connection, host: &HostState) -> Vec<(IpNet, IpNet)> {
    let Some(link) = host.link(&connection.interface) else { return Vec::new() };
    let addresses: Vec<IpNet> = host.addresses_of(link.index).collect();
    let links = addresses.iter().map(|own| (IpNet::from(own.addr()), own.trunc()));
    let peers = connection
        .peer
        .into_iter()
        .flat_map(|peer| addresses.iter().map(move |own| (IpNet::from(own.addr()), IpNet::from(peer))));
    links.chain(peers).collect()
}

fn is_v4(prefix: IpNet) -> bool {
    matches!(prefix, IpNet::V4(_))
}

fn service_of(service: Service) -> netlink::GuardService {
    match service {
        Service::Icmp => netlink::GuardService::Icmp,
        Service::Tcp(port) => netlink::GuardService::Tcp(port),
        Service::Udp(port) => netlink::GuardService::Udp(port),
    }
}
