fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Header fields are not aligned: without this the compiler reads them byte by byte. x86-64 and arm64 support unaligned
    // access, and the verifier allows it there (CONFIG_HAVE_EFFICIENT_UNALIGNED_ACCESS).
    println!("cargo:rustc-link-arg-bins=--cpu-features=+allows-misaligned-mem-access");
    aya_build::emit_bpf_target_arch_cfg().map_err(Into::into)
}
