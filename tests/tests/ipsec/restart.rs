//! An agent that exits and its successor: the interfaces that it created, and with them the tunnels, remain.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hub_tests::lab::{
    Agent, AgentCommand, Esp, HUB, IpsecLab, IpsecOptions, NINGBO, Namespace, Ping, SHANGHAI, Site, Status,
    agent_binary, retry,
};
use nix::sys::signal::Signal;

use crate::cases::{assert_all_reach, spis};

const PATIENCE: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_millis(500);

/// Starts the same agent again, with `between` after the first one's graceful exit.
pub fn again(agent: Agent, hub: &Namespace, between: impl FnOnce(&Path)) -> Agent {
    let files = agent.stop_with(Signal::SIGTERM).unwrap();
    between(&files.file("vpnhub.toml"));
    AgentCommand::new(agent_binary()).ready_within(PATIENCE).start_in(hub, files).unwrap()
}

fn vpnhub(hub: &Namespace, arguments: &[&str]) -> (bool, String) {
    let output = hub.command(agent_binary()).args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned())
}

/// SPIs of the SAs in the kernel, sorted.
fn sas(hub: &Namespace) -> Vec<String> {
    let states = hub.ip("xfrm state").unwrap();
    let lines = states.lines().filter(|line| line.contains("proto esp"));
    let mut spis: Vec<String> = lines.map(|line| line.trim().to_owned()).collect();
    spis.sort();
    spis
}

pub fn tunnels_live_through_it() {
    let lab = IpsecLab::start(&IpsecOptions::new(Esp::Kernel).sites([SHANGHAI, NINGBO]), |config| config).unwrap();
    assert_all_reach(&lab);
    let devices = [SHANGHAI.hub_device(0), NINGBO.hub_device(0)];
    let address = "169.254.99.1/32";
    lab.world[HUB].ip(&format!("addr add {address} dev {}", devices[0])).unwrap();
    // Foreign interfaces, with and without the properties of ours.
    lab.world[HUB]
        .batch("link add other type xfrm if_id 77\nlink add named type veth\nlink set named alias vpnhub")
        .unwrap();
    let before = lab.agent.status().unwrap();
    let IpsecLab { agent, offices, world, .. } = lab;
    let (hub, shanghai) = (&world[HUB], offices[0].place());
    let indices = || devices.each_ref().map(|device| hub.ifindex(device).unwrap());
    let (old_indices, old_sas) = (indices(), sas(hub));
    assert!(old_sas.len() >= 4, "{old_sas:?}");
    let (refused, said) = vpnhub(hub, &["cleanup", "--instance", &hub.instance()]);
    assert!(!refused && said.contains("another agent runs"), "{said}");

    // Pings continuously: only while there is no agent may some be lost.
    let done = AtomicBool::new(false);
    let (agent, ready, pings) = thread::scope(|scope| {
        let pings = scope.spawn(|| {
            let mut pings = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let sent = Instant::now();
                let report = Ping::new(NINGBO.host4().into()).timeout(TIMEOUT).run(shanghai).unwrap();
                pings.push((sent, report.complete()));
                thread::sleep(Duration::from_millis(20));
            }
            pings
        });
        thread::sleep(Duration::from_secs(1));
        let agent = again(agent, hub, |_| {
            assert_eq!(indices(), old_indices);
            assert_eq!(sas(hub), old_sas);
            assert_eq!(hub.ip("route show table 1180").unwrap_or_default().trim(), "");
            assert!(!hub.ip("rule").unwrap().contains("1180"));
        });
        let ready = Instant::now();
        thread::sleep(Duration::from_secs(2));
        done.store(true, Ordering::Relaxed);
        (agent, ready, pings.join().unwrap())
    });
    let after: Vec<bool> = pings.iter().filter(|(sent, _)| *sent > ready).map(|(_, answered)| *answered).collect();
    assert!(after.len() > 5 && after.iter().all(|answered| *answered), "{after:?}\n{}", agent.log());
    assert!(pings[0].1, "and before");
    let is_up = |status: &Status, site: &Site| status.connection(&site.place)["state"] == "up";
    let all_up = |status: &Status| [SHANGHAI, NINGBO].iter().all(|site| is_up(status, site));
    let status = agent.wait_for_status(PATIENCE, all_up).unwrap();
    for (site, device) in [SHANGHAI, NINGBO].iter().zip(&devices) {
        assert_eq!(spis(&status, &site.place), spis(&before, &site.place));
        assert!(agent.log().contains(&format!("xfrm interface {device} taken over")), "{}", agent.log());
    }
    assert_eq!((indices(), sas(hub)), (old_indices, old_sas));
    assert!(hub.ip(&format!("addr show dev {}", devices[0])).unwrap().contains(address));

    let edit = |from: String, to: &'static str| {
        move |config: &Path| {
            let text = fs::read_to_string(config).unwrap();
            assert!(text.contains(&from), "{from} is not in {text}");
            fs::write(config, text.replace(&from, to)).unwrap();
        }
    };
    // Another MTU, another if_id, and one that is no longer in the file.
    let agent =
        again(agent, hub, edit("create_interface = true".into(), "create_interface = true\ninterface_mtu = 1300"));
    let shown = |device: &str| hub.ip(&format!("-d link show dev {device}")).unwrap_or_default();
    let until = |what: &str, is: &dyn Fn() -> bool| retry(what, || Ok(is().then_some(()))).unwrap();
    until("the MTU stays", &|| devices.iter().all(|device| shown(device).contains("mtu 1300")));
    assert_eq!(indices(), old_indices);
    let agent = again(agent, hub, edit(format!("if_id = {}\n", NINGBO.number), "if_id = 33\n"));
    until("the if_id stays", &|| shown(&devices[1]).contains("if_id 0x21"));
    assert!(indices()[0] == old_indices[0] && indices()[1] != old_indices[1]);
    let without = "if_id = 33\ncreate_interface = true\ninterface_mtu = 1300\n";
    let agent = again(agent, hub, edit(without.into(), "if_id = 33\n"));
    until("it is still there", &|| shown(&devices[1]).is_empty());
    assert_eq!(hub.ifindex(&devices[0]).unwrap(), old_indices[0]);

    agent.stop().unwrap();
    let (cleaned, said) = vpnhub(hub, &["cleanup", "--instance", &hub.instance()]);
    assert!(cleaned && said.starts_with(&format!("removed: xfrm interfaces {}; ", devices[0])), "{said}");
    assert_eq!(shown(&devices[0]), "");
    assert!(shown("other").contains("xfrm") && shown("named").contains("vpnhub"));
    assert_eq!(vpnhub(hub, &["cleanup", "--instance", &hub.instance()]), (true, "nothing to remove".to_owned()));
}
