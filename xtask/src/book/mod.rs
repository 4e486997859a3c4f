//! `book`: the manual in HTML.

use std::{
    fs,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    files::{copy, empty},
    process::{self, Step},
    setup::{self, cargo_tool::MDBOOK},
};

mod links;

/// Chapters, and what they link to, at the same places as in the source: so links work here and there.
const FILES: [&str; 13] = [
    "README.md",
    "README.zh-CN.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-GPL2",
    "LICENSE-MIT",
    "benches/README.md",
    "benches/forward.svg",
    "contrib",
    "docs",
    "examples",
];

/// Builds the manual as a book in HTML, in target/book.
///
/// Its chapters are those of docs/SUMMARY.md. Every link in it must lead to a page or file of the book.
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_: &Args) -> Result<ExitCode> {
    let mdbook = setup::cargo_tool(&MDBOOK)?;
    let workspace = process::workspace();
    let (source, book) = (workspace.join("target/book-source"), workspace.join("target/book"));
    empty(&source)?;
    let pages = source.join("src");
    for file in FILES {
        copy(&workspace.join(file), &pages.join(file))?;
    }
    let results = workspace.join("benches/results");
    copy(&results, &pages.join("benches/results"))?;

    let summary = pages.join("docs/SUMMARY.md");
    let chapters = fs::read_to_string(&summary).context("reading docs/SUMMARY.md")?;
    fs::write(pages.join("SUMMARY.md"), from_the_top(&chapters)?).context("writing the book's summary")?;
    fs::remove_file(&summary).context("removing the copy of docs/SUMMARY.md")?;
    fs::rename(pages.join("docs/book.toml"), source.join("book.toml")).context("placing docs/book.toml")?;

    empty(&book)?;
    let mut build = Command::new(mdbook);
    build.arg("build").arg(&source).arg("--dest-dir").arg(&book);
    Step { title: "building the book", log: "book", limit: None, quiet: false }.run(&mut build)?;
    let broken = links::broken(&book)?;
    if !broken.is_empty() {
        bail!("the book has broken links:\n  {}", broken.join("\n  "));
    }
    println!("{}", book.join("index.html").display());
    Ok(ExitCode::SUCCESS)
}

/// The summary with its links, which are relative to docs, relative to the directory above.
fn from_the_top(summary: &str) -> Result<String> {
    let mut parts = summary.split("](");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (target, rest) = part.split_once(')').context("a link in docs/SUMMARY.md has no end")?;
        let target = target.strip_prefix("../").map_or_else(|| format!("docs/{target}"), str::to_owned);
        text.extend(["](", &target, ")", rest]);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_summary_are_relative_to_the_top() {
        let summary = "[Start](../README.md)\n\n- [One](one.md)\n  - [Two](../benches/README.md)\n";
        let expected = "[Start](README.md)\n\n- [One](docs/one.md)\n  - [Two](benches/README.md)\n";
        assert_eq!(from_the_top(summary).unwrap(), expected);
        assert!(from_the_top("[One](one.md").is_err());
    }
}
