//! What Prometheus's own tool accepts.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use hub_tests::tools;
use hub_userspace::observe::metrics::{Format, encode};

use crate::{contrib::folder, numbers::scrape};

/// Runs it with this input; it must succeed and complain of nothing.
fn promtool(arguments: &[&str], input: &str) -> String {
    let tool = tools::promtool().expect("promtool: cargo xtask setup");
    let mut process = Command::new(tool)
        .args(arguments)
        .current_dir(folder().join("prometheus"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "promtool {arguments:?}: {text}");
    text
}

pub fn metrics() {
    // It also lints: a complaint fails it.
    assert_eq!(promtool(&["check", "metrics"], &encode(scrape(), Format::Prometheus)), "");
}

pub fn rules() {
    let text = promtool(&["check", "rules", "alerts.yml"], "");
    assert!(text.contains("SUCCESS"), "{text}");
}

pub fn rule_tests() {
    let text = promtool(&["test", "rules", "alerts_test.yml"], "");
    assert!(text.contains("SUCCESS"), "{text}");
}
