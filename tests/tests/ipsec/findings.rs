//! What `diagnose` finds about a connection of a real strongSwan: each situation is made, and ended by the remedy.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hub_tests::lab::{
    Esp, HANGZHOU, HUB, HUB_PUBLIC, HubConfig, IpsecLab, IpsecOptions, NINGBO, Namespace, Ping, SHANGHAI, Status,
    reach, retry_within,
};
use rcgen::{CertificateParams, date_time_ymd};
use serde_json::Value;

use crate::certificates::{Authority, Files, Pair, configure};
use crate::mending::command;
use crate::reasons::diagnose;
use crate::{Case, Needs};

pub const CASES: &[Case] = &[
    (
        Needs::KernelEsp,
        "kernel::findings::sa_that_admits_no_address_of_the_hub_is_a_warning_until_one_is_added",
        no_source,
    ),
    (Needs::StrongSwan, "findings::certificate_of_the_hub_is_named_before_and_after_it_is_valid", validity),
];

/// In a slow virtual machine; it passes in full only on failure.
const PATIENCE: Duration = Duration::from_secs(30);
/// In days.
const RENEWED_BEFORE: i64 = 10;

/// All findings with this code.
fn findings(diagnosis: &Value, code: &str) -> Vec<Value> {
    let all = diagnosis["findings"].as_array().unwrap().iter();
    all.filter(|finding| finding["code"] == code).cloned().collect()
}

/// The site's SA admits the other sites alone, none of whose addresses the hub has.
fn no_source() {
    let options = IpsecOptions::new(Esp::Kernel).sites([SHANGHAI, HANGZHOU]);
    let lab = IpsecLab::start(&options, |mut config: HubConfig| {
        config.connection("shanghai").local_cidrs =
            [HANGZHOU.network4(), NINGBO.network4()].map(|network| network.to_string()).to_vec();
        config
    })
    .unwrap();
    let shanghai = lab.office("shanghai").place();
    reach(shanghai, HANGZHOU.host4().into()).unwrap();
    let (code, diagnosis) = diagnose(&lab);
    assert_eq!(code, Some(0), "{diagnosis:#}");
    let found = findings(&diagnosis, "no_hub_address");
    let [found] = &found[..] else { panic!("one warning: {diagnosis:#}") };
    assert_eq!(found["severity"], "warning");
    let message = found["message"].as_str().unwrap();
    assert!(message.starts_with("no IPv4 address of the hub is in the local selectors"), "{message}");
    assert_eq!(found["action"], "add an address of local_cidrs to an interface of the hub");
    // It is true: the hub's answer to a packet whose hops end at the hub does not arrive.
    lab.world[HUB].sysctl(&[("ipv4/ip_forward", "1")]).unwrap();
    let answers = || {
        let before = time_exceeded(shanghai);
        let ping = Ping::new(HANGZHOU.host4().into()).hops(1).timeout(Duration::from_millis(300)).count(3);
        assert_eq!(ping.run(shanghai).unwrap().received, 0);
        time_exceeded(shanghai) - before
    };
    assert_eq!(answers(), 0);

    // The remedy.
    lab.world[HUB].ip(&format!("addr add {}/32 dev lo", NINGBO.nth4(254))).unwrap();
    let has_source = |status: &Status| {
        let codes = status.connection("shanghai")["warning_codes"].as_array().unwrap();
        codes.iter().all(|code| code != "no_hub_address")
    };
    lab.wait_for_status(has_source).unwrap();
    let (_, diagnosis) = diagnose(&lab);
    assert_eq!(findings(&diagnosis, "no_hub_address"), [Value::Null; 0]);
    retry_within(PATIENCE, "the hub's answers do not arrive", || Ok((answers() > 0).then_some(()))).unwrap();
    lab.stop().unwrap();
}

