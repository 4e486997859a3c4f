//! Network-namespace worlds: a hub, its VPC and its sites on one machine, and helpers that measure them.
//!
//! Everything happens inside namespaces that this process made, and ends with the values that own it: a [`Namespace`]
//! is deleted when dropped, an [`Agent`] is stopped. [`clean_up_on_interrupt`] does the same on Ctrl-C. Needs root (or
//! `CAP_SYS_ADMIN`, `CAP_NET_ADMIN`, `CAP_NET_RAW`) and `ip` of iproute2.
//!
//! ```no_run
//! use hub_tests::lab::{self, Options, World};
//!
//! # fn main() -> anyhow::Result<()> {
//! let world = World::three_offices(&Options::default().slow_path(true))?;
//! let report = lab::ping(&world["shanghai"], "10.10.20.1".parse()?, 3)?;
//! println!("{} of {} answered", report.received, report.sent);
//! # Ok(())
//! # }
//! ```

mod agent;
mod binary;
mod bird;
mod cleanup;
mod config;
mod crowd;
mod device;
mod fd_store;
mod frames;
mod frr;
mod http;
mod ipsec;
mod metrics;
mod monitor;
mod namespace;
mod offices;
mod ping;
mod prometheus;
mod rig;
mod scratch;
mod socket;
mod standby;
mod status;
mod switch;
mod tcp;
mod terminal;
mod tool;
mod tun;
mod two_hubs;
mod udp;
mod world;

pub use agent::{Agent, AgentCommand};
pub use binary::agent_binary;
pub use bird::Bird;
pub use cleanup::{AtInterrupt, clean_up_on_interrupt, park_if_interrupted};
pub use config::{AuthConfig, ConnectionConfig, HubConfig, IpsecConfig, PublicSide, RouteConfig};
pub use crowd::Crowd;
pub use device::{Counters, Mac};
pub use fd_store::FdStore;
pub use frames::{Frame, FrameSocket};
pub use frr::Frr;
pub use http::{LinesReply, Reply};
pub use ipsec::{Charon, CharonOptions, Esp, HUB_PUBLIC, INTERNET, IpsecLab, IpsecOptions, Office, Starter};
pub use monitor::Monitor;
pub use namespace::{Namespace, require_root};
pub use offices::{HANGZHOU, HUB, NINGBO, Options, SHANGHAI, Site, VPC, Vpc};
pub use ping::{Ping, PingReport, ping};
pub use prometheus::{Prometheus, Sample, Series};
pub use rig::{Rig, reach, retry, retry_within};
pub use scratch::Scratch;
pub use standby::StandbyPair;
pub use status::{Status, VPC_SIDE};
pub use switch::Switch;
pub use tcp::{TcpPair, Transfer, tcp_transfer};
pub use terminal::Terminal;
pub use tool::{Background, output};
pub use tun::Tun;
pub use two_hubs::{HUBS, ROUTER, TWO_SITES, TwoHubs, VPC_PREFIX};
pub use udp::{Datagram, UdpProbe, UdpReceiver, udp_probe};
pub use world::{Builder, End, Link, PlaceSpec, World, unique_prefix};
