//! `vpnhub check` for the files of tests/check: the output must equal the stored text exactly.
//!
//! `UPDATE_EXPECTED=1 cargo test -p hub-userspace --test check` rewrites the expectations; read the difference.

use std::{
    collections::BTreeSet,
    env,
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use hub_userspace::config::{
    self, Config, Diagnostic, Severity,
    check::{CheckFormat, run},
};
use rustix::fs::{CWD, FileType, Mode, mknodat};

fn repository() -> PathBuf {
    // Cargo runs tests in the directory of their package.
    PathBuf::from("..")
}

/// Paths of the files in the folder with this extension, without it.
fn stems(folder: &Path, extension: &str) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("an entry").path());
    let with_it = entries.filter(|path| path.extension().is_some_and(|found| found == extension));
    with_it.map(|path| path.with_extension("")).collect()
}

/// The command's output, with the path replaced by the file's name.
fn output(file: &Path) -> String {
    let name = file.file_name().expect("a file").to_string_lossy();
    run(file, CheckFormat::Table).stdout.replace(&file.display().to_string(), &name)
}

/// The lines that differ, `-` for those expected.
fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<_>, Vec<_>) = (expected.lines().collect(), actual.lines().collect());
    let gone = expected.iter().filter(|line| !actual.contains(line)).map(|line| format!("  - {line}\n"));
    let new = actual.iter().filter(|line| !expected.contains(line)).map(|line| format!("  + {line}\n"));
    gone.chain(new).collect()
}

fn errors(found: &[Diagnostic]) -> usize {
    found.iter().filter(|found| found.severity == Severity::Error).count()
}

#[test]
fn check_output_of_every_file_equals_expected() {
    let folder = repository().join("tests/check");
    let (files, expectations) = (stems(&folder, "toml"), stems(&folder, "expected"));
    let update = env::var_os("UPDATE_EXPECTED").is_some();
    let mut wrong = String::new();
    for stem in &files {
        let (file, expectation) = (stem.with_extension("toml"), stem.with_extension("expected"));
        let actual = output(&file);
        if update {
            fs::write(&expectation, &actual).expect("the folder can be written");
        }
        let expected = fs::read_to_string(&expectation).unwrap_or_default();
        if actual != expected {
            let _ = write!(wrong, "{}:\n{}", file.display(), difference(&expected, &actual));
        }
    }
    for orphan in expectations.difference(&files) {
        let _ = writeln!(wrong, "{}.expected: there is no .toml beside it", orphan.display());
    }
    assert!(files.len() >= 25, "only {} files", files.len());
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn diagnostics_are_one_line_with_place_and_help() {
    for stem in stems(&repository().join("tests/check"), "toml") {
        let text = fs::read_to_string(stem.with_extension("toml")).expect("a text");
        for found in config::parse(&text).map_or_else(|all| all, |(_, warnings)| warnings) {
            let line = found.to_string();
            assert_eq!(line.lines().count(), 1, "{line:?}");
            assert!(line.chars().count() < 500, "{line}");
            assert!(found.help.is_some(), "{line}");
            assert!(found.line >= 1 && found.column >= 1, "{line}");
        }
    }
}

#[test]
fn example_passes_check_without_warnings() {
    let example = repository().join("examples/three-offices.toml");
    let outcome = run(&example, CheckFormat::Table);
    assert_eq!(outcome.stdout, format!("{}: ok: 3 connections, 6 routes\n", example.display()));
    assert_eq!(outcome.exit_code, 0);
}

#[test]
fn shown_configuration_parses_to_same_configuration() {
    let good = stems(&repository().join("tests/check"), "toml").into_iter().map(|stem| stem.with_extension("toml"));
    let example = repository().join("examples/three-offices.toml");
    let mut count = 0;
    for file in good.chain([example]) {
        let text = fs::read_to_string(&file).expect("a text");
        let Ok((config, _)) = config::parse(&text) else { continue };
        let shown = config::show(&config);
        let (again, _) =
            config::parse(&shown).unwrap_or_else(|found| panic!("{}: {found:#?}\n{shown}", file.display()));
        assert_eq!(again, config, "{}\n{shown}", file.display());
        count += 1;
    }
    assert!(count >= 10, "only {count} good files");
}

#[test]
fn check_json_has_same_findings_as_text() {
    let file = repository().join("tests/check/dozen-mistakes.toml");
    let outcome = run(&file, CheckFormat::Json);
    assert_eq!(outcome.exit_code, 1);
    let json: serde_json::Value = serde_json::from_str(&outcome.stdout).expect("JSON");
    let found = config::load(&file).expect_err("mistakes").diagnostics;
    assert_eq!(json["ok"], false);
    assert_eq!(json["errors"].as_array().map(Vec::len), Some(errors(&found)));
    assert_eq!(json["warnings"].as_array().map(Vec::len), Some(found.len() - errors(&found)));
    assert_eq!(json["errors"][0]["severity"], "error");
    assert!(json["errors"][0]["line"].is_u64());
}

#[test]
fn unreadable_file_error_names_cause() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("check");
    fs::create_dir_all(&folder).expect("a folder for the test");
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).expect("the folder can be written");
        path
    };
    let fifo = folder.join("fifo.toml");
    drop(fs::remove_file(&fifo));
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).expect("the folder can be written");
    let cases = [
        (folder.join("absent.toml"), "there is no such file"),
        (folder.clone(), "this is a directory"),
        (write("latin1.toml", b"[gateway]\nname = \"caf\xe9\"\n"), "not UTF-8 text: line 2"),
        (write("large.toml", &vec![b'#'; 64 * 1024 * 1024 + 1]), "larger than 64 MiB"),
        (PathBuf::from("/dev/zero"), "this is not a regular file"),
        (fifo, "this is not a regular file"),
    ];
    for (path, expected) in cases {
        let outcome = run(&path, CheckFormat::Table);
        assert_eq!(outcome.exit_code, 1);
        assert!(outcome.stdout.starts_with(&format!("{}: error: ", path.display())), "{}", outcome.stdout);
        assert!(outcome.stdout.contains(expected), "{}", outcome.stdout);
        assert!(outcome.stdout.ends_with("1 error: nothing was applied\n"), "{}", outcome.stdout);
    }
}

