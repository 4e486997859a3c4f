//! Examples in the documentation: shell sessions that tests run, so that what a reader sees is what the programs print.
//!
//! An example is a block of ```` ```text ````; a line that begins with `# ` is a command, and its output follows:
//!
//! ````text
//! ```text
//! # vpnhub route list
//! DESTINATION ...
//! ```
//! ````

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

use crate::checkout;

/// A document of the checkout.
#[derive(Debug)]
pub struct Document {
    path: PathBuf,
    text: String,
}

/// What of an example's output may differ from run to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Varying {
    /// Times.
    Times,
    /// All numbers, such as rates.
    Numbers,
}

impl Document {
    /// # Errors
    /// When there is no such file.
    pub fn open(path: &str) -> Result<Self> {
        let path = checkout::find()?.join(path);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Self { path, text })
    }

    /// The headings that begin with this.
    pub fn headings<'d>(&'d self, start: &'d str) -> impl Iterator<Item = &'d str> {
        self.text.lines().filter(move |line| line.starts_with(start))
    }

    /// Runs the commands of the example below a heading. What `run` returns for each must be the output in the document,
    /// apart from what varies, and from the number of blanks. With `UPDATE_EXPECTED` set, writes it into the document.
    ///
    /// # Errors
    /// When the output is another, or there is no such example: with both.
    pub fn check(&mut self, heading: &str, varying: Varying, run: impl FnMut(&str) -> Result<String>) -> Result<()> {
        let place = self.example(heading)?;
        self.check_at(place, heading, varying, run)
    }

    /// The same for the example whose first command this is.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_session(
        &mut self,
        command: &str,
        varying: Varying,
        run: impl FnMut(&str) -> Result<String>,
    ) -> Result<()> {
        let opening = format!("{OPEN}# {command}\n");
        let open = self.text.find(&opening).with_context(|| format!("no example of {command:?}"))?;
        let place = self.content(open, command)?;
        self.check_at(place, command, varying, run)
    }

    fn check_at(
        &mut self,
        (start, end): (usize, usize),
        name: &str,
        varying: Varying,
        mut run: impl FnMut(&str) -> Result<String>,
    ) -> Result<()> {
        let documented = &self.text[start..end];
        let mut printed = String::new();
        for command in documented.lines().filter_map(|line| line.strip_prefix("# ")) {
            let output = run(command).with_context(|| format!("{name}: {command}"))?;
            let blank = if printed.is_empty() { "" } else { "\n" };
            write!(printed, "{blank}# {command}\n{}\n", output.trim_end()).context("a string takes all")?;
        }
        if printed.is_empty() {
            bail!("the example of {name:?} has no command");
        }
        if env::var_os("UPDATE_EXPECTED").is_some() {
            self.text.replace_range(start..end, &printed);
            return fs::write(&self.path, &self.text).context("writing the document");
        }
        if lines(documented, varying) != lines(&printed, varying) {
            bail!("{name}: documented is\n{documented}\nprinted is\n{printed}\nUPDATE_EXPECTED=1 writes it");
        }
        Ok(())
    }

    /// Where the content of the first example below this heading begins and ends.
    fn example(&self, heading: &str) -> Result<(usize, usize)> {
        let section = self.text.find(&format!("\n{heading}\n")).with_context(|| format!("no heading {heading:?}"))? + 1;
        let below = &self.text[section + heading.len()..];
        let below = &below
            [..below.find("\n#").filter(|end| below.find(OPEN).is_none_or(|open| *end < open)).unwrap_or(below.len())];
        let open = below.find(OPEN).with_context(|| format!("no example below {heading:?}"))?;
        self.content(section + heading.len() + open, heading)
    }

    /// Where the content of the example that opens here begins and ends.
    fn content(&self, open: usize, name: &str) -> Result<(usize, usize)> {
        let start = open + OPEN.len();
        let length = self.text[start..].find("\n```\n").with_context(|| format!("{name:?}: no end"))?;
        Ok((start, start + length + 1))
    }
}

/// How an example begins.
const OPEN: &str = "\n```text\n";

/// The words of each line, those that vary masked.
fn lines(text: &str, varying: Varying) -> Vec<Vec<String>> {
    let word = |word: &str| match varying {
        Varying::Numbers => mask(word),
        Varying::Times if is_time(word) => mask(word),
        Varying::Times => word.to_owned(),
    };
    text.lines().map(|line| line.split_whitespace().map(word).collect()).collect()
}

/// Whether a word is a time of the clock: `2026-11-30T12:00:00.000000Z`, or seconds since 1970 with a fraction.
fn is_time(word: &str) -> bool {
    let digits = |count| word.len() > count && word.bytes().take(count).all(|byte| byte.is_ascii_digit());
    digits(4) && word.as_bytes()[4] == b'-' || digits(10) && word.as_bytes()[10] == b'.'
}

/// Each number is 0.
fn mask(word: &str) -> String {
    let mut masked = String::new();
    for character in word.chars() {
        let is_number = character.is_ascii_digit() || character == '.' && masked.ends_with('0');
        match is_number {
            true if masked.ends_with('0') => {}
            true => masked.push('0'),
            // 900 or 3.5k.
            false if masked == "0" && "kMG".contains(character) => {}
            false => masked.push(character),
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Title\n\n### One?\n\nText.\n\n```text\n# first a\n2026-11-30T01:02:03.4Z  up  3\n\n# second\nb\n```\n\n### Two?\n";

    fn check(varying: Varying, first: &str) -> Result<()> {
        let mut document = Document { path: PathBuf::new(), text: TEXT.to_owned() };
        document.check("### One?", varying, |command| {
            Ok(if command == "first a" { first.to_owned() } else { "b\n".to_owned() })
        })
    }

    #[test]
    fn output_must_be_the_documented_one_apart_from_times_and_blanks() {
        check(Varying::Times, "2027-01-01T00:00:00.99Z up 3\n").unwrap();
        for other in ["2027-01-01T00:00:00.99Z up 4", "2027-01-01T00:00:00.99Z down 3", "up 3", ""] {
            assert!(check(Varying::Times, other).is_err(), "{other}");
        }
        for other in ["17.5", "17.5M"] {
            check(Varying::Numbers, &format!("2027-01-01T00:00:00.99Z up {other}")).unwrap();
        }
        assert!(check(Varying::Numbers, "2027-01-01T00:00:00.99Z up -").is_err());
    }

    #[test]
    fn example_is_found_by_its_first_command() {
        let mut document = Document { path: PathBuf::new(), text: TEXT.to_owned() };
        let mut ask = |command: &str| {
            document.check_session(command, Varying::Times, |command| {
                Ok(if command == "first a" { "2027-01-01T00:00:00Z up 3" } else { "b" }.to_owned())
            })
        };
        ask("first a").unwrap();
        for other in ["first", "second"] {
            assert_eq!(ask(other).unwrap_err().to_string(), format!("no example of {other:?}"));
        }
    }

    #[test]
    fn example_must_be_below_its_own_heading() {
        let mut document = Document { path: PathBuf::new(), text: TEXT.to_owned() };
        let error = document.check("### Two?", Varying::Times, |_| Ok(String::new())).unwrap_err();
        assert_eq!(error.to_string(), "no example below \"### Two?\"");
        assert_eq!(document.headings("### ").collect::<Vec<_>>(), ["### One?", "### Two?"]);
    }
}
