//! Writes the man pages and shell completions of `vpnhub` into directories: `reference MAN BASH ZSH FISH`.
//!
//! Not a command of the agent, which would carry the generators to every gateway. `cargo xtask package` calls it.

use std::{env, path::PathBuf, process::ExitCode};

mod pages;

fn main() -> ExitCode {
    let paths: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [man, bash, zsh, fish] = paths.as_slice() else {
        eprintln!("reference: give the directories for man pages and for completions of bash, zsh and fish");
        return ExitCode::FAILURE;
    };
    let written = pages::man(man).and_then(|()| pages::completions(bash, zsh, fish));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reference: {error}");
            ExitCode::FAILURE
        }
    }
}
