//! Builds the kernel program; `include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vpnhub-ebpf"))` embeds it.

#[path = "../xtask/build-support/ebpf.rs"]
mod ebpf;

fn main() {
    ebpf::build("hub-ebpf", "hub-ebpf");
}
