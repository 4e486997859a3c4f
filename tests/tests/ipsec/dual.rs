//! One connection with two tunnels, of which the site loads the output of `peer-config`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use hub_tests::lab::{Esp, HANGZHOU, HubConfig, IpsecLab, IpsecOptions, Ping, SHANGHAI, Status, VPC, output, reach};

use crate::{Case, Needs};

pub const CASES: &[Case] = &[(
    Needs::KernelEsp,
    "kernel::dual::standby_tunnel_of_peer_config_carries_all_while_active_has_no_sa",
    standby_tunnel,
)];

/// The hub's tunnels, with their `if_id`.
const TUNNELS: [(&str, u32); 2] = [("a", 21), ("b", 22)];
/// Where the output of `peer-config` expects the script in it.
const SCRIPT: &str = "/etc/swanctl/vpnhub-route";

fn hub(mut config: HubConfig) -> HubConfig {
    let tunnel = |((name, if_id), link): ((&str, u32), u8)| {
        let (device, weight) = (SHANGHAI.hub_device(link), if link == 0 { 100 } else { 0 });
        // The site has one address: its second tunnel needs an identity of its own.
        let id = if link == 0 { String::new() } else { ", remote_id = \"second.shanghai.test\"".to_owned() };
        let ipsec = format!("ipsec = {{ if_id = {if_id}{id} }}");
        format!("{{ name = \"{name}\", interface = \"{device}\", weight = {weight}, {ipsec} }}")
    };
    config.connection("shanghai").tunnels =
        Some(TUNNELS.into_iter().zip(0..).map(tunnel).collect::<Vec<_>>().join(", "));
    config
}

/// Does at the site what the comments of the output say, and loads it. Returns the names of its connections: `a`, `b`.
fn configure_site(lab: &IpsecLab) -> [String; 2] {
    let shanghai = lab.office("shanghai");
    let text = shanghai.peer_config(&lab.agent, "swanctl", &["--with-secret"]).unwrap();
    let comments: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("#     ")).collect();
    let (commands, script): (Vec<&str>, Vec<&str>) =
        comments.iter().partition(|line| line.starts_with("ip link") || line.starts_with("sysctl"));
    for command in commands {
        let said = output(shanghai.place().command("sh").args(["-c", command])).unwrap();
        assert!(said.status.success(), "{command}: {}", String::from_utf8_lossy(&said.stderr));
    }
    let file = lab.folder().join("vpnhub-route");
    fs::write(&file, script.join("\n") + "\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let text = text.replace(SCRIPT, &file.display().to_string());
    shanghai.charon.load("shanghai", &text).unwrap();
    let names = text.lines().zip(text.lines().skip(1)).filter(|(line, _)| *line == "connections {");
    let names: Vec<String> = names.map(|(_, name)| name.trim().trim_end_matches(" {").to_owned()).collect();
    names.try_into().unwrap_or_else(|names| panic!("two connections: {names:?} in {text}"))
}

fn states(status: &Status) -> [&str; 3] {
    ["shanghai", "shanghai/a", "shanghai/b"].map(|name| status.connection(name)["state"].as_str().unwrap_or_default())
}

/// How many of these pings of the VPC's, one flow each, arrive in Shanghai by each tunnel. All must be answered.
fn arrivals(lab: &IpsecLab) -> [u64; 2] {
    let shanghai = lab.office("shanghai").place();
    let count = || TUNNELS.map(|(_, if_id)| shanghai.counters(&format!("hub-{if_id}")).unwrap().rx_packets);
    let before = count();
    for address in 1..=20 {
        let report = Ping::new(SHANGHAI.nth4(address).into()).run(&lab.world[VPC.place]).unwrap();
        assert!(report.complete(), "{address}: {report:?}\n{}", lab.diagnosis());
    }
    let after = count();
    [after[0] - before[0], after[1] - before[1]]
}

fn all_reach(lab: &IpsecLab) {
    for to in [VPC.host4.into(), HANGZHOU.host4().into()] {
        reach(lab.office("shanghai").place(), to).unwrap();
    }
    reach(lab.office("hangzhou").place(), SHANGHAI.host4().into()).unwrap();
}

fn standby_tunnel() {
    let options = IpsecOptions::new(Esp::Kernel).sites([SHANGHAI, HANGZHOU]);
    let lab = IpsecLab::prepare(&options, hub).unwrap();
    lab.office("hangzhou").configure(&lab.agent).unwrap();
    let [first, _] = configure_site(&lab);
    lab.wait_for_status(|status| states(status) == ["up", "up", "up"]).unwrap();
    all_reach(&lab);
    let by_tunnel = arrivals(&lab);
    assert!(by_tunnel[0] >= 20 && by_tunnel[1] == 0, "{by_tunnel:?}");

    let shanghai = lab.office("shanghai");
    shanghai.charon.swanctl(&["--terminate", "--ike", &first]).unwrap();
    let status = lab.wait_for_status(|status| states(status) == ["up", "down", "up"]).unwrap();
    assert!((status.share("10.10.10.0/24", "shanghai") - 1.0).abs() < 1e-9, "{:#}", *status);
    all_reach(&lab);
    let by_tunnel = arrivals(&lab);
    assert!(by_tunnel[0] == 0 && by_tunnel[1] >= 20, "{by_tunnel:?}");

    shanghai.charon.swanctl(&["--initiate", "--child", &first]).unwrap();
    lab.wait_for_status(|status| states(status) == ["up", "up", "up"]).unwrap();
    all_reach(&lab);
    let by_tunnel = arrivals(&lab);
    assert!(by_tunnel[0] >= 20 && by_tunnel[1] == 0, "{by_tunnel:?}");
    lab.stop().unwrap();
}
