//! A file is replaced as a whole: at any moment, a loss of power included, it is the old or the new one.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

/// Bytes read or written at once.
const BUFFER: usize = 1 << 20;

/// Whether the file has the text that is in `slices`, to the byte.
pub(super) fn has_text<'a>(path: &Path, slices: impl Iterator<Item = &'a str>) -> io::Result<bool> {
    // A text that was changed often has many small slices.
    let mut file = io::BufReader::with_capacity(BUFFER, File::open(path)?);
    let mut buffer = vec![0; BUFFER];
    for slice in slices {
        for expected in slice.as_bytes().chunks(buffer.len()) {
            let found = &mut buffer[..expected.len()];
            match file.read_exact(found) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                result => result?,
            }
            if found != expected {
                return Ok(false);
            }
        }
    }
    Ok(file.read(&mut buffer[..1])? == 0)
}

/// Where the new text is written: in the same folder, because only within a file system a rename is atomic.
pub(super) fn temporary(target: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(".vpnhub-new");
    target.with_file_name(name)
}

/// Writes the text in `slices` through to the disk, into a new file with owner and mode of `target`.
pub(super) fn write_like<'a>(target: &Path, temporary: &Path, slices: impl Iterator<Item = &'a str>) -> io::Result<()> {
    let wanted = fs::metadata(target)?;
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = File::options().write(true).create_new(true).mode(0o600).open(temporary)?;
    let made = file.metadata()?;
    if (made.uid(), made.gid()) != (wanted.uid(), wanted.gid()) {
        fchown(&file, Some(wanted.uid()), Some(wanted.gid()))?;
    }
    // After the owner: a change of owner takes mode bits away.
    file.set_permissions(fs::Permissions::from_mode(wanted.mode() & 0o7777))?;
    let mut writer = io::BufWriter::with_capacity(BUFFER, file);
    for slice in slices {
        writer.write_all(slice.as_bytes())?;
    }
    writer.into_inner()?.sync_all()
}

pub(super) fn sync_folder(file: &Path) -> io::Result<()> {
    File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()
}

pub(super) fn explain(error: &io::Error) -> String {
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
