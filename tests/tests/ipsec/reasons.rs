//! Why a tunnel does not come up, as `status` tells it, for faults that charon reports before or beyond a connection.

use hub_tests::lab::{Esp, HUB, HUB_PUBLIC, HubConfig, IpsecLab, IpsecOptions, SHANGHAI, Status, agent_binary};
use rcgen::date_time_ymd;
use serde_json::Value;

use crate::cases::spis;
use crate::certificates::{Authority, Files, configure, hub_pair};
use crate::mending::{command, reload};
use crate::{Case, Needs};

pub const CASES: &[Case] = &[
    (Needs::StrongSwan, "reasons::refused_key_is_a_problem_of_its_connection_until_it_loads", refused_key),
    (Needs::StrongSwan, "reasons::expired_certificate_of_a_site_is_named_as_such", expired_certificate),
    (Needs::StrongSwan, "reasons::ikev1_secret_that_does_not_decrypt_is_a_wrong_secret", undecryptable),
    (Needs::StrongSwan, "reasons::site_that_connects_from_another_address_is_named", other_address),
    (Needs::StrongSwan, "reasons::site_with_another_identity_is_refused_with_that_reason", other_identity),
    (Needs::StrongSwan, "reasons::other_proposals_have_the_cloud_product_s_code", other_proposals),
    (Needs::StrongSwan, "reasons::renewed_secret_is_named_by_reload", renewed_secret),
    (Needs::StrongSwan, "reasons::renewed_certificate_interrupts_nothing_and_is_used_next", renewed_certificate),
];

/// What `openssl ecparam -genkey -name prime256v1` writes before the key.
const PARAMETERS: &str = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
const NO_KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

fn prepare(options: IpsecOptions, change: impl FnOnce(HubConfig) -> HubConfig) -> IpsecLab {
    IpsecLab::prepare(&options.sites([SHANGHAI]), change).unwrap()
}

fn waiting() -> IpsecOptions {
    IpsecOptions::new(Esp::Userspace)
}

/// Waits until the reason of its state begins like this.
fn wait_for_reason(lab: &IpsecLab, start: &str) -> Status {
    let is = |status: &Status| {
        let reason = status.connection("shanghai")["state_reason"].as_str().unwrap_or_default();
        reason.starts_with(start)
    };
    lab.wait_for_status(is).unwrap()
}

fn refused_key() {
    let authority = Authority::new("Authority");
    let hub = hub_pair(&authority);
    let files = Files::new(&hub, &[("ca.crt", &authority)]);
    files.write("hub.key", NO_KEY, 0o600);
    let lab = prepare(waiting(), |config| files.configure(config, "ca.crt"));
    let pair = authority.issue("Site", SHANGHAI.public4().into(), None);
    configure(&lab, "shanghai", &pair, &authority);
    let status = wait_for_reason(&lab, "strongSwan refuses the private key /");
    let reason = status.connection("shanghai")["state_reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("hub.key: ") && reason.contains("and run `vpnhub reload`"), "{reason}");

    // As older versions of openssl write it.
    files.write("hub.key", &format!("{PARAMETERS}{}", hub.key), 0o600);
    let said = command(&lab, &["reload"]);
    assert_eq!(said, "reloaded: the configuration is the same; secrets or certificates renewed: shanghai\n");
    drop(lab.office("shanghai").initiate());
    let status = lab.wait_until_up().unwrap();
    let problems = status.connection("shanghai")["ipsec"]["problems"].as_array().unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    let (code, diagnosis) = diagnose(&lab);
    assert_eq!((code, &diagnosis["errors"]), (Some(0), &0.into()), "{diagnosis:#}");
    lab.stop().unwrap();
}

fn expired_certificate() {
    let authority = Authority::new("Authority");
    let files = Files::new(&hub_pair(&authority), &[("ca.crt", &authority)]);
    let lab = prepare(waiting(), |config| files.configure(config, "ca.crt"));
    let pair = authority.issue_for("Site", SHANGHAI.public4().into(), None, |params| {
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2020, 1, 2));
    });
    configure(&lab, "shanghai", &pair, &authority);
    drop(lab.office("shanghai").initiate());
    wait_for_reason(&lab, "IPsec: a certificate of the site, or of its CA, is expired or not yet valid");
    lab.stop().unwrap();
}

fn undecryptable() {
    // Each end may begin: the other one cannot decrypt.
    for options in [waiting(), waiting().hub_begins().impatient()] {
        let lab = prepare(options, |config| config);
        let ipsec = "[connection.shanghai.ipsec]\n";
        reload(&lab, |text| text.replace(ipsec, &format!("{ipsec}allow_weak = true\nike = {{ version = 1 }}\n")));
        let office = lab.office("shanghai");
        let text = office.peer_config(&lab.agent, "swanctl", &["--with-secret"]).unwrap();
        let text = text.replace("secret = ", "secret = another-").replace("secret = another-\"", "secret = \"another-");
        let text = text.replace("start_action = trap", "start_action = none");
        office.charon.load("shanghai", &text).unwrap();
        wait_for_reason(&lab, "IPsec: wrong secret: hub and site have different secrets");
        lab.stop().unwrap();
    }
}

fn other_address() {
    let lab = prepare(waiting(), |mut config| {
        let ipsec = config.connection("shanghai").ipsec.as_mut().unwrap();
        "203.0.113.200".clone_into(&mut ipsec.site);
        config
    });
    lab.office("shanghai").configure(&lab.agent).unwrap();
    let hint = format!(
        "{}, which no customer gateway has, has tried to connect: if it is this site, replace 203.0.113.200 by it",
        SHANGHAI.public4()
    );
    let told = |status: &Status| {
        let reason = status.connection("shanghai")["state_reason"].as_str().unwrap_or_default();
        reason.ends_with(&hint)
    };
    lab.wait_for_status(told).unwrap();
    lab.stop().unwrap();
}

