//! One connection with two tunnels, of which the site loads the output of `peer-config`.
//!
//! strongSwan's own ESP has one device for all tunnels, and two tunnels need one each. There the first tunnel's traffic
//! takes the leased line, as cleartext beside its SAs, and the second one's takes that device. So the test covers how the
//! end of SAs moves traffic, on any kernel.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt as _;

use hub_tests::lab::{
    Esp, HANGZHOU, HubConfig, INTERNET, IpsecLab, IpsecOptions, Ping, SHANGHAI, Site, Status, VPC, output, reach,
};

use crate::{Case, Needs};

pub const CASES: &[Case] = &[
    (
        Needs::KernelEsp,
        "kernel::dual::standby_tunnel_of_peer_config_carries_all_while_active_has_no_sa",
        standby_tunnel,
    ),
    (Needs::StrongSwan, "userspace::dual::standby_tunnel_carries_all_after_dead_peer_detection_of_active", silent),
];

/// The hub's tunnels, with their `if_id`.
const TUNNELS: [(&str, u32); 2] = [("a", 21), ("b", 22)];
/// Where the output of `peer-config` expects the script in it.
const SCRIPT: &str = "/etc/swanctl/vpnhub-route";

/// The site's second public address.
const SECOND_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 200);

/// The hub's tunnels to the site's two addresses: the active one to the second.
fn hub_of_two_addresses(mut config: HubConfig) -> HubConfig {
    config.customer_gateways.push(("shanghai-second".to_owned(), SECOND_ADDRESS));
    let connection = config.connection("shanghai");
    let first = format!("interface = \"{}\", peer = \"{}\"", SHANGHAI.hub_device(1), SHANGHAI.peer4(1));
    let second = connection.interface.clone();
    let [(a, if_a), (b, if_b)] = TUNNELS;
    connection.tunnels = Some(format!(
        "{{ name = \"{a}\", {first}, weight = 100, customer_gateway = \"shanghai-second\", ipsec.if_id = {if_a} }}, \
         {{ name = \"{b}\", interface = \"{second}\", weight = 0, ipsec.if_id = {if_b} }}"
    ));
    config
}

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

/// Loads the output at the site, without the parts for the kernel's ESP.
fn configure_site_of_userspace(lab: &IpsecLab) {
    let shanghai = lab.office("shanghai");
    let text = shanghai.peer_config(&lab.agent, "swanctl", &["--with-secret"]).unwrap();
    let is_of_kernel = |line: &&str| ["if_id_in", "if_id_out", "updown"].iter().any(|key| line.trim().starts_with(key));
    let lines: Vec<&str> = text.lines().filter(|line| !is_of_kernel(line)).collect();
    // charon's route into its device goes with the first of the two SAs.
    let status = lab.agent.status().unwrap();
    let device = status.connection("shanghai/b")["interface"].as_str().unwrap();
    for (network, source) in [
        ("10.10.0.0/16", SHANGHAI.host4().into()),
        ("192.168.0.0/24", SHANGHAI.host4().into()),
        ("fd00::/8", IpAddr::from(SHANGHAI.host6())),
    ] {
        shanghai.place().ip(&format!("route add {network} dev {device} src {source}")).unwrap();
    }
    shanghai.charon.load("shanghai", &lines.join("\n")).unwrap();
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

/// The site's devices of the tunnels.
fn devices(lab: &IpsecLab) -> [String; 2] {
    match lab.esp {
        Esp::Kernel => TUNNELS.map(|(_, if_id)| format!("hub-{if_id}")),
        Esp::Userspace => [Site::device(1), "ipsec0".to_owned()],
    }
}

/// How many of these pings of the VPC's, one flow each, arrive in Shanghai by each tunnel. All must be answered.
fn arrivals(lab: &IpsecLab) -> [u64; 2] {
    let shanghai = lab.office("shanghai").place();
    let count = || devices(lab).map(|device| shanghai.counters(&device).unwrap().rx_packets);
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

/// The site's second address neither receives nor sends anything while this is true.
fn set_silent(lab: &IpsecLab, silent: bool) {
    let commands = match silent {
        true => format!(
            "add table ip silent; add chain ip silent in {{ type filter hook input priority 0 ; }}; add chain ip silent out \
             {{ type filter hook output priority 0 ; }}; add rule ip silent in ip daddr {SECOND_ADDRESS} drop; add rule ip \
             silent out ip saddr {SECOND_ADDRESS} drop"
        ),
        false => "delete table ip silent".to_owned(),
    };
    let said = output(lab.office("shanghai").place().command("nft").arg(commands)).unwrap();
    assert!(said.status.success(), "nft: {}", String::from_utf8_lossy(&said.stderr));
}

fn silent() {
    let options = IpsecOptions::new(Esp::Userspace).sites([SHANGHAI, HANGZHOU]).impatient().leased_line(&SHANGHAI);
    let lab = IpsecLab::prepare(&options, hub_of_two_addresses).unwrap();
    lab.office("shanghai").place().ip(&format!("addr add {SECOND_ADDRESS}/32 dev pub0")).unwrap();
    let way = format!("route add {SECOND_ADDRESS}/32 via {} dev to-shanghai", SHANGHAI.public4());
    lab.world[INTERNET].ip(&way).unwrap();
    lab.office("hangzhou").configure(&lab.agent).unwrap();
    configure_site_of_userspace(&lab);
    lab.wait_for_status(|status| states(status) == ["up", "up", "up"]).unwrap();
    all_reach(&lab);
    let by_tunnel = arrivals(&lab);
    assert!(by_tunnel[0] >= 20 && by_tunnel[1] < 10, "{by_tunnel:?}");

    set_silent(&lab, true);
    let status = lab.wait_for_status(|status| states(status) == ["up", "down", "up"]).unwrap();
    let reason = status.connection("shanghai/a")["state_reason"].as_str().unwrap();
    assert!(reason.contains("does not answer"), "{reason}");
    assert!((status.share("10.10.10.0/24", "shanghai") - 1.0).abs() < 1e-9, "{:#}", *status);
    // Until the site has detected it, too, it may answer into the dead tunnel.
    all_reach(&lab);
    let by_tunnel = arrivals(&lab);
    assert!(by_tunnel[0] < 10 && by_tunnel[1] >= 20, "{by_tunnel:?}");

    set_silent(&lab, false);
    lab.wait_for_status(|status| states(status) == ["up", "up", "up"]).unwrap();
    all_reach(&lab);
    let by_tunnel = arrivals(&lab);
    assert!(by_tunnel[0] >= 20 && by_tunnel[1] < 10, "{by_tunnel:?}");
    lab.stop().unwrap();
}
