//! The benches that run an agent count right and leave nothing behind. Times are not checked. Needs root.

use std::{fs, process::Command};

use hub_tests::lab::{Scratch, agent_binary};
use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_vpnhub-bench");

/// Runs a bench and gives back its results.
fn run(arguments: &[&str]) -> Value {
    let scratch = Scratch::new().unwrap();
    let file = scratch.file("results.json");
    let mut command = Command::new(BENCH);
    command.args(arguments).arg("--agent").arg(agent_binary()).arg("--json").arg(&file);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    // Namespaces and directories are named by the process that made them.
    for directory in ["/run/netns".into(), std::env::temp_dir()] {
        let ours = |name: &str| name.starts_with(&format!("vh-{id}-"));
        let left = fs::read_dir(directory).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        assert_eq!(left.filter(|name| ours(name)).collect::<Vec<_>>(), Vec::<String>::new());
    }
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// The row of this measure in the case with this value.
fn row<'a>(results: &'a Value, case: &str, value: &Value, measure: &str) -> &'a Value {
    let mut rows = results["rows"].as_array().unwrap().iter();
    let found = rows.find(|row| row["case"][case] == *value && row["measure"] == measure);
    found.unwrap_or_else(|| panic!("no {measure} where {case} is {value} in {results:#}"))
}

fn count(results: &Value, case: &str, value: &Value, measure: &str) -> f64 {
    row(results, case, value, measure)["median"].as_f64().unwrap()
}

#[test]
fn failover_bench_restores_traffic_each_run() {
    let results =
        run(&["failover", "--prefixes", "10", "--runs", "2", "--how", "carrier,admin,path", "--rate", "20000"]);
    for subject in ["connections", "dual"] {
        let rows = results["rows"].as_array().unwrap().iter();
        let of_subject = rows.filter(|row| row["case"]["subject"] == subject && row["measure"] == "all arrives");
        assert_eq!(of_subject.filter(|row| row["count"] == 2).count(), 3, "{subject}: {results:#}");
    }
    for how in ["carrier", "admin", "path"] {
        let all = row(&results, "how", &how.into(), "all arrives");
        assert_eq!(all["count"], 2);
        let first = row(&results, "how", &how.into(), "first over the second");
        assert!(first["min"].as_f64().unwrap() > 0.0, "{first}");
        // A dead path is noticed after three intervals of 100 ms at the earliest, less the one that had begun: 4000 frames.
        let lost = row(&results, "how", &how.into(), "lost")["min"].as_f64().unwrap();
        assert!(how != "path" || lost > 1000.0, "{lost}");
    }
}

#[test]
fn change_bench_loses_no_frame() {
    let results = run(&["change", "--seconds", "1", "--rate", "50000", "--changes", "50", "--replacements", "3"]);
    for case in ["no changes", "changes of others", "own route replaced too", "routes reloaded"] {
        let count = |measure| count(&results, "run", &case.into(), measure);
        assert!(count("sent") > 10_000.0, "{case}");
        let received = count("received by the first") + count("received by the second");
        assert_eq!(
            (received.to_bits(), count("lost").to_bits()),
            (count("sent").to_bits(), 0.0_f64.to_bits()),
            "{case}"
        );
        assert!(count("garbled").abs() < 0.5, "{case}");
        assert_eq!(count("changes") > 2.0, case != "no changes");
        assert_eq!(count("received by the second") > 0.0, case == "own route replaced too");
    }
}

#[test]
fn outlive_bench_loses_no_frame() {
    let results = run(&["outlive", "--seconds", "1", "--rate", "50000", "--times", "2", "--pause", "50"]);
    for case in ["nothing", "killed and started", "stopped and started", "replaced by the other look-up"] {
        let count = |measure| count(&results, "run", &case.into(), measure);
        let sent = count("sent");
        assert!(sent > 5_000.0, "{case}");
        for measure in ["received by the first", "counted as received", "counted as sent"] {
            assert_eq!(count(measure).to_bits(), sent.to_bits(), "{case}: {measure}");
        }
        assert!(count("garbled").abs() < 0.5, "{case}");
        if case != "nothing" {
            assert_eq!(row(&results, "run", &case.into(), "start until ready")["count"], 2);
        }
    }
    assert!(results["targets"].as_array().unwrap().iter().all(|target| target["reached"] == true), "{results:#}");
}

/// Its programs would be the same: it is no other build.
#[test]
fn outlive_bench_with_identical_build_fails() {
    let binary = agent_binary().to_str().unwrap();
    let arguments = ["outlive", "--seconds=1", "--rate=10000", "--times=1", "--pause=1", "--agent", binary];
    let output = Command::new(BENCH).args(arguments).args(["--other-agent", binary]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("are the same as before"), "{said}");
}

