//! Objects made by command: changed, disabled, shown, logged and restored.

use std::{fs, process::Command};

use hub_tests::lab::{Agent, AgentCommand, HUB, Scratch, agent_binary};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{CONFIG, NINGBO, done, refused, restart, routes, shown, start, with_input, world};
#[test]
fn objects_are_created_changed_and_deleted_by_command() {
    let world = world();
    let agent = start(&world);
    done(&agent, "customer-gateway add nb --address 198.51.100.30");
    let (code, sentence) = with_input(&agent, &["connection", "add", "nb", "--from", "-"], NINGBO);
    assert_eq!((code, sentence.as_str()), (Some(0), "connection nb added"));
    let again = format!("[connection.nb]\n{NINGBO}");
    let (code, sentence) = with_input(&agent, &["connection", "add", "nb", "--from", "-"], &again);
    assert_eq!((code, sentence.as_str()), (Some(0), "nothing to change: already in effect"));
    let (code, sentence) = with_input(&agent, &["connection", "add", "nb", "--from", "-"], "x = [");
    assert!(code == Some(1) && sentence.contains("standard input") && sentence.contains("TOML"), "{sentence}");
    done(&agent, "route add 10.10.30.0/24 --next-hop nb");
    let attached = || world[HUB].ip("link show dev tun-nb").unwrap().contains("xdp");
    assert!(attached());
    assert_eq!(done(&agent, "connection set nb --up-delay 3s"), "connection nb (up_delay) changed");
    let object = agent.json(&["connection", "show", "nb"]).unwrap();
    assert_eq!((&object["origin"], &object["keys"]["up_delay"]), (&json!("store"), &json!("3s")));
    for (value, key) in [("1300", json!(1300)), ("off", json!("off"))] {
        let sentence = done(&agent, &format!("connection set nb --mss-clamp {value}"));
        assert_eq!(sentence, "connection nb (mss_clamp) changed");
        assert_eq!(agent.json(&["connection", "show", "nb"]).unwrap()["keys"]["mss_clamp"], key);
    }
    let sentence = done(&agent, "connection set nb --translate 10.10.30.0/25=10.201.30.0/25");
    assert!(sentence.starts_with("connection nb (translate) changed"), "{sentence}");
    let keys = &agent.json(&["connection", "show", "nb"]).unwrap()["keys"];
    assert_eq!(keys["translate"], json!([{ "site": "10.10.30.0/25", "hub": "10.201.30.0/25" }]));
    let sentence = refused(&agent, "connection set nb --translate 10.10.30.0/25=10.201.30.0/24");
    assert!(sentence.contains("are not of one length"), "{sentence}");
    assert_eq!(done(&agent, "connection set nb --unset translate"), "connection nb (translate) changed");
    assert!(done(&agent, "connection show shanghai").contains("vpnhub.toml line 8\n[connection.shanghai]"));
    let listed = agent.json(&["customer-gateway", "list"]).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["origin"]), (&json!("nb"), &json!("store")));
    assert_eq!((&listed[1]["origin"], &listed[1]["line"]), (&json!("file"), &json!(5)));
    done(&agent, "connection down nb");

    let before = shown(&agent);
    assert!(before.contains("# store\n[connection.nb]") && before.contains("enabled = false"), "{before}");
    let agent = restart(&world, agent);
    assert_eq!(shown(&agent), before);
    assert!(attached());

    let sentence = refused(&agent, "connection delete nb");
    assert!(sentence.contains("route to 10.10.30.0/24 via nb would no longer be in force"), "{sentence}");
    done(&agent, "route delete 10.10.30.0/24");
    assert_eq!(done(&agent, "connection delete nb"), "connection nb removed");
    assert_eq!(done(&agent, "customer-gateway delete nb"), "customer gateway nb removed");
    assert!(!attached());
    assert_eq!(fs::read_to_string(agent.config()).unwrap(), CONFIG);
    agent.stop().unwrap();
}