fn other_identity() {
    let lab = prepare(waiting(), |mut config| {
        let ipsec = config.connection("shanghai").ipsec.as_mut().unwrap();
        ipsec.remote_id = Some("site.example.com".to_owned());
        config
    });
    let office = lab.office("shanghai");
    let text = office.peer_config(&lab.agent, "swanctl", &["--with-secret"]).unwrap();
    office.charon.load("shanghai", &text.replace("site.example.com", "branch.example.com")).unwrap();
    let status = wait_for_reason(&lab, "IPsec: the site has another identity");
    assert_eq!(status.connection("shanghai")["ipsec"]["fault_code"], "identity");
    let found = tunnel_finding(&lab);
    assert_eq!(found["cloud_code"], "PeerMismatch", "{found}");
    assert_eq!(found["action"], "compare remote_id with the site's");
    lab.stop().unwrap();
}

/// Exit code and findings of `vpnhub diagnose shanghai`, run at the hub.
pub fn diagnose(lab: &IpsecLab) -> (Option<i32>, Value) {
    let socket = lab.agent.socket();
    let arguments = ["--socket", socket.to_str().unwrap(), "--output", "json", "diagnose", "shanghai"];
    let output = lab.world[HUB].command(agent_binary()).args(arguments).output().unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}")))
}

/// What it finds out about the tunnel.
fn tunnel_finding(lab: &IpsecLab) -> Value {
    let (code, diagnosis) = diagnose(lab);
    assert_eq!(code, Some(1), "{diagnosis:#}");
    let first = diagnosis["findings"][0].clone();
    assert_eq!((&first["code"], &first["severity"]), (&"tunnel_down".into(), &"error".into()), "{diagnosis:#}");
    first
}

fn other_proposals() {
    for (key, reason, code) in [
        ("proposals = ", "IPsec: no IKE proposal in common", "ike_proposal"),
        ("esp_proposals = ", "IPsec: no ESP proposal in common", "esp_proposal"),
    ] {
        let lab = prepare(waiting(), |config| config);
        let office = lab.office("shanghai");
        let text = office.peer_config(&lab.agent, "swanctl", &["--with-secret"]).unwrap();
        let changed = |line: &str| match line.trim_start().starts_with(key) {
            true => format!("{key}aes128-sha256-modp2048\n"),
            false => format!("{line}\n"),
        };
        office.charon.load("shanghai", &text.lines().map(changed).collect::<String>()).unwrap();
        drop(office.initiate());
        let status = wait_for_reason(&lab, reason);
        assert_eq!(status.connection("shanghai")["ipsec"]["fault_code"], code);
        let found = tunnel_finding(&lab);
        assert_eq!(found["cloud_code"], "AlgorithmMismatch", "{found}");
        lab.stop().unwrap();
    }
}

fn renewed_secret() {
    let lab = prepare(waiting().hub_begins(), |config| config);
    let office = lab.office("shanghai");
    office.configure(&lab.agent).unwrap();
    let before = lab.wait_until_up().unwrap();
    assert_eq!(command(&lab, &["reload"]), "reloaded: nothing has changed\n");
    std::fs::write(lab.folder().join("shanghai.psk"), "another-secret-0123456789").unwrap();
    let said = command(&lab, &["reload"]);
    assert_eq!(said, "reloaded: the configuration is the same; secrets or certificates renewed: shanghai\n");
    assert_eq!(command(&lab, &["reload"]), "reloaded: nothing has changed\n");
    // The SAs stay as they are until the next negotiation.
    let after = lab.agent.status().unwrap();
    assert_eq!(after.since(&before, "shanghai", "state_changes"), 0);
    assert_eq!(spis(&before, "shanghai"), spis(&after, "shanghai"));
    lab.stop().unwrap();
}

fn renewed_certificate() {
    let authority = Authority::new("Authority");
    let files = Files::new(&hub_pair(&authority), &[("ca.crt", &authority)]);
    let lab = prepare(waiting().hub_begins(), |config| files.configure(config, "ca.crt"));
    configure(&lab, "shanghai", &authority.issue("Site", SHANGHAI.public4().into(), None), &authority);
    let before = lab.wait_until_up().unwrap();

    let renewed = authority.issue("Renewed", HUB_PUBLIC.into(), None);
    files.write("hub.crt", &renewed.certificate, 0o644);
    files.write("hub.key", &renewed.key, 0o600);
    let said = command(&lab, &["reload"]);
    assert_eq!(said, "reloaded: the configuration is the same; secrets or certificates renewed: shanghai\n");
    let after = lab.agent.status().unwrap();
    assert_eq!(after.since(&before, "shanghai", "state_changes"), 0);
    assert_eq!(spis(&before, "shanghai"), spis(&after, "shanghai"));

    // The next negotiation has the new one.
    let site = &lab.office("shanghai").charon;
    let received = "received end entity cert \"O=Example, CN=Renewed\"";
    assert!(!site.log().contains(received));
    site.swanctl(&["--terminate", "--ike", "shanghai"]).unwrap();
    let is_new = |status: &Status| {
        let new = spis(status, "shanghai");
        site.log().contains(received) && new.len() == 1 && new != spis(&before, "shanghai")
    };
    lab.wait_for_status(is_new).unwrap();
    lab.stop().unwrap();
}