#[test]
fn update_bench_reports_every_measure() {
    let results = run(&["update", "--routes", "500", "--repeats", "1", "--changes", "3"]);
    let routes = 500.into();
    for (measure, times) in [
        ("start until all routes in force", 1),
        ("start until ready", 1),
        ("reload until every route changed", 2),
        ("reload, every route changed", 2),
        ("reload, one route changed", 1),
        ("route add", 3),
        ("route add, in force", 3),
        ("route set", 3),
        ("route delete", 3),
        ("`ip -batch` of as many", 1),
        ("`ip -batch`, every route changed", 1),
        ("loaded by the agent", 1),
        ("loaded by `ip -batch`", 1),
        ("changed by the agent", 2),
        ("changed by `ip -batch`", 1),
    ] {
        let row = row(&results, "routes", &routes, measure);
        assert_eq!(row["count"], times, "{measure}");
        assert!(row["min"].as_f64().unwrap() > 0.0, "{measure}");
    }
    for measure in ["agent, resident", "kernel, maps"] {
        assert!(count(&results, "routes", &routes, measure) > 0.5, "{measure}");
    }
}

#[test]
fn forward_bench_reports_every_program() {
    let scratch = Scratch::new().unwrap();
    let svg = scratch.file("forward.svg");
    // A contender whose frames do not all come out right has no row.
    let rows = run(&[
        "forward",
        "--programs=hub,hub-lpm,hub-tc,fib,ip_forward",
        "--routes=20",
        "--destinations=1,7",
        "--packet-bytes=64,1514",
        "--rounds=1",
        "--frames=10000",
        "--svg",
        svg.to_str().unwrap(),
    ]);
    let rows = rows.as_array().unwrap();
    let on_tun = ["bare-tc", "hub-tc", "ip_forward"];
    let both = ["bare-tc", "hub", "hub-tc", "ip_forward"];
    for (interfaces, programs) in [
        ("veth", &["bare", "bare-tc", "hub", "hub-lpm", "hub-tc", "fib", "ip_forward"][..]),
        ("tun", &on_tun),
        ("veth-tun", &both),
        ("tun-veth", &both),
    ] {
        for (family, bytes) in [(4, 64), (4, 1514), (6, 72), (6, 1514)] {
            for destinations in [1, 7] {
                let here = |row: &&Value| {
                    row["bench"] == "forward"
                        && row["interfaces"] == interfaces
                        && row["family"] == family
                        && row["routes"] == 20
                        && row["destinations"] == destinations
                        && row["packet_bytes"] == bytes
                };
                let found: Vec<_> = rows.iter().filter(here).collect();
                let names: Vec<_> = found.iter().map(|row| row["program"].as_str().unwrap()).collect();
                assert_eq!(names, programs, "{interfaces}, IPv{family}, {destinations}, {bytes} bytes: {rows:#?}");
                for row in found {
                    assert!(row["ns_per_packet"].is_number() && row["spread"].is_number(), "{row}");
                    for (ratio, to) in [
                        ("ratio_to_bare", "bare"),
                        ("ratio_to_bare_tc", "bare-tc"),
                        ("ratio_to_hub_tc", "hub-tc"),
                        ("ratio_to_ip_forward", "ip_forward"),
                    ] {
                        assert_eq!(row[ratio].is_number(), programs.contains(&to), "{ratio} of {row}");
                        assert_eq!(row[ratio] == 1.0, row["program"] == to, "{ratio} of {row}");
                    }
                }
            }
        }
    }
    let svg = fs::read_to_string(svg).unwrap();
    assert!(
        svg.starts_with("<svg") && ["ip_forward", "hub-tc", "tun-veth"].iter().all(|name| svg.contains(name)),
        "{svg}"
    );
}

#[test]
fn lookup_bench_reports_every_stage() {
    // Packets that are not forwarded or not counted void the round.
    let rows = run(&["lookup", "--routes=20", "--destinations=7", "--rounds=1", "--frames=5000"]);
    let rows = rows.as_array().unwrap();
    let stages = ["parse", "addresses", "to_hub", "selector", "route", "nexthop", "rewrite", "redirect"];
    for (family, bytes) in [(4, 64), (6, 72)] {
        for program in ["hub", "hub-lpm"] {
            let here = |row: &&Value| row["program"] == program && row["family"] == family;
            let found: Vec<_> = rows.iter().filter(here).collect();
            let names: Vec<_> = found.iter().map(|row| row["stage"].as_str().unwrap()).collect();
            assert_eq!(names, [&["drop"], &stages[..]].concat(), "{program}, IPv{family}");
            for row in found {
                assert_eq!((&row["bench"], &row["packet_bytes"]), (&"lookup".into(), &bytes.into()));
                assert_eq!(
                    (&row["routes"], &row["connections"], &row["destinations"]),
                    (&20.into(), &2.into(), &7.into())
                );
                for number in ["ns_per_packet", "ratio_to_bare", "spread"] {
                    assert!(row[number].is_number(), "{number} of {row}");
                }
                assert_eq!(row["stage_ns"].is_number(), row["stage"] != "drop", "{row}");
            }
        }
    }
    assert_eq!(rows.iter().filter(|row| row["program"] == "bare").count(), 4);

    let rows = run(&["lookup", "--connections=3,9", "--programs=hub", "--family=6", "--rounds=1", "--frames=5000"]);
    let whole = |connections| {
        let here = |row: &&Value| row["stage"] == "redirect" && row["connections"] == connections;
        rows.as_array().unwrap().iter().filter(here).count()
    };
    assert_eq!([whole(3), whole(9)], [1, 1], "{rows:#}");
}

