//! Clients that connect to the control socket and send no request.

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use hub_tests::lab::{HUB, HubConfig, Options, Rig, Status};

use crate::SITES;
use crate::interfaces::restore_ningbo;

const WAIT: Duration = Duration::from_secs(10);
/// Below the usual limit of this process, and far above the agent's.
const IDLE: usize = 900;
/// The agent's limit of open files.
const LIMIT: usize = 300;

#[test]
fn idle_clients_delay_neither_status_nor_attachment() {
    let mut rig = Rig::start(&Options::default(), &HubConfig::offices(&SITES)).unwrap();
    let limit = Command::new("prlimit")
        .args(["--pid", &rig.agent.pid().to_string(), &format!("--nofile={LIMIT}:{LIMIT}")])
        .status();
    assert!(limit.unwrap().success());
    let idle: Vec<_> = (0..IDLE).map(|_| UnixStream::connect(rig.agent.socket()).unwrap()).collect();
    rig.agent.status().unwrap();
    let attached = |status: &Status| status.connection("ningbo")["attach"] == "xdp-native";
    rig.world[HUB].ip("link del tun-nb").unwrap();
    rig.agent.wait_for_status(WAIT, |status| !attached(status)).unwrap();
    restore_ningbo(&mut rig.world);
    rig.agent.wait_for_status(WAIT, attached).unwrap();
    drop(idle);
    rig.stop().unwrap();
}
