use std::{fmt::Write as _, sync::Arc};

use super::*;
use crate::{
    config::parse,
    ipsec::vici::{event::ChildSa, table::Tunnel},
    kernel::netlink::Link,
};

/// Connections: name, interface, and keys of their IPsec.
fn config(connections: &[(&str, &str, &str)]) -> Config {
    let mut text = "[gateway]\nname = \"hub\"\naddress = \"203.0.113.1\"\nmax_connections = 1000\n\
                    [customer_gateway.site]\naddress = \"198.51.100.1\"\n[customer_gateway.six]\naddress = \"2001:db8::1\"\n\
                    [customer_gateway.roaming]\naddress = \"any\"\n"
        .to_owned();
    let mut interfaces: Vec<&str> = Vec::new();
    for (number, (name, interface, keys)) in connections.iter().enumerate() {
        if !interfaces.contains(interface) {
            interfaces.push(interface);
        }
        let if_id = interfaces.iter().position(|known| known == interface).map_or(0, |at| at + 1);
        let site = ["six", "roaming"].into_iter().find(|site| name.starts_with(site)).unwrap_or("site");
        write!(
            text,
            "[connection.{name}]\ncustomer_gateway = \"{site}\"\ninterface = \"{interface}\"\n\
             local_cidrs = [\"0.0.0.0/0\"]\nremote_cidrs = [\"10.{}.{}.0/24\"]\n[connection.{name}.ipsec]\n\
             psk_file = \"/nowhere\"\nremote_id = \"{name}\"\nif_id = {if_id}\ncreate_interface = true\n{keys}\n",
            number / 256,
            number % 256
        )
        .expect("a string");
    }
    parse(&text).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}")).0
}

const AUTO: &str = "interface_mtu = \"auto\"\n";
const GCM_ONLY: &str = "interface_mtu = \"auto\"\nesp = { proposals = [\"aes256gcm16-ecp384\"] }\n";

fn host(mtu: u32) -> HostState {
    let link = Link { index: 2, name: "eth0".to_owned(), mtu, ..Link::default() };
    let mut host = HostState::default();
    host.links.insert(link);
    host.addresses.insert(2, ["203.0.113.1/24".parse().expect("an address")].into());
    host
}

fn gcm(is_in_udp: bool) -> Outside {
    Outside { is_in_udp, encryption: Some("AES_GCM_16".to_owned()), ..Outside::default() }
}

fn cbc(is_in_udp: bool) -> Outside {
    Outside {
        is_in_udp,
        encryption: Some("AES_CBC".to_owned()),
        integrity: Some("HMAC_SHA2_256_128".to_owned()),
        ..Outside::default()
    }
}

fn tunnels(sas: &[(&str, &[Outside])]) -> Tunnels {
    let child = |outside: &Outside| ChildSa { outside: outside.clone(), ..ChildSa::default() };
    let tunnel =
        |outsides: &[Outside]| Arc::new(Tunnel { children: outsides.iter().map(child).collect(), ..Tunnel::default() });
    let tunnels = sas.iter().map(|(name, outsides)| ((*name).to_owned(), tunnel(outsides))).collect();
    Tunnels { tunnels, heard: true, ..Tunnels::default() }
}

fn mtu(plan: &LinkPlan, interface: &str) -> u32 {
    plan.desired()[interface].mtu
}

fn plan(config: &Config, host: &HostState, tunnels: &Tunnels) -> LinkPlan {
    let mut plan = LinkPlan::default();
    plan.follow_config(config, host, tunnels);
    plan
}

