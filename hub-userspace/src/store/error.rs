//! Errors of opening or writing a store: one sentence each, with the remedy.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why the store cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("the store {} is in use by another agent: stop that one, or name another --instance or --state", .0.display())]
    InUse(PathBuf),
    #[error(
        "the store {} is damaged ({why}): stop the agent and copy a backup over it, or move it away to start without \
         the objects that commands made",
        .file.display()
    )]
    Damaged { file: PathBuf, why: String },
    #[error(
        "the store {} has schema version {found}, this vpnhub knows {known}: start the newer vpnhub again; to \
         downgrade, stop the agent and copy the older version's backup (`vpnhub store backup`) over the file, which \
         loses the objects that commands made since then",
        .file.display()
    )]
    Newer { file: PathBuf, found: u64, known: u64 },
    #[error("{} can be written by users other than its owner (mode {mode:04o}): chmod go-w {0}", .path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{} belongs to user {uid}, who could replace the store: chown it, or name another --state", .path.display())]
    Foreign { path: PathBuf, uid: u32 },
    #[error("the store {} cannot be {what}: {why}", .file.display())]
    Io { file: PathBuf, what: &'static str, why: String },
}

impl StoreError {
    pub(super) fn io(file: &Path, what: &'static str, error: &io::Error) -> Self {
        Self::Io { file: file.to_owned(), what, why: explain(error) }
    }

    /// The same without the store's path.
    pub(super) fn problem(&self) -> String {
        match self {
            Self::Io { what, why, .. } => format!("cannot be {what}: {why}"),
            error => error.to_string(),
        }
    }
}

/// The system's error message and the remedy.
pub(super) fn explain(error: &io::Error) -> String {
    let way_out = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount it writable, let the service write there (StateDirectory=), or name another --state"
        }
        io::ErrorKind::PermissionDenied => "run as root, or name another directory with --state",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room on its file system, then repeat the command"
        }
        io::ErrorKind::NotADirectory => "remove what is in the way, or name another directory with --state",
        _ => return error.to_string(),
    };
    format!("{error}: {way_out}")
}

/// redb's errors, by cause.
#[derive(Debug)]
pub(super) enum Cause {
    InUse,
    Damaged(String),
    Io(io::Error),
}

impl From<redb::Error> for Cause {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            redb::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => Self::Io(error),
            redb::Error::PreviousIo => Self::Io(io::Error::other("an earlier write failed")),
            error => Self::Damaged(error.to_string()),
        }
    }
}

impl Cause {
    pub fn at(self, file: &Path, what: &'static str) -> StoreError {
        match self {
            Self::InUse => StoreError::InUse(file.to_owned()),
            Self::Damaged(why) => StoreError::Damaged { file: file.to_owned(), why },
            Self::Io(error) => StoreError::io(file, what, &error),
        }
    }
}
