//! The program alone, by test runs: which packets it takes, and by what it selects the CPU.

use hub_common::spread::{BUCKETS, bucket};
use hub_tests::{
    lab::{Namespace, require_root, unique_prefix},
    packet::{
        Packet,
        number::{AUTHENTICATION, ESP, SERVICE_VLAN, UDP, VLAN},
    },
};
use hub_userspace::{
    config::model::DataplaneSettings,
    datapath::{Action, Dataplane, Hook},
};

use crate::underlay::{MACS, esp, esp6, ike, in_udp, in_udp6, keepalive};

const SPI: u32 = 0xc0ff_ee01;

/// Index of a veth device. A new namespace may have the fallback devices of tunnel modules, with the first indices.
const NEAR: u32 = 100;

/// Runs a test in a namespace that has the veth, with the loaded program.
fn with_program(test: impl FnOnce(&mut Dataplane) + Send) {
    require_root().unwrap();
    let namespace = Namespace::create(&unique_prefix()).unwrap();
    namespace.ip(&format!("link add near index {NEAR} type veth peer name far index {}", NEAR + 1)).unwrap();
    namespace.enter(|| test(&mut Dataplane::load(&DataplaneSettings::default()).unwrap())).unwrap();
}

/// Whether the program redirects the frame, which it never changes.
fn is_redirected(dataplane: &mut Dataplane, name: &str, frame: &[u8]) -> bool {
    let outcome = dataplane.test_run(Hook::Spread, NEAR, frame, 0).unwrap();
    assert_eq!(outcome.frame, frame, "{name}");
    match outcome.action {
        Action::Redirect => true,
        Action::Pass => false,
        other => panic!("{name}: {other:?}"),
    }
}

fn ethernet(packet: Packet) -> Packet {
    packet.ethernet(MACS[0], MACS[1])
}

#[test]
fn esp_is_redirected_and_everything_else_passes() {
    let tagged = |packet: Packet, tags: &[(u16, u16)]| {
        let tagged = tags.iter().fold(ethernet(packet), |packet, (protocol, control)| packet.tag(*protocol, *control));
        tagged.build()
    };
    let plain = |packet: Packet| ethernet(packet).build();
    let options = [7, 7, 4, 0, 0, 0, 0];
    let v4 = || Packet::ipv4("192.0.2.1", "203.0.113.1");
    let v6 = || Packet::ipv6("2001:db8::1", "2001:db8::2");
    let spi = [SPI.to_be_bytes(), [0; 4], [0; 4]].concat();
    let udp = |source, destination, bytes: &[u8]| plain(v4().udp(source, destination).bytes(bytes));
    let taken = [
        ("ESP", plain(esp(SPI, 1))),
        ("ESP over IPv6", plain(esp6(SPI, 1))),
        ("NAT-T", plain(in_udp(SPI, 1))),
        ("NAT-T over IPv6", plain(in_udp6(SPI, 1))),
        ("NAT-T from a NAT's port", udp(61_234, 4500, &spi)),
        ("NAT-T to another port of ours", udp(4500, 4510, &spi)),
        ("one tag", tagged(esp(SPI, 1), &[(VLAN, 5)])),
        ("a priority tag", tagged(in_udp6(SPI, 1), &[(VLAN, 0x6000)])),
        ("two tags", tagged(in_udp(SPI, 1), &[(SERVICE_VLAN, 5), (VLAN, 6)])),
        ("IPv4 options", plain(esp(SPI, 1).ip_options(&options))),
        ("IPv4 options, NAT-T", plain(in_udp(SPI, 1).ip_options(&options))),
        ("most IPv4 options, two tags", tagged(esp(SPI, 1).ip_options(&[1; 40]), &[(VLAN, 5), (VLAN, 6)])),
        ("DF", plain(esp(SPI, 1).dont_fragment())),
        ("the smallest SPI", plain(esp(1, 1))),
        ("the largest SPI", plain(in_udp(u32::MAX, 1))),
        ("padding", plain(in_udp(SPI, 1).padding(7))),
    ];
    let mut truncated = vec![
        ("ESP", plain(esp(SPI, 1)), 14 + 20 + 4),
        ("ESP over IPv6", plain(esp6(SPI, 1)), 14 + 40 + 4),
        ("NAT-T", plain(in_udp(SPI, 1)), 14 + 20 + 8 + 4),
        ("NAT-T over IPv6", plain(in_udp6(SPI, 1)), 14 + 40 + 8 + 4),
        ("two tags", tagged(in_udp(SPI, 1), &[(VLAN, 5), (VLAN, 6)]), 14 + 8 + 20 + 8 + 4),
    ];
    let passed = [
        ("IKE on port 4500", plain(ike())),
        ("a keepalive", plain(keepalive())),
        ("a keepalive, padded as on Ethernet", plain(keepalive().padding(17))),
        ("a longer keepalive", udp(4500, 4500, &[0xff; 8])),
        ("an SPI alone", udp(4500, 4500, &spi[..4])),
        ("no byte behind the sequence number", udp(4500, 4500, &spi[..8])),
        ("a UDP length without payload", plain(in_udp(SPI, 1).udp_length(8))),
        ("IKE on port 500", udp(500, 500, &spi)),
        ("DNS", udp(53, 45_000, &spi)),
        ("SPI 0", plain(esp(0, 1))),
        ("a first fragment", plain(esp(SPI, 1).fragment(0, true, 7))),
        ("a later fragment", plain(esp(SPI, 1).fragment(3, true, 7))),
        ("the last fragment", plain(in_udp(SPI, 1).fragment(3, false, 7))),
        ("a first fragment over IPv6", plain(esp6(SPI, 1).fragment(0, true, 7))),
        ("IPv6 destination options", plain(esp6(SPI, 1).destination_options(&[]))),
        ("IPv6 hop-by-hop options", plain(in_udp6(SPI, 1).hop_by_hop(&[]))),
        ("AH", plain(v4().protocol(AUTHENTICATION).bytes(spi.clone()))),
        ("TCP to port 4500", plain(v4().tcp(4500, 4500).payload(64))),
        ("ping", plain(v4().echo(1, 1).payload(64))),
        ("ping over IPv6", plain(v6().echo(1, 1).payload(64))),
        ("ARP", Packet::arp_request(MACS[0], "192.0.2.1", "203.0.113.1").build()),
        ("three tags", tagged(esp(SPI, 1), &[(VLAN, 5), (VLAN, 6), (VLAN, 7)])),
        ("an IP version that differs from the link's", plain(esp(SPI, 1).version(6))),
        ("the same of IPv6", plain(esp6(SPI, 1).version(4))),
        ("an IPv4 header that is too short", plain(esp(SPI, 1).header_words(4))),
        ("an unknown link protocol", plain(esp(SPI, 1).ether_type(0x88b5))),
    ];
    with_program(|dataplane| {
        for (name, frame) in &taken {
            assert!(!is_redirected(dataplane, name, frame), "{name}, without a CPU");
        }
        dataplane.spread_over(|_| Some(0)).unwrap();
        for (name, frame) in &taken {
            assert!(is_redirected(dataplane, name, frame), "{name}");
        }
        for (name, frame) in &passed {
            assert!(!is_redirected(dataplane, name, frame), "{name}");
        }
        // Cut at each byte: the SPI is the last that the program needs.
        for (name, frame, needed) in truncated.drain(..) {
            for length in 14..=frame.len() {
                let redirected = is_redirected(dataplane, name, &frame[..length]);
                assert_eq!(redirected, length >= needed, "{name}, {length} of {} bytes", frame.len());
            }
        }
        dataplane.spread_over(|_| None).unwrap();
        for (name, frame) in &taken {
            assert!(!is_redirected(dataplane, name, frame), "{name}, without a CPU again");
        }
    });
    assert_eq!((ESP, UDP), (50, 17));
}