#[test]
fn without_sa_most_expensive_proposal_in_udp_applies() {
    for (what, name, keys, expected) in [
        // AES-CBC with SHA-384.
        ("defaults", "a", AUTO, 1422),
        ("AES-GCM", "a", GCM_ONLY, 1438),
        ("IPv6 outside", "six", GCM_ONLY, 1418),
        ("the hub's address has the family", "roaming", GCM_ONLY, 1438),
        ("a number", "a", "interface_mtu = 1300\n", 1300),
        ("the default", "a", "", 1400),
    ] {
        let config = config(&[(name, "xf1", keys)]);
        assert_eq!(mtu(&plan(&config, &host(1500), &tunnels(&[])), "xf1"), expected, "{what}");
    }
    let config = config(&[("six", "xf1", GCM_ONLY)]);
    let mut wide = host(1500);
    wide.links.insert(Link { index: 3, name: "eth1".to_owned(), mtu: 9000, ..Link::default() });
    wide.addresses.insert(3, ["2001:db8::2/64".parse().expect("an address")].into());
    assert_eq!(mtu(&plan(&config, &wide, &tunnels(&[])), "xf1"), 8918, "the hub's address is of the other family");
    let moved = Outside { local: "203.0.113.1".parse().ok(), ..gcm(false) };
    assert_eq!(
        mtu(&plan(&config, &host(1500), &tunnels(&[("six", &[moved])])), "xf1"),
        1446,
        "the SA has IPv4 outside"
    );
}

#[test]
fn negotiated_sa_applies_and_smallest_of_several() {
    let config = config(&[("a", "xf1", AUTO)]);
    for (what, sas, expected) in [
        ("AES-GCM", &[gcm(false)][..], 1446),
        ("AES-GCM in UDP", &[gcm(true)], 1438),
        ("AES-CBC", &[cbc(false)], 1438),
        ("AES-CBC in UDP", &[cbc(true)], 1422),
        ("rekeyed with another cipher: both exist", &[gcm(false), cbc(true)], 1422),
        ("algorithms not said: as before", &[Outside::default()], 1422),
        ("an unknown algorithm", &[Outside { encryption: Some("NEW".into()), ..gcm(false) }], 1422),
    ] {
        assert_eq!(mtu(&plan(&config, &host(1500), &tunnels(&[("a", sas)])), "xf1"), expected, "{what}");
    }
}

#[test]
fn smallest_connection_of_shared_interface_applies() {
    let config = config(&[("a", "xf1", AUTO), ("b", "xf1", AUTO), ("c", "xf2", AUTO), ("d", "xf2", "")]);
    let both = tunnels(&[("a", &[gcm(false)]), ("b", &[cbc(false)]), ("c", &[gcm(false)])]);
    let mut plan = plan(&config, &host(1500), &both);
    assert_eq!((mtu(&plan, "xf1"), mtu(&plan, "xf2")), (1438, 1400));
    let change = |plan: &mut LinkPlan, sas: &[(&str, &[Outside])], name: &str| {
        let is_changed = plan.follow_tunnels(&config, &tunnels(sas), &Affected::Some([name.to_owned()].into()));
        (is_changed, mtu(plan, "xf1"))
    };
    let (a, b) = (("a", &[gcm(false)][..]), ("b", &[gcm(false)][..]));
    assert_eq!(change(&mut plan, &[a, b], "b"), (true, 1446));
    assert_eq!(change(&mut plan, &[a, b], "a"), (false, 1446));
    assert_eq!(change(&mut plan, &[("a", &[gcm(true)]), b], "a"), (true, 1438), "lower at once");
    assert_eq!(change(&mut plan, &[("a", &[gcm(true)]), ("b", &[cbc(true)])], "b"), (true, 1422));
    assert_eq!(change(&mut plan, &[a, ("b", &[cbc(true)])], "a"), (false, 1422), "raised only when all allow it");
    assert_eq!(change(&mut plan, &[a, b], "b"), (true, 1446));
}

