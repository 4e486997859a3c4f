//! The operator's view: mistakes, missing things, the command line's contract, systemd.

mod advertisements;
mod alone;
mod bounds;
mod diagnose;
mod health;
mod idle;
mod interfaces;
mod ipsec;
mod metrics;
mod output;
mod refusals;
mod segments;
mod spread;
mod systemd;
mod top;
mod trace;

use std::process::Output;

use hub_tests::lab::{HANGZHOU, NINGBO, Namespace, SHANGHAI, Site, agent_binary};

static SITES: [Site; 3] = [SHANGHAI, HANGZHOU, NINGBO];

/// Runs `vpnhub ARGS` in a place.
fn vpnhub(place: &Namespace, args: &[&str]) -> Output {
    place.command(agent_binary()).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The sentence with which a command fails: exit code 1, nothing on stdout, and one line on stderr in addition to the
/// log's.
fn failure(output: &Output) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(stdout(output), "");
    for word in ["panicked", "backtrace", "RUST_BACKTRACE"] {
        assert!(!text.contains(word), "{text}");
    }
    let own: Vec<&str> = text.lines().filter(|line| line.starts_with("vpnhub: ")).collect();
    assert_eq!(own.len(), 1, "{text}");
    assert_eq!(text.lines().last(), Some(own[0]), "nothing comes after it: {text}");
    own[0].to_owned()
}
