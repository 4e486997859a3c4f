//! `test`: everything, as root.

use std::{
    env,
    ffi::OsString,
    num::NonZero,
    path::PathBuf,
    process::{ExitCode, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    build, process,
    setup::{self, host},
};

/// The variable that limits the tests that run at once.
const THREADS: &str = "RUST_TEST_THREADS";

/// Runs the tests, in namespaces of their own: nothing on this host is changed.
///
/// Sets up and builds what is missing, then runs `cargo test --release` for the workspace with the arguments
/// given here. The name of a suite (a file or folder in a package's `tests`) runs that suite. Needs root; without it, the test programs (and nothing else) run through sudo.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test hunt\n  cargo xtask test failover\n  \
                        cargo xtask test -p hub-tests --test forward -- --nocapture")]
pub struct Args {
    /// Arguments of `cargo test`: a filter, options, and after `--` arguments of the test programs
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARG")]
    args: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    setup::runtime()?;
    setup::commands(&[setup::commands::NFT])?;
    if let Err(why) = setup::strongswan() {
        // Each test that needs it also reports the reason.
        eprintln!("tests of IPsec are skipped: {why:#}");
    } else if let Err(why) = setup::starter() {
        eprintln!("tests of strongSwan's older form are skipped: {why:#}");
    }
    if let Err(why) = setup::routing_daemons() {
        eprintln!("tests of BGP are skipped: {why:#}");
    }
    if let Err(why) = setup::promtool() {
        eprintln!("tests of metrics by promtool are skipped: {why:#}");
    }
    if let Err(why) = setup::tshark() {
        eprintln!("captures are not read by tshark: {why:#}");
    }
    if let Err(why) = setup::python_tool("ansible-playbook") {
        eprintln!("tests of the Ansible role are skipped: {why:#}");
    }
    // The agent as it is shipped: cargo test builds no plain binaries of other packages, and unifies features.
    let built = build::run(&build::Args {})?;
    if built != ExitCode::SUCCESS {
        return Ok(built);
    }
    let mut cargo = process::cargo();
    cargo.args(["test", "--release"]).args(scope(&args.args));
    if env::var_os(THREADS).is_none() {
        // Most tests wait: for namespaces to be removed, for timers, for strongSwan.
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        cargo.env(THREADS, (2 * processors).to_string());
    }
    // clap takes a `--` in first place for its own.
    cargo.args(env::args_os().nth(2).filter(|first| first == "--"));
    if args.args.first().is_some_and(|first| suites().iter().any(|suite| *first == **suite)) {
        cargo.arg("--test");
    }
    cargo.args(&args.args);
    if !host::is_root() {
        let host = process::host_triple().context("asking rustc for the host's triple")?;
        let variable = format!("CARGO_TARGET_{}_RUNNER", host.replace('-', "_").to_uppercase());
        cargo.env(variable, "sudo -E");
    }
    Ok(process::exit_code(process::status(&mut cargo)?))
}

/// The program of a test target, built as [`run`] would.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut cargo = process::cargo();
    cargo.args(["test", "--release"]).args(scope(&[]));
    cargo.args(["--no-run", "--message-format=json-render-diagnostics", "--test", name]);
    let output = cargo.stderr(Stdio::inherit()).output().context("running cargo")?;
    ensure!(output.status.success(), "the test program {name} cannot be built");
    let messages = String::from_utf8_lossy(&output.stdout);
    let found = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["name"] == name && message["target"]["kind"][0] == "test";
        is_it.then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    found.with_context(|| format!("cargo does not report the path of the test program {name}"))
}

/// Names of all suites: the integration tests of the workspace's packages.
fn suites() -> Vec<String> {
    let metadata = process::capture(process::cargo().args(["metadata", "--no-deps", "--format-version", "1"]));
    let metadata: Value = metadata.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let targets = packages.flat_map(|package| package["targets"].as_array().into_iter().flatten());
    let tests = targets.filter(|target| target["kind"][0] == "test");
    tests.filter_map(|target| target["name"].as_str().map(str::to_owned)).collect()
}

/// All packages for the host, unless the arguments choose some.
fn scope(args: &[OsString]) -> &'static [&'static str] {
    let chosen = args
        .iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg == "-p" || arg == "--package" || arg.to_str().is_some_and(|arg| arg.starts_with("--package=")));
    if chosen { &[] } else { &process::HOST_PACKAGES }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_integration_tests_of_all_packages() {
        let _alone = process::tests::alone();
        let suites = suites();
        for suite in ["hunt", "differential", "outlive", "store", "netlink", "verify"] {
            assert!(suites.iter().any(|name| name == suite), "{suite}: {suites:?}");
        }
        assert!(!suites.iter().any(|name| name == "hub_userspace" || name == "xtask"), "{suites:?}");
    }

    #[test]
    fn package_arguments_replace_workspace() {
        for (args, whole) in [
            (&[][..], true),
            (&["failover"], true),
            (&["-p", "hub-common"], false),
            (&["--package=hub-common"], false),
            (&["--", "-p"], true),
        ] {
            let args: Vec<OsString> = args.iter().map(Into::into).collect();
            assert_eq!(!scope(&args).is_empty(), whole, "{args:?}");
        }
    }
}
