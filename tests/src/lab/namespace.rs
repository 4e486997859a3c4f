//! One named network namespace: create, enter, run commands, delete.
//!
//! Namespaces are created as `ip netns add` does (a bind mount under `/run/netns`), so `ip -n NAME` works on them by
//! hand. They are not created by `ip`, so that this process knows for certain which it made and may delete.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io, thread};

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};

use super::cleanup;

const DIRECTORY: &str = "/run/netns";

const CURRENT: &str = "this network namespace";

/// Agents pin their datapaths here, one directory per instance.
const PINS: &str = "/sys/fs/bpf/vpnhub";
const LONGEST_INSTANCE: usize = 64;

const NEEDS_ROOT: &str = "the lab makes network namespaces: run it as root (sudo), or with \
    CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW";

/// # Errors
/// When this process may not make namespaces or `ip` is not installed: one sentence with the lab's requirements.
pub fn require_root() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("{NEEDS_ROOT}");
    }
    match Command::new("ip").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("the lab sets up links with `ip`, which is not installed: apt-get install iproute2")
        }
        Err(error) => Err(error).context("running `ip -V`"),
    }
}

/// A network namespace named `/run/netns/NAME`. Dropping it deletes it, if this process made it and did not
/// [`keep`](Self::keep) it. Processes that still run inside keep the unnamed namespace alive until they end.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
    owned: bool,
}

