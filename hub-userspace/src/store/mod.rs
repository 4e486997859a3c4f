//! The agent's own database: objects created by commands, administrative states, the audit log.
//!
//! Each instance has one file, `DIR/INSTANCE/store.redb`, accessible to root only and locked while it is open. Once
//! [`Store::commit`] has returned success, the change is on disk and survives a crash. If the file is readable but not
//! writable, the store works on a copy in memory and rejects changes. Opening verifies the checksum of every page: a
//! damaged store is an error, never an empty store.

pub mod audit;
mod backup;
mod error;
mod object;
mod schema;
#[cfg(test)]
mod tests;
mod unconfirmed;
mod write_state;

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use redb::{StorageBackend, backends::FileBackend};
use rustix::{fs::OFlags, process::geteuid};

use self::{
    backup::Image,
    error::{Cause, explain},
    schema::Contents,
};
pub use self::{
    error::StoreError,
    object::{
        Body, Keys, ObjectId, Objects, Op, PolicyRouteId, PolicyRouteKeys, RouteId, RouteKeys, Stored, StoredRole,
    },
    schema::Batch,
    unconfirmed::{SourceText, Unconfirmed},
    write_state::WriteState,
};

/// Default directory of the stores.
pub const DEFAULT_DIRECTORY: &str = "/var/lib/vpnhub";
const FILE: &str = "store.redb";
/// Bytes of page cache: enough for a whole store of usual size.
const CACHE: usize = 16 << 20;
/// Write permission of group and others.
const OTHERS_WRITE: u32 = 0o022;

/// An open store.
#[derive(Debug)]
pub struct Store {
    file: PathBuf,
    access: Access,
    revision: u64,
    write_state: WriteState,
}

#[derive(Debug)]
enum Access {
    /// `None` only after a failed write, until the file is opened again.
    Writable(Option<redb::Database>),
    /// A copy in memory, and the reason why the file cannot be written.
    ReadOnly(redb::Database, String),
}

/// Result of opening a store.
#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    pub objects: Objects,
    pub unconfirmed: Option<Unconfirmed>,
}

impl Store {
    /// Opens the store of an instance; creates it if there is none.
    ///
    /// # Errors
    /// If the store is in use, damaged, of a newer version, writable by other users, or unreadable.
    pub fn open(directory: &Path, instance: &str) -> Result<Opened, StoreError> {
        let folder = directory.join(instance);
        let file = folder.join(FILE);
        let (access, contents) = match open_writable(directory, &folder, &file) {
            Ok((database, contents)) => (Access::Writable(Some(database)), contents),
            Err(StoreFailure::Unwritable(error)) => {
                let (database, contents) = open_copy(&file)?;
                (Access::ReadOnly(database, explain(&error)), contents)
            }
            Err(StoreFailure::Other(error)) => return Err(error),
        };
        if contents.version > schema::VERSION {
            return Err(StoreError::Newer { file, found: contents.version, known: schema::VERSION });
        }
        let Contents { revision, objects, unconfirmed, version: _ } = contents;
        let problem = match &access {
            Access::Writable(_) => None,
            Access::ReadOnly(_, why) => Some(format!("cannot be written: {why}; then restart the agent")),
        };
        let write_state = WriteState::new(file.clone(), problem);
        Ok(Opened { store: Self { file, access, revision, write_state }, objects, unconfirmed })
    }

    /// As [`Self::open`], but never creates a store.
    ///
    /// # Errors
    /// As [`Self::open`], and if there is no store.
    pub fn open_existing(directory: &Path, instance: &str) -> Result<Self, StoreError> {
        let file = directory.join(instance).join(FILE);
        fs::symlink_metadata(&file).map_err(|error| StoreError::io(&file, "opened", &error))?;
        Ok(Self::open(directory, instance)?.store)
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The reason why the store is read-only; `None` if it is writable.
    pub fn read_only(&self) -> Option<&str> {
        match &self.access {
            Access::Writable(_) => None,
            Access::ReadOnly(_, why) => Some(why),
        }
    }

    /// Whether the store is writable, as of the last write.
    pub fn write_state(&self) -> WriteState {
        self.write_state.clone()
    }

    /// Writes a batch to disk atomically; `next_number` is the number of the next object.
    ///
    /// # Errors
    /// If nothing was written.
    pub fn commit(&mut self, batch: &Batch, next_number: u64) -> Result<(), StoreError> {
        if let Access::ReadOnly(_, why) = &self.access {
            return Err(StoreError::Io { file: self.file.clone(), what: "written", why: why.clone() });
        }
        let written = self.write(batch, next_number);
        self.write_state.note(&written);
        written
    }

    fn write(&mut self, batch: &Batch, next_number: u64) -> Result<(), StoreError> {
        let Access::Writable(database) = &mut self.access else { return Ok(()) };
        let file = self.file.clone();
        if database.is_none() {
            *database = Some(reopen(&file).map_err(|cause| cause.at(&file, "written"))?);
        }
        let Some(open) = database.as_ref() else { return Ok(()) };
        let revision = self.revision + 1;
        if let Err(cause) = guarded(|| schema::write(open, batch, next_number, revision)) {
            // The transaction may have reached the disk before the failure: compare the revision on disk.
            *database = None;
            match reopen(&file).and_then(|database| Ok((schema::revision(&database)?, database))) {
                Ok((found, again)) => {
                    *database = Some(again);
                    if found != revision {
                        return Err(cause.at(&file, "written"));
                    }
                }
                Err(_) => return Err(cause.at(&file, "written")),
            }
        }
        self.revision = revision;
        Ok(())
    }

    /// The newest `most` entries of the audit log, oldest first.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn audit(&self, most: usize) -> Result<Vec<audit::AuditEntry>, StoreError> {
        let cause = |cause: Cause| cause.at(&self.file, "read");
        guarded(|| self.with(|database| schema::audit(database, most))).map_err(cause)
    }

