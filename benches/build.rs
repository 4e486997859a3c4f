//! Builds the kernel programs of the benches; they are embedded from `OUT_DIR`, `/bench-ebpf`.

#[path = "../xtask/build-support/ebpf.rs"]
mod ebpf;

fn main() {
    ebpf::build("benches-ebpf", "benches/ebpf");
}
