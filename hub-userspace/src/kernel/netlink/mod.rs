//! The agent's only interface to the kernel's networking: rtnetlink (`net/core/rtnetlink.c`).
//!
//! Components that share only the socket code:
//!
//! * [`HostFollower`] keeps a [`HostState`] current: links, addresses, neighbours, gateways.
//! * [`RouteFollower`] follows the routes of a routing daemon in one table.
//! * [`Reconciler`] makes the kernel's routes and neighbours match the desired state. All of ours carry [`PROTOCOL`] or
//!   [`INTERNAL_PROTOCOL`], so that a later agent finds the leftovers of a killed one, and objects of others are never
//!   touched.
//!
//! | file | content |
//! | --- | --- |
//! | `socket` | sockets, dumps, batches of changes and their acknowledgements |
//! | `state` | [`HostState`] and its update by events (pure) |
//! | `query` | queries of a [`HostState`] |
//! | `follow` | [`HostFollower`] |
//! | `learn` | [`RouteFollower`]: its messages and its table (pure), and its task |
//! | `plan` | desired objects, and the difference between desired and existing neighbours (pure) |
//! | `route_state` | desired and existing routes, and the resulting writes (pure) |
//! | `attributes` | attributes of messages that this project parses itself (pure) |
//! | `wire` | plan to netlink messages and back (pure) |
//! | `reconciler` | [`Reconciler`], its task, and the probing of neighbours |
//! | `group` | the device group of the sites' interfaces |
//! | `interfaces` | [`Interfaces`], which creates xfrm interfaces |
//! | `survey` | [`Survey`]: interfaces, and the rules of others |
//! | `path` | the kernel's routes to single addresses, with the MTU of the path |
//! | `generic` | [`DeviceQueries`]: XDP features and offloads of devices, by generic netlink |
//! | `nft` | [`Guard`], the nftables table: another netlink family, on sockets of its own |

pub mod attributes;
mod follow;
mod generic;
mod group;
mod interfaces;
mod learn;
mod nft;
mod path;
mod plan;
mod query;
mod reconciler;
mod route_state;
mod socket;
mod state;
mod survey;
mod wire;

pub use follow::HostFollower;
pub use generic::{DeviceQueries, XdpFeatures};
pub use group::{SITES_GROUP, put_into_group, take_out_of_group};
pub use interfaces::{Interfaces, Problems, XfrmLink, XfrmLinks, remove_interfaces};
pub use learn::{FollowedTable, KernelHop, KernelHops, RouteFollower, TableChanges};
pub use nft::{Counter, Guard, GuardCounters, GuardError, GuardService, Ruleset};
pub use path::{Path, Paths};
pub use plan::{Family, KernelNeighbour, KernelNextHop, KernelRule, RouteAction, RouteKey, RuleKind};
pub use reconciler::{ReconcileFailure, ReconcileReport, Reconciler};
pub use socket::{NetlinkError, Refusal};
pub use state::{Changes, HostState, Link, Links};
pub use survey::{ForeignRule, OtherEnd, Survey};

/// The routing protocol number of our objects: `RTA_PROTOCOL`, `FRA_PROTOCOL`, `NDA_PROTOCOL`. Not assigned in
/// `include/uapi/linux/rtnetlink.h`. BIRD and FRR can filter our routes by it.
pub const PROTOCOL: u8 = 118;

/// The protocol of our unpublished routes, which routing daemons must not export. All our routes have it except those
/// with [`METRIC`].
pub const INTERNAL_PROTOCOL: u8 = 119;

/// The metric (`RTA_PRIORITY`) of published routes. A table holds one route per destination and metric, so with metrics
/// of our own we never displace a route of others in a shared table.
pub const METRIC: u32 = 1180;

/// The metric of routes in the main table for the kernel's own use only.
pub const INTERNAL_METRIC: u32 = METRIC + 1;

/// The metric of [`RouteAction::Unreachable`], used when no route has a better one.
pub const BACKSTOP_METRIC: u32 = METRIC + 2;

/// The metric of routes to sites' own prefixes, which are translated: after all others, ours and those of the host.
pub const OWN_PREFIX_METRIC: u32 = METRIC + 3;

/// The kernel's main table, `RT_TABLE_MAIN`.
pub const MAIN_TABLE: u32 = 254;

/// Whether a route with this protocol is ours.
fn is_ours(protocol: u8) -> bool {
    protocol == PROTOCOL || protocol == INTERNAL_PROTOCOL
}
