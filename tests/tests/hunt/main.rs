//! The bypass hunt: random and crafted frames against a running agent, checked against the policy only.
//!
//! The suite is independent of the code under test. Every packet carries a 64-bit id, every far end of the hub is
//! captured, and a model of the policy computes where a packet may arrive. The model knows nothing of programs, marks,
//! rules or tables: a packet that arrives anywhere else is a hole, whichever component opened it.
//!
//! - `places`: the far ends, their networks and addresses.
//! - `arena`: the world, the configuration, the agent.
//! - `wires`: frames into the hub, and everything that leaves it.
//! - `raw`: links without Ethernet headers: TUN, GRE, WireGuard, xfrm.
//! - `reading`: the kernel's interpretation of a frame.
//! - `policy`: where a packet may arrive, and where it must.
//! - `draw`: random packets from a seed.
//! - `hunt`: sends, captures, compares.
//!
//! `cases` has a test for each known bypass; the others hunt while something happens.
//!
//! `VPNHUB_HUNT=N` sends N packets instead of 100,000, `VPNHUB_SEED=N` replays a seed.

mod arena;
mod cases;
mod draw;
mod host;
mod hunt;
mod lifecycle;
mod many;
mod places;
mod policy;
mod random;
mod raw;
mod reading;
mod transitions;
mod tunnels;
mod wires;
