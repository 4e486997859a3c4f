//! `interface_mtu = "auto"`: the largest packet through a tunnel passes, and one byte more is answered with the MTU.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hub_tests::lab::{
    Esp, FrameSocket, HANGZHOU, HUB, HubConfig, INTERNET, IpsecLab, IpsecOptions, NINGBO, Namespace, SHANGHAI, Site,
    UdpProbe, VPC, reach, retry_within, udp_probe,
};
use hub_tests::packet::View;

use crate::{Case, Needs};

pub const CASES: &[Case] = &[
    (Needs::KernelEsp, "kernel::mtu::largest_packet_over_ipv4_is_exact", || exact(false)),
    (Needs::KernelEsp, "kernel::mtu::largest_packet_over_ipv6_is_exact", || exact(true)),
    (Needs::KernelEsp, "kernel::mtu::follows_nat_links_and_tunnels", follows),
];

/// Time limit in a slow virtual machine; it passes in full only on failure.
const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 7000;
const GCM: &str = "aes256gcm16-ecp384";
const CBC: &str = "aes256-sha256-ecp384";
const SUZHOU: Site = Site::new("suzhou", "tun-sz", 40);
const SITES: [Site; 4] = [SHANGHAI, HANGZHOU, NINGBO, SUZHOU];

/// The proposal of a site, and whether its ESP is in UDP.
fn kind(site: &str) -> (&'static str, bool) {
    match site {
        "shanghai" => (GCM, false),
        "hangzhou" => (GCM, true),
        "ningbo" => (CBC, false),
        _ => (CBC, true),
    }
}

/// Chooses the MTU automatically.
fn configure(mut config: HubConfig) -> HubConfig {
    for connection in &mut config.connections {
        let ipsec = connection.ipsec.as_mut().unwrap();
        ipsec.interface_mtu = Some("\"auto\"");
        (ipsec.esp, ipsec.encap) = (Some(kind(&connection.name).0), kind(&connection.name).1);
    }
    config
}

/// The public address on a link with the Internet: the link's number is the last byte.
fn public6(link: u8, end: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, link.into(), 0, 0, 0, end)
}

/// Adds IPv6 to the link of a place with the Internet, and routes all public addresses over it.
fn add_public6(lab: &IpsecLab, place: &str, device: &str, link: u8) {
    // Neighbour discovery also needs link-local addresses, which the lab's devices do not have by themselves.
    let add = |place: &str, device: &str, end: u16| {
        let of_link = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, end);
        for address in [of_link, public6(link, end)] {
            lab.world[place].ip(&format!("addr add {address}/64 dev {device} nodad")).unwrap();
        }
    };
    add(place, device, 1);
    add(INTERNET, &format!("to-{place}"), 2);
    lab.world[place].ip(&format!("route add 2001:db8::/32 via fe80::2 dev {device}")).unwrap();
}

fn start(is_ipv6: bool) -> IpsecLab {
    let options = IpsecOptions::new(Esp::Kernel).sites(SITES);
    if !is_ipv6 {
        return IpsecLab::start(&options, configure).unwrap();
    }
    let of_ipv6 = |mut config: HubConfig| {
        config.public.as_mut().unwrap().address = public6(0, 1).into();
        for (connection, site) in config.connections.iter_mut().zip(SITES) {
            connection.ipsec.as_mut().unwrap().site = public6(site.number, 1).to_string();
        }
        configure(config)
    };
    let lab = IpsecLab::prepare(&options, of_ipv6).unwrap();
    add_public6(&lab, HUB, "wan0", 0);
    for site in SITES {
        add_public6(&lab, &site.place, "pub0", site.number);
    }
    lab.offices.iter().try_for_each(|office| office.configure(&lab.agent)).unwrap();
    lab.wait_until_up().unwrap();
    lab
}

/// The MTU of a device.
fn mtu(place: &Namespace, device: &str) -> u32 {
    let shown = place.ip(&format!("-o link show dev {device}")).unwrap();
    let mut words = shown.split_whitespace().skip_while(|word| *word != "mtu");
    words.nth(1).and_then(|mtu| mtu.parse().ok()).unwrap_or_else(|| panic!("no MTU in {shown}"))
}

fn wait_for_mtu(lab: &IpsecLab, site: &Site, expected: u32) {
    let device = site.hub_device(0);
    let is = || Ok((mtu(&lab.world[HUB], &device) == expected).then_some(()));
    retry_within(PATIENCE, &format!("the MTU of {device} is not {expected}"), is).unwrap_or_else(|error| {
        panic!("{error:#}: {}\n{}", mtu(&lab.world[HUB], &device), lab.diagnosis());
    });
}

/// A datagram that is not fragmented, whose packet has this many bytes.
fn datagram(from: IpAddr, to: IpAddr, length: u32) -> UdpProbe {
    let headers = if to.is_ipv4() { 20 + 8 } else { 40 + 8 };
    let probe = UdpProbe::new(SocketAddr::new(from, PORT), SocketAddr::new(to, PORT));
    probe.dont_fragment().size(length as usize - headers)
}

