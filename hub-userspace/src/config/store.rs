//! The file on disk, as the agent keeps it: read, and replaced as a whole.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use super::load::{LoadError, Loaded, MAX_FILE_SIZE, load, read_text};

/// The file, and the text it is known to have: what others write into it in the meantime is not written over.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    text: String,
}

/// Why the file was not replaced; it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "{} was edited since the agent read it: `vpnhub reload` takes it as it is now, then repeat the command",
        .0.display()
    )]
    Edited(PathBuf),
    #[error("{} cannot be read any more: {why}", .file.display())]
    Unreadable { file: PathBuf, why: String },
    #[error("{} would become larger than 16 MiB", .0.display())]
    TooLarge(PathBuf),
    #[error("{} cannot be replaced: {}", .file.display(), explain(.error))]
    Write { file: PathBuf, error: io::Error },
}

impl StoreError {
    /// Whether it is the file's text, not the host, that is in the way.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Edited(_) | Self::TooLarge(_))
    }
}

impl Store {
    /// Reads and judges the file. What a crash while writing has left is removed.
    ///
    /// # Errors
    /// As [`load`].
    pub fn open(path: &Path) -> Result<(Self, Loaded), LoadError> {
        let loaded = load(path)?;
        if let Ok(target) = fs::canonicalize(path) {
            // If it cannot be, nothing can be written either, and the first change will say so.
            drop(fs::remove_file(temporary(&target)));
        }
        Ok((Self { path: path.to_owned(), text: loaded.text.clone() }, loaded))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text as last read or written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Reads and judges the file as it is now; the store still knows the old text until it is told to [`Self::know`].
    ///
    /// # Errors
    /// As [`load`].
    pub fn load(&self) -> Result<Loaded, LoadError> {
        load(&self.path)
    }

    /// From here on `text` is what the file is known to have.
    pub fn know(&mut self, text: String) {
        self.text = text;
    }

    /// Replaces the file's text. At any moment, a loss of power included, the file is the old or the new one; owner and
    /// mode stay, and where the path is a symbolic link, its target is replaced.
    ///
    /// # Errors
    /// When the file has another text than is known, or cannot be written: nothing has changed.
    pub fn replace(&mut self, text: String) -> Result<(), StoreError> {
        if text.len() as u64 > MAX_FILE_SIZE {
            return Err(StoreError::TooLarge(self.path.clone()));
        }
        let target = fs::canonicalize(&self.path).map_err(|error| self.write_error(error))?;
        let temporary = temporary(&target);
        let replaced = self.swap(&target, &temporary, &text);
        if replaced.is_err() {
            // What is left of it is removed at the next start.
            drop(fs::remove_file(&temporary));
            return replaced;
        }
        self.text = text;
        if let Err(error) = sync_folder(&target) {
            tracing::warn!("{} is replaced, but may not outlast a loss of power: {error}", self.path.display());
        }
        Ok(())
    }

    fn swap(&self, target: &Path, temporary: &Path, text: &str) -> Result<(), StoreError> {
        self.check_unchanged()?;
        write_like(target, temporary, text).map_err(|error| self.write_error(error))?;
        // Once more: writing through to the disk takes its time.
        self.check_unchanged()?;
        fs::rename(temporary, target).map_err(|error| self.write_error(error))
    }

    fn check_unchanged(&self) -> Result<(), StoreError> {
        match read_text(&self.path) {
            Ok(text) if text == self.text => Ok(()),
            Ok(_) => Err(StoreError::Edited(self.path.clone())),
            Err(problem) => Err(StoreError::Unreadable { file: self.path.clone(), why: problem.message }),
        }
    }

    fn write_error(&self, error: io::Error) -> StoreError {
        StoreError::Write { file: self.path.clone(), error }
    }
}

/// Where the new text is written: in the same folder, because only within a file system a rename is atomic.
fn temporary(target: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".vpnhub-new");
    target.with_file_name(name)
}

/// Writes `text` through to the disk, into a new file with owner and mode of `target`.
fn write_like(target: &Path, temporary: &Path, text: &str) -> io::Result<()> {
    let wanted = fs::metadata(target)?;
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(temporary)?;
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (wanted.uid(), wanted.gid()) {
        fchown(&file, Some(wanted.uid()), Some(wanted.gid()))?;
    }
    // After the owner: a change of owner takes mode bits away.
    file.set_permissions(fs::Permissions::from_mode(wanted.mode() & 0o7777))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_folder(file: &Path) -> io::Result<()> {
    File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()
}

fn explain(error: &io::Error) -> String {
    let way_out = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "remount it, or let the service write there (ReadWritePaths=)",
        io::ErrorKind::PermissionDenied => "the agent must be able to make files in its folder, with the same owner",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room on its file system",
        io::ErrorKind::ResourceBusy => "it is a mount of its own: mount its folder instead",
        io::ErrorKind::NotFound => "put it back",
        _ => return error.to_string(),
    };
    format!("{error}: {way_out}")
}
