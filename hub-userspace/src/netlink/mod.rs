//! The agent's only door to the kernel's networking: rtnetlink (`net/core/rtnetlink.c`).
//!
//! Jobs that share nothing but the socket code:
//!
//! * [`Follower`] keeps a [`HostState`] current: links, addresses, neighbours, gateways.
//! * [`Keeper`] has the kernel hold what is wanted, and nothing else of ours: routes, rules,
//!   neighbours. All of it carries [`PROTOCOL`], so that what a killed agent left behind is found
//!   again, and what others own is never touched.
//!
//! | file | holds |
//! | --- | --- |
//! | `socket` | sockets, dumps, batches of changes and their acknowledgements |
//! | `state` | [`HostState`] and what an event does to it (pure) |
//! | `query` | questions to a [`HostState`] |
//! | `follow` | [`Follower`] |
//! | `plan` | what can be wanted, and how rules and neighbours differ from those there (pure) |
//! | `ledger` | routes wanted and held, and so what is to be written (pure) |
//! | `wire` | plan to netlink messages and back (pure) |
//! | `keeper` | [`Keeper`], its task, and the probing of neighbours |
//! | `interfaces` | [`Interfaces`], which makes xfrm interfaces |
//! | `nft` | [`Guard`], the nftables table: another netlink family, on sockets of its own |

mod follow;
mod interfaces;
mod keeper;
mod ledger;
mod nft;
mod plan;
mod query;
mod socket;
mod state;
mod wire;

pub use follow::Follower;
pub use interfaces::{Interfaces, XfrmLink, XfrmLinks, remove_interfaces};
pub use keeper::{Failure, Keeper, Report};
pub use nft::{Counter, Guard, GuardCounters, GuardError, Ruleset, Service};
pub use plan::{Family, KernelNeighbour, KernelNextHop, KernelRule, RouteAction, RouteKey, RuleMatch};
pub use socket::{Error, Refusal};
pub use state::{Changes, HostState, Link};

/// The routing protocol number that marks what is ours: `RTA_PROTOCOL`, `FRA_PROTOCOL`,
/// `NDA_PROTOCOL`. Not assigned in `include/uapi/linux/rtnetlink.h`; BIRD and FRR can select our
/// routes by it.
pub const PROTOCOL: u8 = 118;

/// Our own routing table (`RTA_TABLE`, host byte order as all of rtnetlink's numbers).
pub const TABLE: u32 = 1180;

/// The preference (`FRA_PRIORITY`) of the rules that lead to [`TABLE`]: after `local` (0), before
/// `main` (32766).
pub const RULE_PREFERENCE: u32 = 1180;

/// The metric (`RTA_PRIORITY`) of our routes. A table holds one route per destination and
/// metric, so with a metric of our own a route in a shared table never displaces another's.
pub const METRIC: u32 = 1180;

/// The metric of [`RouteAction::Unreachable`]: it counts when nothing of a better one is there.
pub const BACKSTOP_METRIC: u32 = METRIC + 1;

/// The kernel's main table, `RT_TABLE_MAIN`.
const MAIN_TABLE: u8 = 254;