/// The destination of the packet that an ICMP error quotes.
fn quoted_destination(error: &View<'_>) -> Option<IpAddr> {
    let quoted = error.payload();
    match quoted.first()? >> 4 {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(quoted.get(16..20)?).ok()?).into()),
        6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(quoted.get(24..40)?).ok()?).into()),
        _ => None,
    }
}

/// Both families through the site's tunnel, from the VPC and to it.
fn assert_exact(lab: &IpsecLab, site: &Site, mtu: u32) {
    let (vpc, office) = (&lab.world[VPC.place], lab.office(&site.place).place());
    let answers = FrameSocket::open(vpc, VPC.device).unwrap();
    for (own, theirs) in [IpAddr::from(VPC.host4), VPC.host6.into()].into_iter().zip(site.hosts()) {
        reach(vpc, theirs).unwrap_or_else(|error| panic!("{error:#}\n{}", lab.diagnosis()));
        let arrived = udp_probe(vpc, office, &datagram(own, theirs, mtu), PATIENCE).unwrap();
        assert!(arrived.is_some(), "{mtu} bytes to {theirs}\n{}", lab.diagnosis());
        let arrived = udp_probe(office, vpc, &datagram(theirs, own, mtu), PATIENCE).unwrap();
        assert!(arrived.is_some(), "{mtu} bytes from {theirs}\n{}", lab.diagnosis());

        answers.discard().unwrap();
        let short = Duration::from_millis(300);
        let arrived = udp_probe(vpc, office, &datagram(own, theirs, mtu + 1), short).unwrap();
        assert!(arrived.is_none(), "{} bytes to {theirs}", mtu + 1);
        let too_big = if theirs.is_ipv4() { (3, 4) } else { (2, 0) };
        let is_error = |frame: &[u8]| {
            View::ethernet(frame)
                .is_ok_and(|view| view.icmp() == Some(too_big) && quoted_destination(&view) == Some(theirs))
        };
        let error = answers.expect(PATIENCE, is_error).unwrap().bytes;
        assert_eq!(View::ethernet(&error).unwrap().reported_mtu(), Some(mtu), "{theirs}");
        // The site has no xfrm interface: its kernel computes by itself what fits, from the SA and the link.
        if let Ok(Some(_)) = udp_probe(office, vpc, &datagram(theirs, own, mtu + 1), short) {
            panic!("{} bytes from {theirs} fit the link", mtu + 1);
        }
    }
}

fn exact(is_ipv6: bool) {
    let lab = start(is_ipv6);
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        // The kernel sends the errors.
        lab.world[HUB].sysctl(&[(setting, "1")]).unwrap();
    }
    for site in SITES {
        let (place, (proposal, is_in_udp)) = (lab.office(&site.place).place(), kind(&site.place));
        let states = place.ip("xfrm state").unwrap();
        assert_eq!(states.contains("encap type espinudp"), is_in_udp, "{states}");
        assert_eq!(states.contains("rfc4106(gcm(aes))"), proposal == GCM, "{states}");
        assert_eq!(states.contains("src 2001:db8:"), is_ipv6, "{states}");
        // By IPv6 and UDP outside.
        let mtus = if proposal == GCM { [[1446, 1438], [1426, 1418]] } else { [[1438, 1422], [1406, 1406]] };
        let mtu = mtus[usize::from(is_ipv6)][usize::from(is_in_udp)];
        wait_for_mtu(&lab, &site, mtu);
        assert_exact(&lab, &site, mtu);
    }
    lab.stop().unwrap();
}

fn follows() {
    let options = IpsecOptions::new(Esp::Kernel).sites([SHANGHAI, NINGBO]).behind_nat(&SHANGHAI);
    let lab = IpsecLab::prepare(&options, configure).unwrap();
    // Before there is an SA, UDP is possible.
    wait_for_mtu(&lab, &SHANGHAI, 1438);
    wait_for_mtu(&lab, &NINGBO, 1422);
    lab.offices.iter().try_for_each(|office| office.configure(&lab.agent)).unwrap();
    lab.wait_until_up().unwrap();
    // Behind NAT there is UDP.
    wait_for_mtu(&lab, &NINGBO, 1438);
    wait_for_mtu(&lab, &SHANGHAI, 1438);
    lab.world[HUB].ip("link set dev wan0 mtu 1400").unwrap();
    wait_for_mtu(&lab, &NINGBO, 1326);
    wait_for_mtu(&lab, &SHANGHAI, 1338);
    lab.world[HUB].ip("link set dev wan0 mtu 1500").unwrap();
    wait_for_mtu(&lab, &NINGBO, 1438);
    wait_for_mtu(&lab, &SHANGHAI, 1438);
    let ningbo = lab.office("ningbo");
    ningbo.terminate().unwrap();
    wait_for_mtu(&lab, &NINGBO, 1422);
    ningbo.initiate().unwrap();
    wait_for_mtu(&lab, &NINGBO, 1438);
    // A rekeyed SA has the same size: nothing changes.
    ningbo.charon.swanctl(&["--rekey", "--child", "ningbo"]).unwrap();
    lab.wait_until_up().unwrap();
    assert_eq!(mtu(&lab.world[HUB], &NINGBO.hub_device(0)), 1438);
    lab.stop().unwrap();
}
