//! The agent's only door to the kernel's networking: rtnetlink (`net/core/rtnetlink.c`).
//!
//! Jobs that share nothing but the socket code:
//!
//! * [`HostFollower`] keeps a [`HostState`] current: links, addresses, neighbours, gateways.
//! * [`Reconciler`] has the kernel hold what is wanted, and nothing else of ours: routes and
//!   neighbours. All of it carries [`PROTOCOL`] or [`INTERNAL_PROTOCOL`], so that what a killed agent left behind is found
//!   again, and what others own is never touched.
//!
//! | file | holds |
//! | --- | --- |
//! | `socket` | sockets, dumps, batches of changes and their acknowledgements |
//! | `state` | [`HostState`] and what an event does to it (pure) |
//! | `query` | questions to a [`HostState`] |
//! | `follow` | [`HostFollower`] |
//! | `plan` | what can be wanted, and how neighbours differ from those there (pure) |
//! | `route_state` | routes wanted and held, and so what is to be written (pure) |
//! | `wire` | plan to netlink messages and back (pure) |
//! | `reconciler` | [`Reconciler`], its task, and the probing of neighbours |
//! | `group` | the device group of the sites' interfaces |
//! | `interfaces` | [`Interfaces`], which makes xfrm interfaces |
//! | `nft` | [`Guard`], the nftables table: another netlink family, on sockets of its own |

mod follow;
mod group;
mod interfaces;
mod nft;
mod plan;
mod query;
mod reconciler;
mod route_state;
mod socket;
mod state;
mod wire;

pub use follow::HostFollower;
pub use group::{SITES_GROUP, put_into_group, take_out_of_group};
pub use interfaces::{Interfaces, Problems, XfrmLink, XfrmLinks, remove_interfaces};
pub use nft::{Counter, Guard, GuardCounters, GuardError, GuardService, Ruleset};
pub use plan::{Family, KernelNeighbour, KernelNextHop, RouteAction, RouteKey};
pub use reconciler::{ReconcileFailure, ReconcileReport, Reconciler};
pub use socket::{NetlinkError, Refusal};
pub use state::{Changes, HostState, Link};

/// The routing protocol number that marks what is ours: `RTA_PROTOCOL`, `FRA_PROTOCOL`,
/// `NDA_PROTOCOL`. Not assigned in `include/uapi/linux/rtnetlink.h`; BIRD and FRR can select our
/// routes by it.
pub const PROTOCOL: u8 = 118;

/// The protocol of our routes that are not published: routing daemons are not to export them. All of ours but those of
/// [`METRIC`] have it.
pub const INTERNAL_PROTOCOL: u8 = 119;

/// The metric (`RTA_PRIORITY`) of published routes. A table holds one route per destination and
/// metric, so with metrics of our own a route in a shared table never displaces another's.
pub const METRIC: u32 = 1180;

/// The metric of routes that are in the main table for the kernel alone.
pub const INTERNAL_METRIC: u32 = METRIC + 1;

/// The metric of [`RouteAction::Unreachable`]: it counts when nothing of a better one is there.
pub const BACKSTOP_METRIC: u32 = METRIC + 2;

/// The kernel's main table, `RT_TABLE_MAIN`.
pub const MAIN_TABLE: u32 = 254;

/// Whether a route's protocol says that it is ours.
fn is_ours(protocol: u8) -> bool {
    protocol == PROTOCOL || protocol == INTERNAL_PROTOCOL
}
