//! Kernel programs of the benches, a file each. [`generator`] sends. [`sink`] counts and checks; [`tunnels`] also
//! records arrivals. [`pass`] lets a veth device accept redirected frames. [`bare`] is the floor for comparisons,
//! [`bare_pair`] the one for two interfaces at TC, [`fan`] the one for many egress devices, [`tc`] the one at TC. [`fib`]
//! forwards by the kernel's own routes. [`pktgen`] stamps and counts the frames of the kernel's packet generator.
//! [`replay`] sends recorded ESP frames and counts what is decrypted. [`back`] sends frames unchanged.
#![no_std]
#![no_main]

mod back;
mod bare;
mod bare_pair;
mod expect;
mod fan;
mod fib;
mod generator;
mod maps;
mod pass;
mod pktgen;
mod recording;
mod replay;
mod sink;
mod tc;
mod tunnels;

use benches_ebpf::{frame, shape};

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier refuses loops without end: a program that could panic would not load.
    loop {}
}

// The kernel lends some helpers to GPL-compatible programs only (include/linux/license.h).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