#[test]
fn secret_readable_by_others_is_rejected_and_not_shown() {
    const SECRET: &str = "never-to-be-seen-in-any-message";
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("secrets");
    fs::create_dir_all(&folder).expect("a folder for the test");
    let (psk, file) = (folder.join("psk"), folder.join("hub.toml"));
    let ipsec = format!("[connection.a.ipsec]\nlocal_id = \"hub.example.com\"\npsk_file = \"{}\"\n", psk.display());
    let routes = route("10.0.0.0/8", "a") + &route("172.16.0.0/12", "b");
    fs::write(&file, TWO_SITES.to_owned() + &ipsec + &routes).expect("the folder can be written");
    for (content, mode, expected) in [
        (SECRET, 0o600, ": ok: 2 connections, 2 routes\n"),
        (SECRET, 0o400, ": ok: 2 connections, 2 routes\n"),
        (SECRET, 0o640, "can be read or written by users other than its owner (mode 0640); help: chmod 600 "),
        (SECRET, 0o604, "can be read or written by users other than its owner (mode 0604); help: chmod 600 "),
        ("short", 0o600, "psk\" is short; help: make a new one with `openssl rand -base64 32`"),
        ("", 0o600, "psk\" is empty; help: write one line"),
        ("never to be seen", 0o600, "psk\" contains blanks, several lines, or"),
    ] {
        drop(fs::remove_file(&psk));
        fs::write(&psk, content).expect("the folder can be written");
        fs::set_permissions(&psk, fs::Permissions::from_mode(mode)).expect("the file is ours");
        let outcome = run(&file, CheckFormat::Table);
        assert!(outcome.stdout.contains(expected), "{mode:o}: {}", outcome.stdout);
        assert!(!outcome.stdout.contains("never"), "{}", outcome.stdout);
        assert_eq!(outcome.exit_code, u8::from(outcome.stdout.contains(": error: ")), "{}", outcome.stdout);
    }
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux kernel");
    Duration::from_nanos(statistics.split(' ').next().expect("a number").parse().expect("a number"))
}

/// Parses, and fails if that takes more CPU time than an operator would wait.
fn parse_quickly(what: &str, text: &str) -> Result<Config, Vec<Diagnostic>> {
    let start = cpu_time();
    let result = config::parse(text).map(|(config, _)| config);
    // A release build takes a fraction of a second; a quadratic step would take minutes.
    let limit = Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 10 });
    let taken = cpu_time().saturating_sub(start);
    println!("{what}: {taken:?}");
    assert!(taken < limit, "{what}: {taken:?}");
    result
}

