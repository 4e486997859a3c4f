//! `package`: the Debian package, and its test on clean machines.

use std::{
    env, fs,
    path::PathBuf,
    process::{ExitCode, id},
};

use anyhow::{Context as _, Result, ensure};

use crate::{process, setup};
use deb::Deb;
use static_program::Architecture;

mod arm64;
mod clean_machine;
mod crates;
mod deb;
mod lintian;
mod sbom;
mod static_program;
mod tarball;

/// Builds the Debian package, in target/package.
///
/// It has the agent with the kernel programs inside, systemd units, an empty configuration, man pages, completions, manual,
/// examples, and a bill of materials (CycloneDX). A host needs neither compiler nor Internet to install it. Equal sources,
/// compilers and paths give an equal package, byte by byte: its times are those of git's last commit, or `SOURCE_DATE_EPOCH`.
#[derive(clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[command(
    after_help = "Examples:\n  cargo xtask package\n  cargo xtask package --tarball\n  cargo xtask package --arch arm64 --boot\n  \
                        cargo xtask package --twice\n  cargo xtask package --test --release trixie"
)]
pub struct Args {
    /// Architecture. For another one than this host's the program is linked with musl, statically
    #[arg(long, value_enum, default_value_t = Architecture::HOST)]
    arch: Architecture,
    /// Also makes a tarball for other distributions, with the agent as one static file
    #[arg(long)]
    tarball: bool,
    /// Loads the programs of the arm64 package on an arm64 kernel under QEMU, and traces packets through them
    #[arg(long)]
    boot: bool,
    /// Builds everything again in an empty directory, and fails if the two packages differ
    #[arg(long)]
    twice: bool,
    /// Checks the package with Debian's lintian, and its bill of materials by the published schema; fails on errors
    #[arg(long)]
    lintian: bool,
    /// Tests the package on clean Debian machines under QEMU: install, run, upgrade, reboot, remove, purge (10 minutes each)
    #[arg(long)]
    test: bool,
    /// Debian release of --test; repeat it for several
    #[arg(long, value_name = "NAME", requires = "test", default_values = clean_machine::RELEASES)]
    release: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(!args.boot || args.arch == Architecture::Arm64, "--boot is for --arch arm64: --test boots amd64");
    ensure!(!args.test || args.arch == Architecture::HOST, "--test is for this host's architecture");
    let deb = Deb::prepare(args.arch)?;
    let built = deb.build(None)?;
    println!("{}", built.display());
    if args.tarball {
        let program = args.arch.build()?;
        println!("{}", tarball::pack(&program, args.arch, &deb.release, deb.epoch)?.display());
    }
    if args.boot {
        arm64::boot(&args.arch.build()?)?;
    }
    if args.twice {
        same_again(&deb, &built)?;
    }
    if args.lintian {
        lintian::check(&built)?;
        sbom::validate(&deb::directory().join("root").join(sbom::FILE))?;
    }
    if args.test {
        let newer = deb.with_newer_version()?;
        clean_machine::run(&args.release, &built, &newer)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Compiles everything once more.
fn same_again(deb: &Deb, first: &PathBuf) -> Result<()> {
    let read = |path: &PathBuf| fs::read(path).with_context(|| format!("reading {}", path.display()));
    // The second build has the same name.
    let kept = read(first)?;
    let target = process::workspace().join("target/package/second");
    if target.exists() {
        fs::remove_dir_all(&target).with_context(|| format!("removing {}", target.display()))?;
    }
    let second = deb.build(Some(&target))?;
    let again = read(&second)?;
    if kept != again {
        fs::write(first.with_extension("first.deb"), &kept).context("keeping the first package")?;
    }
    ensure!(
        kept == again,
        "the second build differs: compare {} with {}",
        first.with_extension("first.deb").display(),
        second.display()
    );
    println!("built twice: {} bytes, all equal", again.len());
    fs::remove_dir_all(&target).with_context(|| format!("removing {}", target.display()))
}

/// Makes sure that commands are there, by their Debian packages.
fn commands(commands: &[(&str, &str)]) -> Result<()> {
    setup::commands(commands).map(drop)
}

/// Files of one run, gone when dropped.
struct Files(PathBuf);

impl Files {
    /// `name`: part of the directory's name.
    fn create(name: &str) -> Result<Self> {
        let dir = env::temp_dir().join(format!("vpnhub-{name}-{}", id()));
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A leftover is not a failure.
        drop(fs::remove_dir_all(&self.0));
    }
}
