//! Tests of the agent's steps on a simulated host: need neither root nor a kernel.

mod canonical;
mod carriers;
mod draw;
mod effect_order;
mod evaluate;
mod mtu;
mod random;
mod recordings;
mod round_trip;
mod segments;
mod sim;
mod underlays;
