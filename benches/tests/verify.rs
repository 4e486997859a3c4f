//! The report on the kernel programs agrees with the kernel's information. Needs root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use hub_tests::lab::{Scratch, agent_binary};
use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_vpnhub-bench");

fn verify(object: &Path) -> Vec<Value> {
    let scratch = Scratch::new().unwrap();
    let file = scratch.file("verify.json");
    let output = Command::new(BENCH).arg("verify").arg(object).arg("--json").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let rows = rows.as_array().unwrap().clone();
    for row in &rows {
        assert!(shown.contains(row["program"].as_str().unwrap()), "{shown}");
    }
    rows
}

fn object(name: &str) -> PathBuf {
    Path::new(BENCH).with_file_name("ebpf/bpfel-unknown-none/release").join(name)
}

#[test]
fn verify_reports_size_stack_and_maps_of_every_program() {
    let rows = verify(&object("bench-ebpf"));
    let names: Vec<_> = rows.iter().map(|row| row["program"].as_str().unwrap()).collect();
    let expected = [
        "back",
        "bare",
        "bare_pair",
        "bare_tc",
        "bare_tc_link",
        "decrypted",
        "fan",
        "feed",
        "fib",
        "first_tunnel",
        "generator",
        "pass",
        "pktgen_sink",
        "raw_sink",
        "replay",
        "replay_in_turn",
        "second_tunnel",
        "sink",
        "stamp",
    ];
    assert_eq!(names, expected);
    for row in &rows {
        for number in ["instructions", "jited_bytes", "processed_instructions", "memory_bytes"] {
            assert!(row[number].as_u64().unwrap() > 0, "{number} of {row:#}");
        }
        let stack: u64 = row["stack_bytes"].as_array().unwrap().iter().map(|depth| depth.as_u64().unwrap()).sum();
        assert!(stack <= 512, "{row:#}");
    }
    let row = |name| &rows[names.iter().position(|found| *found == name).unwrap()];
    // `mov r0, 2; exit`.
    assert_eq!((&row("pass")["instructions"], &row("pass")["processed_instructions"]), (&2.into(), &2.into()));
    assert_eq!(row("pass")["maps"], serde_json::json!([]));
    let map = &row("bare")["maps"][0];
    let found = ["name", "type", "key_bytes", "value_bytes", "max_entries"].map(|key| map[key].to_string());
    assert_eq!(found, ["\"PORTS\"", "\"DevMap\"", "4", "8", "256"]);
    // The parameters of the helper are on the stack: 64 bytes.
    assert!(row("fib")["stack_bytes"][0].as_u64().unwrap() >= 64, "{:#}", row("fib"));
}

#[test]
fn ladder_programs_grow_with_every_stage() {
    let rows = verify(&object("ladder-ebpf"));
    for lookup in ["hub", "lpm"] {
        let stages = ["parse", "to_hub", "selector", "nexthop", "rewrite", "redirect"].map(|stage| {
            let name = format!("{lookup}_{stage}");
            let row = rows.iter().find(|row| row["program"] == *name);
            row.unwrap_or_else(|| panic!("no {name}"))["instructions"].as_u64().unwrap()
        });
        assert!(stages.is_sorted(), "{lookup}: {stages:?}");
    }
}

#[test]
fn verify_without_argument_finds_agent_program() {
    // Building the agent builds its program.
    agent_binary();
    let output = Command::new(BENCH).arg("verify").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    for part in ["vpnhub_xdp", "ROUTES_V4", "LpmTrie", "STACK BYTES"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn verify_of_missing_object_names_remedy() {
    let output = Command::new(BENCH).args(["verify", "/nonexistent/object"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/nonexistent/object") && said.contains("cargo xtask build"), "{said}");
}
