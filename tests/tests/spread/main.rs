//! `spread = "xdp"`: received ESP is distributed over the CPUs by its SPI, and nothing else is touched.

mod delivery;
mod lifecycle;
mod underlay;
mod verdicts;
