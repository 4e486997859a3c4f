//! Metrics for Prometheus: the numbers of one scrape, and their two text formats. Pure, except for [`ProcessScrape`].
//!
//! [`FAMILIES`] has the names, which are a contract: families and labels are added, never changed or removed.

mod encode;
mod families;
mod process;
mod shares;

pub use self::{
    encode::{Format, encode},
    families::{FAMILIES, Family, Kind},
    process::ProcessScrape,
};
use crate::{config::Role, connection::state::Health, datapath::Counters};

/// The numbers of one scrape.
#[derive(Debug, Default)]
pub struct Scrape {
    /// All configured ones, whether or not they are up.
    pub connections: Vec<ConnectionScrape>,
    pub with_tunnels: Vec<WithTunnelsScrape>,
    /// Counters of the VPC side; `None` without one.
    pub vpc: Option<Counters>,
    /// Counters of packets without an attributable connection.
    pub unattributed: Counters,
    /// Packets that the program has processed, by CPU.
    pub cpu_packets: Vec<(u32, u64)>,
    /// Those that exist.
    pub underlays: Vec<UnderlayScrape>,
    /// Destinations with several next hops.
    pub groups: Vec<GroupScrape>,
    /// Number of shares that `groups` omits.
    pub omitted_shares: usize,
    /// Number of destination routes by origin.
    pub routes: Vec<(&'static str, usize)>,
    pub quotas: Vec<QuotaScrape>,
    /// Number of the store's objects that are not in force.
    pub set_aside: usize,
    pub last_reload_success: bool,
    pub role: Role,
    /// `None` if /proc cannot be read.
    pub process: Option<ProcessScrape>,
}

/// A connection.
#[derive(Debug, Default)]
pub struct ConnectionScrape {
    pub name: String,
    pub is_up: bool,
    /// Not administratively down.
    pub is_admin_up: bool,
    pub state_changes: u64,
    pub counters: Counters,
    /// `None` unless strongSwan or the kernel's policies have its SAs.
    pub child_sas: Option<usize>,
    /// `None` unless the agent configures its IKE SA.
    pub ike: Option<IkeScrape>,
    /// `None` without a health check.
    pub health: Option<HealthScrape>,
    /// Number of refused learned routes; `None` without `[learn]`.
    pub refused_routes: Option<usize>,
}

/// A connection with tunnels, which [`Scrape::connections`] has one by one.
#[derive(Debug)]
pub struct WithTunnelsScrape {
    pub name: String,
    /// One of its tunnels is.
    pub is_up: bool,
    /// One of its tunnels is.
    pub is_admin_up: bool,
    /// `None` without `[learn]`.
    pub refused_routes: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
pub struct IkeScrape {
    pub is_up: bool,
    /// Completed rekeyings of IKE and child SAs.
    pub rekeys: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct HealthScrape {
    /// `None` before the first result.
    pub state: Option<Health>,
    /// Seconds, of the last reply; `None` while there is none.
    pub round_trip: Option<f64>,
    pub sent: u64,
    /// Probes without a reply in time.
    pub lost: u64,
}

/// Destinations with the same next hops.
#[derive(Debug)]
pub struct GroupScrape {
    /// Each next hop with its share of the flows, 0..=1.
    pub shares: Vec<(String, f64)>,
    pub destinations: Vec<ipnet::IpNet>,
}

/// An interface of encrypted packets.
#[derive(Debug)]
pub struct UnderlayScrape {
    pub name: String,
    /// Interrupts of its device by CPU.
    pub interrupts: Vec<(u32, u64)>,
}

#[derive(Debug)]
pub struct QuotaScrape {
    pub name: &'static str,
    pub used: usize,
    pub limit: usize,
}