#[test]
fn scale_bench_reports_small_and_large_values() {
    let rows =
        run(&["scale", "--next-hops=2,5", "--connections=4,40", "--selectors=1,50", "--rounds=1", "--frames=10000"]);
    let rows = rows.as_array().unwrap();
    for family in [4, 6] {
        for (varies, values, floors) in [
            ("next_hops", [2.into(), 5.into()], 2),
            ("connections", [4.into(), 40.into()], 1),
            ("selectors", [1.into(), 50.into()], 1),
            ("mode", [Value::from("native"), "generic".into()], 1),
        ] {
            let here = |row: &&Value| row["varies"] == varies && row["family"] == family;
            let found: Vec<_> = rows.iter().filter(here).collect();
            let of = |program: &str| {
                let rows = found.iter().filter(|row| row["program"] == program);
                rows.map(|row| row["value"].clone()).collect::<Vec<_>>()
            };
            // A hub that loses frames, or of whose connections one has no part in them, has no row.
            assert_eq!(of("hub"), values, "{varies}, IPv{family}");
            assert_eq!(of("bare"), values[..floors], "{varies}, IPv{family}");
            for row in found {
                assert_eq!(row["bench"], "scale");
                for number in ["routes", "destinations", "packet_bytes", "ns_per_packet", "ratio_to_bare", "spread"] {
                    assert!(row[number].is_number(), "{number} of {row}");
                }
                let first = row["value"] == values[0];
                assert_eq!(row["ratio_to_first"] == 1.0, first, "{row}");
            }
        }
    }
}

#[test]
#[ignore = "needs iperf3: install it, then cargo xtask test tcp_bench -- --ignored"]
fn tcp_bench_reports_every_program() {
    let results = run(&["tcp", "--rounds=1", "--seconds=1", "--streams=1,3"]);
    for program in ["hub", "fib", "ip_forward", "ip_forward-without-gro"] {
        for (family, streams) in [(4, 1), (4, 3), (6, 1), (6, 3)] {
            let rows = results["rows"].as_array().unwrap();
            let here = |row: &&Value| {
                let case = &row["case"];
                row["measure"] == "received"
                    && case["program"] == program
                    && case["family"] == family
                    && case["streams"] == streams
            };
            let found: Vec<_> = rows.iter().filter(here).collect();
            assert_eq!(found.len(), 1, "{program}, IPv{family}, {streams} streams: {rows:#?}");
            assert!(found[0]["median"].as_f64().unwrap() > 1.0, "{}", found[0]);
        }
    }
}

/// All packets must arrive decrypted and as expected, or the bench fails.
#[test]
#[ignore = "needs ESP in the kernel: cargo xtask vm-test"]
fn ipsec_bench_loses_no_packet_with_any_forwarder() {
    let results = run(&["ipsec", "--attachments=3", "--family=4,6", "--packets=256", "--rounds=1", "--tcp=1"]);
    for program in ["hub", "ip_forward", "bare-tc", "bare-tc-nftables"] {
        let rows = results["rows"].as_array().unwrap();
        let of = |measure: &str| -> Vec<f64> {
            let found = rows.iter().filter(|row| row["case"]["program"] == program && row["measure"] == measure);
            found.map(|row| row["median"].as_f64().unwrap()).collect()
        };
        // 2 encryptions, families and sizes each.
        let costs = of("packet at the hub");
        assert!(costs.len() == 8 && costs.iter().all(|cost| *cost > 0.0), "{program}: {costs:?}");
        let in_programs = of("of it TC programs");
        assert_eq!(in_programs.len(), if program == "ip_forward" { 0 } else { 8 }, "{program}: {in_programs:?}");
        // Longer than the interfaces' MTU.
        let sizes = of("TCP, packets sent on");
        assert!(sizes.len() == 2 && sizes.iter().all(|size| *size > 1400.0), "{program}: {sizes:?}");
    }
}

#[test]
fn pktgen_bench_without_kernel_pktgen_suggests_forward() {
    let output = Command::new(BENCH).arg("pktgen").args(["--seconds=1", "--rounds=1"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    if said.contains("has no pktgen") {
        assert_eq!(output.status.code(), Some(1));
        assert!(said.contains("`forward`") && said.lines().count() == 1, "{said}");
    } else {
        assert!(output.status.success(), "{said}");
    }
}
