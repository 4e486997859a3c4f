//! The file on disk.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{
    Judged,
    diagnostic::{Diagnostic, Problem},
    ipsec::Files,
    judge,
    model::Config,
};

/// Larger files are refused: a hundred thousand routes take about ten megabytes.
pub const MAX_FILE_SIZE: u64 = 64 * 1024 * 1024;

/// A file that was read and taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub config: Config,
    /// In the file's order.
    pub warnings: Vec<Diagnostic>,
}

/// A file that could not be read, or was read and is wrong. Displays as one line a diagnostic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    pub file: PathBuf,
    /// At least one error, and all the warnings, in the file's order.
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display().to_string();
        for (index, found) in self.diagnostics.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{}", found.in_file(&file))?;
        }
        Ok(())
    }
}

/// Reads and judges the file at `path`, and whether the secrets that it names are kept to themselves.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    load_text(path).map(|(_, Judged { config, warnings, .. })| Loaded { config, warnings })
}

/// As [`load`], with the text.
pub(super) fn load_text(path: &Path) -> Result<(String, Judged), LoadError> {
    let error = |diagnostics| LoadError { file: path.to_owned(), diagnostics };
    let text = read_text(path).map_err(|problem| error(vec![Diagnostic::whole_file(problem)]))?;
    let judged = judge(&text, Files::Here).map_err(error)?;
    Ok((text, judged))
}

fn read_text(path: &Path) -> Result<String, Problem> {
    let file = fs::File::open(path).map_err(|error| unreadable(&error))?;
    // Bounded by what is read, not by what the file claims: it may be a device, or grow.
    let mut bytes = Vec::new();
    file.take(MAX_FILE_SIZE + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MAX_FILE_SIZE {
        return Err(Problem::new("the file is larger than 64 MiB").help("is this the right file?"));
    }
    String::from_utf8(bytes).map_err(|error| not_text(&error))
}

pub(super) fn unreadable(error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::NotFound => Problem::new("there is no such file").help("name one with --config FILE"),
        io::ErrorKind::IsADirectory => {
            Problem::new("this is a directory").help("name the file in it with --config FILE")
        }
        io::ErrorKind::PermissionDenied => {
            Problem::new("no permission to read the file").help("run as root, or give this user the right to read it")
        }
        _ => Problem::new(format!("the file cannot be read: {error}")).help("name another with --config FILE"),
    }
}

fn not_text(error: &std::string::FromUtf8Error) -> Problem {
    let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let line = before.split(|&byte| byte == b'\n').count();
    Problem::new(format!("the file is not UTF-8 text: line {line} has a byte that is none"))
        .help("save the file in UTF-8; is this the right file?")
}
