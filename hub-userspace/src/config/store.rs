//! The file on disk, as the agent keeps it: changes are proposed first, and the file is replaced as a whole.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Config, Diagnostic, Judged, Severity,
    diagnostic::Problem,
    difference::Difference,
    document::Patch,
    edit::{Edit, EditError, edit},
    ipsec::Files,
    judge,
    load::{LoadError, Loaded, MAX_FILE_SIZE, load_text, unreadable},
    quick::{Known, Outcome, Quick},
    replace::{explain, has_text, sync_folder, temporary, write_like},
};

/// The file, and the text it is known to have: what others write into it in the meantime is not written over.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    text: Text,
    /// Counts what was committed: a proposal is to one text.
    version: u64,
}

/// A change that was judged, and may be committed as long as no other one is.
#[derive(Debug)]
pub struct Proposal {
    pub change: Change,
    /// What may not be meant so, one sentence each. Of an edit those that the file did not have before; of a reload
    /// all, with their places in the file.
    pub warnings: Vec<String>,
    version: u64,
    next: Next,
}

/// What a proposal does to the configuration.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time: a box would save nothing")]
pub enum Change {
    Nothing,
    /// Only routes or one connection's `enabled` differ: see [`Config::apply`].
    Small(Difference),
    Whole(Box<Config>),
}

/// What committing does.
#[derive(Debug)]
enum Next {
    Nothing,
    Know(Text),
    Write(Text),
    WriteSome(Box<Quick>),
}

/// A text that breaks no rule.
#[derive(Debug)]
enum Text {
    /// Known by its parts, so that small changes cost little.
    Known(Box<Known>),
    /// Written so that only the whole can be changed.
    Whole(String),
}

/// Why a change is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProposeError {
    #[error(transparent)]
    Edit(#[from] EditError),
    /// The file as it would be breaks rules.
    #[error("{}", sentences(.0))]
    Refused(Vec<Diagnostic>),
}

/// Without their lines: the file they are in is not written.
fn sentences(diagnostics: &[Diagnostic]) -> String {
    let errors = diagnostics.iter().filter(|found| found.severity == Severity::Error);
    errors.map(Diagnostic::sentence).collect::<Vec<_>>().join("\n")
}

/// Why the file was not replaced; it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "{} was edited since the agent read it: `vpnhub reload` takes it as it is now, then repeat the command",
        .0.display()
    )]
    Edited(PathBuf),
    #[error("another change came in between: repeat the command")]
    Overtaken,
    #[error("{} cannot be read any more: {why}", .file.display())]
    Unreadable { file: PathBuf, why: String },
    #[error("{} would become larger than 64 MiB", .0.display())]
    TooLarge(PathBuf),
    #[error("{} cannot be replaced: {}", .file.display(), explain(.error))]
    Write { file: PathBuf, error: io::Error },
}

impl StoreError {
    /// Whether it is the file's text, not the host, that is in the way.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Edited(_) | Self::Overtaken | Self::TooLarge(_))
    }
}

