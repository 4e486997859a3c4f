//! The BIRD routing daemon in a place; several on one machine, without systemd.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::{Background, Namespace, output, retry};

const DAEMON: &str = "/usr/sbin/bird";
const CLIENT: &str = "/usr/sbin/birdc";

/// A BIRD with files and a socket of its own. Dropping it ends it; the files stay.
#[derive(Debug)]
pub struct Bird {
    place: Namespace,
    socket: PathBuf,
    process: Background,
}

impl Bird {
    /// A sentence with what is missing to run one; `None` if nothing is.
    pub fn missing() -> Option<String> {
        let is_there = [DAEMON, CLIENT].iter().all(|program| Path::new(program).is_file());
        (!is_there).then(|| "needs BIRD 2 (Debian: bird2)".to_owned())
    }

    /// Starts one with this configuration and waits until it answers. Its files are in `folder`.
    ///
    /// # Errors
    /// When its files cannot be written, it is not installed, or it rejects the configuration.
    pub fn start(place: &Namespace, folder: &Path, configuration: &str) -> anyhow::Result<Self> {
        Self::start_with(place, folder, configuration, &[])
    }

    /// Like [`start`](Self::start), after another one: it leaves that one's routes in the kernel until its sessions have
    /// recovered (`-R`).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_again(place: &Namespace, folder: &Path, configuration: &str) -> anyhow::Result<Self> {
        Self::start_with(place, folder, configuration, &["-R"])
    }

    fn start_with(place: &Namespace, folder: &Path, configuration: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let (file, socket) = (folder.join("bird.conf"), folder.join("bird.ctl"));
        fs::write(&file, configuration).with_context(|| format!("writing {}", file.display()))?;
        let checked = output(place.command(DAEMON).args(["-p", "-c"]).arg(&file))?;
        let complaint = String::from_utf8_lossy(&checked.stderr);
        anyhow::ensure!(checked.status.success(), "BIRD rejects {}: {complaint}", file.display());
        let mut command = place.command(DAEMON);
        command.arg("-f").args(arguments).arg("-c").arg(&file).arg("-s").arg(&socket);
        let bird = Self { place: place.duplicate()?, socket, process: Background::start(&mut command)? };
        retry("BIRD does not answer", || Ok(bird.ask("show status").ok()))?;
        Ok(bird)
    }

    /// Gives it real-time priority (`chrt`): BFD with short intervals takes a daemon that waits for a CPU for dead.
    ///
    /// # Errors
    /// When this host does not allow it.
    pub fn real_time(self) -> anyhow::Result<Self> {
        let set = output(Command::new("chrt").args(["--rr", "-p", "10", &self.process.pid().to_string()]))?;
        anyhow::ensure!(set.status.success(), "chrt: {}", String::from_utf8_lossy(&set.stderr).trim());
        Ok(self)
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// When it had already exited.
    pub fn kill(self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// Runs `birdc COMMAND` and returns its output. `command` is separated by blanks.
    ///
    /// # Errors
    /// When BIRD does not answer.
    pub fn ask(&self, command: &str) -> anyhow::Result<String> {
        let mut birdc = self.place.command(CLIENT);
        let answer = output(birdc.arg("-s").arg(&self.socket).args(command.split(' ')))?;
        let complaint = String::from_utf8_lossy(&answer.stderr);
        anyhow::ensure!(answer.status.success(), "birdc {command}: {complaint}");
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    }
}
