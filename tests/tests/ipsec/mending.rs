//! What hub and site have not agreed on is negotiated again, without ending what works.

use std::fs;
use std::time::Duration;

use hub_tests::lab::{Esp, HUB, HubConfig, IpsecLab, IpsecOptions, SHANGHAI, Status};

use crate::cases::spis;
use crate::restart::again;
use crate::{Case, Needs};

pub const CASES: &[Case] = &[
    (Needs::StrongSwan, "mending::children_refused_at_first_come_up_once_the_site_has_them", refused_at_first),
    (
        Needs::StrongSwan,
        "mending::subnet_added_on_the_hub_interrupts_nothing_and_comes_up_once_the_site_has_it",
        added_on_the_hub,
    ),
    (Needs::StrongSwan, "mending::renegotiation_of_children_replaces_their_sas_and_keeps_it_up", renegotiated),
];

/// It passes in full only on failure.
const PATIENCE: Duration = Duration::from_secs(60);
const ADDED: &str = "10.10.11.0/24";

/// Edits the agent's configuration file and reloads it.
pub fn reload(lab: &IpsecLab, edit: impl FnOnce(String) -> String) -> String {
    let file = lab.agent.config();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, edit(text)).unwrap();
    command(lab, &["reload"])
}

/// Output of a command that must succeed.
pub fn command(lab: &IpsecLab, arguments: &[&str]) -> String {
    let output = lab.agent.cli(arguments).unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn missing(status: &Status) -> Vec<(String, String)> {
    let missing = status.connection("shanghai")["ipsec"]["missing"].as_array().into_iter().flatten();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    missing.map(|missing| (text(&missing["selectors"]), text(&missing["reason"]))).collect()
}

fn prepare() -> IpsecLab {
    let unchanged = |config: HubConfig| config;
    IpsecLab::prepare(&IpsecOptions::new(Esp::Userspace).sites([SHANGHAI]).hub_begins(), unchanged).unwrap()
}

/// Removes a child from a site's swanctl.conf.
fn without_child(text: &str, name: &str) -> String {
    let start = text.find(&format!("            {name} {{\n")).unwrap_or_else(|| panic!("{name}: {text}"));
    let end = "            }\n";
    let length = text[start..].find(end).unwrap() + end.len();
    text[..start].to_owned() + &text[start + length..]
}

fn refused_at_first() {
    let lab = prepare();
    let ipsec = "[connection.shanghai.ipsec]\n";
    reload(&lab, |text| text.replace(ipsec, &format!("{ipsec}allow_weak = true\nike = {{ version = 1 }}\n")));
    let office = lab.office("shanghai");
    let whole = office.peer_config(&lab.agent, "swanctl", &["--with-secret"]).unwrap();
    let first = without_child(&without_child(&whole, "shanghai-3"), "shanghai-2");
    office.charon.load("shanghai", &first).unwrap();

    let status = lab
        .wait_for_status(|status| status.connection("shanghai")["state"] == "up" && missing(status).len() == 2)
        .unwrap();
    let [(selectors, reason), (other, _)] = &missing(&status)[..] else { panic!("{:#}", *status) };
    assert_eq!(selectors, &format!("{} === 192.168.0.0/24", SHANGHAI.network4()));
    assert_eq!(other, &format!("{} === fd00::/8", SHANGHAI.network6()));
    assert!(reason.ends_with("; the hub tries again by itself"), "{reason}");
    let shown = command(&lab, &["status"]);
    assert!(shown.contains(&format!("shanghai: no SA for {selectors}: {reason}")), "{shown}");
    let kept = spis(&status, "shanghai");
    assert_eq!(kept.len(), 1);

    let said = command(&lab, &["connection", "renegotiate", "shanghai"]);
    assert!(said.contains("initiate vpnhub-shanghai-2, initiate vpnhub-shanghai-3"), "{said}");

    // Nobody but the agent begins anything from here on.
    let whole = whole.replace("start_action = trap", "start_action = none");
    office.charon.load("shanghai", &whole).unwrap();
    let after = lab.wait_for_status(|status| missing(status).is_empty()).unwrap();
    let spis = spis(&after, "shanghai");
    assert!(spis.len() == 3 && spis.contains(&kept[0]), "{kept:?} {:#}", *after);
    assert_eq!(after.since(&status, "shanghai", "state_changes"), 0);
    let said = command(&lab, &["connection", "renegotiate", "shanghai"]);
    assert!(said.contains("nothing to negotiate"), "{said}");
    lab.stop().unwrap();
}

fn added_on_the_hub() {
    let lab = prepare();
    let office = lab.office("shanghai");
    office.configure(&lab.agent).unwrap();
    let first = lab.wait_until_up().unwrap();
    // kernel-libipsec needs an address in each network.
    office.place().ip("addr add 10.10.11.1/24 dev lo").unwrap();
    let own = format!("\"{}\"", SHANGHAI.network4());
    reload(&lab, |text| {
        let remote = format!("remote_cidrs = [{own}");
        assert!(text.contains(&remote), "{text}");
        text.replace(&remote, &format!("{remote}, \"{ADDED}\""))
    });
    let status = lab
        .wait_for_status(|status| status.connection("shanghai")["state"] == "up" && missing(status).len() == 2)
        .unwrap();
    for ((selectors, reason), local) in missing(&status).iter().zip(["10.10.0.0/16", "192.168.0.0/24"]) {
        assert_eq!(selectors, &format!("{ADDED} === {local}"));
        assert!(reason.starts_with("the site admits less: compare "), "{reason}");
    }
    // charon itself would close the IKE SA of a changed connection, and begin again.
    assert_eq!(spis(&status, "shanghai"), spis(&first, "shanghai"));
    assert_eq!(status.since(&first, "shanghai", "state_changes"), 0, "{:#}", *status);
    // The site gets it, too, and begins nothing.
    let text = office.peer_config(&lab.agent, "swanctl", &["--with-secret"]).unwrap();
    office.charon.load("shanghai", &text.replace("start_action = trap", "start_action = none")).unwrap();
    let after = lab.wait_for_status(|status| missing(status).is_empty()).unwrap();
    assert_eq!(after.since(&status, "shanghai", "state_changes"), 0, "{:#}", *after);
    let (old, new) = (spis(&status, "shanghai"), spis(&after, "shanghai"));
    assert!(new.len() == 2 && new.contains(&old[0]), "the first SA stays: {:#}", *after);
    // Neither does a new agent, which does not know what the last one has loaded.
    let hub = &lab.world[HUB];
    let agent = again(lab.agent, hub, |_| ());
    let both = |status: &Status| spis(status, "shanghai").len() == 2 && missing(status).is_empty();
    let restarted = agent.wait_for_status(PATIENCE, both).unwrap();
    let closed = lab.hub.log().matches("closing IKE_SA").count();
    assert_eq!((spis(&restarted, "shanghai"), closed), (new, 0), "{}", lab.hub.log());
    agent.stop().unwrap();
}

fn renegotiated() {
    let lab = prepare();
    lab.office("shanghai").configure(&lab.agent).unwrap();
    let before = lab.wait_until_up().unwrap();
    let said = command(&lab, &["connection", "renegotiate", "shanghai", "--child"]);
    assert!(said.contains("started: rekey vpnhub-shanghai"), "{said}");
    let after = lab
        .wait_for_status(|status| {
            let (old, new) = (spis(&before, "shanghai"), spis(status, "shanghai"));
            new.len() == 1 && old != new
        })
        .unwrap();
    assert_eq!(after.since(&before, "shanghai", "state_changes"), 0);
    for (name, error) in [("beijing", "there is no connection beijing"), ("shanghai", "")] {
        let output = lab.agent.cli(&["connection", "renegotiate", name]).unwrap();
        assert_eq!(output.status.success(), error.is_empty(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(error), "{output:?}");
    }
    lab.stop().unwrap();
}
