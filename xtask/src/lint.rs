//! `lint`: the checks that a change must pass in addition to the tests.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{process, setup};

/// Maximum lines of a source file. A longer one should be split.
const LONGEST: usize = 400;

/// Checks formatting, clippy (warnings are errors) on host crates and kernel programs, file lengths, features, and
/// dependencies (deny.toml) where cargo-deny is installed.
///
/// All checks run, even if one fails. `cargo fmt` fixes the first.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_: &Args) -> Result<ExitCode> {
    components()?;
    // Clippy runs the build scripts too, and these build the kernel programs.
    setup::compiler()?;

    let clippy = |args: &[&str]| {
        let mut cargo = process::cargo();
        cargo.args(["clippy", "--release", "--keep-going"]).args(args).args(["--", "-D", "warnings"]);
        cargo
    };
    let mut format = process::cargo();
    format.args(["fmt", "--all", "--check"]);
    let host = clippy(&[&process::HOST_PACKAGES[..], &["--all-targets"]].concat());
    let mut kernel = clippy(&["--package", "hub-ebpf", "--package", "benches-ebpf"]);
    // For the host's target, with the clippy of the host's toolchain: these crates are no_std, and without
    // std a binary cannot unwind.
    kernel.env("CARGO_PROFILE_RELEASE_PANIC", "abort");
    // aya's entry points take their context by value, even if they do not consume it.
    kernel.args(["--allow", "clippy::needless_pass_by_value"]);

    let mut failed = Vec::new();
    for (name, mut command) in [("formatting", format), ("clippy", host), ("clippy, kernel programs", kernel)] {
        eprintln!("-- {name}");
        if !process::status(&mut command)?.success() {
            failed.push(name);
        }
    }
    eprintln!("-- file lengths");
    let mut long = Vec::new();
    find_long(process::workspace(), &mut long)?;
    if !long.is_empty() {
        eprintln!("{}", long.join("\n"));
        failed.push("file lengths");
    }
    eprintln!("-- features");
    let twice = compiled_twice()?;
    if !twice.is_empty() {
        let twice = twice.join("\n");
        eprintln!("with other features in tests, so that these and all above them are compiled twice:\n{twice}");
        failed.push("features");
    }
    eprintln!("-- dependencies");
    if !has_good_dependencies()? {
        failed.push("dependencies");
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join("; "));
    }
    eprintln!("-- all checks passed");
    Ok(ExitCode::SUCCESS)
}

/// Checks licences, sources and forbidden crates. Known vulnerabilities are a list that changes by the day, so that they
/// are checked before a release only.
fn has_good_dependencies() -> Result<bool> {
    if process::capture(process::cargo().args(["deny", "--version"])).is_none() {
        eprintln!("not checked: cargo-deny is missing (`cargo install cargo-deny --locked`)");
        return Ok(true);
    }
    let mut deny = process::cargo();
    deny.args(["deny", "--log-level", "error", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
    Ok(process::status(&mut deny)?.success())
}

/// Packages whose features depend on whether tests are built: `cargo xtask test` first builds the agent as it is used.
fn compiled_twice() -> Result<Vec<String>> {
    let features = |edges: &str| -> Result<BTreeSet<String>> {
        let mut cargo = process::cargo();
        cargo
            .arg("tree")
            .args(process::HOST_PACKAGES)
            .args(["--prefix", "none", "--format", "{p} {f}", "--edges", edges]);
        let tree = process::capture(&mut cargo).context("cargo tree failed")?;
        Ok(tree.lines().map(|line| line.trim_end_matches(" (*)").trim_end().to_owned()).collect())
    };
    let tests = features("normal,dev")?;
    Ok(features("normal")?.into_iter().filter(|package| !tests.contains(package)).collect())
}

/// Fetches rustfmt and clippy where they are missing.
fn components() -> Result<()> {
    for (verb, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if process::capture(process::cargo().args([verb, "--version"])).is_none() {
            let status = process::status(Command::new("rustup").args(["component", "add", component]));
            if !status.is_ok_and(|status| status.success()) {
                bail!("{component} is missing and rustup cannot fetch it: install it for the active toolchain");
            }
        }
    }
    Ok(())
}

fn find_long(dir: &Path, long: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            find_long(&path, long)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let lines = fs::read_to_string(&path).with_context(|| path.display().to_string())?.lines().count();
            if lines > LONGEST {
                long.push(format!("{}: {lines} lines, over {LONGEST}", path.display()));
            }
        }
    }
    Ok(())
}
