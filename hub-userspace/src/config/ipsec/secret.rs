//! Secrets in files of their own: checks of permissions and contents. The contents are never displayed.

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{fs::OFlags, process::geteuid};
use zeroize::{Zeroize as _, Zeroizing};

/// Longest secret; most devices accept less.
const LONGEST: usize = 256;
/// Shorter secrets can be guessed: aggressive mode and active attacks allow offline brute force.
const SHORTEST: usize = 16;

/// A pre-shared key. It has no `Display`, its `Debug` shows nothing, and its memory is zeroed on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The plain text, for the IKE daemon and for a site's configuration on request.
    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn is_short(&self) -> bool {
        self.0.len() < SHORTEST
    }

    /// Reads a secret; a trailing line end is not part of it.
    pub fn read(file: &Path) -> Result<Self, SecretError> {
        let error = |fault| SecretError { file: file.to_owned(), fault };
        let mut options = fs::OpenOptions::new();
        // Opening a FIFO would block.
        let opened = options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(file);
        let opened = opened.map_err(|found| error(SecretFault::of(&found)))?;
        // From the open file: the path may point elsewhere a moment later.
        let metadata = opened.metadata().map_err(|found| error(SecretFault::of(&found)))?;
        guard(&metadata).map_err(error)?;
        let bytes = read(opened, LONGEST + 3).map_err(|found| error(SecretFault::of(&found)))?;
        Self::of(&bytes).map_err(error)
    }

    fn of(bytes: &[u8]) -> Result<Self, SecretFault> {
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.len() {
            0 => return Err(SecretFault::Empty),
            length if length > LONGEST => return Err(SecretFault::Long),
            _ => {}
        }
        if !line.iter().all(u8::is_ascii_graphic) {
            return Err(SecretFault::Odd);
        }
        // Printable ASCII is UTF-8.
        let mut secret = Zeroizing::new(String::with_capacity(line.len()));
        secret.extend(line.iter().copied().map(char::from));
        Ok(Self(secret))
    }
}

/// The first bytes of a file. The buffer never grows, so that no copy stays in memory.
fn read(mut file: fs::File, most: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; most]);
    let mut length = 0;
    while length < most {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes[length..].zeroize();
    bytes.truncate(length);
    Ok(bytes)
}

/// The text of a file that may hold a private key; `None` if it is longer than `most` bytes or not UTF-8.
pub fn read_text(file: &Path, most: usize) -> io::Result<Option<Zeroizing<String>>> {
    let mut bytes = read(fs::File::open(file)?, most + 1)?;
    if bytes.len() > most {
        return Ok(None);
    }
    // Reuses the buffer, and zeroes it if the text is not UTF-8: no copy stays in memory.
    let text = String::from_utf8(std::mem::take(&mut *bytes)).map_err(|error| error.into_bytes().zeroize());
    Ok(text.ok().map(Zeroizing::new))
}

/// Checks type and permissions of a private key's file, not its contents.
pub fn check_key(file: &Path) -> Result<(), SecretError> {
    let error = |fault| SecretError { file: file.to_owned(), fault };
    let metadata = fs::metadata(file).map_err(|found| error(SecretFault::of(&found)))?;
    guard(&metadata).map_err(error)
}

