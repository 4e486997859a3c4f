//! A connection that gets IPsec while the agent runs, on a host without strongSwan, and its site's configuration.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use hub_tests::lab::{HubConfig, Options, Rig, SHANGHAI};

use crate::{SITES, stderr, stdout};

const SECRET: &str = "a-secret-for-the-test-0123456789";

#[test]
fn reload_adds_ipsec_and_peer_config_hides_secret() {
    let config = HubConfig::offices(&SITES);
    let rig = Rig::start(&Options::default(), &config).unwrap();
    let file = rig.agent.config();
    let secret = file.with_file_name("shanghai.psk");
    fs::write(&secret, SECRET).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let gateway = "[gateway]\naddress = \"203.0.113.1\"\nvici_socket = \"/nowhere/charon.vici\"\n";
    let ipsec = format!("[connection.{}.ipsec]\npsk_file = \"{}\"\n", SHANGHAI.place, secret.display());
    fs::write(&file, config.to_string().replace("[gateway]\n", gateway) + &ipsec).unwrap();
    let reloaded = rig.agent.cli(&["reload"]).unwrap();
    assert!(stdout(&reloaded).contains("connection shanghai (ipsec) changed"), "{reloaded:?}");

    // No daemon answers: that is the reason, and the other connections are unchanged.
    let why = "strongSwan does not answer on /nowhere/charon.vici: start it";
    let has_reason = |connection: &serde_json::Value| match connection["name"].as_str() {
        Some("shanghai") => {
            connection["state"] == "down"
                && connection["state_reason"].as_str().is_some_and(|reason| reason.contains(why))
        }
        _ => connection["state"] == "up" && connection["ipsec"].is_null(),
    };
    let patience = Duration::from_secs(20);
    let all_have_reasons =
        |status: &serde_json::Value| status["connections"].as_array().unwrap().iter().all(has_reason);
    let status = rig.agent.wait_for_status(patience, |status| all_have_reasons(status)).unwrap();
    assert_eq!(status["connections"].as_array().unwrap().len(), 3);

    // The site's configuration: the agent and the file give the same.
    let path = file.to_str().unwrap();
    let peer_config = |args: &[&str]| {
        let output = rig.agent.cli(&[&["peer-config", "shanghai", "--format", "swanctl"], args].concat()).unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let without = peer_config(&[]);
    assert!(without.contains("remote_addrs = 203.0.113.1\n") && !without.contains(SECRET), "{without}");
    assert_eq!(without, peer_config(&["--config", path]));
    let with = peer_config(&["--with-secret"]);
    assert_eq!(with, without.replace("<PRE-SHARED-KEY>", SECRET));
    assert_eq!(with, peer_config(&["--with-secret", "--config", path]));
    let refused = rig.agent.cli(&["peer-config", "beijing", "--format", "json"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).starts_with("vpnhub: there is no connection \"beijing\"; help: "), "{refused:?}");

    // A secret that others may read is rejected, and the active configuration is unchanged.
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = rig.agent.cli(&["reload"]).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("chmod 600"), "{refused:?}");

    // Without IPsec it is up again.
    fs::write(&file, config.to_string()).unwrap();
    assert!(rig.agent.cli(&["reload"]).unwrap().status.success());
    rig.agent
        .wait_for_status(patience, |status| {
            status["connections"].as_array().unwrap().iter().all(|c| c["state"] == "up")
        })
        .unwrap();
    assert!(!rig.agent.log().contains(SECRET));
    rig.stop().unwrap();
}
