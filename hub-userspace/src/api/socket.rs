//! The control socket's file: its permissions, and its re-creation after removal.
//!
//! It belongs to root and the group `vpnhub`, if that exists. The group may send read-only requests; only root may
//! make changes (see [`super::access`]).

use std::{
    fs, io,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _},
            net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream},
        },
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, chmodat, chownat, renameat_with};
use tokio::net::UnixListener;
use tracing::{info, warn};

/// Its members have read-only access.
const GROUP: &str = "vpnhub";
const NAME: &str = "socket";

/// The socket. Its file is removed on drop.
pub struct Socket {
    pub(super) file: Arc<SocketFile>,
    pub(super) listener: Option<UnixListener>,
}

impl Socket {
    /// Opens the socket for root and the group `vpnhub`. Replaces a socket that nobody listens on.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_for(path, group_id(&fs::read_to_string("/etc/group").unwrap_or_default(), GROUP))
    }

    /// Opens it for this process's user and the group with this ID.
    pub fn open_for(path: &Path, group: Option<u32>) -> Result<Self> {
        let file = SocketFile { path: path.to_owned(), group, state: Mutex::default() };
        match StdUnixStream::connect(path) {
            Ok(_) => bail!("another agent answers on {}: stop it first", path.display()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && is_socket(path) => {
                fs::remove_file(path).with_context(|| format!("cannot remove the old socket {}", path.display()))?;
            }
            Err(_) => {}
        }
        let listener = file.listen()?;
        Ok(Self { file: Arc::new(file), listener: Some(listener) })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut state = self.file.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.made.is_some() && state.made == identity(&self.file.path) {
            // Errors are harmless: the next agent replaces a socket that nobody listens on.
            let _ = fs::remove_file(&self.file.path);
        }
        state.closed = true;
    }
}

/// The socket's file.
pub(super) struct SocketFile {
    path: PathBuf,
    group: Option<u32>,
    state: Mutex<FileState>,
}

#[derive(Default)]
struct FileState {
    /// Device and inode of the file.
    made: Option<(u64, u64)>,
    /// The socket is closed: do not create the file again.
    closed: bool,
    /// Why it could not be re-created, so that this is logged only once.
    failure: Option<String>,
}

impl SocketFile {
    /// Creates a new listener if the file has been removed: later clients connect to that one.
    pub fn listen_again(&self) -> Option<UnixListener> {
        let is_gone = || fs::symlink_metadata(&self.path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if self.state.lock().unwrap_or_else(PoisonError::into_inner).closed || !is_gone() {
            return None;
        }
        let made = self.listen();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match made {
            Ok(listener) => {
                info!(name: "socket_recreated", "the socket {} was removed: created again", self.path.display());
                state.failure = None;
                Some(listener)
            }
            Err(error) => {
                let failure = format!("{error:#}");
                if state.failure.as_ref() != Some(&failure) {
                    warn!(name: "socket_not_recreated", "the socket {} was removed and cannot be created again: {failure}", self.path.display());
                }
                state.failure = Some(failure);
                None
            }
        }
    }

    fn listen(&self) -> Result<UnixListener> {
        if let Some(parent) = self.path.parent() {
            // Other users must be able to reach the socket but not to replace it, regardless of the umask.
            let make = fs::DirBuilder::new().recursive(true).mode(0o755).create(parent);
            make.with_context(|| format!("cannot create {}", parent.display()))?;
        }
        let listener = self.bind().with_context(|| {
            format!("cannot open the socket {}: choose another place with --socket", self.path.display())
        })?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.made = identity(&self.path);
        Ok(listener)
    }

    /// Creates the file in a private directory, and moves it to its place once its permissions are set. The
    /// permissions are thus never too wide, and the umask, which all threads share, is not changed.
    fn bind(&self) -> Result<UnixListener> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let hidden = self.path.with_file_name(format!(".vpnhub-{:016x}", u64::from_ne_bytes(random)));
        fs::DirBuilder::new().mode(0o700).create(&hidden)?;
        let made = self.bind_in(&hidden);
        let _ = fs::remove_file(hidden.join(NAME));
        fs::remove_dir(&hidden)?;
        made
    }

    fn bind_in(&self, hidden: &Path) -> Result<UnixListener> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(hidden, flags, Mode::empty())?;
        // The hidden directory's path may be too long for a socket address.
        let listener = StdUnixListener::bind(format!("/proc/self/fd/{}/{NAME}", directory.as_raw_fd()))?;
        let owned = |group| chownat(&directory, NAME, None, Some(Gid::from_raw(group)), AtFlags::SYMLINK_NOFOLLOW);
        let mode = match self.group.map(owned) {
            Some(Ok(())) => 0o660,
            Some(Err(error)) => {
                warn!(name: "socket_group", "the group {GROUP} cannot open {}: {error}", self.path.display());
                0o600
            }
            None => 0o600,
        };
        chmodat(&directory, NAME, Mode::from_raw_mode(mode), AtFlags::empty())?;
        renameat_with(&directory, NAME, CWD, &self.path, RenameFlags::NOREPLACE)?;
        listener.set_nonblocking(true)?;
        Ok(UnixListener::from_std(listener)?)
    }
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The ID of a group in the text of /etc/group (group(5)).
fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() == Some(name) { fields.nth(1)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::group_id;

    #[test]
    fn group_id_is_found_by_exact_name() {
        let groups = "root:x:0:\nvpnhub-old:x:7:\nbroken\nvpnhub:x:998:anna,ben\nvpnhub:x:999:\n";
        assert_eq!(group_id(groups, "vpnhub"), Some(998));
        assert_eq!(group_id(groups, "vpn"), None);
        assert_eq!(group_id("vpnhub:x:no:\n", "vpnhub"), None);
        assert_eq!(group_id("vpnhub", "vpnhub"), None);
    }
}
