//! strongSwan's daemon in a place, from start to end; several on one machine, without systemd.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use super::super::{Background, Namespace, Tun, output, retry_within};
use super::{Esp, PATIENCE, mounts};

const DAEMON: &str = "charon-systemd";
const SWANCTL: &str = "swanctl";
pub(super) const LIBIPSEC: &str = "/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so";

/// All required plugins except the one for control. The others take time to load, and some need a network of their own.
pub(super) const PLUGINS: &str =
    "openssl random nonce kdf gcm aes sha2 hmac pem pkcs1 pkcs8 x509 pubkey kernel-netlink socket-default updown";

/// Options of a charon.
#[derive(Debug, Clone, Copy)]
pub struct CharonOptions {
    pub esp: Esp,
    /// The number of retransmissions before the peer counts as dead, and the timeout of each, in seconds.
    pub retransmits: (u8, f32),
    /// For thousands of SAs: hash tables of that size, no limit for half-open SAs of one address, and no routes of
    /// its own. With those it reads all routes of the host for each look-up (`get_route`, `kernel_netlink_net.c`).
    many: bool,
    /// It resolves names by a file of its own: see [`Charon::set_names`].
    own_names: bool,
}

impl CharonOptions {
    /// Patient enough for a slow virtual machine.
    pub const fn new(esp: Esp) -> Self {
        Self { esp, retransmits: (5, 4.0), many: false, own_names: false }
    }

    /// Gives up on a silent peer within a second or two.
    #[must_use]
    pub const fn impatient(self) -> Self {
        Self { retransmits: (2, 0.5), ..self }
    }

    /// Lets it know only the names that the test gives it: [`Charon::set_names`].
    #[must_use]
    pub const fn own_names(self) -> Self {
        Self { own_names: true, ..self }
    }

    /// Prepares it for thousands of SAs with one peer.
    #[must_use]
    pub const fn many(self) -> Self {
        Self { many: true, ..self }
    }
}

/// A charon with files, socket and log of its own. Dropping it ends it, and it deletes its SAs with its peers; the
/// files stay.
#[derive(Debug)]
pub struct Charon {
    place: Namespace,
    folder: PathBuf,
    process: Option<Background>,
    /// Where it resolves names by its own file.
    mounts: Option<File>,
}

impl Charon {
    /// A sentence with what is missing to run one; `None` if nothing is.
    pub fn missing() -> Option<String> {
        let there =
            |name: &str| ["/usr/sbin", "/sbin", "/usr/bin"].iter().any(|dir| Path::new(dir).join(name).is_file());
        let lacking =
            [(DAEMON, "charon-systemd"), (SWANCTL, "strongswan-swanctl")].into_iter().find(|(name, _)| !there(name));
        match lacking {
            Some((_, package)) => Some(format!("needs strongSwan (Debian: {package})")),
            None if !Path::new(LIBIPSEC).is_file() => {
                Some("needs strongSwan's kernel-libipsec (Debian: libcharon-extra-plugins)".to_owned())
            }
            None => None,
        }
    }

    /// Starts one whose files are in `folder`, without waiting for it: see
    /// [`wait_until_ready`](Self::wait_until_ready).
    ///
    /// # Errors
    /// When its files cannot be written or it is not installed.
    pub fn start(place: &Namespace, folder: &Path, options: CharonOptions) -> anyhow::Result<Self> {
        let mut charon = Self { place: place.duplicate()?, folder: folder.to_owned(), process: None, mounts: None };
        fs::create_dir_all(folder.join("swanctl/conf.d")).with_context(|| format!("making {}", folder.display()))?;
        fs::write(charon.configuration(), charon.settings(options)).context("writing strongswan.conf")?;
        fs::write(folder.join("swanctl/swanctl.conf"), "include conf.d/*.conf\n").context("writing swanctl.conf")?;
        if options.own_names {
            charon.set_names(&[])?;
            let switch = folder.join("nsswitch.conf");
            fs::write(&switch, "hosts: files\n").context("writing nsswitch.conf")?;
            let hosts = charon.hosts();
            charon.mounts = Some(mounts::namespace(|| {
                mounts::bind(&hosts, Path::new("/etc/hosts"))?;
                mounts::bind(&switch, Path::new("/etc/nsswitch.conf"))
            })?);
        }
        charon.start_again()?;
        Ok(charon)
    }

