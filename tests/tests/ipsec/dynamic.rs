//! Sites on addresses that change, or that several of them share.

use std::net::{IpAddr, Ipv4Addr};

use hub_tests::lab::{
    Esp, HANGZHOU, HUB_PUBLIC, HubConfig, INTERNET, IpsecLab, IpsecOptions, NINGBO, SHANGHAI, Site, Status,
};

use crate::cases::assert_all_reach;
use crate::{Case, Needs};

pub const CASES: &[Case] = &[
    (Needs::StrongSwan, "dynamic::sites_behind_one_address_are_told_apart_by_identity", || {
        behind_one_address(&SHANGHAI.public4().to_string());
    }),
    (Needs::StrongSwan, "dynamic::sites_with_any_address_are_told_apart_by_identity", || behind_one_address("any")),
    (Needs::StrongSwan, "dynamic::site_with_any_address_moves_and_connects_again", any_moves),
    (Needs::StrongSwan, "dynamic::site_with_a_dns_name_is_followed_while_up_and_while_down", name_is_followed),
    (Needs::StrongSwan, "dynamic::any_site_with_another_identity_is_refused_with_that_reason", other_identity),
];

/// Its identity, and its name in the DNS.
fn name(site: &Site) -> String {
    format!("{}.example.net", site.place)
}

/// The customer gateway's address in the hub's file, with an identity of its own.
pub fn at(mut config: HubConfig, site: &Site, address: &str) -> HubConfig {
    let ipsec = config.connection(&site.place).ipsec.as_mut().unwrap();
    address.clone_into(&mut ipsec.site);
    ipsec.remote_id = Some(name(site));
    config
}

fn behind_one_address(address: &str) {
    let options = IpsecOptions::new(Esp::Userspace).behind_nat(&SHANGHAI).behind_nat(&HANGZHOU);
    let lab = IpsecLab::start(&options, |config| at(at(config, &SHANGHAI, address), &HANGZHOU, address)).unwrap();
    assert_all_reach(&lab);
    let sas = lab.hub.swanctl(&["--list-sas"]).unwrap();
    for site in [SHANGHAI, HANGZHOU] {
        let remote = format!("remote '{}' @ {}[", name(&site), SHANGHAI.public4());
        assert!(sas.contains(&remote), "{remote} in\n{sas}");
    }
    lab.stop().unwrap();
}

/// Kills the site's charon, gives the site this address instead of its own, and starts charon again.
fn move_site(lab: &mut IpsecLab, site: &Site, address: Ipv4Addr) {
    let office = lab.offices.iter_mut().find(|office| office.site == *site).unwrap();
    office.charon.kill().unwrap();
    let router = Ipv4Addr::from(u32::from(site.public4()) ^ 1);
    let place = office.charon.place();
    place.ip("addr flush dev pub0 scope global").unwrap();
    place.ip(&format!("addr add {address}/32 dev pub0")).unwrap();
    place.ip(&format!("route replace {HUB_PUBLIC} via {router} dev pub0 onlink src {address}")).unwrap();
    place.ip(&format!("route replace default via {HUB_PUBLIC} dev pub0 onlink src {}", site.host4())).unwrap();
    lab.world[INTERNET].ip(&format!("route replace {address}/32 dev to-{}", site.place)).unwrap();
    office.charon.start_again().unwrap();
    office.charon.wait_until_ready().unwrap();
}

/// Waits until all connections are up, and the site's tunnel ends at this address.
fn wait_until_up_at(lab: &IpsecLab, site: &Site, address: Ipv4Addr) {
    let remote = format!("remote '{}' @ {address}[", name(site));
    let is_there = |status: &Status| {
        let mut connections = status["connections"].as_array().into_iter().flatten();
        connections.all(|connection| connection["state"] == "up")
            && lab.hub.swanctl(&["--list-sas"]).is_ok_and(|sas| sas.contains(&remote))
    };
    lab.wait_for_status(is_there).unwrap();
}

