use serde_json::json;

use super::{diagnose, faults, healthy, interface, only, outside, with_status};
use crate::diagnose::{
    diagnose_connection,
    facts::{Facts, PathFacts, PathMtu},
};

fn with_path(facts: Facts, known: Option<u32>, mtu: u32) -> Facts {
    let mut facts = facts;
    let network = facts.host.network.as_mut().expect("it has one");
    network.paths.extend([outside(known)]);
    network.interfaces.extend([interface("xfrm-a", "xfrm", mtu)]);
    facts
}

/// The negotiated SA: AES-GCM over IPv4 without UDP.
fn negotiated() -> Facts {
    with_status(|status| {
        status["connections"][0]["ipsec"]["outside"] = json!({
            "local": "203.0.113.1", "remote": "198.51.100.1", "in_udp": false, "encryption": "AES_GCM_16",
            "integrity": null,
        });
    })
}

/// 1400 - 20 - 8 - 8 - 16 = 1348, less a trailer of 2: 1346. In CBC with SHA-384, the larger one of the default proposals:
/// 1400 - 20 - 8 - 16 - 24 = 1332, of which 1328 are whole blocks, less 2.
#[test]
fn path_that_is_too_small_for_the_tunnel_is_a_warning() {
    for (known, mtu, with_sa, expected) in [
        (None, 1400, true, None),
        (Some(1500), 1400, true, None),
        (Some(1400), 1346, true, None),
        (Some(1400), 1347, true, Some("warning path_mtu a")),
        (Some(1400), 1326, false, None),
        (Some(1400), 1327, false, Some("warning path_mtu a")),
    ] {
        let facts = with_path(if with_sa { negotiated() } else { healthy() }, known, mtu);
        assert_eq!(faults(&diagnose(&facts)), Vec::from_iter(expected), "{known:?} {mtu} {with_sa}");
        let of_a = diagnose_connection(&facts, "a").expect("it exists");
        assert_eq!(faults(&of_a), Vec::from_iter(expected), "{known:?} {mtu} {with_sa}");
        assert_eq!(faults(&diagnose_connection(&facts, "b").expect("it exists")), [""; 0]);
    }
}

#[test]
fn remedy_has_the_mtu_that_fits() {
    let diagnosis = diagnose(&with_path(negotiated(), Some(1400), 1400));
    let found = only(&diagnosis, "path_mtu");
    let message = "the path to 198.51.100.1 carries packets of 1400 bytes, eth0 itself 1500: 1346 bytes fit in the tunnel, and \
                   xfrm-a has an MTU of 1400; ";
    assert!(found.message.starts_with(message), "{}", found.message);
    let action = found.action.as_deref().expect("it has one");
    assert!(action.starts_with("`ip link set xfrm-a mtu 1346`; `tracepath -n 198.51.100.1`"), "{action}");
    // IPv6 needs 1280 bytes.
    let diagnosis = diagnose(&with_path(negotiated(), Some(1300), 1400));
    let action = only(&diagnosis, "path_mtu").action.clone().expect("it has one");
    assert!(action.starts_with("no MTU that IPv6 permits, 1280 or more, fits; "), "{action}");
    let mut facts = with_path(negotiated(), Some(1400), 1400);
    let text = super::CONFIG.replacen("if_id = 1\n", "if_id = 1\ncreate_interface = true\n", 1);
    facts.config = Some(super::config_facts(&text));
    let action = only(&diagnose(&facts), "path_mtu").action.clone().expect("it has one");
    assert!(action.starts_with("write interface_mtu = 1346 in the ipsec section of a; "), "{action}");
}

#[test]
fn link_behind_the_tunnel_is_named_with_the_segment_size() {
    let mut facts = healthy();
    let network = facts.host.network.as_mut().expect("it has one");
    let path = |known| PathMtu { destination: [10, 3, 0, 1].into(), interface: "tun-c".to_owned(), link: 1400, known };
    let inside = |known| ("c".to_owned(), PathFacts { outside: None, inside: Some(path(known)) });
    network.paths.extend([inside(None)]);
    assert_eq!(faults(&diagnose(&facts)), [""; 0]);
    facts.host.network.as_mut().expect("it has one").paths.extend([inside(Some(1300))]);
    let diagnosis = diagnose(&facts);
    assert_eq!(faults(&diagnosis), ["warning path_mtu c"]);
    let action = only(&diagnosis, "path_mtu").action.clone().expect("it has one");
    assert!(action.starts_with("write mss_clamp = 1260 for c"), "{action}");
}

#[test]
fn headers_of_other_tunnels_are_known() {
    for (kind, fits) in [("wireguard", 1400 - 20 - 40), ("gre", 1400 - 20 - 4), ("ipip", 1400 - 20)] {
        for (mtu, expected) in [(fits, None), (fits + 1, Some("warning path_mtu b"))] {
            let mut facts = healthy();
            let network = facts.host.network.as_mut().expect("it has one");
            let (_, paths) = outside(Some(1400));
            network.paths.insert("b".to_owned(), paths);
            network.interfaces.extend([interface("tun-b", kind, mtu)]);
            assert_eq!(faults(&diagnose(&facts)), Vec::from_iter(expected), "{kind} {mtu}");
        }
    }
}
