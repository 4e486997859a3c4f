//! Rates from answers, keys, and screens, which must equal the stored ones.
//!
//! `UPDATE_EXPECTED=1 cargo test -p hub-userspace --lib top::` rewrites the screens in docs/top; read the difference.

use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};
use serde_json::{Value, json};

use super::{
    model::Model,
    once, screen,
    view::{Action, Page, SortKey, View},
};

const SECOND: Duration = Duration::from_secs(1);

fn connection(name: &str, interface: &str, state: &str, seconds: u64) -> Value {
    // Made-up rates, which differ by connection and change over time.
    let load = name.len() as u64 * 1000;
    let packets = |factor: u64| (0..=seconds).map(|second| load * factor + second % 40 * load / 8).sum::<u64>();
    let is_up = state == "up";
    let (rx, tx) = if is_up { (packets(1), packets(2)) } else { (7, 0) };
    json!({
        "name": name, "origin": "store", "interface": interface, "state": state, "state_seconds": 7383 + seconds,
        "attach": "tc", "rx_packets": rx, "rx_bytes": rx * 700, "tx_packets": tx, "tx_bytes": tx * 900,
        "drops": { "selector_mismatch": 3 * seconds, "spoofed_source": 1200, "malformed": 0 }, "passes": {},
    })
}

/// The status after this many seconds.
fn status(seconds: u64) -> Value {
    let mut shanghai = connection("shanghai", "xfrm-sh", "up", seconds);
    shanghai["health"] = json!({
        "healthy": true, "state": "up", "sent": 900, "received": 899, "round_trip": 0.0125, "recent_probes": 32,
        "recent_lost": 1,
        "targets": [
            { "destination": "10.10.10.1", "state": "up", "sent": 450, "received": 450, "lost": 0, "round_trip": 0.0125 },
            { "destination": "10.10.10.2", "state": "down", "sent": 450, "received": 0, "lost": 450, "round_trip": null },
        ],
    });
    let child = json!({
        "spi_in": "c1d0a7f3", "spi_out": "cc31b004", "bytes_in": 1_234_567, "bytes_out": 98_765_432, "seconds": 1830,
        "local": ["0.0.0.0/0"], "remote": ["10.10.10.0/24"], "selectors": ["10.10.10.0/24 === 0.0.0.0/0"],
    });
    shanghai["ipsec"] = json!({
        "ike": "ESTABLISHED", "children": [child], "fault": null,
        "selectors": ["10.10.10.0/24 === 0.0.0.0/0"],
        "missing": [{ "selectors": "10.10.11.0/24 === 0.0.0.0/0", "reason": "the site has narrowed it" }],
    });
    let mut lossy = connection("shanghai-lte", "xfrm-sh2", "up", seconds);
    lossy["state_reason"] = "degraded: health check: 10.10.10.1 loses 9 of 30 probes".into();
    lossy["health"] = json!({
        "healthy": true, "state": "degraded", "sent": 900, "received": 650, "round_trip": 0.187, "recent_probes": 32,
        "recent_lost": 10,
    });
    let mut down = connection("ningbo", "xfrm-nb", "down", seconds);
    down["state_reason"] = "the site does not answer".into();
    down["health"] = json!({ "healthy": false, "state": "down", "sent": 9, "received": 0, "round_trip": null, "recent_probes": 9, "recent_lost": 9 });
    let route = |destination: &str, next_hop: &str, share: f64| json!({ "destination": destination, "next_hop": next_hop, "weight": 100, "publish": true, "share": share, "origin": "store" });
    json!({
        "gateway": { "name": "hub-east" },
        "connections": [
            connection("hangzhou", "tun-hz", "up", seconds),
            down,
            shanghai,
            lossy,
            connection("vpc-lab", "tun-lab", "admin_down", seconds),
        ],
        "routes": [
            route("10.10.10.0/24", "shanghai", 1.0),
            route("10.10.10.0/24", "shanghai-lte", 0.0),
            route("10.10.11.0/24", "shanghai", 0.5),
            route("10.10.20.0/24", "hangzhou", 1.0),
            route("10.10.30.0/24", "ningbo", 1.0),
        ],
        "drops": {}, "passes": {},
    })
}

fn take(model: &mut Model, status: &Value, now: Instant) {
    model.take(serde_json::from_value(status["connections"].clone()).expect("connections"), now);
    model.take_status(serde_json::from_value(status.clone()).expect("a status"));
}

/// A model that has watched for this many seconds.
fn watched(seconds: u64) -> (Model, Instant) {
    let (mut model, start) = (Model::new(SECOND), Instant::now());
    for second in 0..=seconds {
        take(&mut model, &status(second), start + SECOND * second as u32);
    }
    (model, start + SECOND * seconds as u32)
}

fn view() -> View {
    View::new(SortKey::Name, String::new())
}