    /// A snapshot of the store, as the bytes of a file that can replace it.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn backup(&self) -> Result<Vec<u8>, StoreError> {
        let copy = || {
            self.with(|database| {
                let image = Image::default();
                let copy = database_of(image.clone())?;
                schema::copy(database, &copy)?;
                drop(copy);
                image.bytes().map_err(Cause::Io)
            })
        };
        guarded(copy).map_err(|cause| cause.at(&self.file, "read"))
    }

    fn with<T>(&self, read: impl FnOnce(&redb::Database) -> Result<T, Cause>) -> Result<T, Cause> {
        match &self.access {
            Access::Writable(Some(database)) | Access::ReadOnly(database, _) => read(database),
            Access::Writable(None) => read(&reopen(&self.file)?),
        }
    }
}

/// Why a store was not opened for writing.
enum StoreFailure {
    /// An error of the file system or its permissions; the file may still be readable.
    Unwritable(io::Error),
    Other(StoreError),
}

impl StoreFailure {
    fn of(file: &Path, what: &'static str, error: io::Error) -> Self {
        use io::ErrorKind::{PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        match error.kind() {
            PermissionDenied | QuotaExceeded | ReadOnlyFilesystem | StorageFull => Self::Unwritable(error),
            _ => Self::Other(StoreError::io(file, what, &error)),
        }
    }

    fn because(file: &Path, cause: Cause) -> Self {
        match cause {
            Cause::Io(error) => Self::of(file, "opened", error),
            cause => Self::Other(cause.at(file, "opened")),
        }
    }
}

fn open_writable(directory: &Path, folder: &Path, file: &Path) -> Result<(redb::Database, Contents), StoreFailure> {
    for path in [directory, folder] {
        match fs::DirBuilder::new().mode(0o700).recursive(path == directory).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(StoreFailure::of(file, "created", error));
            }
            _ => check_owner(path).map_err(StoreFailure::Other)?,
        }
    }
    match fs::symlink_metadata(file) {
        Ok(_) => check_owner(file).map_err(StoreFailure::Other)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(folder, file).map_err(|error| StoreFailure::of(file, "created", error))?;
        }
        Err(error) => return Err(StoreFailure::of(file, "opened", error)),
    }
    let opened = guarded(|| {
        let database = reopen(file)?;
        let contents = schema::read(&database)?;
        Ok((database, contents))
    });
    opened.map_err(|cause| StoreFailure::because(file, cause))
}

/// Creates an empty store. A crash leaves a complete file or none.
fn make(folder: &Path, file: &Path) -> io::Result<()> {
    let image = Image::default();
    let made = database_of(image.clone()).and_then(|database| schema::initialize(&database));
    if let Err(cause) = made {
        return Err(io::Error::other(format!("{cause:?}")));
    }
    replace(folder, file, &image.bytes()?)
}

/// Writes a file with these bytes to disk and atomically replaces any previous one.
fn replace(folder: &Path, file: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = file.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let write = || {
        let mut new = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        new.write_all(bytes)?;
        new.sync_all()?;
        fs::rename(&temporary, file)?;
        File::open(folder)?.sync_all()
    };
    // A partial file would only waste space.
    write().inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// A copy of the file in memory, or an empty store if there is no file.
fn open_copy(file: &Path) -> Result<(redb::Database, Contents), StoreError> {
    let open = || {
        let (image, is_new) = match fs::read(file) {
            // redb would silently initialize an empty file.
            Ok(bytes) if bytes.is_empty() => return Err(Cause::Damaged("it is empty".to_owned())),
            Ok(bytes) => (Image::of(&bytes).map_err(Cause::Io)?, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (Image::default(), true),
            Err(error) => return Err(Cause::Io(error)),
        };
        let database = database_of(image)?;
        if is_new {
            schema::initialize(&database)?;
        }
        let contents = schema::read(&database)?;
        Ok((database, contents))
    };
    guarded(open).map_err(|cause| cause.at(file, "read"))
}

fn reopen(file: &Path) -> Result<redb::Database, Cause> {
    let mut options = File::options();
    options.read(true).write(true).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    let opened = options.open(file).map_err(Cause::Io)?;
    if opened.metadata().map_err(Cause::Io)?.len() == 0 {
        return Err(Cause::Damaged("it is empty".to_owned()));
    }
    database_of(FileBackend::new(opened).map_err(|error| Cause::from(redb::Error::from(error)))?)
}

fn database_of(backend: impl StorageBackend) -> Result<redb::Database, Cause> {
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder.create_with_backend(backend).map_err(|error| Cause::from(redb::Error::from(error)))
}

/// A damaged file may panic the database code in spite of its checks: turn the panic into an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, Cause>) -> Result<T, Cause> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Cause::Damaged("its contents contradict each other".to_owned())))
}

/// Checks that only this user can replace the file or directory.
fn check_owner(path: &Path) -> Result<(), StoreError> {
    let metadata = fs::symlink_metadata(path).map_err(|error| StoreError::io(path, "opened", &error))?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(StoreError::Foreign { path: path.to_owned(), uid: metadata.uid() });
    }
    if metadata.mode() & OTHERS_WRITE != 0 && !metadata.is_symlink() {
        return Err(StoreError::Exposed { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
    }
    Ok(())
}
