//! Every link leads somewhere, on GitHub and in the book.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use hub_tests::checkout;

use crate::markdown::{Page, all, pages};

const SUMMARY: &str = "docs/SUMMARY.md";

/// A link's file, relative to the top, and its place there; nothing for a link to another host.
fn target(page: &Page, link: &str) -> Option<(PathBuf, Option<String>)> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, place) = link.split_once('#').map_or((link, None), |(file, place)| (file, Some(place.to_owned())));
    if file.is_empty() {
        return Some((page.path.clone(), place));
    }
    let mut path = page.path.parent().unwrap().to_owned();
    for component in Path::new(file).components() {
        match component {
            Component::ParentDir => assert!(path.pop(), "{}: {link} leaves the checkout", page.name()),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    Some((path, place))
}

#[test]
fn every_link_has_a_target() {
    let top = checkout::find().unwrap();
    let pages = all();
    let by_path: BTreeMap<&Path, &Page> = pages.iter().map(|page| (page.path.as_path(), page)).collect();
    let mut broken = Vec::new();
    let mut links = 0;
    for page in &pages {
        for (link, line) in &page.links {
            let Some((path, place)) = target(page, link) else { continue };
            links += 1;
            let has_place = |place: &String| match by_path.get(path.as_path()) {
                Some(page) => page.anchors.contains(place),
                None => false,
            };
            if !top.join(&path).exists() || !place.as_ref().is_none_or(has_place) {
                broken.push(format!("{}:{line}: {link}", page.name()));
            }
        }
    }
    assert!(broken.is_empty(), "links without a target:\n{}", broken.join("\n"));
    assert!(links > 150, "only {links} links");
}

#[test]
fn summary_lists_every_chapter_once() {
    let summary = pages(SUMMARY).pop().unwrap();
    let mut listed: Vec<PathBuf> =
        summary.links.iter().filter_map(|(link, _)| target(&summary, link)).map(|(path, _)| path).collect();
    listed.sort();
    let chapters: BTreeSet<PathBuf> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), chapters.len(), "listed twice: {listed:?}");
    let missing: Vec<PathBuf> = pages("docs")
        .into_iter()
        .map(|page| page.path)
        .filter(|path| path != Path::new(SUMMARY) && !chapters.contains(path))
        .collect();
    assert!(missing.is_empty(), "{SUMMARY} lacks {missing:?}");
}

/// The book has chapters, and files beside them; a directory is no page there.
#[test]
fn chapters_link_to_chapters_and_files() {
    let top = checkout::find().unwrap();
    let pages = all();
    let summary = pages.iter().find(|page| page.name() == SUMMARY).unwrap();
    let chapters: BTreeSet<PathBuf> =
        summary.links.iter().filter_map(|(link, _)| target(summary, link)).map(|(path, _)| path).collect();
    for page in pages.iter().filter(|page| chapters.contains(&page.path)) {
        for (link, line) in &page.links {
            let Some((path, _)) = target(page, link) else { continue };
            let is_page = path.extension().is_some_and(|end| end == "md");
            let is_there = if is_page { chapters.contains(&path) } else { top.join(&path).is_file() };
            assert!(is_there, "{}:{line}: {link} is no chapter or file of the book", page.name());
        }
    }
}

/// Pictures and files beside the manual are in the package, as the manual is. What it links to outside of docs is in the
/// source alone, apart from the picture on the first page.
#[test]
fn packaged_manual_has_its_files() {
    let top = checkout::find().unwrap();
    let manifest = fs::read_to_string(top.join("hub-userspace/Cargo.toml")).unwrap();
    let mut files = BTreeSet::from([PathBuf::from("benches/forward.svg")]);
    for page in pages("docs").iter().filter(|page| page.name() != SUMMARY) {
        let targets = page.links.iter().filter_map(|(link, _)| target(page, link)).map(|(path, _)| path);
        files.extend(targets.filter(|path| path.starts_with("docs") && path.extension().is_none_or(|end| end != "md")));
    }
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        let (dir, name) = (file.parent().unwrap().display(), file.file_name().unwrap().to_str().unwrap());
        let end = name.rsplit('.').next().unwrap();
        let assets = [format!("\"../{dir}/{name}\", "), format!("\"../{dir}/*.{end}\", ")];
        let place = format!("\"usr/share/doc/vpnhub/{dir}/\"");
        assert!(assets.iter().any(|asset| manifest.contains(&format!("{asset}{place}"))), "not packaged: {file:?}");
    }
}
