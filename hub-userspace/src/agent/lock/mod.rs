//! One agent per network namespace: two agents would remove each other's routes, even with different sockets.
//!
//! The lock is `flock` on a file in a directory that only root can enter, so that no other user can hold it. The file
//! is named after the namespace's inode number, which is unique among existing namespaces. The kernel releases the
//! lock when the process ends for any reason (flock(2)).

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{DirBuilderExt as _, MetadataExt as _},
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, openat, statat, unlinkat},
    io::Errno,
};

/// Directory of the agents' sockets and locks.
const DIRECTORY: &str = "/run/vpnhub";
/// The network namespace of the calling thread.
const NAMESPACE: &str = "/proc/thread-self/ns/net";
/// Ending of the file with the masks of receive queues that agents have replaced.
pub const SPREAD_MEMORY: &str = "spread";
/// Abstract socket address of version 0.1.
const OLD_NAME: &[u8] = b"vpnhub/agent";
/// Write permission of group and others.
const OTHERS_WRITE: u32 = 0o022;

/// The instance lock of this network namespace, held until dropped.
#[derive(Debug)]
pub struct InstanceLock {
    directory: OwnedFd,
    name: String,
    /// Holds the lock.
    _file: OwnedFd,
}

impl InstanceLock {
    /// Takes the lock for the network namespace of the calling thread.
    ///
    /// # Errors
    /// When another agent holds it, or when another user could write to its directory.
    pub fn claim() -> Result<Self> {
        Self::claim_in(Path::new(DIRECTORY))
    }

    /// As [`Self::claim`], with the lock directory in `parent`, which is created if missing. Users who can rename
    /// `parent` must be trusted.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub fn claim_in(parent: &Path) -> Result<Self> {
        let inode = fs::metadata(NAMESPACE).context("cannot determine the network namespace")?.ino();
        let directory = open_directory(parent)?;
        let name = inode.to_string();
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = openat(&directory, name.as_str(), flags, Mode::RUSR | Mode::WUSR)
                .with_context(|| format!("cannot open the lock {}/lock/{name}", parent.display()))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => bail!(
                    "another agent runs in this network namespace, and two agents would undo each other's routes: stop \
                     it first"
                ),
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot lock {}/lock/{name}", parent.display()));
                }
            }
            // The previous holder may have removed the file since it was opened here.
            if is_file(&directory, &name, &file)? {
                return Ok(Self { directory, name, _file: file });
            }
        }
    }

    /// Directory and name of a file that only the holder of the lock uses, and that outlives it.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn companion(&self, ending: &str) -> io::Result<(OwnedFd, String)> {
        Ok((self.directory.try_clone()?, format!("{}.{ending}", self.name)))
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // Unlink while locked: another agent that has the file open then detects that the name no longer refers to
        // it.
        let _ = unlinkat(&self.directory, self.name.as_str(), AtFlags::empty());
    }
}

/// Whether version 0.1 seems to run in the network namespace of the calling thread: it binds an abstract address
/// there. Any process could bind it, so use this only for a warning.
pub fn old_agent_runs() -> bool {
    let connect = || UnixDatagram::unbound()?.connect_addr(&SocketAddr::from_abstract_name(OLD_NAME)?);
    connect().is_ok()
}

/// Opens `parent/lock`, which only root may modify.
fn open_directory(parent: &Path) -> Result<OwnedFd> {
    let make = |path: &Path, mode| match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot create the lock directory {}: run as root", path.display()))
        }
        _ => Ok(()),
    };
    make(parent, 0o755)?;
    guarded(parent, OTHERS_WRITE)?;
    let path = parent.join("lock");
    make(&path, 0o700)?;
    guarded(&path, OTHERS_WRITE)
}

/// Opens a directory that root owns and whose mode has none of the `forbidden` bits.
fn guarded(path: &Path, forbidden: u32) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).map(File::from).with_context(|| {
        format!("cannot open the lock directory {}: run as root; it must not be a symbolic link", path.display())
    })?;
    let metadata = directory.metadata().with_context(|| format!("cannot read owner and mode of {}", path.display()))?;
    if metadata.uid() != 0 {
        bail!("{} belongs to user {}, who could hold the agent's lock: chown root {0}", path.display(), metadata.uid());
    }
    if metadata.mode() & forbidden != 0 {
        bail!(
            "{} can be written by other users (mode {:04o}), who could hold the agent's lock: chmod go-w {0}",
            path.display(),
            metadata.mode() & 0o7777
        );
    }
    Ok(directory.into())
}

/// Whether `file` is the file of this name.
fn is_file(directory: &OwnedFd, name: &str, file: &OwnedFd) -> Result<bool> {
    let opened = fstat(file.as_fd()).context("cannot read the metadata of the lock file")?;
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) => Ok((named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error).context("cannot read the metadata of the lock file"),
    }
}

#[cfg(test)]
mod tests;