impl Store {
    /// Reads and judges the file. What a crash while writing has left is removed.
    ///
    /// # Errors
    /// As [`load`](super::load()).
    pub fn open(path: &Path) -> Result<(Self, Loaded), LoadError> {
        let (text, judged) = load_text(path)?;
        if let Ok(target) = fs::canonicalize(path) {
            // If it cannot be, nothing can be written either, and the first change will say so.
            drop(fs::remove_file(temporary(&target)));
        }
        let text = Text::of(text, &judged);
        let Judged { config, warnings, .. } = judged;
        Ok((Self { path: path.to_owned(), text, version: 0 }, Loaded { config, warnings }))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text as last read or written.
    pub fn text(&self) -> String {
        self.text.to_text(None)
    }

    /// Judges a change; nothing is written, and the store is as it was.
    ///
    /// # Errors
    /// When the change does not fit what is there, or the file as it would be breaks rules.
    pub fn propose(&mut self, change: &Edit) -> Result<Proposal, ProposeError> {
        let mut edited = None;
        if let Text::Known(known) = &self.text {
            match known.judge(change)? {
                Outcome::Nothing => return Ok(self.nothing()),
                Outcome::Change(quick) => {
                    let warnings = quick.warning.iter().map(Problem::sentence).collect();
                    let change = Change::Small(quick.difference.clone());
                    return Ok(self.proposal(change, warnings, Next::WriteSome(quick)));
                }
                Outcome::Edited(patch) => edited = Some(self.text.to_text(Some(&patch))),
                Outcome::CannotTell => {}
            }
        }
        let text = if let Some(text) = edited {
            text
        } else {
            let old = self.text();
            let text = edit(&old, change)?;
            if text == old {
                return Ok(self.nothing());
            }
            text
        };
        let judged = judge(&text, Files::Unseen).map_err(ProposeError::Refused)?;
        let warnings = self.new_warnings(&judged.warnings);
        let next = Next::Write(Text::of(text, &judged));
        Ok(self.proposal(Change::Whole(Box::new(judged.config)), warnings, next))
    }

    /// Those of the warnings that the text does not have so far.
    fn new_warnings(&self, warnings: &[Diagnostic]) -> Vec<String> {
        if warnings.is_empty() {
            return Vec::new();
        }
        let known = judge(&self.text(), Files::Unseen).map(|judged| judged.warnings).unwrap_or_default();
        let known: HashSet<_> = known.iter().map(Diagnostic::subject).collect();
        warnings.iter().filter(|warning| !known.contains(&warning.subject())).map(Diagnostic::sentence).collect()
    }

    /// Reads and judges the file as it is now. Another text is a change, even if it says the same.
    ///
    /// # Errors
    /// As [`load`](super::load()).
    pub fn propose_reload(&self) -> Result<Proposal, LoadError> {
        let (text, judged) = load_text(&self.path)?;
        let file = self.path.display().to_string();
        let warnings = judged.warnings.iter().map(|warning| warning.in_file(&file)).collect();
        let old = self.text();
        if text == old {
            return Ok(Proposal { warnings, ..self.nothing() });
        }
        drop(old);
        let next = Next::Know(Text::of(text, &judged));
        Ok(self.proposal(Change::Whole(Box::new(judged.config)), warnings, next))
    }

    /// Replaces the file by what was proposed, or just knows what was reloaded. At any moment, a loss of power
    /// included, the file is the old or the new one; owner and mode stay, and where the path is a symbolic link, its
    /// target is replaced.
    ///
    /// # Errors
    /// When the file has another text than is known, or cannot be written: nothing has changed.
    pub fn commit(&mut self, proposal: Proposal) -> Result<(), StoreError> {
        if proposal.version != self.version {
            return Err(StoreError::Overtaken);
        }
        match proposal.next {
            // That nothing is to change is true only of the file that is known.
            Next::Nothing => return self.check_unchanged(),
            Next::Know(text) => self.text = text,
            Next::Write(text) => {
                self.replace(text.len(None), text.slices(None))?;
                self.text = text;
            }
            Next::WriteSome(quick) => {
                let patch = Some(&quick.patch);
                self.replace(self.text.len(patch), self.text.slices(patch))?;
                if let Text::Known(known) = &mut self.text {
                    known.apply(*quick);
                }
            }
        }
        self.version += 1;
        Ok(())
    }

    fn nothing(&self) -> Proposal {
        self.proposal(Change::Nothing, Vec::new(), Next::Nothing)
    }

    fn proposal(&self, change: Change, warnings: Vec<String>, next: Next) -> Proposal {
        Proposal { change, warnings, version: self.version, next }
    }

    /// Replaces the file's text by that in `slices`, of so many bytes.
    fn replace<'a>(&self, length: usize, slices: impl Iterator<Item = &'a str>) -> Result<(), StoreError> {
        if length as u64 > MAX_FILE_SIZE {
            return Err(StoreError::TooLarge(self.path.clone()));
        }
        let target = fs::canonicalize(&self.path).map_err(|error| self.write_error(error))?;
        let temporary = temporary(&target);
        let replaced = self.swap(&target, &temporary, slices);
        if replaced.is_err() {
            // What is left of it is removed at the next start.
            drop(fs::remove_file(&temporary));
            return replaced;
        }
        if let Err(error) = sync_folder(&target) {
            tracing::warn!("{} is replaced, but may not outlast a loss of power: {error}", self.path.display());
        }
        Ok(())
    }

    fn swap<'a>(
        &self,
        target: &Path,
        temporary: &Path,
        slices: impl Iterator<Item = &'a str>,
    ) -> Result<(), StoreError> {
        write_like(target, temporary, slices).map_err(|error| self.write_error(error))?;
        // As late as can be: writing through to the disk takes its time.
        self.check_unchanged()?;
        fs::rename(temporary, target).map_err(|error| self.write_error(error))
    }

    fn check_unchanged(&self) -> Result<(), StoreError> {
        match has_text(&self.path, self.text.slices(None)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(StoreError::Edited(self.path.clone())),
            Err(error) => Err(StoreError::Unreadable { file: self.path.clone(), why: unreadable(&error).message }),
        }
    }

    fn write_error(&self, error: io::Error) -> StoreError {
        StoreError::Write { file: self.path.clone(), error }
    }
}

impl Text {
    fn of(text: String, judged: &Judged) -> Self {
        Known::of(text, judged).map_or_else(Self::Whole, |known| Self::Known(Box::new(known)))
    }

    /// The text in pieces, as it is or with the patch.
    fn slices<'a>(&'a self, patch: Option<&'a Patch>) -> impl Iterator<Item = &'a str> {
        let (known, whole) = match self {
            Self::Known(known) => (Some(known.slices(patch)), None),
            Self::Whole(text) => (None, Some(text.as_str())),
        };
        known.into_iter().flatten().chain(whole)
    }

    fn to_text(&self, patch: Option<&Patch>) -> String {
        let mut text = String::with_capacity(self.len(patch));
        text.extend(self.slices(patch));
        text
    }

    /// Bytes of the text, as it is or with the patch.
    fn len(&self, patch: Option<&Patch>) -> usize {
        match self {
            Self::Known(known) => known.len(patch),
            Self::Whole(text) => text.len(),
        }
    }
}
