//! What the kernel programs of the benches share: the frame, and how one is written.
#![no_std]

pub mod frame;
pub mod shape;
