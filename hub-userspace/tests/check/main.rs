//! `vpnhub check` for the files of tests/check: the output must equal the stored text exactly.
//!
//! `UPDATE_EXPECTED=1 cargo test -p hub-userspace --test check` rewrites the expectations; read the difference.

mod bounds;

use std::{
    collections::BTreeSet,
    env,
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use hub_userspace::{
    config::{
        self, Diagnostic, Severity,
        check::{CheckFormat, run},
    },
    peer_config,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::bounds::{TWO_SITES, route};

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
fn examples_are_valid_without_warnings() {
    let examples = stems(&repository().join("examples"), "toml");
    assert!(examples.len() >= 2, "{examples:?}");
    for stem in examples {
        let text = fs::read_to_string(stem.with_extension("toml")).expect("a text");
        let (_, warnings) = config::parse(&text).unwrap_or_else(|found| panic!("{}: {found:#?}", stem.display()));
        assert!(warnings.is_empty(), "{}: {warnings:#?}", stem.display());
    }
}

#[test]
fn example_with_two_tunnels_gives_the_site_both() {
    let text = fs::read_to_string(repository().join("examples/two-tunnels.toml")).expect("a text");
    let (config, _) = config::parse(&text).expect("valid");
    let site = peer_config::render(&config, "shanghai", peer_config::Format::Swanctl, false).expect("both");
    for part in ["local_addrs = 198.51.100.10", "local_addrs = 192.0.2.10", "if_id_out = 10", "if_id_out = 11"] {
        assert_eq!(site.matches(part).count(), 1, "{part} in {site}");
    }
}

#[test]
fn shown_configuration_parses_to_same_configuration() {
    let good = stems(&repository().join("tests/check"), "toml").into_iter().map(|stem| stem.with_extension("toml"));
    let examples = ["examples/three-offices.toml", "examples/two-tunnels.toml"].map(|file| repository().join(file));
    let mut count = 0;
    for file in good.chain(examples) {
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
