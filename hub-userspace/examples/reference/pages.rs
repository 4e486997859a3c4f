//! Man pages and completions, from the definition of the command line that the program itself uses.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate_to};
use hub_userspace::cli::Cli;

/// The command line, with the help that clap adds to each command.
pub fn command() -> Command {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    command
}

/// A page's name without its section: `vpnhub-route-add`.
pub fn page_name(command: &Command) -> String {
    command.get_display_name().unwrap_or(command.get_name()).to_owned()
}

/// Writes `NAME.1` for each command, and for each other name of a command a page that refers to it.
pub fn man(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let command = command();
    clap_mangen::generate_to(command.clone(), dir)?;
    aliases(&command, dir)
}

fn aliases(command: &Command, dir: &Path) -> io::Result<()> {
    for below in command.get_subcommands() {
        for alias in below.get_visible_aliases() {
            let text = format!(".so man1/{}.1\n", page_name(below));
            fs::write(dir.join(format!("{}-{alias}.1", page_name(command))), text)?;
        }
        aliases(below, dir)?;
    }
    Ok(())
}

/// Writes the completions under the names by which each shell finds them.
pub fn completions(bash: &Path, zsh: &Path, fish: &Path) -> io::Result<()> {
    for (shell, dir) in [(Shell::Bash, bash), (Shell::Zsh, zsh), (Shell::Fish, fish)] {
        fs::create_dir_all(dir)?;
        let written: PathBuf = generate_to(shell, &mut Cli::command(), "vpnhub", dir)?;
        if shell == Shell::Bash {
            // bash-completion loads a file of the command's name.
            fs::rename(written, dir.join("vpnhub"))?;
        }
    }
    Ok(())
}
