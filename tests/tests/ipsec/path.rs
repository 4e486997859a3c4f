//! A router on the path to a site that carries less than the hub's link: the kernel learns it, and `diagnose` tells it.

use std::time::Duration;

use hub_tests::lab::{
    Esp, HUB, HubConfig, INTERNET, IpsecLab, IpsecOptions, Ping, SHANGHAI, agent_binary, retry_within,
};
use serde_json::Value;

use crate::{Case, Needs};

pub const CASES: &[Case] = &[
    (Needs::StrongSwan, "userspace::path::smaller_mtu_of_a_router_is_found_with_its_remedy", || {
        smaller(Esp::Userspace);
    }),
    (Needs::KernelEsp, "kernel::path::smaller_mtu_of_a_router_is_found_with_its_remedy", || smaller(Esp::Kernel)),
];

/// Time limit in a slow virtual machine; it passes in full only on failure.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the router's link carries.
const ROUTER: u32 = 1400;
/// The link's own MTU is 1500: 28 bytes are headers.
const LARGE: usize = 1500 - 28;

/// What `diagnose` says of the path to the site.
fn path(lab: &IpsecLab) -> Value {
    let socket = lab.agent.socket();
    let arguments = ["--socket", socket.to_str().unwrap(), "--output", "json", "diagnose", "shanghai"];
    let output = lab.world[HUB].command(agent_binary()).args(arguments).output().unwrap();
    let diagnosis: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let mut findings = diagnosis["findings"].as_array().unwrap().iter();
    let found = findings.find(|finding| finding["code"] == "path_mtu");
    found.unwrap_or_else(|| panic!("no path_mtu in {diagnosis:#}")).clone()
}

/// The interface of the tunnel.
fn interface(lab: &IpsecLab) -> String {
    let status = lab.wait_until_up().unwrap();
    status.connection("shanghai")["interface"].as_str().unwrap().to_owned()
}

/// The tunnel's packets of 1400 bytes do not fit 1400 bytes with ESP.
fn smaller(esp: Esp) {
    let lab = IpsecLab::start(&IpsecOptions::new(esp).sites([SHANGHAI]), |config: HubConfig| config).unwrap();
    let site = SHANGHAI.public4();
    let found = path(&lab);
    let message = format!("no router on the path to {site} has reported an MTU below 1500, that of wan0");
    assert_eq!((&found["severity"], &found["message"]), (&"ok".into(), &message.into()));

    lab.world[INTERNET].ip(&format!("link set to-shanghai mtu {ROUTER}")).unwrap();
    let tunnel = interface(&lab);
    lab.world[HUB].ip(&format!("link set {tunnel} mtu 1400")).unwrap();
    let warned = retry_within(PATIENCE, "no smaller MTU is known", || {
        // The router answers it with "fragmentation needed". Once the hub's kernel knows, it refuses to send.
        drop(
            Ping::new(site.into()).size(LARGE).dont_fragment().timeout(Duration::from_millis(300)).run(&lab.world[HUB]),
        );
        let found = path(&lab);
        Ok((found["severity"] == "warning").then_some(found))
    });
    let warned = warned.unwrap();
    let message = warned["message"].as_str().unwrap();
    let start = format!("the path to {site} carries packets of {ROUTER} bytes, wan0 itself 1500: ");
    assert!(message.starts_with(&start), "{message}");
    let fits: u32 = message[start.len()..].split(' ').next().unwrap().parse().unwrap();
    assert!((1280..ROUTER).contains(&fits), "{message}");
    let action = warned["action"].as_str().unwrap();
    let remedy = match esp {
        Esp::Userspace => format!("`ip link set {tunnel} mtu {fits}`; "),
        Esp::Kernel => format!("write interface_mtu = {fits} in the ipsec section of shanghai; "),
    };
    assert!(action.starts_with(&remedy), "{action}");

    // With that MTU all packets fit.
    lab.world[HUB].ip(&format!("link set {tunnel} mtu {fits}")).unwrap();
    assert_eq!(path(&lab)["severity"], "ok");
    lab.world[HUB].ip(&format!("link set {tunnel} mtu {}", fits + 1)).unwrap();
    assert_eq!(path(&lab)["severity"], "warning");
    lab.stop().unwrap();
}