impl Namespace {
    /// Creates a namespace, with its loopback device down.
    ///
    /// # Errors
    /// When one with that name exists (it is left unchanged), or this process may not create one.
    pub fn create(name: &str) -> anyhow::Result<Self> {
        let path = path_of(name)?;
        if !nix::unistd::geteuid().is_root() {
            bail!("{NEEDS_ROOT}");
        }
        let mut made = cleanup::made();
        prepare_directory().with_context(|| format!("preparing {DIRECTORY}"))?;
        match OpenOptions::new().write(true).create_new(true).mode(0o444).open(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!(
                    "the network namespace {name} exists already and is left alone: delete it with `ip netns del {name}`"
                )
            }
            Err(error) => return Err(error).with_context(|| format!("making {}", path.display())),
        }
        let mounted = thread::scope(|scope| {
            // A thread of its own: it moves into the new namespace and ends there.
            scope.spawn(|| new_namespace_at(&path)).join().expect("the thread does not panic")
        });
        match mounted.and_then(|()| File::open(&path)) {
            Ok(handle) => {
                made.namespaces.push(name.to_owned());
                Ok(Self { name: name.to_owned(), handle, owned: true })
            }
            Err(error) => {
                drop(delete(name));
                if error.raw_os_error() == Some(libc::EPERM) {
                    bail!("{NEEDS_ROOT}");
                }
                Err(error).with_context(|| format!("making the network namespace {name}"))
            }
        }
    }

    /// Creates a namespace, after deleting any existing one with this name.
    ///
    /// # Errors
    /// Those of [`create`](Self::create), except for an existing name.
    pub fn recreate(name: &str) -> anyhow::Result<Self> {
        delete(name)?;
        Self::create(name)
    }

    /// An existing namespace, not owned by this value; `None` if there is none.
    ///
    /// # Errors
    /// When it exists and cannot be opened.
    pub fn open(name: &str) -> anyhow::Result<Option<Self>> {
        let path = path_of(name)?;
        match File::open(&path) {
            Ok(handle) => Ok(Some(Self { name: name.to_owned(), handle, owned: false })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("opening {}", path.display())),
        }
    }

    /// The namespace in which this process runs, not owned by this value.
    ///
    /// # Errors
    /// When the kernel has no namespaces.
    pub fn current() -> anyhow::Result<Self> {
        let handle = File::open("/proc/thread-self/ns/net").context("opening this network namespace")?;
        Ok(Self { name: CURRENT.to_owned(), handle, owned: false })
    }

    /// Another value for the same namespace, which does not own it.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn duplicate(&self) -> anyhow::Result<Self> {
        Ok(Self { name: self.name.clone(), handle: self.handle.try_clone()?, owned: false })
    }

    /// Deletes the namespace with exactly this name, regardless of its creator; `false` if there is none.
    ///
    /// # Errors
    /// When this process may not.
    pub fn remove(name: &str) -> anyhow::Result<bool> {
        delete(name)
    }

    /// Lets the namespace outlive this value and this process.
    pub fn keep(&mut self) {
        cleanup::made().namespaces.retain(|made| *made != self.name);
        self.owned = false;
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The instance of agents that run inside: `vpnhub run --instance`. Its pins are removed with the namespace.
    pub fn instance(&self) -> String {
        instance_of(&self.name)
    }

    /// The pin directory of these agents.
    pub fn pins(&self) -> PathBuf {
        Path::new(PINS).join(self.instance())
    }

    /// The current namespace is never deleted.
    pub(super) fn is_current(&self) -> bool {
        self.name == CURRENT
    }

    /// Runs `closure` on a new thread inside the namespace and returns its result. Sockets that it opens stay in the
    /// namespace, and any thread can use them afterwards. `/proc/sys/net` is the namespace's.
    ///
    /// # Errors
    /// When the thread cannot be started or cannot enter. A panic of `closure` continues in the caller.
    pub fn enter<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        // The thread ends inside, so it needs no way back: /proc/1/ns/net may not be readable.
        let result = thread::scope(|scope| {
            thread::Builder::new()
                .name(self.name.clone())
                .spawn_scoped(scope, || setns(self.handle.as_fd(), CloneFlags::CLONE_NEWNET).map(|()| closure()))
                .map(thread::ScopedJoinHandle::join)
        })
        .with_context(|| format!("starting a thread for {}", self.name))?;
        match result {
            Ok(entered) => entered.with_context(|| format!("entering the network namespace {}", self.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// A command to run inside the namespace. Mounts do not change, unlike with `ip netns exec`, which remounts /sys
    /// and so hides a bpffs.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        // A descriptor of its own, opened before the fork: the command may outlive this value.
        let handle = self.handle.try_clone();
        let enter = move || match &handle {
            Ok(handle) => setns(handle.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from),
            Err(error) => Err(io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EBADF))),
        };
        // SAFETY: between fork and exec only async-signal-safe calls are allowed. setns is a bare system call, and
        // an error that is made from an errno allocates nothing.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs `ip ARGS` inside and returns its output. `args` are separated by blanks.
    ///
    /// # Errors
    /// When it fails: the command and its stderr.
    pub fn ip(&self, args: &str) -> anyhow::Result<String> {
        let output = self.command("ip").args(args.split_whitespace()).output().context("running `ip`")?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("`ip {args}` in {} failed: {}", self.name, stderr.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs lines of `ip` commands (without the word `ip`) in one process, as forks are slow in virtual machines.
    /// It stops at the first that fails.
    ///
    /// # Errors
    /// When one fails: that line and the stderr of `ip`.
    pub fn batch(&self, lines: &str) -> anyhow::Result<()> {
        if lines.trim().is_empty() {
            return Ok(());
        }
        let mut child = self
            .command("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("running `ip -batch`")?;
        // This cannot deadlock: a pipe holds 64 KiB, and `ip` writes to stderr only when it stops. A broken pipe means
        // that `ip` has stopped; its status reports that.
        drop(child.stdin.take().expect("stdin is piped").write_all(lines.as_bytes()));
        let output = child.wait_with_output().context("waiting for `ip -batch`")?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        // "Command failed -:7" names the line, from 1.
        let line = stderr
            .rsplit_once("-:")
            .and_then(|(_, number)| number.trim().parse::<usize>().ok())
            .and_then(|number| lines.lines().nth(number - 1))
            .unwrap_or("?");
        bail!("`ip {line}` in {} failed: {}", self.name, stderr.trim());
    }

    /// Writes sysctls below `net`: pairs of a name with slashes (`ipv4/ip_forward`) and its value.
    ///
    /// # Errors
    /// When one does not exist or refuses the value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        // /proc/sys/net shows the namespace of the reading task.
        self.enter(|| {
            settings.iter().try_for_each(|(name, value)| {
                fs::write(Path::new("/proc/sys/net").join(name), value)
                    .with_context(|| format!("setting net/{name} to {value} in {}", self.name))
            })
        })?
    }

    /// Reads a sysctl below `net`, without its newline.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn read_sysctl(&self, name: &str) -> anyhow::Result<String> {
        self.enter(|| fs::read_to_string(Path::new("/proc/sys/net").join(name)))?
            .map(|value| value.trim_end().to_owned())
            .with_context(|| format!("reading net/{name} in {}", self.name))
    }

    /// The processes that run inside: id and name, without those that this process may not inspect.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn processes(&self) -> anyhow::Result<Vec<(u32, String)>> {
        let inode = self.handle.metadata()?.ino();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").context("reading /proc")? {
            let entry = entry.context("reading /proc")?;
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if fs::metadata(entry.path().join("ns/net")).is_ok_and(|ns| ns.ino() == inode) {
                let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                found.push((id, name.trim_end().to_owned()));
            }
        }
        Ok(found)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.owned {
            let mut made = cleanup::made();
            if let Err(error) = delete(&self.name) {
                eprintln!("{error:#}");
            }
            made.namespaces.retain(|made| *made != self.name);
        }
    }
}

