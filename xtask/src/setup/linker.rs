//! bpf-linker, for one compiler's LLVM.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::{apt, host, plan::Compiler};
use crate::process::{self, Step};

/// The version that is built when there is none, and the LLVMs that it can be built for.
const VERSION: &str = "0.13.0";
const LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// A program that the linker must be able to read. It is compiled for the host, whose `core` is there
/// already; only the linker depends on the target.
const PROBE: &str = r"#![no_std]
#[no_mangle]
pub extern fn probe(x: u64) -> u64 { x.wrapping_mul(7) }
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
";

/// Finds a linker that reads the bitcode of `compiler`, or builds one.
pub fn ensure(compiler: &Compiler, cache: &Path) -> Result<PathBuf> {
    let llvm = compiler.rustc.llvm;
    // Both versions are in the name: one that is left over from another compiler is never taken.
    let root = cache.join(format!("tools/bpf-linker-{VERSION}-llvm-{llvm}"));
    let ours = root.join("bin/bpf-linker");
    for found in [Some(ours.clone()), host::command("bpf-linker")].into_iter().flatten() {
        if found.exists() && reads(&found, compiler, cache) {
            return Ok(found);
        }
    }
    install(llvm, &root, cache)?;
    if !reads(&ours, compiler, cache) {
        bail!("{} cannot read the output of {}", ours.display(), compiler.toolchain);
    }
    Ok(ours)
}

/// Whether `linker` makes an eBPF object from the bitcode of `compiler`. This is more reliable than version
/// numbers (a newer LLVM often reads an older one's bitcode).
fn reads(linker: &Path, compiler: &Compiler, cache: &Path) -> bool {
    let dir = cache.join("probe");
    let file = |name| dir.join(name);
    let written = fs::create_dir_all(&dir).and_then(|()| fs::write(file("probe.rs"), PROBE));
    let runs = || {
        let mut rustc = super::rustup_run(&compiler.toolchain, "rustc");
        rustc.args(["--crate-type=lib", "--emit=llvm-bc", "-Cpanic=abort", "-Copt-level=3", "-o"]);
        process::capture(rustc.arg(file("probe.bc")).arg(file("probe.rs")))?;
        let mut link = Command::new(linker);
        link.args(["--target", "bpfel-unknown-none", "--export", "probe", "-o"]);
        process::capture(link.arg(file("probe.o")).arg(file("probe.bc")))
    };
    written.is_ok() && runs().is_some()
}

fn install(llvm: u32, root: &Path, cache: &Path) -> Result<()> {
    let elsewhere = "put a bpf-linker for it on PATH (https://github.com/aya-rs/bpf-linker#installation)";
    if !LLVMS.contains(&llvm) {
        bail!("bpf-linker {VERSION} cannot be built for the compiler's LLVM {llvm}: {elsewhere}");
    }
    let prefix = llvm_prefix(llvm).with_context(|| {
        format!("building bpf-linker needs LLVM {llvm} with its headers: install it, or {elsewhere}")
    })?;
    // A directory that stays when this is interrupted: the next run goes on from there.
    let target = cache.join("build").join(root.file_name().expect("named above"));
    let mut command = process::cargo();
    command
        .args(["install", "--locked", "--no-default-features", "--features"])
        .arg(format!("llvm-{llvm}"))
        .arg("--root")
        .arg(root)
        .arg(format!("bpf-linker@{VERSION}"))
        .env("LLVM_PREFIX", prefix)
        .env("CARGO_TARGET_DIR", &target);
    Step {
        title: &format!("building bpf-linker {VERSION} for LLVM {llvm} (a minute or two)"),
        log: "bpf-linker",
        limit: None,
        quiet: false,
    }
    .run(&mut command)?;
    // 300 MB that nothing needs any more; a failure to remove them is no failure.
    let _ = fs::remove_dir_all(target);
    Ok(())
}

/// Directory of LLVM's headers and libraries of that major version. Installs them if apt is available.
fn llvm_prefix(llvm: u32) -> Result<PathBuf> {
    if let Some(prefix) = env::var_os("LLVM_PREFIX") {
        return Ok(prefix.into());
    }
    let debian = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    if apt::available() {
        let packages = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
        let packages = packages.each_ref().map(String::as_str);
        if !apt::installed(&packages) {
            apt::install(&format!("installing LLVM {llvm}'s headers"), &packages)?;
        }
        return Ok(debian);
    }
    [format!("llvm-config-{llvm}"), "llvm-config".to_owned()]
        .iter()
        .filter_map(|name| host::command(name))
        .find_map(|config| {
            let ask = |what| process::capture(Command::new(&config).arg(what));
            let fits = ask("--version")?.split('.').next() == Some(&llvm.to_string());
            fits.then(|| ask("--prefix").map(PathBuf::from)).flatten()
        })
        .with_context(|| format!("no llvm-config of LLVM {llvm} on PATH"))
}