/// Received ICMP errors "time exceeded".
fn time_exceeded(place: &Namespace) -> u64 {
    let text = place.enter(|| fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Icmp: "));
    let [names, values] = [lines.next().unwrap(), lines.next().unwrap()].map(|line| line.split(' '));
    let found = names.zip(values).find(|(name, _)| *name == "InTimeExcds");
    found.expect("in Linux").1.parse().unwrap()
}

/// A certificate of the hub that is valid from one day to another, in days from now.
fn hub_certificate(authority: &Authority, [begin, end]: [i64; 2]) -> Pair {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let at = |days| {
        let seconds = now.checked_add_signed(days * 24 * 3600).unwrap();
        date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)
    };
    let change = |params: &mut CertificateParams| (params.not_before, params.not_after) = (at(begin), at(end));
    authority.issue_for("Hub", HUB_PUBLIC.into(), None, change)
}

fn validity() {
    let authority = Authority::new("Authority");
    let soon = hub_certificate(&authority, [-1, RENEWED_BEFORE]);
    let files = Files::new(&soon, &[("ca.crt", &authority)]);
    let options = IpsecOptions::new(Esp::Userspace).sites([SHANGHAI]).hub_begins();
    let lab = IpsecLab::prepare(&options, |config| files.configure(config, "ca.crt")).unwrap();
    configure(&lab, "shanghai", &authority.issue("Site", SHANGHAI.public4().into(), None), &authority);
    let file = files.path("hub.crt");
    let of_hub = |diagnosis: &Value, code: &str| -> Value {
        let found =
            findings(diagnosis, code).into_iter().find(|found| found["message"].as_str().unwrap().contains(&file));
        found.unwrap_or_else(|| panic!("no {code} of {file}: {diagnosis:#}"))
    };
    let has_error = |diagnosis: &Value, code: &str, start: &str, action: &str| {
        let found = of_hub(diagnosis, code);
        assert_eq!((&found["severity"], &found["subject"]), (&"error".into(), &"shanghai".into()));
        let message = found["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("the certificate in {file} {start}")), "{message}");
        assert_eq!(found["action"], action);
    };

    // It works, for ten days.
    lab.wait_until_up().unwrap();
    let (code, diagnosis) = diagnose(&lab);
    assert_eq!((code, &diagnosis["errors"]), (Some(0), &0.into()), "{diagnosis:#}");
    let found = of_hub(&diagnosis, "certificate_expires_soon");
    assert_eq!((&found["severity"], &found["action"]), (&"warning".into(), &"renew it, then `vpnhub reload`".into()));
    // The authority's is valid for longer.
    assert_eq!(findings(&diagnosis, "certificate").len(), 1, "{diagnosis:#}");

    let site = &lab.office("shanghai").charon;
    let renew = |pair: &Pair| {
        files.write("hub.crt", &pair.certificate, 0o644);
        files.write("hub.key", &pair.key, 0o600);
        command(&lab, &["reload"]);
        // Without SAs the connection of an old certificate is loaded anew.
        drop(site.swanctl(&["--terminate", "--ike", "shanghai", "--force"]));
    };
    for (pair, finding, start, action) in [
        (
            hub_certificate(&authority, [-10, -1]),
            "certificate_expired",
            "expired on ",
            "renew it, then `vpnhub reload`: negotiation fails with it",
        ),
        (
            hub_certificate(&authority, [1, 100]),
            "certificate",
            "is valid from ",
            "check the clock of this host, or wait: negotiation fails with it",
        ),
    ] {
        renew(&pair);
        // Negotiation does fail with it.
        let is_refused = |status: &Status| {
            let reason = status.connection("shanghai")["state_reason"].as_str().unwrap_or_default();
            reason.starts_with("IPsec: the site refuses the hub's secret, certificate or identity")
        };
        lab.wait_for_status(is_refused).unwrap();
        let (code, diagnosis) = diagnose(&lab);
        assert_eq!(code, Some(1));
        has_error(&diagnosis, finding, start, action);
        assert_eq!(findings(&diagnosis, "tunnel_down").len(), 1, "{diagnosis:#}");
    }

    // The remedy.
    renew(&hub_certificate(&authority, [-1, 100]));
    lab.wait_until_up().unwrap();
    let (code, diagnosis) = diagnose(&lab);
    assert_eq!((code, &diagnosis["errors"]), (Some(0), &0.into()), "{diagnosis:#}");
    assert_eq!(of_hub(&diagnosis, "certificate")["severity"], "ok");
    lab.stop().unwrap();
}
