fn main() -> Result<(), Box<dyn std::error::Error>> {
    // As hub-ebpf's build script has it: the same code for the same stages.
    println!("cargo:rustc-link-arg-bin=ladder-ebpf=--cpu-features=+allows-misaligned-mem-access");
    aya_build::emit_bpf_target_arch_cfg().map_err(Into::into)
}