#[test]
fn stored_objects_in_conflict_are_set_aside_and_restored() {
    let world = world();
    let agent = start(&world);
    done(&agent, "customer-gateway add nb --address 198.51.100.30");
    assert_eq!(with_input(&agent, &["connection", "add", "nb", "--from", "-"], NINGBO).0, Some(0));
    done(&agent, "route add 10.10.30.0/24 --next-hop nb");
    let all = routes(&agent);
    let edited = CONFIG.replace("max_connections = 3", "max_connections = 1");
    fs::write(agent.config(), &edited).unwrap();
    let answer = agent.json(&["reload"]).unwrap();
    assert!(answer["warnings"].to_string().contains("set aside: connection nb: 2 connections"), "{answer}");
    let check = |agent: &Agent| {
        let status = agent.status().unwrap();
        let set_aside = status["set_aside"].as_array().unwrap();
        let names: Vec<_> = set_aside.iter().map(|found| (found["kind"].clone(), found["name"].clone())).collect();
        assert_eq!(names, [(json!("connection"), json!("nb")), (json!("route"), json!("10.10.30.0/24 nb"))]);
        assert!(set_aside[0]["reason"].as_str().unwrap().contains("max_connections allows 1"), "{set_aside:?}");
        assert!(done(agent, "status").contains("set aside: connection nb: 2 connections"));
        assert_eq!(routes(agent), ["10.10.10.0/24 shanghai"]);
        assert!(done(agent, "connection show nb").contains("set aside"));
        shown(agent);
    };
    check(&agent);
    // It does not prevent an agent from starting.
    let agent = restart(&world, agent);
    check(&agent);
    fs::write(agent.config(), CONFIG).unwrap();
    done(&agent, "reload");
    assert_eq!(agent.status().unwrap()["set_aside"], json!([]));
    assert_eq!(routes(&agent), all);
    agent.stop().unwrap();
}

#[test]
fn changes_are_audited_and_restored_from_backup() {
    let world = world();
    let agent = start(&world);
    done(&agent, "route add 10.10.12.0/24 --next-hop shanghai --weight 7");
    done(&agent, "route set 10.10.12.0/24 --weight 8");
    done(&agent, "connection down shanghai");
    let backup = agent.config().with_file_name("backup");
    let command = format!("store backup {}", backup.display());
    done(&agent, &command);
    assert!(refused(&agent, &command).contains("File exists"));
    done(&agent, "route delete 10.10.12.0/24");
    let log = agent.json(&["store", "audit"]).unwrap();
    let entries: Vec<_> = log
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (&entry["uid"], &entry["action"], &entry["before"], &entry["after"]))
        .collect();
    let keys = |weight| json!({ "weight": weight, "publish": false });
    assert_eq!(
        entries,
        [
            (&json!(0), &json!("route add"), &Value::Null, &keys(7)),
            (&json!(0), &json!("route set"), &keys(7), &keys(8)),
            (&json!(0), &json!("connection down"), &json!("up"), &json!("down")),
            (&json!(0), &json!("route delete"), &keys(8), &Value::Null),
        ]
    );
    assert_eq!(log[3]["object"], "route to 10.10.12.0/24 via shanghai");
    let scratch = agent.stop_with(Signal::SIGTERM).unwrap();

    // Restored without an agent.
    let instance = world[HUB].instance();
    let (state, other) = (scratch.file("state"), scratch.file("other-backup"));
    let offline = Command::new(agent_binary())
        .args(["--socket", "/nowhere", "store", "backup"])
        .arg(&other)
        .arg("--state")
        .arg(&state)
        .args(["--instance", &instance])
        .output()
        .unwrap();
    assert!(offline.status.success(), "{offline:?}");
    fs::copy(&backup, state.join(&instance).join("store.redb")).unwrap();
    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
    assert_eq!(routes(&agent).len(), 2);
    assert_eq!(agent.status().unwrap()["connections"][0]["state"], "admin_down");
    agent.stop().unwrap();
}

#[test]
fn included_files_are_read_in_name_order() {
    let world = world();
    let scratch = Scratch::new().unwrap();
    fs::create_dir(scratch.file("routes.d")).unwrap();
    let route = |n| format!("[[route]]\ndestination = \"10.10.{n}.0/24\"\nnext_hop = \"shanghai\"\n");
    fs::write(scratch.file("routes.d/20.toml"), route(12)).unwrap();
    fs::write(scratch.file("routes.d/10.toml"), route(11)).unwrap();
    fs::write(scratch.file("routes.d/.hidden.toml"), "x").unwrap();
    fs::write(scratch.file("vpnhub.toml"), format!("include = [\"routes.d/*.toml\"]\n{CONFIG}")).unwrap();
    let agent = AgentCommand::new(agent_binary()).start_in(&world[HUB], scratch).unwrap();
    assert_eq!(routes(&agent), ["10.10.10.0/24 shanghai", "10.10.11.0/24 shanghai", "10.10.12.0/24 shanghai"]);
    assert!(refused(&agent, "route delete 10.10.12.0/24").contains("routes.d/20.toml line 1"));
    fs::write(agent.config().with_file_name("routes.d/30.toml"), route(13)).unwrap();
    assert!(done(&agent, "reload").contains("route to 10.10.13.0/24 via shanghai added"));
    fs::write(agent.config().with_file_name("routes.d/30.toml"), "x = 1\n").unwrap();
    assert!(refused(&agent, "reload").contains("routes.d/30.toml:1:1: error: unknown key \"x\""));
    agent.stop().unwrap();
}
