//! The bypass hunt: random and crafted frames against a running agent, checked against the policy only.
//!
//! The suite is independent of the code under test. Every packet carries a 64-bit id, every far end of the hub is
//! captured, and a model of the policy computes where a packet may arrive. The model knows nothing of programs, marks,
//! rules or tables: a packet that arrives anywhere else is a hole, whichever component opened it.
//!
//! - `places`: the far ends, their networks and addresses. `dual`: the site with two tunnels.
//! - `learned`: the routes of a routing daemon. `changing`: their changes, and failing tunnels.
//! - `arena`: the world, the configuration, the agent.
//! - `wires`: frames into the hub, and everything that leaves it.
//! - `raw`: links without Ethernet headers: TUN, GRE, WireGuard, xfrm.
//! - `reading`: the kernel's interpretation of a frame.
//! - `policy`: where a packet may arrive, and where it must.
//! - `draw`, `addresses`: random packets from a seed.
//! - `hunt`: sends, captures, compares. `settle`: waits for everything under way.
//!
//! `cases` has a test for each known bypass; the others hunt while something happens.
//!
//! `VPNHUB_HUNT=N` sends N packets instead of 100,000, `VPNHUB_SEED=N` replays a seed.

mod addresses;
mod arena;
mod cases;
mod changing;
mod draw;
mod dual;
mod host;
mod hunt;
mod learned;
mod lifecycle;
mod many;
mod places;
mod policy;
mod random;
mod raw;
mod reading;
mod settle;
mod transitions;
mod tunnels;
mod wires;
