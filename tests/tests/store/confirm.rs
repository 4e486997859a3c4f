//! Reloads that are reverted unless confirmed.

use std::fs;

use serde_json::Value;

use super::{CONFIG, MORE, WAIT, done, refused, restart, routes, start, world};

#[test]
fn unconfirmed_reload_reverts_at_timeout() {
    let world = world();
    let agent = start(&world);
    done(&agent, "route add 10.10.12.0/24 --next-hop shanghai");
    let before = routes(&agent);
    let edited = CONFIG.to_owned() + MORE;
    fs::write(agent.config(), &edited).unwrap();
    assert!(done(&agent, "reload --confirm 1s").ends_with("reverted in 1 s, unless `vpnhub confirm` confirms it"));
    let status = agent.wait_for_status(WAIT, |status| status["confirmation"]["state"] == "reverted").unwrap();
    assert_eq!(status["routes"].as_array().map(Vec::len), Some(2));
    assert_eq!(routes(&agent), before);
    assert!(done(&agent, "status").contains("the last reload was not confirmed"));
    assert!(refused(&agent, "confirm").contains("nothing to confirm"));
    assert_eq!(fs::read_to_string(agent.config()).unwrap(), edited);

    // Nor does another agent load it, until it is edited or reloaded.
    let agent = restart(&world, agent);
    assert_eq!(routes(&agent), before);
    assert!(agent.log().contains("the last reload was not confirmed"), "{}", agent.log());
    done(&agent, "reload");
    assert_eq!(routes(&agent).len(), 3);
    assert_eq!(agent.status().unwrap()["confirmation"], Value::Null);
    let agent = restart(&world, agent);
    assert_eq!(routes(&agent).len(), 3);
    agent.stop().unwrap();
}

#[test]
fn confirmed_reload_stays_in_force() {
    let world = world();
    let agent = start(&world);
    fs::write(agent.config(), CONFIG.to_owned() + MORE).unwrap();
    done(&agent, "reload --confirm 1h");
    assert_eq!(agent.status().unwrap()["confirmation"]["state"], "pending");
    assert_eq!(done(&agent, "reload --confirm 1h"), "nothing to confirm: nothing has changed");
    assert_eq!(agent.status().unwrap()["confirmation"]["state"], "pending");
    assert_eq!(done(&agent, "confirm"), "confirmed: the configuration stays in force");
    assert_eq!(agent.status().unwrap()["confirmation"], Value::Null);
    let agent = restart(&world, agent);
    assert_eq!(routes(&agent).len(), 2);
    agent.stop().unwrap();
}

/// The new configuration may be the reason for the restart.
#[test]
fn restart_before_confirmation_reverts_reload() {
    let world = world();
    let agent = start(&world);
    fs::write(agent.config(), CONFIG.to_owned() + MORE).unwrap();
    done(&agent, "reload --confirm 1h");
    assert_eq!(routes(&agent).len(), 2);
    let agent = restart(&world, agent);
    assert_eq!(routes(&agent).len(), 1);
    assert_eq!(agent.status().unwrap()["confirmation"]["state"], "reverted");
    // An edit counts as the operator's decision.
    fs::write(agent.config(), CONFIG.to_owned() + MORE + "# Edited.\n").unwrap();
    let agent = restart(&world, agent);
    assert_eq!(routes(&agent).len(), 2);
    assert_eq!(agent.status().unwrap()["confirmation"], Value::Null);
    agent.stop().unwrap();
}
