//! Files of the Debian package that no program reads before an operator does: man pages, completions, the configuration.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use hub_userspace::config::check::{CheckFormat, run};

#[path = "../examples/reference/pages.rs"]
mod pages;

fn contrib() -> PathBuf {
    PathBuf::from("../contrib/debian")
}

/// Names of the pages of a command and of all commands below it: `vpnhub`, `vpnhub-route`, `vpnhub-route-add`.
/// Hidden commands have no page.
fn names(command: &clap::Command) -> Vec<String> {
    let below = command.get_subcommands().filter(|below| !below.is_hide_set()).flat_map(names);
    [pages::page_name(command)].into_iter().chain(below).collect()
}

#[test]
fn every_command_has_man_page() {
    let dir = tempfile::tempdir().unwrap();
    pages::man(dir.path()).unwrap();
    let written: BTreeSet<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".1").to_owned())
        .collect();
    let mut expected: BTreeSet<String> = names(&pages::command()).into_iter().collect();
    for name in ["vpnhub", "vpnhub-run", "vpnhub-route-add", "vpnhub-config-show", "vpnhub-cleanup"] {
        assert!(expected.contains(name), "{name}: {expected:?}");
    }
    // Another name of `cleanup`.
    expected.insert("vpnhub-unload".to_owned());
    assert_eq!(written, expected);
    assert_eq!(fs::read_to_string(dir.path().join("vpnhub-unload.1")).unwrap(), ".so man1/vpnhub-cleanup.1\n");
}

#[test]
fn man_page_has_every_option_of_its_command() {
    let dir = tempfile::tempdir().unwrap();
    pages::man(dir.path()).unwrap();
    let command = pages::command();
    let mut options = 0;
    for below in command.get_subcommands() {
        let page = fs::read_to_string(dir.path().join(format!("vpnhub-{}.1", below.get_name()))).unwrap();
        for option in below.get_arguments() {
            let Some(long) = option.get_long() else { continue };
            let expected = !option.is_hide_set();
            assert_eq!(page.contains(&long.replace('-', "\\-")), expected, "{} --{long}", below.get_name());
            options += usize::from(expected);
        }
    }
    assert!(options >= 60, "only {options} options");
}

#[test]
fn completions_have_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let shells = ["bash", "zsh", "fish"].map(|shell| dir.path().join(shell));
    pages::completions(&shells[0], &shells[1], &shells[2]).unwrap();
    for (shell, file) in shells.iter().zip(["vpnhub", "_vpnhub", "vpnhub.fish"]) {
        let text = fs::read_to_string(shell.join(file)).unwrap();
        for command in pages::command().get_subcommands() {
            assert!(text.contains(command.get_name()), "{file}: {}", command.get_name());
        }
        assert!(text.contains("unload") && text.contains("log-format"), "{file}");
    }
}

#[test]
fn packaged_configuration_is_empty_gateway_without_findings() {
    let file = contrib().join("vpnhub.toml");
    let outcome = run(&file, CheckFormat::Table);
    assert_eq!(outcome.stdout, format!("{}: ok: 0 connections, 0 routes\n", file.display()));
    assert_eq!(outcome.exit_code, 0);
}

#[test]
fn commented_lines_of_packaged_configuration_are_valid() {
    let text = fs::read_to_string(contrib().join("vpnhub.toml")).unwrap();
    // Prose has a blank after the #, configuration has none.
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest.to_owned() + "\n",
        _ => line.to_owned() + "\n",
    };
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("shanghai.psk");
    fs::write(&key, "0sMTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTI=\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let text = text.lines().map(line).collect::<String>().replace("/etc/vpnhub/shanghai.psk", key.to_str().unwrap());
    let file = dir.path().join("vpnhub.toml");
    fs::write(&file, text).unwrap();
    let outcome = run(&file, CheckFormat::Table);
    assert!(outcome.stdout.ends_with(": ok: 1 connection, 1 route\n"), "{}", outcome.stdout);
    assert_eq!(outcome.exit_code, 0);
}
