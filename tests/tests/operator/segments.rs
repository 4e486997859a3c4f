//! Many changes of many segments, one right after the other.

use std::fmt::Write as _;
use std::fs;

use hub_tests::lab::{HubConfig, NINGBO, Options, Rig, SHANGHAI};

/// As many segments as the configuration may have. Each change gives each of them a new number of the kernel program,
/// and its old one is in use until no packet can need it.
const SEGMENTS: usize = 30;
const RELOADS: usize = 12;

/// Each connection of the segments is in another one after each turn.
fn config(turn: usize) -> String {
    let mut text = HubConfig::offices(&[SHANGHAI, NINGBO]).to_string();
    text = text.replacen("[gateway]\n", "[gateway]\nmax_connections = 100\n", 1);
    for number in 0..SEGMENTS {
        let segment = (number + turn) % SEGMENTS;
        write!(
            text,
            "\n[segment.s{number}]\nreaches = [\"vpc\"]\n\n[connection.c{number}]\ncustomer_gateway = \"shanghai-office\"\n\
             interface = \"none{number}\"\nsegment = \"s{segment}\"\nlocal_cidrs = [\"0.0.0.0/0\"]\nremote_cidrs = \
             [\"10.99.{number}.0/24\"]\n"
        )
        .expect("a string takes all");
    }
    text
}

#[test]
fn segments_change_as_often_as_they_are_reloaded() {
    let rig = Rig::start(&Options::default(), &HubConfig::offices(&[SHANGHAI, NINGBO])).unwrap();
    for turn in 0..RELOADS {
        fs::write(rig.agent.config(), config(turn)).unwrap();
        let said = rig.agent.cli(&["reload"]).unwrap();
        assert!(said.status.success(), "reload {turn}: {}", String::from_utf8_lossy(&said.stderr));
    }
    let status = rig.agent.status().unwrap();
    assert_eq!(status.connection("c0")["segment"], format!("s{}", (RELOADS - 1) % SEGMENTS));
    rig.stop().unwrap();
}