const TWO_SITES: &str = r#"
[gateway]
name = "hub"
[customer_gateway.a]
address = "198.51.100.1"
[customer_gateway.b]
address = "198.51.100.2"
[connection.a]
customer_gateway = "a"
interface = "tun-a"
local_cidrs = ["0.0.0.0/0"]
remote_cidrs = ["10.0.0.0/8"]
[connection.b]
customer_gateway = "b"
interface = "tun-b"
local_cidrs = ["0.0.0.0/0"]
remote_cidrs = ["172.16.0.0/12"]
"#;

fn route(destination: &str, next_hop: &str) -> String {
    format!("[[route]]\ndestination = \"{destination}\"\nnext_hop = \"{next_hop}\"\n")
}

/// A text of `count` pieces.
fn pieces(count: u32, piece: impl Fn(u32) -> String) -> String {
    (0..count).map(piece).collect::<Vec<_>>().concat()
}

/// The `index`th /31 of 10.0.0.0/8.
fn pair(index: u32) -> String {
    format!("{}/31", Ipv4Addr::from((10 << 24) + index * 2))
}

#[test]
fn hundred_thousand_routes_are_checked_in_time() {
    const COUNT: u32 = 100_000;
    let apart = TWO_SITES.to_owned() + &pieces(COUNT, |index| route(&pair(index), "a"));
    assert_eq!(parse_quickly("apart", &apart).expect("no mistakes").routes.len(), COUNT as usize);

    let inside = TWO_SITES.to_owned() + &route("10.0.0.0/8", "a") + &pieces(COUNT, |index| route(&pair(index), "b"));
    let found = parse_quickly("inside", &inside).expect_err("all inside the first");
    assert_listed(&found, COUNT);

    let dangling = TWO_SITES.to_owned() + &pieces(COUNT, |index| route(&pair(index), &format!("a{index}")));
    let found = parse_quickly("dangling", &dangling).expect_err("all dangling");
    assert_listed(&found, COUNT);
}

/// The first thousand errors are listed, and the others are counted.
fn assert_listed(found: &[Diagnostic], count: u32) {
    assert_eq!(errors(found), 1001);
    // Each error may have a warning beside it.
    let omitted = found.last().and_then(|last| last.message.split(' ').next()?.parse::<u32>().ok());
    assert!(omitted.is_some_and(|omitted| omitted >= count - 1000), "{:?}", found.last());
}

