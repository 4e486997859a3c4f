//! Mount namespaces of a process: files that only it sees.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

const NONE: Option<&str> = None;

/// A mount namespace, after `change` has run in it.
pub(super) fn namespace(change: impl FnOnce() -> anyhow::Result<()> + Send) -> anyhow::Result<File> {
    let make = || -> anyhow::Result<File> {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).context("making mounts private")?;
        change()?;
        File::open("/proc/thread-self/ns/mnt").context("opening a mount namespace")
    };
    // A thread of its own: it moves into the new namespace and ends there.
    thread::scope(|scope| scope.spawn(make).join().expect("the thread does not panic"))
}

/// Mounts a file or directory over another one.
pub(super) fn bind(source: &Path, target: &Path) -> anyhow::Result<()> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND, NONE).with_context(|| format!("mounting {}", target.display()))
}

/// Makes the command run in this mount namespace.
pub(super) fn enter(command: &mut Command, mounts: &File) -> anyhow::Result<()> {
    let mounts = mounts.try_clone()?;
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. setns is a bare system call, and an
    // error that is made from an errno allocates nothing.
    unsafe { command.pre_exec(move || Ok(setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS)?)) };
    Ok(())
}
