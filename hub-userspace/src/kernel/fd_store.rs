//! systemd's file descriptor store (`sd_pid_notify_with_fds(3)`). It holds the socket that owns the nftables table
//! while no agent runs, so that the table always has an owner. systemd passes it to the next agent of the unit.

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

/// The socket's name in the store (`FDNAME=`).
const NAME: &str = "vpnhub-nftables";

/// Takes the socket that an earlier agent stored. Call it only once.
pub fn take() -> Option<OwnedFd> {
    let sockets = match sd_notify::listen_fds_with_names() {
        Ok(sockets) => sockets,
        Err(error) => {
            warn!(name: "fd_store_unreadable", "the file descriptors that systemd stores for this agent cannot be read: {error}");
            return None;
        }
    };
    let (number, _) = { sockets }.find(|(_, name)| name == NAME)?;
    // SAFETY: systemd has opened it for this process (LISTEN_PID). No other code takes it.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Stores the socket, if this runs under systemd. The unit needs `FileDescriptorStoreMax=1`.
pub fn keep(socket: BorrowedFd<'_>) {
    // No polling: systemd would remove the socket on an error.
    send(&format!("FDSTORE=1\nFDNAME={NAME}\nFDPOLL=0\n"), &[socket]);
}

/// Removes the socket from the store.
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
        warn!(name: "systemd_not_notified", "systemd not notified: {error}");
    }
}