#[test]
fn underlay_mtu_is_followed_down_to_1280() {
    let config = config(&[("a", "xf1", AUTO), ("b", "xf2", "")]);
    let tunnels = tunnels(&[("a", &[gcm(false)])]);
    let mut plan = plan(&config, &host(1500), &tunnels);
    for (underlay, is_changed, expected) in
        [(1500, false, 1446), (1400, true, 1346), (9000, true, 8946), (1300, true, 1280), (1200, false, 1280)]
    {
        assert_eq!(plan.follow_host(&config, &host(underlay), &tunnels), is_changed, "{underlay}");
        assert_eq!((mtu(&plan, "xf1"), mtu(&plan, "xf2")), (expected, 1400), "{underlay}");
    }
}

#[test]
fn existing_interface_keeps_mtu_until_strongswan_has_answered() {
    let config = config(&[("a", "xf1", AUTO), ("b", "xf2", "")]);
    let keeps = |links: &XfrmLinks| ["xf1", "xf2"].map(|name| links[name].keeps_mtu);
    let first = first_links(&config);
    assert_eq!((keeps(&first), first["xf1"].mtu), ([true, false], 1422));
    let mut plan = plan(&config, &host(1500), &Tunnels::default());
    assert_eq!(keeps(plan.desired()), [true, false]);
    assert!(plan.follow_tunnels(&config, &tunnels(&[("a", &[gcm(false)])]), &Affected::All));
    assert_eq!((keeps(plan.desired()), mtu(&plan, "xf1")), ([false; 2], 1446));
    let gone = Tunnels { unreachable: Some("gone".into()), ..Tunnels::default() };
    plan.follow_config(&config, &host(1500), &gone);
    assert_eq!((keeps(plan.desired()), mtu(&plan, "xf1")), ([false; 2], 1422));
}

#[test]
fn numbers_depend_on_nothing() {
    let config = config(&[("a", "xf1", ""), ("b", "xf2", "interface_mtu = 1280\n")]);
    let mut plan = plan(&config, &host(1500), &Tunnels::default());
    assert!(!plan.has_auto());
    assert!(!plan.follow_host(&config, &host(1300), &Tunnels::default()));
    assert!(!plan.follow_tunnels(&config, &tunnels(&[("a", &[cbc(true)])]), &Affected::All));
    assert_eq!((mtu(&plan, "xf1"), mtu(&plan, "xf2")), (1400, 1280));
    assert!(first_links(&config).values().all(|link| !link.keeps_mtu));
}

#[test]
fn plan_after_events_equals_new_plan() {
    use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};
    let names = ["a", "b", "c", "d", "six1", "roaming1"];
    for seed in 0..200 {
        let mut random = SmallRng::seed_from_u64(seed);
        let interfaces = ["xf1", "xf2", "xf3"];
        let keys = [AUTO, AUTO, GCM_ONLY, "", "interface_mtu = 1430\n"];
        let connections: Vec<(&str, &str, &str)> = names
            .iter()
            .map(|name| {
                (*name, *interfaces.choose(&mut random).expect("some"), *keys.choose(&mut random).expect("some"))
            })
            .collect();
        let config = config(&connections);
        let (mut host, mut state) = (host(1500), tunnels(&[]));
        let mut incremental = plan(&config, &host, &state);
        for _ in 0..30 {
            if random.random_bool(0.2) {
                let mtu = *[1300, 1400, 1500, 9000].choose(&mut random).expect("some");
                host.links.change(2, |link| link.mtu = mtu);
                incremental.follow_host(&config, &host, &state);
            }
            let name = *names.choose(&mut random).expect("some");
            let sas: Vec<Outside> = (0..random.random_range(0..3))
                .map(|_| match random.random_bool(0.5) {
                    true => gcm(random.random_bool(0.5)),
                    false => cbc(random.random_bool(0.5)),
                })
                .collect();
            state.tunnels.extend(tunnels(&[(name, &sas)]).tunnels);
            let before = incremental.desired().clone();
            let is_changed = incremental.follow_tunnels(&config, &state, &Affected::Some([name.to_owned()].into()));
            assert_eq!(is_changed, before != *incremental.desired(), "seed {seed}");
            assert_eq!(incremental.desired(), plan(&config, &host, &state).desired(), "seed {seed}");
        }
    }
}