fn any_moves() {
    let options = IpsecOptions::new(Esp::Userspace).sites([SHANGHAI, NINGBO]);
    let mut lab = IpsecLab::start(&options, |config| at(config, &NINGBO, "any")).unwrap();
    assert_all_reach(&lab);
    let said = lab.agent.cli(&["connection", "renegotiate", "ningbo"]).unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains("nothing to negotiate"), "{said:?}");

    let elsewhere = Ipv4Addr::new(198, 51, 100, 130);
    move_site(&mut lab, &NINGBO, elsewhere);
    lab.office("ningbo").configure(&lab.agent).unwrap();
    wait_until_up_at(&lab, &NINGBO, elsewhere);
    assert_all_reach(&lab);

    lab.office("ningbo").terminate().unwrap();
    lab.wait_for_status(|status| status.connection("ningbo")["state"] == "down").unwrap();
    let said = lab.agent.cli(&["connection", "renegotiate", "ningbo"]).unwrap();
    let error = String::from_utf8_lossy(&said.stderr);
    assert!(error.contains("only the site can begin: the customer gateway has the address \"any\""), "{error}");
    lab.stop().unwrap();
}

/// Loads the hub's configuration for the site, which begins nothing.
fn load_waiting(lab: &IpsecLab, site: &Site) {
    let office = lab.office(&site.place);
    let text = office.peer_config(&lab.agent, "swanctl", &["--with-secret"]).unwrap();
    office.charon.load(&site.place, &text.replace("start_action = trap", "start_action = none")).unwrap();
}

fn name_is_followed() {
    let options = IpsecOptions::new(Esp::Userspace).sites([SHANGHAI, HANGZHOU]).hub_begins().impatient().own_names();
    let name = name(&SHANGHAI);
    let mut lab = IpsecLab::prepare(&options, |mut config| {
        // The name is the default identity.
        config.connection("shanghai").ipsec.as_mut().unwrap().site.clone_from(&name);
        config
    })
    .unwrap();
    for site in [SHANGHAI, HANGZHOU] {
        load_waiting(&lab, &site);
    }
    let unresolved = format!("IPsec: the name {name} cannot be resolved: check");
    let is_unresolved = |status: &Status| {
        status.connection("shanghai")["state_reason"].as_str().is_some_and(|reason| reason.starts_with(&unresolved))
    };
    lab.wait_for_status(is_unresolved).unwrap();

    let resolve = |lab: &IpsecLab, address: Ipv4Addr| lab.hub.set_names(&[(&name, IpAddr::from(address))]).unwrap();
    resolve(&lab, SHANGHAI.public4());
    wait_until_up_at(&lab, &SHANGHAI, SHANGHAI.public4());
    assert_all_reach(&lab);

    // While it is up: the hub detects a dead peer, and finds it at its new address.
    let second = Ipv4Addr::new(198, 51, 100, 120);
    resolve(&lab, second);
    move_site(&mut lab, &SHANGHAI, second);
    load_waiting(&lab, &SHANGHAI);
    wait_until_up_at(&lab, &SHANGHAI, second);
    assert_all_reach(&lab);

    // While it is down: its name follows later.
    let third = Ipv4Addr::new(198, 51, 100, 122);
    move_site(&mut lab, &SHANGHAI, third);
    load_waiting(&lab, &SHANGHAI);
    lab.wait_for_status(|status| status.connection("shanghai")["state"] == "down").unwrap();
    resolve(&lab, third);
    wait_until_up_at(&lab, &SHANGHAI, third);
    assert_all_reach(&lab);
    lab.stop().unwrap();
}

fn other_identity() {
    let options = IpsecOptions::new(Esp::Userspace).sites([SHANGHAI]);
    let lab = IpsecLab::prepare(&options, |config| at(config, &SHANGHAI, "any")).unwrap();
    let office = lab.office("shanghai");
    let text = office.peer_config(&lab.agent, "swanctl", &["--with-secret"]).unwrap();
    office.charon.load("shanghai", &text.replace(&name(&SHANGHAI), "branch.example.net")).unwrap();
    let reason = format!(
        "IPsec: the site has not initiated yet (start = \"none\"); {} has tried to connect with the identity \
         \"branch.example.net\": if it is this site, compare remote_id with it",
        SHANGHAI.public4()
    );
    let is_it = |status: &Status| status.connection("shanghai")["state_reason"].as_str() == Some(&*reason);
    lab.wait_for_status(is_it).unwrap();

    // With the right identity it is accepted.
    office.configure(&lab.agent).unwrap();
    lab.wait_until_up().unwrap();
    lab.stop().unwrap();
}