fn drawn(model: &Model, view: &View, [width, height]: [u16; 2]) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("it has no errors");
    terminal.draw(|frame| screen::draw(frame, model, view)).expect("it has no errors");
    let buffer = terminal.backend().buffer();
    let line = |row: u16| (0..width).map(|column| buffer[(column, row)].symbol()).collect::<String>();
    (0..height).map(|row| line(row).trim_end().to_owned() + "\n").collect()
}

fn press(view: &mut View, model: &Model, keys: &[KeyCode]) {
    for key in keys {
        assert_eq!(view.key(KeyEvent::new(*key, KeyModifiers::NONE), model), Action::Draw, "{key:?}");
    }
}

fn must_equal_file(name: &str, screen: &str) {
    // Cargo runs tests in the directory of their package.
    let file = PathBuf::from("../docs/top").join(name);
    if env::var_os("UPDATE_EXPECTED").is_some() {
        fs::create_dir_all("../docs/top").expect("the checkout can be written");
        fs::write(&file, screen).expect("the checkout can be written");
    }
    let expected = fs::read_to_string(&file).unwrap_or_default();
    assert!(screen == expected, "{}:\n{expected}\nis now:\n{screen}", file.display());
}

#[test]
fn screens_equal_stored_ones() {
    let (mut model, _) = watched(150);
    let mut view = view();
    press(&mut view, &model, &[KeyCode::End, KeyCode::Up, KeyCode::Up]);
    must_equal_file("table-80x24.txt", &drawn(&model, &view, [80, 24]));
    must_equal_file("table-140x30.txt", &drawn(&model, &view, [140, 30]));
    let event =
        json!({ "time": 1_700_000_000.5, "connection": "shanghai", "state": "up", "was": "down", "reason": null });
    model.take_event(serde_json::from_value(event).expect("an event"));
    press(&mut view, &model, &[KeyCode::Enter]);
    must_equal_file("connection-80x24.txt", &drawn(&model, &view, [80, 24]));
    must_equal_file("connection-140x40.txt", &drawn(&model, &view, [140, 40]));
    must_equal_file("once.txt", &once::text(&model, &view));
}

#[test]
fn rates_are_those_of_the_last_interval() {
    let (mut model, start) = (Model::new(SECOND), Instant::now());
    let with = |packets: u64, drops: u64| {
        let mut status = status(0);
        let one = &mut status["connections"][0];
        (one["rx_packets"], one["rx_bytes"]) = (packets.into(), (packets * 100).into());
        one["drops"] = json!({ "malformed": drops });
        status
    };
    take(&mut model, &with(1000, 5), start);
    assert_eq!(model.connections["hangzhou"].rates, None, "one answer has no rate");
    take(&mut model, &with(3000, 15), start + SECOND * 2);
    let rates = model.connections["hangzhou"].rates.expect("two answers");
    let shown = [rates.rx_packets, rates.rx_bits, rates.drops, model.connections["hangzhou"].drop_rates["malformed"]];
    assert_eq!(shown.map(|rate| rate.to_string()), ["1000", "800000", "5", "5"]);
    // Counters that are lower were started anew: no rate, and no history of it.
    take(&mut model, &with(10, 0), start + SECOND * 3);
    assert_eq!(model.connections["hangzhou"].rates, None);
    assert_eq!(model.connections["hangzhou"].history.len(), 1);
    // No rates from before an interruption either.
    model.fail("no agent answers");
    take(&mut model, &with(1_000_000, 0), start + SECOND * 60);
    assert_eq!((model.connections["hangzhou"].rates, &model.problem), (None, &None));
    take(&mut model, &with(1_000_010, 0), start + SECOND * 61);
    assert_eq!(model.connections["hangzhou"].rates.map(|rates| rates.rx_packets), Some(10.0));
}

#[test]
fn history_and_events_are_bounded() {
    let (mut model, now) = watched(130);
    assert_eq!(model.connections["hangzhou"].history.len(), 120);
    for number in 0..5000 {
        let event = json!({ "time": f64::from(number) * 10.0, "connection": "x", "state": "up", "was": "down", "reason": null });
        model.take_event(serde_json::from_value(event).expect("an event"));
    }
    assert_eq!(model.events.len(), 1000);
    // A connection that is gone has no row.
    model.take(Vec::new(), now + SECOND);
    assert!(model.connections.is_empty() && model.is_status_due);
}

