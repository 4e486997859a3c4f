//! Sessions in the manual: commands with their output. Each is run by a suite that compares the output, or is listed here
//! with the reason why not.

use std::collections::BTreeSet;

use hub_tests::checkout;
use hub_tests::lab::agent_binary;
use snapbox::IntoData as _;
use snapbox::cmd::Command;

use crate::markdown::{Block, Page, all};

/// Sessions whose output no test compares with the page: page, first command, reason.
const NOT_COMPARED: [(&str, &str, &str); 6] = [
    ("docs/operations.md", "vpnhub monitor --packets", PACKETS),
    ("docs/operations.md", "vpnhub capture -w drops.pcapng", PACKETS),
    ("docs/operations.md", "vpnhub diagnose", "a host's own state: suite `operator`, `diagnose`, has the findings"),
    ("docs/api.md", "curl --unix-socket /run/vpnhub/vpnhub.sock http://vpnhub/v1/routes", API),
    ("docs/api.md", "curl --unix-socket /run/vpnhub/vpnhub.sock -X PATCH", API),
    ("docs/api.md", "curl --unix-socket /run/vpnhub/vpnhub.sock -X POST", API),
];
const PACKETS: &str = "suite `packets` compares the fields of each line, whose order in a flood varies";
const API: &str = "lines are wrapped and shortened; suite `api` compares every answer with the description";

/// Who runs a session and compares what it prints.
#[derive(Debug, PartialEq, Eq)]
enum Runner {
    /// This suite.
    Documents,
    /// The suite of the same name: the examples below headings of third level in docs/operations.md.
    Questions,
    /// `tests/operator/trace.rs`: all other traces in docs/operations.md.
    Operator,
}

/// The first command of a block that also shows what it prints: after `$ `, or in a text after `# `.
fn first_command(block: &Block) -> Option<&str> {
    let prompt = match block.language.as_str() {
        "console" | "sh" => "$ ",
        "text" => "# ",
        _ => return None,
    };
    block.text.lines().next()?.strip_prefix(prompt)
}

fn runner(page: &Page, block: &Block) -> Option<Runner> {
    if block.language == "console" {
        return Some(Runner::Documents);
    }
    if page.name() != "docs/operations.md" {
        return None;
    }
    let is_trace = first_command(block).is_some_and(|command| command.starts_with("vpnhub trace "));
    match page.level_at(block.line) {
        3 => Some(Runner::Questions),
        _ => is_trace.then_some(Runner::Operator),
    }
}

#[test]
fn sessions_are_run_or_listed() {
    let mut used = BTreeSet::new();
    let mut run = Vec::new();
    let mut missing = Vec::new();
    for page in all() {
        for block in &page.blocks {
            let Some(command) = first_command(block) else { continue };
            if let Some(runner) = runner(&page, block) {
                run.push(runner);
                continue;
            }
            let listed =
                NOT_COMPARED.iter().position(|(name, start, _)| *name == page.name() && command.starts_with(start));
            match listed {
                Some(index) => drop(used.insert(index)),
                None => missing.push(format!("{}:{}: {command}", page.name(), block.line)),
            }
        }
    }
    assert!(missing.is_empty(), "no test compares the output of:\n{}", missing.join("\n"));
    let unused: Vec<_> =
        (0..NOT_COMPARED.len()).filter(|index| !used.contains(index)).map(|i| NOT_COMPARED[i]).collect();
    assert!(unused.is_empty(), "listed, and not there: {unused:?}");
    let count = |runner| run.iter().filter(|other| **other == runner).count();
    assert!(count(Runner::Documents) >= 4, "{run:?}");
    assert_eq!((count(Runner::Questions), count(Runner::Operator)), (10, 3), "{run:?}");
}

/// A command of a session, with what it prints.
#[derive(Debug, Default)]
struct Step {
    words: Vec<String>,
    code: i32,
    output: String,
}

/// The steps of a `console` block: `$ ` and a command, `? ` and its exit code if it is not 0, and its output. Blank lines at
/// its end are for the reader.
fn steps(block: &Block) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in block.text.lines() {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { words: command.split(' ').map(str::to_owned).collect(), ..Step::default() });
            continue;
        }
        let step = steps.last_mut().expect("a session begins with a command");
        match line.strip_prefix("? ") {
            Some(code) if step.output.is_empty() => step.code = code.parse().expect("an exit code"),
            _ => step.output.extend([line, "\n"]),
        }
    }
    for step in &mut steps {
        step.output = step.output.trim_end().to_owned() + "\n";
    }
    steps
}

/// Blocks of the language `console` need no agent and no root. They name files of the source. `[..]` in a line matches anything,
/// `...` any lines.
#[test]
fn console_sessions_print_what_the_manual_shows() {
    let top = checkout::find().unwrap();
    for page in all() {
        for block in page.blocks.iter().filter(|block| block.language == "console") {
            for step in steps(block) {
                let [program, arguments @ ..] = step.words.as_slice() else { unreachable!("split gives a word") };
                assert_eq!(program, "vpnhub", "{}:{}", page.name(), block.line);
                println!("{}:{}: {}", page.name(), block.line, step.words.join(" "));
                Command::new(agent_binary())
                    .args(arguments)
                    .current_dir(&top)
                    .stderr_to_stdout()
                    .assert()
                    .code(step.code)
                    .stdout_eq(step.output.into_data());
            }
        }
    }
}

#[test]
fn session_is_read_in_steps() {
    let text = "$ vpnhub a b\n? 2\nno\n\n$ vpnhub c\nx\n\ny\n".to_owned();
    let steps = steps(&Block { text, ..Block::default() });
    let read: Vec<_> = steps.iter().map(|step| (step.words.join("_"), step.code, step.output.as_str())).collect();
    assert_eq!(read, [("vpnhub_a_b".to_owned(), 2, "no\n"), ("vpnhub_c".to_owned(), 0, "x\n\ny\n")]);
}