/// A bucket is the program's whole choice: with a CPU in one bucket alone, just the SPIs of that bucket are redirected.
#[test]
fn spi_alone_selects_bucket() {
    let spis: Vec<u32> = (0..64).map(|number| 256 + number * 0x0101_0107).collect();
    let of = |spi: u32| -> [(&str, Packet); 7] {
        [
            ("ESP", esp(spi, 1)),
            ("another sequence number", esp(spi, u32::MAX)),
            ("another length", esp(spi, 2).bytes([&spi.to_be_bytes()[..], &[0; 900]].concat())),
            ("IPv6", esp6(spi, 3)),
            ("NAT-T", in_udp(spi, 4)),
            ("NAT-T over IPv6", in_udp6(spi, 5)),
            ("other addresses, class and TTL", esp(spi, 6).tos(0xb8).ttl(3)),
        ]
    };
    with_program(|dataplane| {
        for chosen in [bucket(spis[0]), bucket(spis[1]), bucket(spis[63])] {
            assert!(chosen < BUCKETS);
            dataplane.spread_over(|bucket| (bucket == chosen).then_some(0)).unwrap();
            for spi in &spis {
                for (name, packet) in of(*spi) {
                    let redirected = is_redirected(dataplane, name, &ethernet(packet).build());
                    assert_eq!(redirected, bucket(*spi) == chosen, "{name}, SPI {spi:#x}, bucket {chosen}");
                }
            }
        }
    });
}

#[test]
fn cpu_that_does_not_exist_is_rejected() {
    with_program(|dataplane| {
        let error = dataplane.spread_over(|_| Some(100_000)).unwrap_err().to_string();
        assert!(error.contains("SPREAD_CPUS"), "{error}");
        // And nothing is redirected to it.
        assert!(!is_redirected(dataplane, "ESP", &ethernet(esp(SPI, 1)).build()));
    });
}
