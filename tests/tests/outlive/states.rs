//! The next agent takes over the states of connections.

use hub_tests::lab::{HUB, HubConfig, Options, Rig, SHANGHAI, Status, retry};

use crate::{ENDS, SITES, WAIT, start_again};

fn is_held(status: &Status) -> bool {
    let connection = status.connection("shanghai");
    connection["state"] == "down" && connection["state_reason"].as_str().is_some_and(|why| why.contains("up_delay"))
}

#[test]
fn hold_down_and_change_count_survive_restart() {
    let mut config = HubConfig::offices(&SITES).second_link(&SHANGHAI, [100, 0]);
    config.connection("shanghai").up_delay = Some("1h".into());
    let mut rig = Rig::start(&Options::default().second_link("shanghai"), &config).unwrap();
    let device = SHANGHAI.hub_device(0);
    rig.world[HUB].set_link(&device, false).unwrap();
    rig.agent.wait_for_status(WAIT, |status| status.connection("shanghai")["state"] == "down").unwrap();
    rig.world[HUB].set_link(&device, true).unwrap();
    let before = rig.agent.wait_for_status(WAIT, is_held).unwrap();
    for end in ENDS {
        let scratch = end.end(rig.agent);
        rig = Rig { agent: start_again(&rig.world, scratch), world: rig.world };
        let status = rig.agent.status().unwrap();
        assert!(is_held(&status), "{end:?}: {:#}", status.connection("shanghai"));
        assert!((status.share("10.10.10.0/24", "shanghai-2") - 1.0).abs() < 1e-9, "the standby carries");
        let (then, now) = (before.connection("shanghai"), status.connection("shanghai"));
        assert_eq!(now["state_changes"], then["state_changes"]);
        assert!(now["state_seconds"].as_f64() > then["state_seconds"].as_f64(), "{end:?}: {now:#}");
        assert_eq!(status.connection("hangzhou")["state"], "up");
    }
    rig.stop().unwrap();
}

/// Health checks have no verdict at first.
#[test]
fn checked_connection_holds_state_until_first_verdict() {
    let mut config = HubConfig::offices(&SITES).second_link(&SHANGHAI, [100, 0]);
    config.connection("shanghai").health_check = true;
    let mut rig = Rig::start(&Options::default().second_link("shanghai"), &config).unwrap();
    rig.agent.wait_for_status(WAIT, |status| status.connection("shanghai")["state"] == "up").unwrap();
    for end in ENDS {
        let events = rig.agent.monitor().unwrap();
        let scratch = end.end(rig.agent);
        drop(events);
        rig = Rig { agent: start_again(&rig.world, scratch), world: rig.world };
        let log = rig.agent.log();
        let starts: Vec<&str> = log.split("taking over the running datapath").collect();
        let lines: Vec<&str> = starts.last().unwrap().lines().filter(|line| line.contains("\"shanghai\"")).collect();
        assert!(lines.iter().any(|line| line.ends_with("up connection=\"shanghai\"")), "{end:?}: {log}");
        assert!(!lines.iter().any(|line| line.contains("down: ")), "{end:?}: {log}");
    }
    retry("it does not stay up", || {
        let status = rig.agent.status()?;
        Ok((status.connection("shanghai")["health"]["received"].as_u64() > Some(0)).then_some(()))
    })
    .unwrap();
    assert_eq!(rig.agent.status().unwrap().connection("shanghai")["state"], "up");
    rig.stop().unwrap();
}
