//! Makes the recordings that `hub-userspace/src/agent/tests/recordings.rs` replays: agents with real strongSwan in
//! failure scenarios.

use std::cell::Cell;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use hub_tests::lab::{Charon, Esp, HUB, HubConfig, INTERNET, IpsecLab, IpsecOptions, NINGBO, SHANGHAI, Scratch, Site};

use crate::{Case, Needs};

pub const CASES: &[Case] = &[(Needs::Recording, "recordings_of_fault_scenarios_are_created", || {
    rekey_collision();
    flapping_link_under_reload();
    charon_restart();
})];

/// Variable with the directory for recordings.
const VARIABLE: &str = "VPNHUB_RECORD";
/// Replacement for the paths of files.
const PLACE: &str = "/run/lab";
/// Longer recordings add no information.
const MOST_BYTES: usize = 300_000;
/// Which child SA survives is random, and the agent sees both only if its own does: about one try in ten.
const TRIES: usize = 40;
/// A fixed delay: polling the status would be recorded, too.
const MOMENT: Duration = Duration::from_millis(1500);

/// The reason for not making recordings.
pub fn lacks() -> Option<String> {
    env::var_os(VARIABLE).is_none().then(|| format!("records what agent/tests/recordings has: {VARIABLE}=DIR"))
}

/// Hub and site rekey the same SA simultaneously, until their requests have crossed.
fn rekey_collision() {
    record(
        "rekey_collision",
        IpsecOptions::new(Esp::of_this_host()).impatient(),
        |config| config,
        |lab, file| {
            let site = &lab.office("shanghai").charon;
            for (kind, task) in [("--child", "CHILD_REKEY"), ("--ike", "IKE_REKEY")] {
                let crossed = || collisions(&lab.hub, task) + collisions(site, task);
                let is_shown = || kind != "--child" || has_several(file, "shanghai");
                let (before, mut tries) = (crossed(), 0);
                while crossed() == before || !is_shown() {
                    tries += 1;
                    assert!(
                        tries <= TRIES,
                        "no requests to rekey have crossed, or the agent has not seen it:\n{}",
                        lab.hub.log()
                    );
                    rekey_both(lab, site, kind);
                    thread::sleep(MOMENT);
                }
            }
            // Until the redundant SA is deleted (strongSwan's delete_rekeyed_delay).
            thread::sleep(4 * MOMENT);
        },
    );
}

/// Both ends' first requests are lost, so that each has one outstanding when it receives the other's retransmission.
fn rekey_both(lab: &IpsecLab, site: &Charon, kind: &str) {
    let forwards = |forwards: &str| {
        lab.world[INTERNET].enter(|| fs::write("/proc/sys/net/ipv4/ip_forward", forwards)).unwrap().unwrap();
    };
    forwards("0");
    thread::scope(|scope| {
        for (charon, name) in [(&lab.hub, "vpnhub-shanghai"), (site, "shanghai")] {
            scope.spawn(move || charon.swanctl(&["--rekey", kind, name]).unwrap());
        }
    });
    thread::sleep(Duration::from_millis(100));
    forwards("1");
}

/// The number of collisions that a charon has detected.
fn collisions(charon: &Charon, task: &str) -> usize {
    charon.log().lines().filter(|line| line.contains("collision") && line.contains(task)).count()
}

/// Whether a connection has had several child SAs at once, in the recording so far.
fn has_several(file: &Path, connection: &str) -> bool {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let children = |line: &serde_json::Value| {
        line["event"]["tunnels"]["set"][connection]["children"].as_array().map_or(0, Vec::len)
    };
    lines.map(|line| children(&line)).any(|count| count > 1)
}

/// The leased line next to a tunnel goes down and comes back, at alternating ends, while routes are changed.
fn flapping_link_under_reload() {
    let written = Cell::new(None);
    let change = |config: HubConfig| {
        let mut config = config.second_link(&SHANGHAI, [60, 40]);
        config.connection("shanghai-2").up_delay = Some("200ms".to_owned());
        written.set(Some(config.clone()));
        config
    };
    let options = IpsecOptions::new(Esp::of_this_host()).leased_line(&SHANGHAI);
    record("flapping_link_under_reload", options, change, |lab, _| {
        let mut config = written.take().expect("the agent has one");
        let routes = config.routes.clone();
        for turn in 0..24_u8 {
            let (place, device) = match turn % 2 {
                0 => (HUB, SHANGHAI.hub_device(1)),
                _ => ("shanghai", Site::device(1)),
            };
            let set = |state| lab.world[place].ip(&format!("link set {device} {state}")).unwrap();
            set("down");
            config.routes.clone_from(&routes);
            for route in config.routes.iter_mut().filter(|route| route.next_hop.starts_with("shanghai")) {
                route.weight = route.weight.wrapping_add(turn) % 100 + 1;
            }
            if turn % 3 == 0 {
                config.routes.retain(|route| route.next_hop != "shanghai-2");
            }
            fs::write(lab.agent.config(), config.to_string()).unwrap();
            let reloads = thread::scope(|scope| {
                let reload = scope.spawn(|| lab.agent.cli(&["reload"]).unwrap());
                set("up");
                reload.join().unwrap()
            });
            assert!(reloads.status.success(), "{reloads:?}");
            // Sometimes long enough to be up again.
            thread::sleep(Duration::from_millis(if turn % 4 == 3 { 400 } else { 30 }));
        }
        thread::sleep(MOMENT);
    });
}

/// charon is killed at the hub and restarted: first at once, then after a pause longer than the timeout.
fn charon_restart() {
    let options = IpsecOptions::new(Esp::of_this_host()).hub_begins().impatient();
    record(
        "charon_restart",
        options,
        |config| config,
        |lab, _| {
            for pause in [Duration::ZERO, Duration::from_secs(7)] {
                lab.hub.kill().unwrap();
                thread::sleep(pause);
                lab.hub.start_again().unwrap();
                lab.hub.wait_until_ready().unwrap();
                thread::sleep(4 * MOMENT);
                lab.wait_until_up().unwrap();
            }
        },
    );
}

fn record(
    name: &str,
    options: IpsecOptions,
    change: impl FnOnce(HubConfig) -> HubConfig,
    happens: impl FnOnce(&mut IpsecLab, &Path),
) {
    let Some(folder) = env::var_os(VARIABLE).map(PathBuf::from) else { panic!("{VARIABLE} names no directory") };
    let scratch = Scratch::new().unwrap();
    let file = scratch.file("events.jsonl");
    let options = options.sites([SHANGHAI, NINGBO]).record(file.clone());
    let mut lab = IpsecLab::start(&options, change).unwrap();
    happens(&mut lab, &file);
    lab.wait_until_up().unwrap();
    let places = [lab.folder().to_owned(), lab.agent.config().parent().unwrap().to_owned()];
    let secrets = secrets(lab.folder());
    assert!(!secrets.is_empty());
    lab.stop().unwrap();

    let mut text = fs::read_to_string(file).unwrap();
    for place in places {
        text = text.replace(&place.display().to_string(), PLACE);
    }
    for secret in secrets {
        assert!(!text.contains(&secret), "the recording has a secret");
    }
    assert!(text.len() < MOST_BYTES, "{name} has {} bytes", text.len());
    fs::write(folder.join(name).with_extension("jsonl"), text).unwrap();
}

/// The secrets of an IPsec lab.
fn secrets(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "psk"));
    files.map(|path| fs::read_to_string(path).unwrap()).collect()
}
