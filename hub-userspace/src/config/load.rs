//! Loads the configuration files: the main file and those that it includes.

use std::{
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use std::os::unix::fs::OpenOptionsExt as _;
use toml::de::DeTable;

use super::{
    Validated,
    bulk::is_small,
    diagnostic::{Diagnostic, Problem, quoted},
    draft::Draft,
    ipsec::Files,
    model::Config,
    owner,
    provenance::{Places, Provenance},
    read::INCLUDE,
    validate,
};
use crate::store::SourceText;

/// Maximum total size of all files: a hundred thousand routes take about ten megabytes.
pub const MAX_FILE_SIZE: u64 = 64 * 1024 * 1024;
/// Maximum number of included files.
const MOST_FILES: usize = 1000;

/// A valid set of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub config: Config,
    /// In the files' order.
    pub warnings: Vec<Diagnostic>,
}

/// A valid set of files, to be merged with the store.
#[derive(Debug)]
pub struct FileSet {
    pub(super) draft: Draft,
    pub(super) places: Places,
    /// The main file first.
    pub texts: Vec<SourceText>,
    /// In the files' order.
    pub warnings: Vec<Diagnostic>,
}

impl FileSet {
    pub(super) fn provenance(&self) -> Provenance {
        Provenance::of(self.texts.iter().map(|source| source.path.clone()).collect(), self.places.clone())
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = (&Path, &str)> {
        self.texts.iter().map(|source| (source.path.as_path(), source.text.as_str()))
    }
}

/// A file is unreadable or invalid. Displays one line per diagnostic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    pub file: PathBuf,
    /// At least one error, and all warnings, in the files' order.
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

/// Reads and validates the file at `path` and its includes. Also checks the permissions of the secrets that they name.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    let files = load_files(path)?;
    let provenance = files.provenance();
    let FileSet { draft, warnings, .. } = files;
    let config = draft.into_config(provenance);
    let error = || LoadError { file: path.to_owned(), diagnostics: Vec::new() };
    config.map(|config| Loaded { config, warnings }).ok_or_else(error)
}

/// As [`load`], for merging with the store.
pub fn load_files(path: &Path) -> Result<FileSet, LoadError> {
    let error = |diagnostics| LoadError { file: path.to_owned(), diagnostics };
    let texts = read_texts(path).map_err(|diagnostic| error(vec![*diagnostic]))?;
    load_texts(texts).map_err(error)
}

/// As [`load_files`], for texts that were read before, the main file first.
///
/// # Errors
/// All errors and warnings, by position.
pub fn load_texts(texts: Vec<SourceText>) -> Result<FileSet, Vec<Diagnostic>> {
    let sources: Vec<(&Path, &str)> =
        texts.iter().map(|source| (source.path.as_path(), source.text.as_str())).collect();
    let Validated { draft, mut warnings, places } = validate(&sources, Files::Here)?;
    warnings.extend(owner::warnings(texts.iter().map(|source| source.path.as_path())));
    Ok(FileSet { draft, places, texts, warnings })
}

/// The texts of the main file and its includes, in the order of their names.
///
/// # Errors
/// If one of them cannot be read.
pub fn read_texts(path: &Path) -> Result<Vec<SourceText>, Box<Diagnostic>> {
    let whole = |problem| Box::new(Diagnostic::whole_file(problem));
    let mut left = MAX_FILE_SIZE;
    let text = read_text(path, &mut left).map_err(whole)?;
    let mut texts = vec![SourceText { path: path.to_owned(), text }];
    for pattern in includes(&texts[0].text) {
        for file in matching(path, &pattern).map_err(whole)? {
            if texts.iter().any(|source| source.path == file) {
                continue;
            }
            if texts.len() > MOST_FILES {
                return Err(whole(
                    Problem::new(format!("more than {MOST_FILES} files are included")).help("merge some of them"),
                ));
            }
            let text = read_text(&file, &mut left).map_err(|problem| {
                let mut diagnostic = Diagnostic::whole_file(problem);
                diagnostic.file = Some(file.clone());
                Box::new(diagnostic)
            })?;
            texts.push(SourceText { path: file, text });
        }
    }
    Ok(texts)
}

