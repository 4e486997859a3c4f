fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Header fields are not aligned: without this each is read byte by byte. x86-64 and arm64 can, and the verifier lets
    // programs where the kernel says so (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS).
    println!("cargo:rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
    aya_build::emit_bpf_target_arch_cfg().map_err(Into::into)
}
