//! Packets that match an SA's selectors are allowed only while the SA exists: afterwards the loaded program itself
//! drops them.
//!
//! The packets take the same path to the hub whether the tunnel exists or not. strongSwan's own ESP is bypassed by
//! writing to its end of the TUN device. In the kernel's case, an SA on the same xfrm interface is used that neither
//! strongSwan nor the agent knows.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hub_tests::lab::{
    Esp, HUB, HUB_PUBLIC, IpsecLab, IpsecOptions, NINGBO, SHANGHAI, Status, Tun, UdpProbe, UdpReceiver,
};
use hub_tests::packet::Packet;

use crate::{Case, Needs};

pub const CASES: &[Case] = &[
    (Needs::StrongSwan, "userspace::packets_of_ended_tunnel_are_dropped_until_it_returns", userspace),
    (Needs::KernelEsp, "kernel::packets_of_ended_tunnel_are_dropped_until_it_returns", kernel),
];

const WAIT: Duration = Duration::from_secs(10);
const PORT: u16 = 7000;
/// Packets of each family.
const COUNT: u64 = 5;

/// Sources in Ningbo's networks that no traffic of strongSwan's tunnels uses.
fn sources() -> [IpAddr; 2] {
    [NINGBO.nth4(9).into(), NINGBO.nth6(9).into()]
}

fn options(esp: Esp) -> IpsecOptions {
    IpsecOptions::new(esp).sites([SHANGHAI, NINGBO])
}

fn userspace() {
    let lab = IpsecLab::start(&options(Esp::Userspace), |config| config).unwrap();
    let mut tun = lab.hub.tun().unwrap();
    let send = |source: IpAddr, to: SocketAddr, text: &str| inject(&mut tun, source, to, text);
    // Several connections share the device: a packet that none of them may send is unattributed.
    refused_while_ended(&lab, send, |status| status["drops"]["spoofed_source"].as_u64().unwrap());
    lab.stop().unwrap();
}

fn inject(tun: &mut Tun, source: IpAddr, to: SocketAddr, text: &str) {
    let packet = match (source, to.ip()) {
        (IpAddr::V4(source), IpAddr::V4(to)) => Packet::ipv4(source, to),
        (IpAddr::V6(source), IpAddr::V6(to)) => Packet::ipv6(source, to),
        _ => panic!("two families"),
    };
    tun.send(&packet.udp(PORT, to.port()).bytes(text).build()).unwrap();
}

fn kernel() {
    let lab = IpsecLab::start(&options(Esp::Kernel), |config| config).unwrap();
    let ningbo = lab.office("ningbo").place();
    let key = "0x0102030405060708090a0b0c0d0e0f1011121314";
    let ends = format!("src {} dst {HUB_PUBLIC}", NINGBO.public4());
    let sa = format!("{ends} proto esp spi 0x7777 reqid 7777 mode tunnel");
    let algorithm = format!("aead rfc4106(gcm(aes)) {key} 128 flag af-unspec");
    lab.world[HUB].ip(&format!("xfrm state add {sa} {algorithm} if_id {}", NINGBO.number)).unwrap();
    ningbo.ip(&format!("xfrm state add {sa} {algorithm}")).unwrap();
    let [from4, from6] = sources();
    for (from, to) in [
        (format!("{from4}/32"), SHANGHAI.network4().to_string()),
        (format!("{from6}/128"), SHANGHAI.network6().to_string()),
    ] {
        // Precedes strongSwan's policies, whose priorities are above 0.
        let template = format!("tmpl {ends} proto esp reqid 7777 mode tunnel");
        ningbo.ip(&format!("xfrm policy add src {from} dst {to} dir out priority 0 {template}")).unwrap();
    }
    let send = |source: IpAddr, to: SocketAddr, text: &str| {
        UdpProbe::new(SocketAddr::new(source, PORT), to).payload(text).send(ningbo).map(drop).unwrap();
    };
    refused_while_ended(&lab, send, |status| status.counter("ningbo", "drops/spoofed_source"));
    lab.stop().unwrap();
}

/// Sends from Ningbo to Shanghai before, while and after Ningbo's tunnel has ended, completely or only its child SA.
fn refused_while_ended(
    lab: &IpsecLab,
    mut send: impl FnMut(IpAddr, SocketAddr, &str),
    dropped: impl Fn(&Status) -> u64,
) {
    let shanghai = SHANGHAI.hosts().map(|host| SocketAddr::new(host, PORT));
    let receivers = shanghai.map(|to| UdpReceiver::bind(lab.office("shanghai").place(), to).unwrap());
    let deliver = |send: &mut dyn FnMut(IpAddr, SocketAddr, &str), text: &str| {
        for ((source, to), receiver) in sources().into_iter().zip(shanghai).zip(&receivers) {
            send(source, to, text);
            let datagram = receiver.receive(WAIT).unwrap();
            let datagram = datagram.unwrap_or_else(|| panic!("{text}: nothing from {source}\n{}", lab.diagnosis()));
            // The first arrival: none of the earlier packets arrived.
            assert_eq!((datagram.from, datagram.payload), (SocketAddr::new(source, PORT), text.as_bytes().to_vec()));
        }
    };
    let ningbo = lab.office("ningbo");
    deliver(&mut send, "while the tunnel is up");
    for kind in ["--child", "--ike"] {
        ningbo.charon.swanctl(&["--terminate", kind, "ningbo"]).unwrap();
        let admits_nothing = |status: &Status| {
            let ningbo = status.connection("ningbo");
            ningbo["state"] == "down" && ningbo["ipsec"]["selectors"].as_array().is_some_and(Vec::is_empty)
        };
        let before = lab.wait_for_status(admits_nothing).unwrap();
        for _ in 0..COUNT {
            for (source, to) in sources().into_iter().zip(shanghai) {
                send(source, to, "while it has ended");
            }
        }
        let all = |status: &Status| dropped(status) - dropped(&before) >= 2 * COUNT;
        lab.agent.wait_for_status(WAIT, all).unwrap_or_else(|error| panic!("{kind}: {error:#}\n{}", lab.diagnosis()));
        ningbo.initiate().unwrap();
        lab.wait_until_up().unwrap();
        deliver(&mut send, "when it is back");
        let after = lab.agent.status().unwrap();
        assert_eq!(dropped(&after) - dropped(&before), 2 * COUNT, "{kind}: {:#}", *after);
    }
}
