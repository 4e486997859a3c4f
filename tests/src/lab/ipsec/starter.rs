//! strongSwan's older form at a site: `ipsec`, its `starter` and that starter's charon, which read ipsec.conf and
//! ipsec.secrets.
//!
//! Its paths are compiled in (/usr/lib/ipsec, /run). So it runs in a mount namespace of its own, which overlays its
//! programs on the installed ones and has a private /run. Nothing of it is installed, and any number can run side by
//! side.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::super::{Background, Namespace, output, retry_within};
use super::charon::{PLUGINS, private_file};
use super::{Charon, CharonOptions, PATIENCE, mounts};
use crate::tools;

/// Paths of Debian's packages strongswan-starter and strongswan-charon, the same as of installed strongSwan programs.
const PROGRAMS: &str = "usr/lib/ipsec";
const SCRIPT: &str = "usr/sbin/ipsec";
/// Pause between two commands, as if a person typed them: far longer than a negotiation.
const TYPING: Duration = Duration::from_secs(1);

/// One with files, log and /run of its own. Dropping it ends it, and it deletes its SAs with its peers.
#[derive(Debug)]
pub struct Starter {
    place: Namespace,
    folder: PathBuf,
    mounts: File,
    process: Option<Background>,
}

impl Starter {
    /// The directory into which `cargo xtask setup` unpacks it.
    pub fn unpacked() -> Option<PathBuf> {
        Some(tools::directory()?.join("strongswan-starter"))
    }

    /// A sentence with what is missing to run one; `None` if nothing is.
    pub fn missing() -> Option<String> {
        let is_there = Self::unpacked().is_some_and(|unpacked| unpacked.join(SCRIPT).is_file());
        Charon::missing().or_else(|| (!is_there).then(|| "needs strongSwan's starter: cargo xtask setup".to_owned()))
    }

    /// Starts one without connections and with strongSwan's own ESP, and waits until it listens.
    ///
    /// # Errors
    /// When a part is missing, or it does not listen within a minute: with its log.
    pub fn start(place: &Namespace, folder: &Path, options: CharonOptions) -> anyhow::Result<Self> {
        let unpacked = Self::unpacked().context("neither HOME nor XDG_CACHE_HOME is set")?;
        fs::create_dir_all(folder.join("run")).with_context(|| format!("making {}", folder.display()))?;
        let mounts = private_mounts(&folder.join("run"), &unpacked.join(PROGRAMS))?;
        let mut starter = Self { place: place.duplicate()?, folder: folder.to_owned(), mounts, process: None };
        fs::write(folder.join("strongswan.conf"), starter.settings(options)).context("writing strongswan.conf")?;
        starter.write("# Nothing yet.\n", "# Nothing yet.\n")?;
        starter.process = Some(Background::start(&mut starter.command(&["start", "--nofork"])?)?);
        let socket = folder.join("run/charon.ctl");
        let what = format!("strongSwan's starter in {} has no charon that listens", place.name());
        retry_within(PATIENCE, &what, || Ok(UnixStream::connect(&socket).is_ok().then_some(())))
            .with_context(|| starter.log())?;
        Ok(starter)
    }

    /// Loads the output of `vpnhub peer-config --format strongswan`, following its instructions. The part above its
    /// second line of dashes is ipsec.conf, the part below it ipsec.secrets. The commands at its beginning are run in
    /// their order.
    ///
    /// # Errors
    /// When these parts are missing, or `ipsec` fails.
    pub fn load(&self, text: &str) -> anyhow::Result<()> {
        let mut dashes = text.match_indices("\n# -----");
        let Some((second, _)) = dashes.nth(1) else { bail!("there are no two lines of dashes in\n{text}") };
        let (conf, secrets) = text.split_at(second + 1);
        self.write(conf, secrets)?;
        let (header, _) = text.split_once("\n# -----").context("there is a line of dashes")?;
        let quoted = header.split('`').skip(1).step_by(2);
        let commands: Vec<&str> = quoted.filter_map(|quoted| quoted.strip_prefix("ipsec ")).collect();
        ensure!(!commands.is_empty(), "it does not say what to run: {header}");
        for command in commands {
            self.ipsec(&[command])?;
            thread::sleep(TYPING);
        }
        Ok(())
    }

    /// Runs `ipsec ARGS` and returns its output.
    ///
    /// # Errors
    /// When it fails: its output, and charon's log.
    pub fn ipsec(&self, args: &[&str]) -> anyhow::Result<String> {
        let said = output(&mut self.command(args)?)?;
        let text = [said.stdout, said.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        if !said.status.success() {
            bail!("`ipsec {}` in {} failed: {text}\ncharon's log:\n{}", args.join(" "), self.place.name(), self.log());
        }
        Ok(text)
    }

    /// The log of its charon.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn write(&self, conf: &str, secrets: &str) -> anyhow::Result<()> {
        private_file(&self.folder.join("ipsec.conf"), conf)?;
        private_file(&self.folder.join("ipsec.secrets"), secrets)
    }

    fn command(&self, args: &[&str]) -> anyhow::Result<Command> {
        let unpacked = Self::unpacked().context("neither HOME nor XDG_CACHE_HOME is set")?;
        let mut command = self.place.command(unpacked.join(SCRIPT));
        command.args(args).env("STRONGSWAN_CONF", self.folder.join("strongswan.conf"));
        mounts::enter(&mut command, &self.mounts)?;
        Ok(command)
    }

    fn settings(&self, options: CharonOptions) -> String {
        let (tries, timeout) = options.retransmits;
        let file = |name: &str| self.folder.join(name).display().to_string();
        format!(
            "charon {{\n  load = kernel-libipsec {PLUGINS} stroke\n  retransmit_tries = {tries}\n  \
             retransmit_timeout = {timeout}\n  retransmit_base = 1\n  \
             filelog {{ log {{ path = {log}\n default = 1\n flush_line = yes }} }}\n  \
             plugins {{\n    stroke {{ secrets_file = {secrets} }}\n  }}\n}}\n\
             starter {{\n  config_file = {conf}\n  load_warning = no\n}}\n",
            log = file("log"),
            secrets = file("ipsec.secrets"),
            conf = file("ipsec.conf"),
        )
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        // It ends its charon and waits for that. A charon left over is ended by the process id in its own /run.
        drop(self.process.take());
        let number = fs::read_to_string(self.folder.join("run/charon.pid")).unwrap_or_default();
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let ours = self.mounts.metadata().map(id).ok();
        let of_ours = |pid: i32| ours.is_some() && fs::metadata(format!("/proc/{pid}/ns/mnt")).map(id).ok() == ours;
        if let Some(pid) = number.trim().parse().ok().filter(|pid| of_ours(*pid)) {
            // It may just have exited.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A mount namespace with this directory as /run, and these programs next to strongSwan's installed ones.
fn private_mounts(run: &Path, programs: &Path) -> anyhow::Result<File> {
    mounts::namespace(|| {
        mounts::bind(run, Path::new("/run"))?;
        let installed = Path::new("/").join(PROGRAMS);
        let layers = format!("lowerdir={}:{}", programs.display(), installed.display());
        mount(Some("overlay"), &installed, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
            .with_context(|| format!("an overlay over {}", installed.display()))
    })
}
