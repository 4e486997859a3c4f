//! The Grafana board of contrib/: its panels, and a hub with traffic whose metrics they show.
//!
//! - `panel`: what the board's JSON says (pure);
//! - `lab`: three sites with IPsec, the events of an operator's day, and a Prometheus that scrapes the agent.

mod lab;
mod panel;

pub use lab::{BoardLab, Event};
pub use panel::{Board, Grid, Kind, Panel, Target, legend};
