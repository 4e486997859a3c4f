//! Pages in Markdown: their links, the places that links can lead to, and their code blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use hub_tests::checkout;
use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// A page of the checkout.
#[derive(Debug, Default)]
pub struct Page {
    /// Relative to the top.
    pub path: PathBuf,
    /// Targets of links and pictures, with their lines.
    pub links: Vec<(String, usize)>,
    pub anchors: BTreeSet<String>,
    pub blocks: Vec<Block>,
    /// Lines and levels of the headings.
    headings: Vec<(usize, usize)>,
}

/// A fenced block of code.
#[derive(Debug, Default, Clone)]
pub struct Block {
    pub language: String,
    pub text: String,
    /// Of its first line of code, in the page.
    pub line: usize,
}

impl Page {
    pub fn name(&self) -> &str {
        self.path.to_str().expect("names of pages are UTF-8")
    }

    /// The level of the heading above a line; 0 without one.
    pub fn level_at(&self, line: usize) -> usize {
        self.headings.iter().rev().find(|(above, _)| *above < line).map_or(0, |(_, level)| *level)
    }

    fn parse(path: &Path, text: &str) -> Self {
        let mut page = Self { path: path.to_owned(), ..Self::default() };
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        let mut heading: Option<String> = None;
        let mut block: Option<Block> = None;
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            let line = || text[..range.start].matches('\n').count() + 1;
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push((dest_url.into_string(), line()));
                }
                Event::Start(Tag::Heading { level, .. }) => {
                    page.headings.push((line(), level as usize));
                    heading = Some(String::new());
                }
                Event::End(TagEnd::Heading(_)) => {
                    let name = anchor(&heading.take().unwrap_or_default());
                    // A name that is taken gets a number.
                    let count = names.entry(name.clone()).or_default();
                    page.anchors.insert(if *count == 0 { name } else { format!("{name}-{count}") });
                    *count += 1;
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    block = Some(Block { language: language.into_string(), text: String::new(), line: line() + 1 });
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                    if let Some(block) = &mut block {
                        block.text.push_str(&text);
                    }
                }
                Event::Html(html) | Event::InlineHtml(html) => {
                    let names = html.split("name=\"").skip(1).filter_map(|rest| rest.split('"').next());
                    page.anchors.extend(names.map(str::to_owned));
                }
                _ => {}
            }
        }
        page
    }
}

/// A heading's place, as GitHub and mdBook name it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
}

/// All pages below a directory of the checkout, or a single one.
pub fn pages(of: &str) -> Vec<Page> {
    let top = checkout::find().unwrap();
    let mut paths = Vec::new();
    find(&top.join(of), &mut paths);
    paths.sort();
    let page = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        Page::parse(path.strip_prefix(&top).unwrap(), &text)
    };
    paths.into_iter().map(page).collect()
}

fn find(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            find(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|end| end == "md") {
        found.push(path.to_owned());
    }
}

/// The manual, and what is beside it for users and developers.
pub fn all() -> Vec<Page> {
    ["README.md", "README.zh-CN.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "benches", "contrib"]
        .into_iter()
        .flat_map(pages)
        .collect()
}

#[test]
fn page_has_links_places_and_blocks() {
    let text = "# `[gateway]` and more\n\n[a](b.md#c) ![d](e.svg)\n\n## Paths\n\n## Paths\n\n<a name=\"here\"></a>**x**\n\n\
                ```sh\n# no heading\nvpnhub top\n```\n";
    let page = Page::parse(Path::new("x.md"), text);
    assert_eq!(page.links, [("b.md#c".to_owned(), 3), ("e.svg".to_owned(), 3)]);
    assert_eq!(page.anchors.iter().collect::<Vec<_>>(), ["gateway-and-more", "here", "paths", "paths-1"]);
    assert_eq!(page.blocks.len(), 1);
    let block = &page.blocks[0];
    assert_eq!((block.language.as_str(), block.text.as_str(), block.line), ("sh", "# no heading\nvpnhub top\n", 12));
}