/// Detaches programs that agents of an instance have left attached: links go with the files that pin them.
pub(super) fn remove_pins(pins: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(pins) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", pins.display()));
        }
        _ => {}
    }
    // Fails while other instances remain.
    drop(fs::remove_dir(PINS));
    Ok(())
}

fn instance_of(name: &str) -> String {
    let valid = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let name = name.to_ascii_lowercase();
    name.chars().map(|c| if valid(c) { c } else { '-' }).take(LONGEST_INSTANCE).collect()
}

/// Deletes the namespace with exactly this name, and the pins of its agents. `false` if there is none.
pub(super) fn delete(name: &str) -> anyhow::Result<bool> {
    let path = path_of(name)?;
    remove_pins(&Path::new(PINS).join(instance_of(name)))?;
    let target = c_path(&path)?;
    // SAFETY: the path is a NUL-terminated string that outlives the call. EINVAL: not a mount point, only a file.
    if unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) } != 0 {
        match Errno::last() {
            Errno::EINVAL | Errno::ENOENT => {}
            error => {
                return Err(error).with_context(|| format!("deleting the network namespace {name}"));
            }
        }
    }
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("deleting the network namespace {name}")),
    }
}

fn path_of(name: &str) -> anyhow::Result<PathBuf> {
    if name.is_empty() || name.starts_with('.') || name.contains('/') || name.len() > 200 {
        bail!("{name:?} cannot name a network namespace");
    }
    Ok(Path::new(DIRECTORY).join(name))
}

fn c_path(path: &Path) -> anyhow::Result<std::ffi::CString> {
    Ok(std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?)
}

/// Moves this thread into a new namespace and names it.
fn new_namespace_at(path: &Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let target = c_path(path).map_err(io::Error::other)?;
    mount(c"/proc/thread-self/ns/net", &target, libc::MS_BIND)
}

/// Like `ip netns add`: the directory is a shared mount, so that names appear and vanish in every mount namespace. A
/// lock on the directory, which `ip` takes too, protects this.
fn prepare_directory() -> anyhow::Result<()> {
    fs::create_dir_all(DIRECTORY)?;
    let lock = Flock::lock(File::open(DIRECTORY)?, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    let path = c_path(Path::new(DIRECTORY))?;
    if mount(c"", &path, libc::MS_SHARED | libc::MS_REC).is_err() {
        // Not a mount point yet: bind it to itself.
        mount(&path, &path, libc::MS_BIND | libc::MS_REC)?;
        mount(c"", &path, libc::MS_SHARED | libc::MS_REC)?;
    }
    drop(lock);
    Ok(())
}

fn mount(source: &std::ffi::CStr, target: &std::ffi::CStr, flags: libc::c_ulong) -> io::Result<()> {
    // SAFETY: all strings are NUL-terminated and outlive the call; bind and propagation mounts take no data.
    let result = unsafe { libc::mount(source.as_ptr(), target.as_ptr(), c"none".as_ptr(), flags, std::ptr::null()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
