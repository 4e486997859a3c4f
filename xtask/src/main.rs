//! `cargo xtask`: everything a developer or a newcomer does with VPN-Hub, a verb a file.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bench;
mod board;
mod book;
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
    Book(book::Args),
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
        Verb::Book(args) => book::run(&args),
        Verb::Verify(args) => verify::run(&args),
        Verb::Package(args) => package::run(&args),
        Verb::Vm(args) => vm::run(&args),
        Verb::VmTest(args) => vm::test(&args),
        Verb::Lab(verb) => lab::run(verb).map(|()| ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn documented_commands_are_valid() {
        let top = process::workspace();
        let mut pages: Vec<_> = fs::read_dir(top.join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
        pages.extend(
            ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "benches/README.md"].map(|page| top.join(page)),
        );
        let mut parsed = 0;
        for page in pages.iter().filter(|page| page.extension().is_some_and(|end| end == "md")) {
            let text = fs::read_to_string(page).unwrap().replace("\\\n", " ");
            for line in text.lines().map(str::trim).filter(|line| line.starts_with("cargo xtask ")) {
                let command = line.split(" #").next().unwrap_or_default().replace("cargo xtask", "xtask");
                parsed += 1;
                if let Err(error) = Cli::try_parse_from(command.split_whitespace())
                    && error.use_stderr()
                {
                    panic!("{}: {line}: {error}", page.display());
                }
            }
        }
        assert!(parsed >= 20, "only {parsed} commands");
    }
}
