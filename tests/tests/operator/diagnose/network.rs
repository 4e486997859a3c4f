//! What `diagnose` finds about interfaces and paths: each situation is made, and ended by the remedy.

use std::time::Duration;

use hub_tests::lab::{HUB, HubConfig, Options, Ping, Rig, SHANGHAI, Site, Status, retry};
use serde_json::Value;

use super::{OF_LAB, diagnose, faults, finding, rig};
use crate::SITES;

/// The kernel counts a redirect to a veth whose other end has no NAPI as sent, and drops it.
#[test]
fn veth_whose_other_end_takes_no_frames_loses_packets_and_is_an_error() {
    let rig = rig(&HubConfig::offices(&SITES));
    let (device, far) = (SHANGHAI.hub_device(0), Site::device(0));
    assert_eq!(finding(&diagnose(&rig, &[]), "redirect_target", &device)["severity"], "ok");
    let from = &rig.world["hangzhou"];
    let ping = || Ping::new(SHANGHAI.host4().into()).timeout(Duration::from_millis(200)).run(from).unwrap().received;
    assert_eq!(ping(), 1);
    rig.world["shanghai"].set_gro(&far, false).unwrap();
    assert_eq!(ping(), 0, "packets that XDP sends to it are lost");
    let found = diagnose(&rig, &[]);
    let mut expected = OF_LAB.to_vec();
    expected.push("error redirect_target tun-sh");
    expected.sort_unstable();
    assert_eq!(faults(&found), expected);
    let found = finding(&found, "redirect_target", &device);
    let message = found["message"].as_str().unwrap();
    assert!(message.starts_with("its other end, in another network namespace, has neither GRO nor"), "{message}");
    assert!(found["action"].as_str().unwrap().starts_with("`ethtool -K PEER gro on`"), "{found}");
    // The remedy.
    rig.world["shanghai"].set_gro(&far, true).unwrap();
    assert_eq!(ping(), 1);
    assert_eq!(finding(&diagnose(&rig, &["shanghai"]), "redirect_target", &device)["severity"], "ok");
    rig.stop().unwrap();
}

#[test]
#[ignore = "needs VLAN interfaces, CONFIG_VLAN_8021Q: `cargo xtask test vlan_tags_that_are_removed -- --ignored`"]
fn vlan_tags_that_are_removed_before_xdp_are_found() {
    let rig = rig(&HubConfig::offices(&SITES));
    let (hub, device) = (&rig.world[HUB], SHANGHAI.hub_device(0));
    hub.set_rx_vlan(&device, true).unwrap();
    assert_eq!(finding(&diagnose(&rig, &[]), "offload", &device)["severity"], "ok", "it has no VLAN interface");
    hub.ip(&format!("link add link {device} name sh-5 type vlan id 5")).unwrap();
    let found = finding(&diagnose(&rig, &[]), "offload", &device);
    assert_eq!(found["severity"], "warning");
    let message = found["message"].as_str().unwrap();
    assert!(message.ends_with("(rx-vlan-offload): packets for sh-5 count as its own"), "{message}");
    hub.set_rx_vlan(&device, false).unwrap();
    assert_eq!(finding(&diagnose(&rig, &[]), "offload", &device)["severity"], "ok");
    rig.stop().unwrap();
}

/// The site answers probes of its first link by its second one.
#[test]
fn replies_to_probes_on_another_interface_are_named_with_it() {
    let mut config = HubConfig::offices(&SITES).second_link(&SHANGHAI, [100, 0]);
    config.connection("shanghai").health_check = true;
    let rig = Rig::start(&Options::default().slow_path(true).second_link("shanghai"), &config).unwrap();
    let up = |status: &Status| status.connection("shanghai")["state"] == "up";
    rig.agent.wait_for_status(Duration::from_secs(20), up).unwrap();
    let second = format!("{}/32 via {} dev {}", SHANGHAI.hub4(0), SHANGHAI.hub4(1), Site::device(1));
    rig.world["shanghai"].ip(&format!("route add {second}")).unwrap();
    let elsewhere = SHANGHAI.hub_device(1);
    // The program drops them: their source is no address of that connection.
    let found = retry("replies on the other link are not found", || {
        let found = diagnose(&rig, &["shanghai"]);
        let is_it = |finding: &&Value| finding["code"] == "asymmetric_replies";
        Ok(found["findings"].as_array().unwrap().iter().find(is_it).cloned())
    })
    .unwrap();
    let message = found["message"].as_str().unwrap();
    let expected = format!(
        "replies of {} to its probes arrive on {elsewhere} (connection shanghai-2) instead of {}, and are dropped there: \
         spoofed_source",
        SHANGHAI.peer4(0),
        SHANGHAI.hub_device(0)
    );
    assert_eq!(message, expected);
    // Without the detour the check passes, and nothing is found.
    rig.world["shanghai"].ip(&format!("route del {second}")).unwrap();
    rig.agent.wait_for_status(Duration::from_secs(20), up).unwrap();
    let found = diagnose(&rig, &["shanghai"]);
    let mut codes = found["findings"].as_array().unwrap().iter().map(|finding| &finding["code"]);
    assert!(codes.all(|code| code != "asymmetric_replies"), "{found:#}");
    rig.stop().unwrap();
}

/// Both links may carry replies of the site's host: the program leaves them to the kernel, and the check of the first
/// link does not hear those of the second one.
#[test]
fn replies_that_the_program_passes_on_another_interface_are_named_with_it() {
    let mut config = HubConfig::offices(&SITES).second_link(&SHANGHAI, [100, 0]);
    let shanghai = config.connection("shanghai");
    shanghai.health_check = true;
    shanghai.health_keys = format!(", destination = \"{}\"", SHANGHAI.host4());
    let rig = Rig::start(&Options::default().slow_path(true).second_link("shanghai"), &config).unwrap();
    let second = format!("{}/32 via {} dev {}", SHANGHAI.hub4(0), SHANGHAI.hub4(1), Site::device(1));
    rig.world["shanghai"].ip(&format!("route add {second}")).unwrap();
    let found = retry("replies on the other link are not found", || {
        let found = diagnose(&rig, &["shanghai"]);
        let is_it = |finding: &&Value| finding["code"] == "asymmetric_replies";
        Ok(found["findings"].as_array().unwrap().iter().find(is_it).cloned())
    })
    .unwrap();
    let message = found["message"].as_str().unwrap();
    let start = format!("replies of {} to its probes arrive on tun-sh2 (connection shanghai-2)", SHANGHAI.host4());
    assert!(message.starts_with(&start), "{message}");
    rig.stop().unwrap();
}

/// A smaller MTU that the kernel has for a destination in the tunnel.
#[test]
fn smaller_link_behind_a_tunnel_is_named_with_the_segment_size() {
    let mut config = HubConfig::offices(&SITES);
    config.connection("shanghai").health_check = true;
    let rig = rig(&config);
    let (hub, device, peer) = (&rig.world[HUB], SHANGHAI.hub_device(0), SHANGHAI.peer4(0));
    hub.ip(&format!("route add {peer}/32 dev {device} mtu 1300")).unwrap();
    let found = finding(&diagnose(&rig, &["shanghai"]), "path_mtu", "shanghai");
    assert_eq!(found["severity"], "warning");
    let message = found["message"].as_str().unwrap();
    let start =
        format!("the path to {peer} in the tunnel carries packets of 1300 bytes, and {device} has an MTU of 1400");
    assert!(message.starts_with(&start), "{message}");
    assert!(found["action"].as_str().unwrap().starts_with("write mss_clamp = 1260 for shanghai"), "{found}");
    rig.stop().unwrap();
}
