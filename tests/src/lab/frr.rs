//! The FRR routing daemons zebra and bgpd in a place; several on one machine, without systemd.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::unistd::{User, chown};

use super::{Background, Namespace, output, retry};

const DAEMONS: &str = "/usr/lib/frr";
const SHELL: &str = "/usr/bin/vtysh";

/// An FRR with files and sockets of its own. Dropping it ends it; the files stay.
#[derive(Debug)]
pub struct Frr {
    place: Namespace,
    folder: PathBuf,
    // In this order: without bgpd, zebra withdraws nothing.
    bgpd: Option<Background>,
    _zebra: Background,
}

impl Frr {
    /// A sentence with what is missing to run one; `None` if nothing is.
    pub fn missing() -> Option<String> {
        let is_there = [&format!("{DAEMONS}/zebra"), &format!("{DAEMONS}/bgpd"), SHELL]
            .iter()
            .all(|program| Path::new(program).is_file());
        (!is_there).then(|| "needs FRR (Debian: frr)".to_owned())
    }

    /// Starts both daemons, with this text as bgpd's configuration.
    ///
    /// # Errors
    /// When its files cannot be written, or it is not installed.
    pub fn start(place: &Namespace, folder: &Path, configuration: &str) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let user = User::from_name("frr")?.context("FRR has made no user frr")?;
        chown(folder, Some(user.uid), Some(user.gid)).with_context(|| format!("giving {} to FRR", folder.display()))?;
        fs::write(folder.join("frr.conf"), configuration).context("writing frr.conf")?;
        // The configuration is bgpd's alone.
        let zebra = daemon(place, folder, "zebra", Path::new("/dev/null"))?;
        let mut frr = Self { place: place.duplicate()?, folder: folder.to_owned(), bgpd: None, _zebra: zebra };
        retry("zebra does not answer", || Ok(frr.shell(&["-d", "zebra", "-c", "show version"]).ok()))?;
        frr.start_bgpd()?;
        Ok(frr)
    }

    /// Starts bgpd, with the configuration of [`start`](Self::start).
    ///
    /// # Errors
    /// When it does not answer.
    pub fn start_bgpd(&mut self) -> anyhow::Result<()> {
        self.bgpd = Some(daemon(&self.place, &self.folder, "bgpd", &self.folder.join("frr.conf"))?);
        retry("bgpd does not answer", || Ok(self.shell(&["-d", "bgpd", "-c", "show version"]).ok()))?;
        Ok(())
    }

    /// Kills bgpd as a crash would.
    ///
    /// # Errors
    /// When it had already exited.
    pub fn kill_bgpd(&mut self) -> anyhow::Result<()> {
        self.bgpd.take().context("bgpd runs")?.kill()
    }

    /// Runs commands of vtysh, and returns their output.
    ///
    /// # Errors
    /// When FRR does not answer, or rejects one.
    pub fn ask(&self, commands: &str) -> anyhow::Result<String> {
        let commands: Vec<&str> = commands.split('\n').flat_map(|command| ["-c", command]).collect();
        self.shell(&commands)
    }

    fn shell(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut shell = self.place.command(SHELL);
        let answer = output(shell.arg("--vty_socket").arg(&self.folder).args(arguments))?;
        let [said, complaint] = [answer.stdout, answer.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        anyhow::ensure!(answer.status.success() && !said.contains("% "), "vtysh {arguments:?}: {said}{complaint}");
        Ok(said)
    }
}

fn daemon(place: &Namespace, folder: &Path, name: &str, configuration: &Path) -> anyhow::Result<Background> {
    let mut command = place.command(format!("{DAEMONS}/{name}"));
    command.args(["-P", "0"]).arg("-f").arg(configuration).arg("-i").arg(folder.join(format!("{name}.pid")));
    command.arg("-z").arg(folder.join("zserv")).arg("--vty_socket").arg(folder);
    Background::start(&mut command)
}