/// Limits of the issue: a file of 64 MiB takes at most 10 s of CPU time and 1 GiB of memory.
#[test]
fn check_of_64_mib_of_any_content_takes_bounded_time_and_memory() {
    const SIZE: usize = 64 << 20;
    let filled = |piece: &str| piece.repeat(SIZE / piece.len());
    let numbered = |piece: &dyn Fn(usize) -> String| {
        let mut text = "[gateway]\nname = \"hub\"\n".to_owned();
        let mut number = 0;
        while text.len() < SIZE - 200 {
            text += &piece(number);
            number += 1;
        }
        text
    };
    let cases: [(&str, &dyn Fn() -> String); 10] = [
        ("lines", &|| filled("a\n")),
        ("brackets", &|| filled("[")),
        ("lists", &|| filled("a=[")),
        ("dotted keys", &|| numbered(&|number| format!("x{number}.a.b.c.d.e.f.g.h.i.j.k.l.m.n=1\n"))),
        ("include", &|| format!("include=[{}]\n", "\"x*\",".repeat(SIZE / 5 - 10))),
        ("keys", &|| numbered(&|number| format!("x{number} = 1\n"))),
        ("sections", &|| numbered(&|number| format!("[connection.c{number}]\n"))),
        ("inline tables", &|| numbered(&|number| format!("x{number} = {{a={{b={{}}}}}}\n"))),
        ("routes", &|| filled("[[route]]\ndestination = \"10.0.0.0/8\"\nnext_hop = \"q\"\n")),
        ("long routes with errors", &|| {
            let pad = "x".repeat(40);
            numbered(&|number| {
                format!("[[route]]\ndestination = \"10.0.0.0/8\"\nnext_hop = \"{pad}{number}\"\ny = 1\n")
            })
        }),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("large.toml");
    for (what, text) in cases {
        fs::write(&file, text()).expect("the folder can be written");
        let limited = "ulimit -t 10 && ulimit -d 1048576 && exec \"$0\" check --config \"$1\"";
        let output = Command::new("sh").args(["-c", limited, env!("CARGO_BIN_EXE_vpnhub")]).arg(&file).output();
        let output = output.expect("there is a shell");
        let shown = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{what}: {} {shown}", String::from_utf8_lossy(&output.stderr));
        assert!(shown.contains(": error: ") && shown.lines().count() < 2100, "{what}: {} lines", shown.lines().count());
    }
}

#[test]
fn hostile_file_ends_in_errors() {
    let quota = "[gateway]\nname = \"hub\"\nmax_connections = ".to_owned();
    let cases = [
        ("brackets", "a = ".to_owned() + &"[".repeat(1 << 20)),
        ("braces", "a = ".to_owned() + &"{a=".repeat(1 << 18)),
        ("dotted key", "a.".repeat(1 << 18) + "a = 1"),
        ("dotted header", "[".to_owned() + &"a.".repeat(1 << 18) + "a]"),
        ("integer", quota + &"9".repeat(1 << 20)),
        ("NUL bytes", "\0".repeat(1 << 20)),
        ("quotes", "\"".repeat((1 << 20) + 1)),
        ("headers", "[a\n".repeat(1 << 18)),
        ("open lists", "a = [\n".repeat(1 << 18)),
        ("open texts", "a = \"\"\"\n".repeat(1 << 17)),
        ("the same key", "a = 1\n".repeat(1 << 18)),
        ("the same header", "[a]\n".repeat(1 << 18)),
        ("escapes", "a = \"".to_owned() + &"\\q".repeat(100_000) + "\"\n"),
        ("too many routes", "[[route]]\n".repeat((1 << 20) + 1)),
        ("too many lines", "a\n".repeat(16_000_001)),
        ("unknown keys", pieces(100_000, |index| format!("key{index} = 1\n"))),
        ("long names", format!("[connection.{}]\n", "x".repeat(1 << 20))),
        ("translations", {
            let list = |item: &dyn Fn(u32) -> String| pieces(20_000, |index| item(index) + ", ");
            let address = |network: &str, index: u32| format!("\"{network}.{}.{}/32\"", index / 256, index % 256);
            let remotes = list(&|index| address("10.1", index));
            let tables =
                list(&|index| format!("{{ site = {}, hub = {} }}", address("10.1", index), address("10.2", index)));
            let connection = |index: u32| {
                format!(
                    "[connection.c{index}]\ninterface = \"tun\"\nremote_cidrs = [{remotes}]\ntranslate = [{tables}]\n"
                )
            };
            connection(1) + &connection(2)
        }),
        ("split prefixes", {
            let remotes = pieces(120, |length| format!("\"::/{length}\", "));
            let table =
                |index: u32| format!("{{ site = \"{index:x}:{index:x}::1/128\", hub = \"f{index:03x}::/128\" }}, ");
            let tables = pieces(32, |index| table(index + 1));
            pieces(2_000, |index| {
                format!(
                    "[connection.c{index}]\ninterface = \"tun{index}\"\nremote_cidrs = [{remotes}]\n\
                     translate = [{tables}]\n"
                )
            })
        }),
        ("sections", pieces(50_000, |index| format!("[connection.c{index}]\n"))),
    ];
    for (what, text) in cases {
        let found = parse_quickly(what, &text).expect_err(what);
        assert!(errors(&found) > 0, "{what}");
    }
}

/// xorshift64: the same bytes on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("below a usize")
    }

    /// Changes, adds or removes a byte, or copies a piece elsewhere.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        const SIGNS: &[u8] = b"[]{}=\"'.,#\n\r\t \\_-:/0129azAZ\0\x7f\xc3\xa9";
        let at = self.below(bytes.len());
        let sign = SIGNS[self.below(SIGNS.len())];
        match self.below(4) {
            0 => bytes[at] = sign,
            1 => bytes.insert(at, sign),
            2 => _ = bytes.remove(at),
            _ => {
                let end = (at + self.below(80)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = self.below(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
}

#[test]
fn damaged_file_never_panics() {
    let example = fs::read(repository().join("examples/three-offices.toml")).expect("the example");
    let mut random = Random(0x5eed);
    for _ in 0..20_000 {
        let mut bytes = example.clone();
        for _ in 0..=random.below(6) {
            random.damage(&mut bytes);
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(found) = config::parse(&text) {
            assert!(errors(&found) > 0, "refused without an error: {text}");
            assert!(found.is_sorted_by_key(|found| (found.line, found.column)), "{found:?}");
        }
    }
}
