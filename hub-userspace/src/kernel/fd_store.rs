//! systemd's file descriptor store (`sd_pid_notify_with_fds(3)`): holds the socket that owns the nftables table while no agent
//! runs, so that the table has an owner then, too. The next agent of the unit gets it back.

use std::{
    env,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::net::UnixDatagram,
    },
};

use rustix::{
    cmsg_space,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};
use tracing::warn;

/// Of the socket in the store (`FDNAME=`).
const NAME: &str = "vpnhub-nftables";

/// The socket that an earlier agent has left there. To be called once.
pub fn take() -> Option<OwnedFd> {
    let sockets = match sd_notify::listen_fds_with_names() {
        Ok(sockets) => sockets,
        Err(error) => {
            warn!("what systemd has kept for this agent cannot be read: {error}");
            return None;
        }
    };
    let (number, _) = { sockets }.find(|(_, name)| name == NAME)?;
    // SAFETY: systemd has opened it for this process (LISTEN_PID), and this is the only place that takes it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Puts it there, if this runs under systemd. The unit needs `FileDescriptorStoreMax=1`.
pub fn keep(socket: BorrowedFd<'_>) {
    // Not polled: an error on the socket must not remove it.
    send(&format!("FDSTORE=1\nFDNAME={NAME}\nFDPOLL=0\n"), &[socket]);
}

/// Removes it.
pub fn forget() {
    send(&format!("FDSTOREREMOVE=1\nFDNAME={NAME}\n"), &[]);
}

fn send(state: &str, descriptors: &[BorrowedFd<'_>]) {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = || -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        sendmsg(socket.as_fd(), &[IoSlice::new(state.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    };
    if let Err(error) = sent() {
        warn!("systemd not notified: {error}");
    }
}
