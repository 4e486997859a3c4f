//! `package`: the Debian package, and its test on clean machines.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::{process, setup};
use deb::Deb;

mod clean_machine;
mod deb;
mod lintian;

/// Builds the Debian package of this host's architecture, in target/package.
///
/// It has the agent with the kernel programs inside, systemd units, an empty configuration, man pages, completions, manual
/// and examples. A host needs neither compiler nor Internet to install it. Equal sources, compilers and paths give an
/// equal package, byte by byte: its times are those of git's last commit, or `SOURCE_DATE_EPOCH`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask package\n  cargo xtask package --twice\n  cargo xtask package --lintian\n  \
                        cargo xtask package --test --release trixie"
)]
pub struct Args {
    /// Builds everything again in an empty directory, and fails if the two packages differ
    #[arg(long)]
    twice: bool,
    /// Checks the package with Debian's lintian, and fails on errors
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
    let deb = Deb::prepare()?;
    let built = deb.build(None)?;
    println!("{}", built.display());
    if args.twice {
        same_again(&deb, &built)?;
    }
    if args.lintian {
        lintian::check(&built)?;
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
