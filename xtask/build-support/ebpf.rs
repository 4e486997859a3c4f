//! Builds a kernel program inside the build script of the crate that embeds it.
//!
//! Included with `#[path]` by the build scripts of hub-userspace and benches: a crate of its own would be one
//! more member at the top level for one function.

#[path = "../src/record.rs"]
mod record;

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::exit,
};

use anyhow::{Context as _, Result, anyhow, bail};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};
use record::{Record, TOOLCHAIN_VARIABLE, cache_dir};

/// Builds the binary of `package`, which is in `dir` below the workspace, and copies it to `OUT_DIR`
/// under the binary's name. Ends the build script when it cannot.
///
/// All paths are relative: cargo runs build scripts in the directory of their package, which is in the workspace's top
/// directory. An absolute one would be that of another checkout where `target` was copied from there: cargo would watch the
/// program's source there, and embed what was built of it.
pub fn build(package: &str, dir: &str) {
    if let Err(error) = try_build(package, dir) {
        // Not returned from main: anyhow's Debug would bury the sentence under a backtrace.
        println!("cargo::error={error:#}");
        exit(1);
    }
}

fn try_build(package: &str, dir: &str) -> Result<()> {
    let record = toolchain()?;
    // SAFETY: a build script's main is the only thread of its process when it calls this, before anything else.
    // Set here, and not by xtask for the whole build: RUSTC_BOOTSTRAP takes part in the fingerprint of every
    // crate, and would recompile the host's crates.
    unsafe {
        if record.bootstrap {
            env::set_var("RUSTC_BOOTSTRAP", "1");
        }
        env::set_var("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &record.linker);
        // aya-build turns every line of the inner cargo into a warning of the outer: leave the real ones.
        env::set_var("CARGO_TERM_QUIET", "true");
        // Instructions on 32 bits and more comparisons: since Linux 5.1. By a profile, because aya-build sets the
        // flags itself. Build scripts and macros are for the host.
        env::set_var("CARGO_UNSTABLE_PROFILE_RUSTFLAGS", "true");
        env::set_var("CARGO_PROFILE_RELEASE_RUSTFLAGS", "-Ctarget-cpu=v3");
        env::set_var("CARGO_PROFILE_RELEASE_BUILD_OVERRIDE_RUSTFLAGS", "");
    }

    let workspace = Path::new("..");
    // aya-build watches the package itself. The rest that the program is made of:
    for part in ["hub-common", "hub-ebpf/src", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", workspace.join(part).display());
    }
    share_target_dir(package)?;

    let root_dir = workspace.join(dir);
    let root_dir = root_dir.to_str().context("the workspace's path is not UTF-8")?;
    aya_build::build_ebpf(
        [aya_build::Package { name: package, root_dir, ..Default::default() }],
        aya_build::Toolchain::Custom(&record.toolchain),
    )?;
    strip_debug_info(&out_dir()?)
}

fn out_dir() -> Result<PathBuf> {
    env::var_os("OUT_DIR").map(PathBuf::from).context("cargo sets OUT_DIR for build scripts")
}

/// Removes the DWARF sections of all objects in `dir`, which are most of their bytes. The kernel and aya read BTF, which
/// stays, and which the linker makes of the same debug information.
fn strip_debug_info(dir: &Path) -> Result<()> {
    for entry in dir.read_dir()? {
        let path = entry?.path();
        if !path.is_file() {
            continue;
        }
        let data = fs::read(&path)?;
        let mut elf = Builder::read(&*data).with_context(|| path.display().to_string())?;
        for section in &mut elf.sections {
            section.delete = section.name.starts_with(b".debug_") || section.name.starts_with(b".rel.debug_");
        }
        elf.delete_orphan_symbols();
        // LLVM writes the sections' names into .strtab; the builder writes them only into a section of their own.
        let names = elf.sections.add();
        names.name = b".shstrtab"[..].into();
        names.sh_type = SHT_STRTAB;
        names.data = SectionData::SectionString;
        let mut stripped = Vec::new();
        elf.write(&mut stripped).with_context(|| path.display().to_string())?;
        fs::write(&path, stripped)?;
    }
    Ok(())
}

/// The record of `cargo xtask setup`.
fn toolchain() -> Result<Record> {
    for variable in [TOOLCHAIN_VARIABLE, "XDG_CACHE_HOME", "HOME"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let file = Record::file(&cache_dir().context("neither HOME nor XDG_CACHE_HOME is set")?);
    println!("cargo:rerun-if-changed={}", file.display());
    let record = fs::read_to_string(&file)
        .ok()
        .and_then(|text| Record::parse(&text))
        .filter(|record| record.linker.exists())
        .ok_or_else(|| anyhow!("no eBPF toolchain: run `cargo xtask setup`"))?;
    match env::var(TOOLCHAIN_VARIABLE) {
        Ok(requested) if !requested.is_empty() && requested != record.toolchain => {
            bail!("{TOOLCHAIN_VARIABLE} is {requested}, but {} is set up: run `cargo xtask setup`", record.toolchain)
        }
        _ => Ok(record),
    }
}

/// Gives every kernel program of this target directory one cargo target directory, `<profile>/ebpf`.
///
/// aya-build takes `OUT_DIR/aya-build/target/<package>`, and `OUT_DIR` changes with the embedding crate's
/// features: each would compile `core` again, for nearly a minute. A symbolic link in that place shares it.
fn share_target_dir(package: &str) -> Result<()> {
    let out = out_dir()?;
    // <target>/<profile>/build/<crate>-<hash>/out
    let shared = out.ancestors().nth(3).context("OUT_DIR is not below a profile directory")?.join("ebpf");
    let link = out.join("aya-build/target").join(package);
    fs::create_dir_all(&shared).with_context(|| shared.display().to_string())?;
    fs::create_dir_all(link.parent().expect("joined above"))?;
    // An earlier build may have made a directory: cargo does not clear OUT_DIR.
    if link.is_dir() && !link.is_symlink() {
        fs::remove_dir_all(&link).with_context(|| link.display().to_string())?;
    }
    // Relative, so that a target directory can be moved or copied: out of target, aya-build, out, the
    // crate's directory and build.
    match symlink("../../../../../ebpf", &link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        done => done.with_context(|| format!("linking {}", link.display())),
    }
}