/// Why a secret cannot be used. The message never includes the file's contents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {}; help: {}", .file.display(), .fault.message(), self.help())]
pub struct SecretError {
    pub file: PathBuf,
    pub fault: SecretFault,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretFault {
    Missing,
    Denied,
    Unreadable(String),
    NoFile,
    /// Mode with permissions for group or others.
    Exposed(u32),
    /// User ID of an owner other than root and this process's user.
    Foreign(u32),
    Empty,
    Long,
    Odd,
}

impl SecretError {
    /// The remedy.
    pub fn help(&self) -> String {
        let file = self.file.display();
        match &self.fault {
            SecretFault::Missing => format!("make one: (umask 077; openssl rand -base64 32 > {file})"),
            SecretFault::Denied => "run as root, or let this user read it".to_owned(),
            SecretFault::Unreadable(_) | SecretFault::NoFile => "name a regular file".to_owned(),
            SecretFault::Exposed(_) => format!("chmod 600 {file}; if others may have read it, make a new secret"),
            SecretFault::Foreign(_) => format!("chown root {file}; its owner can read it: make a new secret"),
            SecretFault::Empty | SecretFault::Long | SecretFault::Odd => {
                format!("write one line of at most {LONGEST} printable ASCII characters without blanks")
            }
        }
    }
}

impl SecretFault {
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Missing,
            io::ErrorKind::PermissionDenied => Self::Denied,
            _ => Self::Unreadable(error.to_string()),
        }
    }

    /// The problem; follows the file name.
    pub fn message(&self) -> String {
        match self {
            Self::Missing => "is not there".to_owned(),
            Self::Denied => "cannot be read by this user".to_owned(),
            Self::Unreadable(why) => format!("cannot be read: {why}"),
            Self::NoFile => "is not a regular file".to_owned(),
            Self::Exposed(mode) => format!("can be read or written by users other than its owner (mode {mode:04o})"),
            Self::Foreign(uid) => format!("belongs to another user (uid {uid})"),
            Self::Empty => "is empty".to_owned(),
            Self::Long => "contains more than one secret".to_owned(),
            Self::Odd => "contains blanks, several lines, or characters other than printable ASCII".to_owned(),
        }
    }
}

fn guard(metadata: &fs::Metadata) -> Result<(), SecretFault> {
    let kind = metadata.file_type();
    if kind.is_dir() || kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
        return Err(SecretFault::NoFile);
    }
    let owner = metadata.uid();
    if owner != 0 && owner != geteuid().as_raw() {
        return Err(SecretFault::Foreign(owner));
    }
    match metadata.mode() & 0o7777 {
        mode if mode & 0o077 != 0 => Err(SecretFault::Exposed(mode)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, chown},
        path::Path,
    };

    use super::{Secret, SecretFault};

    const SECRET: &str = "not-for-logs-0123456789";

    fn read(content: &[u8], mode: u32) -> Result<Secret, SecretFault> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("psk");
        fs::write(&file, content).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("set");
        Secret::read(&file).map_err(|error| {
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains(SECRET), "{shown}");
            error.fault
        })
    }

    #[test]
    fn secret_file_of_one_owner_only_line_is_read() {
        for content in [SECRET.to_owned(), format!("{SECRET}\n"), format!("{SECRET}\r\n")] {
            for mode in [0o600, 0o400] {
                assert_eq!(read(content.as_bytes(), mode).expect("a secret").expose(), SECRET);
            }
        }
    }

    #[test]
    fn secret_file_accessible_to_others_is_rejected() {
        for mode in [0o640, 0o604, 0o644, 0o620, 0o602, 0o610] {
            assert_eq!(read(SECRET.as_bytes(), mode), Err(SecretFault::Exposed(mode)));
        }
    }

    /// Its owner can read and replace it. Run this as root: nobody else may give files away.
    #[test]
    fn secret_file_of_another_user_is_rejected() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("psk");
        fs::write(&file, SECRET).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
        chown(&file, Some(12_345), None).expect("root gives it away");
        assert_eq!(Secret::read(&file).expect_err("refused").fault, SecretFault::Foreign(12_345));
    }

    #[test]
    fn malformed_secret_reports_fault() {
        let long = "x".repeat(257);
        for (content, fault) in [
            (&b""[..], SecretFault::Empty),
            (b"\n", SecretFault::Empty),
            (long.as_bytes(), SecretFault::Long),
            (b"two words", SecretFault::Odd),
            (b"two\nlines\n", SecretFault::Odd),
            ("\u{e4}".as_bytes(), SecretFault::Odd),
            (b"\xff", SecretFault::Odd),
        ] {
            assert_eq!(read(content, 0o600), Err(fault));
        }
        let fault = |path: &str| Secret::read(Path::new(path)).expect_err("no secret").fault;
        assert_eq!(fault("/nowhere/psk"), SecretFault::Missing);
        assert_eq!(fault("/dev/zero"), SecretFault::NoFile);
        assert_eq!(fault("/tmp"), SecretFault::NoFile);
    }

    #[test]
    fn secret_debug_output_hides_content() {
        let secret = read(SECRET.as_bytes(), 0o600).expect("a secret");
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "Secret Some(\n    Secret,\n)");
    }
}
