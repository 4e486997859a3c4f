//! Code that the kernel programs of the benches share: the frame and its generator.
#![no_std]

pub mod frame;
pub mod shape;