#[test]
fn keys_sort_filter_choose_and_quit() {
    let (model, _) = watched(3);
    let mut view = view();
    let names = |view: &View| view.rows(&model).into_iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&view), ["hangzhou", "ningbo", "shanghai", "shanghai-lte", "vpc-lab"]);
    press(&mut view, &model, &[KeyCode::Char('l')]);
    assert_eq!(names(&view)[..3], ["ningbo", "shanghai-lte", "shanghai"]);
    press(&mut view, &model, &[KeyCode::Char('t')]);
    assert_eq!(names(&view), ["ningbo", "shanghai-lte", "vpc-lab", "hangzhou", "shanghai"]);
    press(&mut view, &model, &[KeyCode::Char('R')]);
    assert_eq!(names(&view)[0], "shanghai");
    press(&mut view, &model, &[KeyCode::Char('i'), KeyCode::Char('/'), KeyCode::Char('S'), KeyCode::Char('q')]);
    assert_eq!(names(&view), [""; 0], "q is a letter of the filter");
    press(&mut view, &model, &[KeyCode::Backspace, KeyCode::Char('h'), KeyCode::Enter]);
    assert_eq!(names(&view), ["shanghai-lte", "shanghai"]);
    press(&mut view, &model, &[KeyCode::Down, KeyCode::Enter]);
    assert_eq!((view.page, view.selected(&model).map(|(name, _)| name)), (Page::Detail, Some("shanghai")));
    press(&mut view, &model, &[KeyCode::PageDown, KeyCode::Up]);
    assert_eq!(view.scroll, 9);
    press(&mut view, &model, &[KeyCode::Esc, KeyCode::Esc]);
    assert_eq!((view.page, names(&view).len()), (Page::Table, 5));
    assert_eq!(view.key(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE), &model), Action::Quit);
    assert_eq!(view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), &model), Action::Quit);
    press(&mut view, &model, &[KeyCode::Char('/')]);
    assert_eq!(view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), &model), Action::Quit);
}

#[test]
fn agent_that_does_not_answer_is_shown_over_the_last_values() {
    let (mut model, _) = watched(3);
    model.fail("no agent answers on /run/x.sock: start one with `vpnhub run`\x1b[2J");
    let screen = drawn(&model, &view(), [80, 24]);
    assert!(screen.contains("no answer, trying again"), "{screen}");
    assert!(screen.contains("shanghai"), "the last values stay: {screen}");
    let empty = Model::new(SECOND);
    assert!(drawn(&empty, &view(), [80, 24]).contains("no connections"));
}

#[test]
fn hostile_texts_have_no_controls_on_any_page_or_in_the_table() {
    let hostile = "a\x1b]0;owned\x07\x1b[31m\u{9b}2J\r\n\u{202e}b";
    let mut status = status(1);
    for path in [
        "/connections/2/name",
        "/connections/2/interface",
        "/connections/2/ipsec/ike",
        "/connections/2/ipsec/fault",
        "/connections/2/ipsec/missing/0/reason",
        "/connections/2/ipsec/children/0/spi_in",
        "/connections/2/ipsec/selectors/0",
        "/gateway/name",
        "/routes/0/next_hop",
    ] {
        *status.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = hostile.into();
    }
    status["connections"][2]["state_reason"] = hostile.into();
    status["connections"][2]["warnings"] = json!([hostile]);
    status["connections"][2]["drops"] = json!({ hostile: 7 });
    status["routes"][0]["problem"] = hostile.into();
    let mut model = Model::new(SECOND);
    let start = Instant::now();
    take(&mut model, &status, start);
    take(&mut model, &status, start + SECOND);
    let event = json!({ "time": 9.0, "connection": hostile, "state": "up", "was": "down", "reason": hostile });
    model.take_event(serde_json::from_value(event).expect("an event"));
    let mut view = view();
    let table = drawn(&model, &view, [140, 40]);
    assert!(table.contains("owned"), "{table}");
    press(&mut view, &model, &[KeyCode::Home, KeyCode::Enter]);
    assert!(view.selected(&model).is_some_and(|(name, _)| name.contains("owned")));
    let detail = drawn(&model, &view, [140, 60]);
    assert!(detail.matches("owned").count() > 8, "{detail}");
    for text in [table, detail, once::text(&model, &view)] {
        assert!(text.chars().all(|one| one == '\n' || !one.is_control() && one != '\u{202e}'), "{text:?}");
    }
}

#[test]
fn any_size_and_any_number_of_connections_is_drawn() {
    let (model, _) = watched(5);
    let mut many = status(0);
    let rows = (0..3000).map(|number| connection(&format!("c{number:04}"), "tun", "up", 0)).collect::<Vec<_>>();
    many["connections"] = rows.into();
    let mut crowd = Model::new(SECOND);
    take(&mut crowd, &many, Instant::now());
    for model in [&model, &crowd] {
        for size in [[1, 1], [3, 2], [20, 5], [80, 8], [79, 24], [109, 12], [110, 13], [300, 100]] {
            let mut view = view();
            press(&mut view, model, &[KeyCode::End]);
            drawn(model, &view, size);
            press(&mut view, model, &[KeyCode::Enter, KeyCode::PageDown]);
            drawn(model, &view, size);
        }
    }
    let mut view = view();
    press(&mut view, &crowd, &[KeyCode::End]);
    assert!(drawn(&crowd, &view, [80, 24]).contains("c2999"), "the chosen row is visible");
}
