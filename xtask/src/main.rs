//! `cargo xtask`: everything a developer or a newcomer does with VPN-Hub, a verb a file.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod board;
mod build;
mod demo;
mod files;
mod lab;
mod lint;
mod package;
mod process;
mod record;
mod run;
mod setup;
mod test;
mod verify;
mod vm;

/// Sets up, builds, runs, tests and checks VPN-Hub.
///
/// Every verb installs what it needs first (see `setup`), can be interrupted, and can be repeated.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Setup(setup::Args),
    Build(build::Args),
    Run(run::Args),
    Demo(demo::Args),
    Test(test::Args),
    Lint(lint::Args),
    Bench(bench::Args),
    Board(board::Args),
    Verify(verify::Args),
    Package(package::Args),
    Vm(vm::Args),
    VmTest(vm::TestArgs),
    #[command(subcommand)]
    Lab(lab::LabVerb),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().verb) {
        Ok(code) => code,
        // Not returned from main: anyhow's Debug would add a backtrace to what should be one sentence.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Setup(args) => setup::run(&args),
        Verb::Build(args) => build::run(&args),
        Verb::Run(args) => run::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Lint(args) => lint::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Board(args) => board::run(&args),
        Verb::Verify(args) => verify::run(&args),
        Verb::Package(args) => package::run(&args),
        Verb::Vm(args) => vm::run(&args),
        Verb::VmTest(args) => vm::test(&args),
        Verb::Lab(verb) => lab::run(verb).map(|()| ExitCode::SUCCESS),
    }
}
