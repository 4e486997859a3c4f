//! Links in the pages of the book.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Pages that mdBook makes of others, or of none.
const MADE: [&str; 3] = ["print.html", "toc.html", "404.html"];

/// Each link that leads to no file of the book, or to no place of its page: page and link.
pub fn broken(book: &Path) -> Result<Vec<String>> {
    let mut pages = BTreeMap::new();
    read(book, Path::new(""), &mut pages)?;
    let mut broken = Vec::new();
    for (page, text) in &pages {
        for link in attributes(text, &["href", "src"]) {
            if link.contains(':') || link.starts_with("//") {
                continue;
            }
            let (file, place) = link.split_once('#').map_or((link, None), |(file, place)| (file, Some(place)));
            let target = match file {
                "" => page.clone(),
                file => resolve(page, file),
            };
            let has_place =
                |place: &str| pages.get(&target).is_none_or(|text| attributes(text, &["id", "name"]).contains(place));
            if !book.join(&target).is_file() || !place.is_none_or(has_place) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    Ok(broken)
}

/// All pages below `dir`, by their path in the book.
fn read(book: &Path, dir: &Path, pages: &mut BTreeMap<PathBuf, String>) -> Result<()> {
    let full = book.join(dir);
    for entry in fs::read_dir(&full).with_context(|| format!("reading {}", full.display()))? {
        let path = dir.join(entry?.file_name());
        if book.join(&path).is_dir() {
            read(book, &path, pages)?;
        } else if path.extension().is_some_and(|end| end == "html") && !MADE.iter().any(|made| path == Path::new(made))
        {
            let text = fs::read_to_string(book.join(&path)).with_context(|| format!("reading {}", path.display()))?;
            pages.insert(path, text);
        }
    }
    Ok(())
}

/// Values of attributes in HTML, as mdBook writes them: in quotes.
fn attributes<'t>(text: &'t str, names: &[&str]) -> BTreeSet<&'t str> {
    let of = |name: &&str| {
        let start = format!(" {name}=\"");
        text.match_indices(&start)
            .filter_map(|(at, start)| text[at + start.len()..].split('"').next())
            .collect::<Vec<_>>()
    };
    names.iter().flat_map(of).filter(|value| !value.is_empty()).collect()
}

/// The file of a link, whose path is relative to that of its page.
fn resolve(page: &Path, link: &str) -> PathBuf {
    let mut path = page.parent().map(Path::to_owned).unwrap_or_default();
    for component in Path::new(link.split('?').next().unwrap_or_default()).components() {
        match component {
            Component::ParentDir => drop(path.pop()),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use hub_tests::lab::Scratch;

    use super::*;

    #[test]
    fn broken_links_are_found() {
        let book = Scratch::new().unwrap();
        let write = |name: &str, text: &str| {
            let path = book.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "index.html",
            r#"<a href="docs/one.html#here"></a><a href="https://example.org/"></a><img src="a.svg"><a href="docs/none.html">"#,
        );
        write(
            "docs/one.html",
            r##"<h2 id="here"></h2><a href="../a.svg"></a><a href="#here"></a><a href="#there"></a><a href="../docs">"##,
        );
        write("a.svg", "");
        assert_eq!(
            broken(book.path()).unwrap(),
            ["docs/one.html: #there", "docs/one.html: ../docs", "index.html: docs/none.html"]
        );
    }
}
