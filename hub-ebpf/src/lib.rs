//! The stages of the forwarder and the modules that they share. The entry points are in `main.rs`, which calls the
//! stages in order. [`spread`] is another program. The bench `lookup` links this library to measure the stages one by one.
#![no_std]

// The stages; `main.rs` has their order.
pub mod nexthop;
pub mod parse;
pub mod policy;
pub mod redirect;
pub mod rewrite;
pub mod route;
pub mod translate;

// Shared.
pub mod capture;
pub mod counters;
pub mod family;
pub mod frame;
pub mod headers;
pub mod lookup;
pub mod maps;
pub mod mss;
pub mod refusal;
pub mod special;

// A program of its own.
pub mod spread;

/// Everything that the stages need of an address family.
pub trait Family:
    family::Address + parse::ParseIp + special::Special + nexthop::FlowHash + rewrite::HopLimit + translate::Translate
{
}

impl Family for family::V4 {}
impl Family for family::V6 {}
