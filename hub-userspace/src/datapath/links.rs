//! Pinned links: the attachments that outlive the agent.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya_obj::generated::{BPF_F_BEFORE, bpf_attach_type};
use rustix::io::Errno;
use tracing::debug;

use super::{
    bpf,
    pins::{AttachmentKind, Pins},
    tc::Direction,
};

/// Ahead of the filters and of other TCX programs.
pub const TCX_FLAGS: u32 = BPF_F_BEFORE;

/// Replaces the program of a pinned TCX link, or creates and pins one.
pub(super) fn attach_tcx(pins: &Pins, direction: Direction, ifindex: u32, program: BorrowedFd<'_>) -> io::Result<()> {
    attach_link(pins, direction.link(), ifindex, program, direction.attach_type(), TCX_FLAGS)
}

/// Replaces the program of a pinned link, or creates and pins a link.
pub(super) fn attach_link(
    pins: &Pins,
    kind: AttachmentKind,
    ifindex: u32,
    program: BorrowedFd<'_>,
    attach_type: bpf_attach_type,
    flags: u32,
) -> io::Result<()> {
    let path = pins.path(kind, ifindex);
    if let Ok(link) = bpf::open(&path) {
        match bpf::swap(link.as_fd(), program) {
            // The link's interface is gone, and its index is in use by another one.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOLINK) => {}
            result => return result,
        }
        debug!(ifindex, "{} has lost its interface", path.display());
    }
    pins.forget_link(kind, ifindex);
    let link = bpf::attach(program, ifindex, attach_type, flags)?;
    bpf::pin(link.as_fd(), &path)
}
