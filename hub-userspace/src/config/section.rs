//! Reads the keys of one section by name; all other keys are reported as unknown.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    diagnostic::{DiagnosticReport, Located, Problem, join, quoted},
    suggest::nearest,
    value::describe,
};

/// Unknown keys of a section with a suggestion.
const MOST_SUGGESTIONS: usize = 100;

/// The readable elements of a list.
#[derive(Debug, Clone, Default)]
pub(super) struct List<T> {
    pub items: Vec<Located<T>>,
    /// Every element was readable.
    pub sound: bool,
}

/// A table of the file with a fixed set of keys.
pub(super) struct Section<'a> {
    table: &'a DeTable<'a>,
    pub path: String,
    /// Offset of the header.
    pub at: usize,
    keys: &'static [&'static str],
    /// The unknown keys, each with the known key that was probably meant.
    unknown: Vec<(&'a Spanned<std::borrow::Cow<'a, str>>, Option<&'static str>)>,
}

impl<'a> Section<'a> {
    /// Reports unknown keys of `table`.
    pub fn open(
        table: &'a DeTable<'a>,
        path: String,
        at: usize,
        keys: &'static [&'static str],
        report: &mut DiagnosticReport<'_>,
    ) -> Self {
        let absent = || keys.iter().copied().filter(|&key| !table.contains_key(key));
        let unknown: Vec<_> = table
            .keys()
            .filter(|key| !keys.contains(&key.get_ref().as_ref()))
            .enumerate()
            // A suggestion costs more than all other checks of a key.
            .map(|(index, key)| (key, if index < MOST_SUGGESTIONS { nearest(key.get_ref(), absent()) } else { None }))
            .collect();
        for (key, meant) in &unknown {
            report.error_with(key.span().start, || (path.clone(), unknown_key(key.get_ref(), *meant, keys)));
        }
        Self { table, path, at, keys, unknown }
    }

    /// The value of `key`, if present and valid.
    pub fn optional<T>(
        &self,
        key: &'static str,
        report: &mut DiagnosticReport<'_>,
        read: impl FnOnce(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> Option<Located<T>> {
        let value = self.get(key)?;
        let at = value.span().start;
        match read(value.get_ref()) {
            Ok(value) => Some(Located { value, at }),
            Err(problem) => {
                report.error(at, self.path_of(key), problem);
                None
            }
        }
    }

    /// As [`Self::optional`]; `default` if the key is absent.
    pub fn or_default<T>(
        &self,
        key: &'static str,
        default: T,
        report: &mut DiagnosticReport<'_>,
        read: impl FnOnce(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> Option<Located<T>> {
        match self.get(key) {
            Some(_) => self.optional(key, report, read),
            None => Some(Located { value: default, at: self.at }),
        }
    }

    /// As [`Self::optional`], but reports an absent key; `example` is a possible value.
    pub fn required<T>(
        &self,
        key: &'static str,
        example: &str,
        report: &mut DiagnosticReport<'_>,
        read: impl FnOnce(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> Option<Located<T>> {
        self.demand(key, example, report);
        self.optional(key, report, read)
    }

    /// The elements of the required, non-empty list `key`. Reports duplicate elements.
    pub fn list<T: PartialEq + Eq + std::hash::Hash + Clone + std::fmt::Display>(
        &self,
        key: &'static str,
        example: &str,
        report: &mut DiagnosticReport<'_>,
        read: impl Fn(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> List<T> {
        self.demand(key, example, report);
        self.elements(key, example, report, read)
    }

    /// As [`Self::list`]; a single element needs no brackets.
    pub fn one_or_more<T: PartialEq + Eq + std::hash::Hash + Clone + std::fmt::Display>(
        &self,
        key: &'static str,
        example: &str,
        report: &mut DiagnosticReport<'_>,
        read: impl Fn(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> List<T> {
        if self.get(key).is_some_and(|value| value.get_ref().is_array()) {
            let element = example.split(',').next().unwrap_or_default();
            return self.elements(key, &format!("[{element}]"), report, read);
        }
        let item = self.required(key, example, report, read);
        List { sound: item.is_some(), items: item.into_iter().collect() }
    }

    /// As [`Self::list`]; `default` if the key is absent.
    pub fn list_or_default<T: PartialEq + Eq + std::hash::Hash + Clone + std::fmt::Display>(
        &self,
        key: &'static str,
        default: Vec<T>,
        example: &str,
        report: &mut DiagnosticReport<'_>,
        read: impl Fn(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> List<T> {
        if self.get(key).is_some() {
            return self.elements(key, example, report, read);
        }
        let items = default.into_iter().map(|value| Located { value, at: self.at }).collect();
        List { items, sound: true }
    }

    /// As [`Self::list_or_default`], for a list that may be empty.
    pub fn set_or_default<T: PartialEq + Eq + std::hash::Hash + Clone + std::fmt::Display>(
        &self,
        key: &'static str,
        default: impl IntoIterator<Item = T>,
        example: &str,
        report: &mut DiagnosticReport<'_>,
        read: impl Fn(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> List<T> {
        if matches!(self.get(key).map(Spanned::get_ref), Some(DeValue::Array(elements)) if elements.is_empty()) {
            return List { items: Vec::new(), sound: true };
        }
        self.list_or_default(key, default.into_iter().collect(), example, report, read)
    }

    fn elements<T: PartialEq + Eq + std::hash::Hash + Clone + std::fmt::Display>(
        &self,
        key: &'static str,
        example: &str,
        report: &mut DiagnosticReport<'_>,
        read: impl Fn(&'a DeValue<'a>) -> Result<T, Problem>,
    ) -> List<T> {
        let mut list = List { items: Vec::new(), sound: false };
        let advice = format!("write {key} = {example}");
        let Some(elements) = self.optional(key, report, |value| match value {
            DeValue::Array(elements) if elements.is_empty() => Err(Problem::new("the list is empty").help(advice)),
            DeValue::Array(elements) => Ok(elements),
            DeValue::String(text) => {
                Err(Problem::new("must be a list, is a string").help(format!("put it in brackets: [{}]", quoted(text))))
            }
            value => Err(Problem::new(format!("must be a list, is {}", describe(value))).help(advice)),
        }) else {
            return list;
        };
        list.sound = true;
        let path = self.path_of(key);
        let mut first = std::collections::HashMap::new();
        for element in elements.value {
            let at = element.span().start;
            let read = read(element.get_ref()).and_then(|value| match first.get(&value) {
                None => Ok(value),
                Some(&first) => {
                    Err(Problem::new(format!("{value} is listed twice, first on {}", report.place(at, first)))
                        .help("remove one of the two"))
                }
            });
            match read {
                Ok(value) => {
                    first.insert(value.clone(), at);
                    list.items.push(Located { value, at });
                }
                Err(problem) => {
                    report.error(at, path.as_str(), problem);
                    list.sound = false;
                }
            }
        }
        list
    }

    pub fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    pub fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table.get(key)
    }

    /// Whether the key is absent, and not merely misspelt.
    pub fn lacks(&self, key: &str) -> bool {
        debug_assert!(self.keys.contains(&key), "{key} is asked for but not known");
        let misspelt = self.unknown.iter().any(|&(_, meant)| meant == Some(key));
        !self.table.contains_key(key) && !misspelt
    }

    fn demand(&self, key: &'static str, example: &str, report: &mut DiagnosticReport<'_>) {
        if self.lacks(key) {
            report.error_with(self.at, || {
                let problem = Problem::new(format!("the key {} is missing", quoted(key)));
                (self.path.clone(), problem.help(format!("add {key} = {example}")))
            });
        }
    }
}

fn unknown_key(key: &str, meant: Option<&str>, keys: &[&str]) -> Problem {
    let problem = Problem::new(format!("unknown key {}", quoted(key)));
    match meant {
        Some(meant) => problem.help(format!("did you mean {}?", quoted(meant))),
        None => problem.help(format!("the keys here are {}", keys.join(", "))),
    }
}
