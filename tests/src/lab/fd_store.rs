//! systemd's file descriptor store: receives the socket that an agent sends (`FDSTORE=1`, `sd_pid_notify_with_fds(3)`)
//! and passes it to the next agent.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::Context;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::{AgentCommand, Scratch};

/// Ends the reader.
const END: &[u8] = b"END";

type Stored = Arc<Mutex<Option<(String, Arc<OwnedFd>)>>>;

/// The store of one unit, with room for one descriptor.
#[derive(Debug)]
pub struct FdStore {
    _scratch: Scratch,
    path: PathBuf,
    stored: Stored,
    reader: Option<JoinHandle<()>>,
}

impl FdStore {
    /// # Errors
    /// When its socket cannot be made.
    pub fn open() -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        let path = scratch.file("notify.sock");
        let socket = UnixDatagram::bind(&path).context("binding NOTIFY_SOCKET")?;
        let stored = Stored::default();
        let store = Arc::clone(&stored);
        let reader = thread::spawn(move || while receive(&socket, &store) {});
        Ok(Self { _scratch: scratch, path, stored, reader: Some(reader) })
    }

    /// The same agent as a unit with this store: it gets the stored descriptor.
    #[must_use]
    pub fn command(&self, command: AgentCommand) -> AgentCommand {
        let command = command.environment("NOTIFY_SOCKET", &self.path.display().to_string());
        match &*self.stored.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((name, socket)) => command.descriptor(name, socket),
            None => command,
        }
    }

    /// The name of the stored descriptor.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(name, _)| name.clone())
    }

    /// As `systemctl clean --what=fdstore`.
    pub fn clean(&self) {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for FdStore {
    fn drop(&mut self) {
        let ended = UnixDatagram::unbound().and_then(|socket| socket.send_to(END, &self.path));
        if let (Ok(_), Some(reader)) = (ended, self.reader.take()) {
            drop(reader.join());
        }
    }
}

/// Receives one message. Returns whether to expect more.
fn receive(socket: &UnixDatagram, stored: &Stored) -> bool {
    let mut bytes = [0; 1024];
    let mut control = nix::cmsg_space!([RawFd; 4]);
    let mut vectors = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut vectors, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC);
    let Ok(message) = message else { return false };
    let mut sockets = Vec::new();
    for part in message.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(descriptors) = part {
            // SAFETY: the kernel has just opened them for this process.
            sockets.extend(descriptors.into_iter().map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }));
        }
    }
    let length = message.bytes;
    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    let has = |line: &str| text.lines().any(|found| found == line);
    let mut stored = stored.lock().unwrap_or_else(PoisonError::into_inner);
    if has("FDSTOREREMOVE=1") {
        stored.take();
    } else if has("FDSTORE=1") && stored.is_none() {
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or("stored").to_owned();
        *stored = sockets.into_iter().next().map(|socket| (name, Arc::new(socket)));
    }
    text.as_bytes() != END
}
