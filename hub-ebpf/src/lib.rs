//! The stages of the forwarder, a file each, and what they share. Entry points are in `main.rs`, which has them in order;
//! as a library they are also what the bench `lookup` measures one after the other.
#![no_std]

pub mod address;
pub mod counters;
pub mod frame;
pub mod headers;
pub mod limits;
pub mod maps;
pub mod nexthop;
pub mod parse;
pub mod redirect;
pub mod rewrite;
pub mod route;
pub mod selector;
pub mod tables;
