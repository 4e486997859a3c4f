//! What the TOML parser says, in an operator's words.

use toml::de::Error;

use super::diagnostic::{Problem, quoted};

/// Explains the parser's `error` about `statement`; the place is an offset within it.
pub(super) fn explain(statement: &str, error: &Error) -> (usize, Problem) {
    let span = error.span().unwrap_or(0..0);
    let at = span.start.min(statement.len());
    let message = error.message();
    let value_at = statement.find('=').map_or(0, |at| at + 1);
    if message.starts_with("unclosed array,") {
        let opened = value_at + statement[value_at..].find('[').unwrap_or(0);
        return (opened, Problem::new("the list that begins here is not closed").help("add the missing ]"));
    }
    if message.starts_with("unclosed inline table") {
        let opened = value_at + statement[value_at..].find('{').unwrap_or(0);
        return (opened, Problem::new("the table that begins here is not closed").help("add the missing }"));
    }
    if message.starts_with("unclosed") {
        return (0, unclosed_header(statement));
    }
    let (token_at, token) = token_around(statement, at);
    match message.split(',').next().unwrap_or_default() {
        "key with no value" => (0, no_equals_sign(statement)),
        "string values must be quoted" | "missing value" if token.is_empty() => {
            (at, Problem::new("the value is missing").help("write one after the ="))
        }
        "string values must be quoted" => (token_at, not_in_quotes(token)),
        "invalid float" if token.contains(['/', ':']) || token.matches('.').count() > 1 => {
            (token_at, not_in_quotes(token))
        }
        "invalid boolean" if !["true", "false"].contains(&token.to_lowercase().as_str()) => {
            (token_at, not_in_quotes(token))
        }
        "invalid boolean" => (
            token_at,
            Problem::new(format!("{token} is not {}", token.to_lowercase())).help("write it in small letters"),
        ),
        "invalid key-value pair" | "invalid unquoted key" => {
            let rest = statement[at..].lines().next().unwrap_or_default().trim();
            (at, Problem::new(format!("{} is no key", quoted(rest))).help("write KEY = VALUE, or # before a comment"))
        }
        "unexpected leading zero" => {
            let number = token.trim_start_matches('0');
            let number = if number.is_empty() { "0" } else { number };
            (token_at, Problem::new(format!("the number {token} begins with 0")).help(format!("write {number}")))
        }
        "invalid basic string"
        | "invalid literal string"
        | "invalid multi-line basic string"
        | "invalid multi-line literal string" => (at, bad_text(&statement[at..])),
        "missing escaped value" => (
            at,
            Problem::new("\\ begins an escape that there is not in a text in \" quotes")
                .help("write \\\\ for a backslash, or put the text in ' quotes"),
        ),
        "missing comma between array elements" | "missing comma between key-value pairs" => {
            (at, Problem::new("a comma is missing before this").help("separate the values by commas"))
        }
        "unexpected key or value" | "unexpected content" => {
            let rest = statement[at..].lines().next().unwrap_or_default().trim();
            (
                at,
                Problem::new(format!("{} is too much here", quoted(rest)))
                    .help("write one header or one KEY = VALUE on a line; comments begin with #"),
            )
        }
        "duplicate key" => (
            at,
            Problem::new(format!("the key {} stands twice in this table", quoted(token))).help("remove one of the two"),
        ),
        "cannot recurse further; max recursion depth met" | "recursion limit" => (
            at,
            Problem::new("lists or tables are nested too deeply")
                .help("nothing in this file is nested that deeply: see the example"),
        ),
        _ => (at, Problem::new(format!("not TOML: {message}")).help("write KEY = VALUE lines under [SECTION] headers")),
    }
}

/// The word that byte `at` is in or before, and where it begins.
fn token_around(statement: &str, at: usize) -> (usize, &str) {
    let ends = |c: char| c.is_whitespace() || "=,[]{}#\"'".contains(c);
    let start = statement[..at]
        .rfind(ends)
        .map_or(0, |before| before + statement[before..].chars().next().map_or(1, char::len_utf8));
    let end = statement[at..].find(ends).map_or(statement.len(), |after| at + after);
    (start, &statement[start..end])
}

fn not_in_quotes(token: &str) -> Problem {
    let shown = quoted(token);
    Problem::new(format!("{} is not in quotes", shown.trim_matches('"'))).help(format!("write {shown}"))
}

fn no_equals_sign(statement: &str) -> Problem {
    let line = statement.lines().next().unwrap_or_default().trim();
    let problem = Problem::new(format!("{} has no = in it", quoted(line)));
    match line.split_once(':') {
        Some((key, _)) if key.trim().chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
            problem.help(format!("write {} = VALUE", key.trim()))
        }
        _ => problem.help("write KEY = VALUE, or # before a comment"),
    }
}

fn unclosed_header(statement: &str) -> Problem {
    let line = statement.lines().next().unwrap_or_default().trim();
    let name: String = line.chars().filter(|c| !"[]".contains(*c)).take(128).collect();
    let name = name.split('#').next().unwrap_or_default().trim();
    let right = if line.starts_with("[[") { format!("[[{name}]]") } else { format!("[{name}]") };
    let problem = Problem::new(format!("the header {} is not closed", quoted(line)));
    if name.contains(char::is_whitespace) {
        problem.help("write [SECTION.NAME]; a name has no blanks")
    } else {
        problem.help(format!("write {right}"))
    }
}

fn bad_text(rest: &str) -> Problem {
    match rest.chars().next() {
        Some(odd) if odd.is_control() && !matches!(odd, '\n' | '\r') => {
            Problem::new(format!("the text has the control character {} in it", quoted(&odd.to_string())))
                .help("remove it")
        }
        _ => Problem::new("the text is not closed").help("add the missing quote"),
    }
}
