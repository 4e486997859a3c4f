//! Commands in the manual exist, with these arguments.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use clap::CommandFactory as _;
use hub_tests::lab::{Scratch, agent_binary};
use hub_userspace::cli::Cli;

use crate::markdown::{Block, Page, all};

/// The commands of a block, each in one line, without prompts and comments. In a session only lines with a prompt are commands.
fn lines(block: &Block) -> Vec<String> {
    let text = block.text.replace("\\\n", " ");
    let prompt = match block.language.as_str() {
        "text" => "# ",
        "sh" if !text.starts_with("$ ") => "",
        _ => "$ ",
    };
    let command = |line: &str| Some(line.strip_prefix(prompt)?.split(" #").next()?.trim().to_owned());
    text.lines().filter_map(command).collect()
}

/// The parts of a line that call the agent's program, as words.
fn calls(line: &str) -> impl Iterator<Item = Vec<String>> {
    let words = |part: &str| part.split_whitespace().map(|word| word.replace(['\'', '"'], "")).collect::<Vec<_>>();
    line.split(['|', ';', '&', '<', '>']).map(words).filter(|words| words.first().is_some_and(|word| word == "vpnhub"))
}

#[test]
fn documented_commands_are_valid() {
    let mut parsed = 0;
    let mut wrong = Vec::new();
    for page in all() {
        let languages = ["sh", "console", "text"];
        for block in page.blocks.iter().filter(|block| languages.contains(&block.language.as_str())) {
            for call in lines(block).iter().flat_map(|line| calls(line)) {
                parsed += 1;
                if let Err(error) = Cli::command().try_get_matches_from(&call)
                    && error.use_stderr()
                {
                    wrong.push(format!("{}:{}: {}: {error}", page.name(), block.line, call.join(" ")));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(parsed >= 60, "only {parsed} commands");
}

/// The example of the first page is a whole configuration: without a mistake, apart from its secret's place.
#[test]
fn example_of_the_first_page_is_accepted() {
    let scratch = Scratch::new().unwrap();
    let key = scratch.path().join("shanghai.psk");
    fs::write(&key, "0sMTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let is_first = |page: &Page| page.name() == "README.md" || page.name() == "README.zh-CN.md";
    let pages: Vec<Page> = all().into_iter().filter(is_first).collect();
    assert_eq!(pages.len(), 2);
    for page in pages {
        let example = page.blocks.iter().find(|block| block.language == "toml").unwrap();
        let file = scratch.path().join("vpnhub.toml");
        fs::write(&file, example.text.replace("/etc/vpnhub/shanghai.psk", key.to_str().unwrap())).unwrap();
        let output = Command::new(agent_binary()).args(["check", "--config"]).arg(&file).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && printed.ends_with(": ok: 1 connection, 1 route\n"),
            "{}: {printed}",
            page.name()
        );
    }
}
