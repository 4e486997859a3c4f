//! Changes of the agent's routes, neighbours and settings by other processes.

use hub_tests::lab::{HUB, HubConfig, Namespace, SHANGHAI, retry};

use crate::{SITES, WAIT, warm_hub};

/// Waits until a command shows a text. It takes far less than the minute until the periodic audit.
fn shows(hub: &Namespace, command: &str, text: &str) {
    retry(&format!("`ip {command}` does not show {text:?}"), || Ok(hub.ip(command)?.contains(text).then_some(())))
        .unwrap();
}

#[test]
fn routes_deleted_by_another_process_are_restored() {
    let rig = warm_hub(&HubConfig::offices(&SITES));
    let hub = &rig.world[HUB];
    let kinds = ["route show proto 118", "route show proto 119", "-6 route show proto 118", "-6 route show proto 119"];
    let before = kinds.map(|kind| hub.ip(kind).unwrap());
    assert!(!rig.agent.log().contains("another process"), "{}", rig.agent.log());
    for command in
        ["route flush proto 118", "route flush proto 119", "-6 route flush proto 118", "-6 route flush proto 119"]
    {
        hub.ip(command).unwrap();
    }
    for (kind, before) in kinds.iter().zip(&before) {
        retry(&format!("`ip {kind}` has not all routes"), || Ok((hub.ip(kind)? == *before).then_some(()))).unwrap();
    }
    let log = rig.agent.log();
    assert!(log.contains("another process changed or removed routes of the agent"), "{log}");
    rig.stop().unwrap();
}

#[test]
fn neighbour_deleted_or_fixed_by_another_process_is_restored_or_shown() {
    let rig = warm_hub(&HubConfig::offices(&SITES));
    let hub = &rig.world[HUB];
    let (peer, device) = (SHANGHAI.peer4(0), SHANGHAI.hub_device(0));
    let entry = format!("neigh show {peer} dev {device}");
    shows(hub, &entry, "managed");
    hub.ip(&format!("neigh del {peer} dev {device}")).unwrap();
    shows(hub, &entry, "managed");
    // No longer managed.
    hub.ip(&format!("neigh replace {peer} lladdr 02:00:00:00:00:09 nud reachable dev {device}")).unwrap();
    shows(hub, &entry, "managed");
    rig.stop().unwrap();
}

#[test]
fn published_route_replaced_by_another_process_is_not_shown_as_published() {
    let rig = warm_hub(&HubConfig::offices(&SITES));
    let hub = &rig.world[HUB];
    let network = SHANGHAI.network4();
    let problem = |status: &hub_tests::lab::Status| {
        let routes = status["routes"].as_array().unwrap();
        let route = routes.iter().find(|route| route["destination"] == network.to_string()).unwrap();
        route["problem"].as_str().map(str::to_owned)
    };
    assert_eq!(problem(&rig.agent.status().unwrap()), None);
    hub.ip(&format!("route replace {network} dev vpc0 metric 1180 proto static")).unwrap();
    let status = rig.agent.wait_for_status(WAIT, |status| problem(status).is_some());
    let reason = problem(&status.unwrap()).unwrap();
    assert!(reason.contains("another process"), "{reason}");
    let table = String::from_utf8(rig.agent.cli(&["route", "list"]).unwrap().stdout).unwrap();
    let line = table.lines().find(|line| line.contains(&network.to_string())).unwrap();
    assert!(line.contains("failed") && table.contains(&format!("{network}: {reason}")), "{table}");
    // It is left alone until its owner removes it.
    hub.ip(&format!("route del {network} dev vpc0 metric 1180 proto static")).unwrap();
    rig.agent.wait_for_status(WAIT, |status| problem(status).is_none()).unwrap();
    shows(hub, "route show proto 118", &network.to_string());
    rig.stop().unwrap();
}

#[test]
fn sysctl_changed_by_another_process_is_restored() {
    let rig = warm_hub(&HubConfig::offices(&SITES));
    let hub = &rig.world[HUB];
    let device = SHANGHAI.hub_device(0);
    let settings = [
        (format!("ipv6/conf/{device}/accept_ra"), "2", "0"),
        (format!("ipv4/conf/{device}/accept_redirects"), "1", "0"),
        ("ipv4/fwmark_reflect".to_owned(), "0", "1"),
    ];
    for (setting, other, own) in &settings {
        assert_eq!(hub.read_sysctl(setting).unwrap().trim(), *own, "{setting}");
        hub.sysctl(&[(setting, other)]).unwrap();
        retry(&format!("{setting} stays {other}"), || Ok((hub.read_sysctl(setting)?.trim() == *own).then_some(())))
            .unwrap();
    }
    rig.stop().unwrap();
}