/// The patterns of `include`, a key before all sections. Errors in it are reported later, with those of the whole file.
fn includes(text: &str) -> Vec<String> {
    let head = match text.starts_with('[') {
        true => "",
        false => text.find("\n[").map_or(text, |end| &text[..=end]),
    };
    // A larger text is rejected later.
    if !head.contains(INCLUDE) || !is_small(head) {
        return Vec::new();
    }
    let Ok(tree) = DeTable::parse(head) else { return Vec::new() };
    let patterns = tree.get_ref().get(INCLUDE).and_then(|found| found.get_ref().as_array()).into_iter().flatten();
    patterns.filter_map(|pattern| pattern.get_ref().as_str().map(str::to_owned)).collect()
}

/// The files that match a pattern, in the order of their names. `*` and `?` are wildcards in the file name only.
fn matching(main: &Path, pattern: &str) -> Result<Vec<PathBuf>, Problem> {
    let path = main.parent().unwrap_or(Path::new("")).join(pattern);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let folder = path.parent().unwrap_or(Path::new(""));
    let is_pattern = |text: &str| text.contains(['*', '?']);
    if is_pattern(&folder.to_string_lossy()) || name.is_empty() {
        let problem = Problem::new(format!("include: {} is not a valid pattern", quoted(pattern)));
        return Err(problem.help("use * and ? only in the file's name, such as \"routes.d/*.toml\""));
    }
    if !is_pattern(&name) {
        return Ok(vec![path]);
    }
    let entries = match fs::read_dir(folder) {
        // A missing directory has no matching files.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.map_err(|error| {
            let problem =
                Problem::new(format!("include: {} cannot be read: {error}", quoted(&folder.display().to_string())));
            problem.help("let the agent read it")
        })?,
    };
    let names = entries.filter_map(Result::ok).map(|entry| entry.file_name());
    let mut files: Vec<PathBuf> =
        names.filter(|found| matches(&name, &found.to_string_lossy())).map(|found| folder.join(found)).collect();
    files.sort();
    Ok(files)
}

/// Whether a name matches a pattern; a wildcard does not match a leading dot.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    if name.first() == Some(&'.') && pattern.first() != Some(&'.') {
        return false;
    }
    // On a mismatch, backtrack to the last star.
    let (mut at, mut in_name, mut star) = (0, 0, None);
    while in_name < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(&c) if c == '?' || c == name[in_name] => {
                at += 1;
                in_name += 1;
            }
            _ => {
                let Some((star_at, from)) = star else { return false };
                star = Some((star_at, from + 1));
                at = star_at + 1;
                in_name = from + 1;
            }
        }
    }
    pattern[at..].iter().all(|&c| c == '*')
}

/// A file's text; subtracts its length from the bytes that are `left`.
fn read_text(path: &Path, left: &mut u64) -> Result<String, Problem> {
    // Opening a FIFO would block.
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let file = file.map_err(|error| unreadable(&error))?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file() || metadata.is_dir()) {
        return Err(Problem::new("this is not a regular file").help("name one with --config FILE"));
    }
    // Limit the bytes read, not the reported size: the file may grow.
    let mut bytes = Vec::new();
    file.take(*left + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    *left = left.checked_sub(bytes.len() as u64).ok_or_else(|| {
        Problem::new("this file and those before it are larger than 64 MiB in total").help("is this the right file?")
    })?;
    String::from_utf8(bytes).map_err(|error| not_text(&error))
}

fn unreadable(error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::NotFound => Problem::new("there is no such file").help("name one with --config FILE"),
        io::ErrorKind::IsADirectory => {
            Problem::new("this is a directory").help("name the file in it with --config FILE")
        }
        io::ErrorKind::PermissionDenied => {
            Problem::new("no permission to read the file").help("run as root, or let this user read it")
        }
        _ => Problem::new(format!("the file cannot be read: {error}")).help("name another with --config FILE"),
    }
}

fn not_text(error: &std::string::FromUtf8Error) -> Problem {
    let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let line = before.split(|&byte| byte == b'\n').count();
    Problem::new(format!("the file is not UTF-8 text: line {line} has an invalid byte"))
        .help("save the file in UTF-8; is this the right file?")
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn wildcards_match_parts_of_file_names() {
        for (pattern, name, expected) in [
            ("*.toml", "a.toml", true),
            ("*.toml", ".a.toml", false),
            ("*.toml", "a.toml.bak", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("??-*.toml", "10-x.toml", true),
            ("??-*.toml", "1-x.toml", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