    /// The names that it can resolve, with their addresses: its /etc/hosts. With [`CharonOptions::own_names`] only.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_names(&self, names: &[(&str, IpAddr)]) -> anyhow::Result<()> {
        let lines: Vec<String> = names.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        // Written in place: the mounted file is this inode.
        fs::write(self.hosts(), lines.concat()).context("writing its hosts file")
    }

    fn hosts(&self) -> PathBuf {
        self.folder.join("hosts")
    }

    /// Starts it again after [`kill`](Self::kill).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        // The socket of a killed charon would be mistaken for the new one's.
        drop(fs::remove_file(self.socket()));
        self.process = Some(Background::start(&mut self.command(DAEMON)?)?);
        Ok(())
    }

    /// Kills it as a crash would, without notice to its peers.
    ///
    /// # Errors
    /// When it had already exited: with its log.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let killed = self.process.take().map_or(Ok(()), Background::kill);
        killed.with_context(|| format!("killing charon in {}; its log:\n{}", self.place.name(), self.log()))
    }

    /// # Errors
    /// When it does not listen within a minute: with its log.
    pub fn wait_until_ready(&self) -> anyhow::Result<()> {
        retry_within(PATIENCE, &format!("charon in {} does not listen", self.place.name()), || {
            if self.process.as_ref().is_none_or(|process| !process.runs()) {
                bail!("it has ended; its log:\n{}", self.log());
            }
            Ok(UnixStream::connect(self.socket()).is_ok().then_some(()))
        })
        .with_context(|| self.log())
    }

    /// Its own end of the TUN device of its ESP, to send packets as if it had decrypted them.
    ///
    /// # Errors
    /// When it has none: the kernel does its ESP.
    pub fn tun(&self) -> anyhow::Result<Tun> {
        Tun::of_process(self.pid()?)
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.process.as_ref().context("charon does not run")?.pid())
    }

    /// Its VICI socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("vici")
    }

    /// Its log, which never contains a secret at its log levels.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub fn place(&self) -> &Namespace {
        &self.place
    }

    /// Loads a file for swanctl, and all loaded before.
    ///
    /// # Errors
    /// When swanctl or charon refuses it.
    pub fn load(&self, name: &str, text: &str) -> anyhow::Result<()> {
        self.write(&format!("conf.d/{name}.conf"), text)?;
        self.swanctl(&["--load-all"]).map(drop)
    }

    /// Writes a file into swanctl's directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> anyhow::Result<()> {
        private_file(&self.folder.join("swanctl").join(path), text)
    }

    /// Runs `swanctl ARGS` and returns its output.
    ///
    /// # Errors
    /// When it fails: its output, and the end of charon's log.
    pub fn swanctl(&self, args: &[&str]) -> anyhow::Result<String> {
        let uri = format!("unix://{}", self.socket().display());
        let said = output(self.command(SWANCTL)?.args(args).args(["--uri", &uri]))?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        if !said.status.success() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            bail!(
                "`swanctl {}` in {} failed: {text}{}\nthe end of charon's log:\n{}",
                args.join(" "),
                self.place.name(),
                String::from_utf8_lossy(&said.stderr),
                tail.join("\n")
            );
        }
        Ok(text)
    }

    fn command(&self, program: &str) -> anyhow::Result<Command> {
        let mut command = self.place.command(program);
        command.env("STRONGSWAN_CONF", self.configuration()).env("SWANCTL_DIR", self.folder.join("swanctl"));
        if let Some(mounts) = &self.mounts {
            mounts::enter(&mut command, mounts)?;
        }
        Ok(command)
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("strongswan.conf")
    }

    fn settings(&self, options: CharonOptions) -> String {
        let CharonOptions { esp, retransmits: (tries, timeout), many, own_names: _ } = options;
        // The first plugin capable of ESP does it.
        let libipsec = if esp == Esp::Userspace { "kernel-libipsec " } else { "" };
        let many = if many {
            "ikesa_table_size = 4096\n  ikesa_table_segments = 16\n  dos_protection = no\n  install_routes = no\n  "
        } else {
            ""
        };
        format!(
            "charon-systemd {{\n  {many}load = {libipsec}{PLUGINS} vici\n  retransmit_tries = {tries}\n  \
             retransmit_timeout = {timeout}\n  retransmit_base = 1\n  \
             # A peer that tries again and again must get an answer each time.\n  block_threshold = 0\n  \
             filelog {{ log {{ path = {log}\n default = 1\n flush_line = yes }} }}\n  \
             plugins {{\n    vici {{ socket = unix://{socket} }}\n  }}\n}}\n",
            log = self.folder.join("log").display(),
            socket = self.socket().display(),
        )
    }
}

/// Writes a file that only its owner may read, with all directories above it.
pub(super) fn private_file(path: &Path, text: &str) -> anyhow::Result<()> {
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .with_context(|| format!("making the place of {}", path.display()))?;
    let mut file = fs::OpenOptions::new();
    let file = file.create(true).write(true).truncate(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
    written.with_context(|| format!("writing {}", path.display()))
}
