//! Random configurations, hosts and events.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::IpNet;
use rand::{Rng as _, rngs::SmallRng, seq::IndexedRandom as _};

use super::{
    carriers::{carried, carriers, if_id},
    evaluate::Packet,
};
use crate::{
    config::{
        Config, Role,
        model::{Connection, Route},
        parse,
    },
    health::{HealthReport, Verdict},
    ipsec::vici::{
        event::{ChildSa, Outside},
        selector::TrafficSelector,
        table::Tunnel,
        tunnels::Tunnels,
    },
    kernel::netlink::{Changes, HostState, KernelHop, Link, TableChanges},
};

/// Maximum number of connections.
pub const SITES: usize = 5;
/// Interface index of the VPC.
const VPC: u32 = 90;

/// Interface names of connections: tunnels and Ethernet links, one without native XDP.
pub const INTERFACES: [&str; 6] = ["tun0", "tun1", "veth0", "veth1", "nic0", "tun2"];

pub fn is_ethernet(name: &str) -> bool {
    !name.starts_with("tun")
}

const SEGMENTS: [&str; 4] = ["vpc", "default", "s0", "s1"];

pub fn config(random: &mut SmallRng) -> Config {
    let mut text =
        format!("[gateway]\nname = \"hub\"\naddress = \"203.0.113.1\"\nspoke_to_spoke = {}\n", random.random_bool(0.8));
    if random.random_bool(0.8) {
        let table = [254, 100].choose(random).expect("there are some");
        write!(text, "[vpc]\ninterface = \"vpc0\"\ncidrs = [\"192.168.0.0/16\"]\npublish_table = {table}\n").unwrap();
    }
    if random.random_bool(0.7) {
        let table = [254, 1190].choose(random).expect("there are some");
        let most = random.random_range(1..5);
        write!(text, "[learn]\ntable = {table}\nmax_per_connection = {most}\n").unwrap();
    }
    for segment in ["s0", "s1"] {
        let listed: Vec<_> = SEGMENTS.into_iter().filter(|_| random.random_bool(0.5)).collect();
        write!(text, "[segment.{segment}]\nreaches = {listed:?}\n").unwrap();
    }
    // One site, because its connections share prefixes.
    text += "[customer_gateway.site]\naddress = \"198.51.100.1\"\n";
    let (mut names, mut at_hub, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
    for site in 0..SITES {
        if random.random_bool(0.25) {
            continue;
        }
        let interface = INTERFACES.choose(random).expect("there are some");
        let has_ipsec = random.random_bool(0.4);
        let carriers = carriers(random, interface);
        let has_tunnels = carriers.len() > 1;
        // Connections on the same interface share no prefix.
        let is_first = carriers.iter().all(|carrier| !used.contains(carrier));
        used.extend(carriers.iter().copied());
        let shared = if is_first { ", \"10.200.0.0/16\"" } else { "" };
        let carried = carried(random, site, &carriers, has_ipsec);
        let locals = ["[\"0.0.0.0/0\", \"::/0\"]", "[\"192.168.0.0/16\", \"10.0.0.0/8\", \"fd00::/8\"]"]
            .choose(random)
            .expect("there are some");
        write!(
            text,
            "[connection.c{site}]\ncustomer_gateway = \"site\"\n{carried}local_cidrs = {locals}\n\
             remote_cidrs = [\"10.{site}.0.0/16\", \"fd09:{site}::/48\"{shared}]\nsegment = \"{}\"\nenabled = {}\nreverse_path = \"{}\"\n\
             mss_clamp = {}\n",
            ["default", "s0", "s1"].choose(random).expect("there are some"),
            random.random_bool(0.9),
            if random.random_bool(0.8) { "strict" } else { "off" },
            ["\"auto\"", "\"auto\"", "\"off\"", "1200", "88"].choose(random).expect("there are some"),
        )
        .unwrap();
        // A network behind the site that the hub knows by another prefix.
        let translated = random.random_bool(0.3);
        if translated {
            let pairs = [
                (format!("10.{site}.9.0/24"), format!("10.{}.9.0/24", 100 + site)),
                (format!("fd09:{site}::/64"), format!("fd19:{site}::/64")),
            ];
            let pairs = pairs.map(|(own, hub)| format!("{{ site = \"{own}\", hub = \"{hub}\" }}"));
            writeln!(text, "translate = [{}]", pairs.join(", ")).unwrap();
        }
        if random.random_bool(0.3) {
            writeln!(text, "health_check = {{ source = \"192.168.0.1\", destination = \"10.{site}.0.1\" }}").unwrap();
        }
        if has_ipsec {
            writeln!(text, "[connection.c{site}.ipsec]\npsk_file = \"/nowhere\"\nremote_id = \"c{site}\"").unwrap();
            if !carriers.iter().any(|carrier| is_ethernet(carrier)) && random.random_bool(0.7) {
                let if_id = if has_tunnels { String::new() } else { format!("if_id = {}\n", if_id(interface)) };
                let mtu = ["\"auto\"", "\"auto\"", "1400"].choose(random).expect("there are some");
                writeln!(text, "{if_id}create_interface = true\ninterface_mtu = {mtu}").unwrap();
            }
        }
        names.push((site, !shared.is_empty()));
        if translated {
            at_hub.push(site);
        }
    }
    for site in at_hub {
        write!(text, "[[route]]\ndestination = \"10.{}.9.0/24\"\nnext_hop = \"c{site}\"\n", 100 + site).unwrap();
    }
    for (site, _) in &names {
        for part in 0..3 {
            if random.random_bool(0.6) {
                let publish = random.random_bool(0.5);
                write!(
                    text,
                    "[[route]]\ndestination = \"10.{site}.{part}.0/24\"\nnext_hop = \"c{site}\"\npublish = {publish}\n"
                )
                .unwrap();
            }
        }
    }
    for part in 0..3 {
        for (site, _) in names.iter().filter(|(_, shared)| *shared) {
            if random.random_bool(0.5) {
                let weight = [0, 20, 50, 100].choose(random).expect("there are some");
                write!(
                    text,
                    "[[route]]\ndestination = \"10.200.{part}.0/24\"\nnext_hop = \"c{site}\"\nweight = {weight}\n"
                )
                .unwrap();
            }
        }
    }
    if random.random_bool(0.7) {
        text += &policy_routes(random, &names.iter().map(|(site, _)| *site).collect::<Vec<_>>());
    }
    let (config, _) = parse(&text).unwrap_or_else(|errors| panic!("{text}\n{errors:#?}"));
    Config { role: role(random), ..config }
}

fn role(random: &mut SmallRng) -> Role {
    *[Role::Active, Role::Active, Role::Withdrawn, Role::Standby].choose(random).expect("there are some")
}

/// Some policy routes, often several with the same prefixes.
fn policy_routes(random: &mut SmallRng, sites: &[usize]) -> String {
    let mut all = BTreeSet::new();
    for _ in 0..random.random_range(0..12) {
        let Some(site) = sites.choose(random) else { break };
        let prefix = |random: &mut SmallRng| match random.random_range(0..4) {
            0 => "10.0.0.0/8".to_owned(),
            1 => "10.200.0.0/16".to_owned(),
            2 => format!("10.{}.0.0/16", random.random_range(0..SITES)),
            _ => format!("10.{}.{}.0/24", random.random_range(0..SITES), random.random_range(0..3)),
        };
        let source = if random.random_bool(0.2) { "0.0.0.0/0".to_owned() } else { prefix(random) };
        let prefixes = match random.random_bool(0.1) {
            true => ("fd09::/16".to_owned(), format!("fd09:{site}::/48")),
            false => (source, prefix(random)),
        };
        all.insert((prefixes, *site));
    }
    let mut text = String::new();
    for ((source, destination), site) in all {
        let weight = [0, 50, 100].choose(random).expect("there are some");
        let (priority, publish) = (random.random_range(1..4), random.random_bool(0.3));
        write!(
            text,
            "[[policy_route]]\nsource = \"{source}\"\ndestination = \"{destination}\"\nnext_hop = \"c{site}\"\n\
             priority = {priority}\nweight = {weight}\npublish = {publish}\n"
        )
        .unwrap();
    }
    text
}

/// The same configuration with other routes.
pub fn reroute(random: &mut SmallRng, config: &Config) -> Config {
    let mut config = config.clone();
    config.routes.retain(|_| random.random_bool(0.7));
    if random.random_bool(0.2) {
        config.role = role(random);
    }
    for route in &mut config.routes {
        if random.random_bool(0.2) {
            route.weight = *[0, 20, 50, 100].choose(random).expect("there are some");
        }
    }
    for part in 0..3 {
        let destination: IpNet = format!("10.200.{part}.0/24").parse().expect("a prefix");
        let connections: Vec<(String, Connection)> =
            config.configured().map(|(name, members)| (name.to_owned(), members[0].1.clone())).collect();
        for (name, connection) in &connections {
            let is_there = |route: &&Route| route.destination == destination && route.next_hop == *name;
            let may = connection.remote_cidrs.iter().any(|remote| remote.contains(&destination));
            if may && random.random_bool(0.3) && !config.routes.iter().any(|route| is_there(&route)) {
                let (publish, weight) = (random.random_bool(0.5), random.random_range(0..=100));
                config.routes.push(Route { destination, next_hop: name.clone(), weight, publish });
            }
        }
    }
    config
}

/// A link of that name, up or down.
fn link(random: &mut SmallRng, name: &str, index: u32) -> Link {
    let ethernet = is_ethernet(name);
    Link {
        index,
        name: name.to_owned(),
        kind: Some(if random.random_bool(0.5) { "tun" } else { "xfrm" }.to_owned()),
        ethernet,
        mac: ethernet.then(|| [2, 0, 0, 0, 0, u8::try_from(index).expect("few")]),
        mtu: *[1400, 1500].choose(random).expect("there are some"),
        admin_up: random.random_bool(0.9),
        running: random.random_bool(0.8),
        vlan: random.random_bool(0.2).then(|| (random.random_range(10..13), random.random_range(1..3))),
        ..Link::default()
    }
}

pub fn host(random: &mut SmallRng) -> HostState {
    let mut host = HostState::default();
    for _ in 0..8 {
        change_host(random, &mut host);
    }
    host
}

/// Makes a random change to a host and returns it.
pub fn change_host(random: &mut SmallRng, host: &mut HostState) -> Changes {
    let mut changes = Changes::default();
    let slot = random.random_range(0..=INTERFACES.len());
    let name = INTERFACES.get(slot).copied().unwrap_or("vpc0");
    let old = host.links.values().find(|link| link.name == name).map(|link| link.index);
    match (random.random_range(0..10), old) {
        (0, Some(index)) => {
            host.links.remove(&index);
            host.addresses.remove(&index);
            let gone: Vec<_> = host.neighbours.keys().filter(|(ifindex, _)| *ifindex == index).copied().collect();
            for key in gone {
                host.neighbours.remove(&key);
                changes.neighbours = true;
            }
            (changes.links, changes.addresses) = (true, true);
            changes.gone.insert(index);
        }
        (1..=5, _) | (0, None) => {
            // A recreated interface has the same index or a new one.
            let index = old.unwrap_or_else(|| match name {
                "vpc0" => VPC,
                _ => 10 + u32::try_from(slot).expect("few") + 10 * random.random_range(0..3),
            });
            let new = link(random, name, index);
            match host.links.get(&index).is_some_and(|old| old.is_alike(&new)) {
                true => changes.carrier = true,
                false => changes.links = true,
            }
            host.links.insert(new);
        }
        (6 | 7, Some(index)) => {
            let address = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 10 + random.random_range(0..5)));
            if host.neighbours.remove(&(index, address)).is_none() {
                host.neighbours.insert((index, address), [2, 1, 0, 0, 0, random.random_range(0..3)]);
            }
            changes.neighbours = true;
        }
        (_, Some(index)) => {
            let address = format!("169.254.1.{}/24", random.random_range(1..4)).parse().expect("an address");
            let addresses = host.addresses.entry(index).or_default();
            if !addresses.remove(&address) {
                addresses.insert(address);
            }
            changes.addresses = true;
        }
        (_, None) => {}
    }
    changes
}

/// Some changes of the routing daemon's table.
pub fn learned(random: &mut SmallRng) -> TableChanges {
    let mut prefixes = BTreeSet::new();
    for _ in 0..random.random_range(1..8) {
        let (site, part) = (random.random_range(0..SITES), random.random_range(0..4));
        let prefix = match random.random_range(0..9) {
            0 => "0.0.0.0/0".to_owned(),
            1 => "192.168.0.0/17".to_owned(),
            2 => format!("169.254.1.{}/32", random.random_range(1..4)),
            3 => format!("10.200.{part}.0/24"),
            4 => format!("10.200.{part}.128/25"),
            5 => format!("10.{site}.0.0/16"),
            6 => format!("fd09:{site}:0:{part}::/64"),
            _ => format!("10.{site}.{part}.0/24"),
        };
        prefixes.insert(prefix.parse::<IpNet>().expect("a prefix"));
    }
    let hops = |random: &mut SmallRng| -> Vec<KernelHop> {
        let hop = |random: &mut SmallRng| {
            let slot = random.random_range(0..u32::try_from(INTERFACES.len()).expect("few"));
            let via = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 10 + random.random_range(0..5)));
            KernelHop {
                ifindex: 10 + slot + 10 * random.random_range(0..3),
                via: random.random_bool(0.7).then_some(via),
                weight: random.random_range(1..4),
            }
        };
        (0..random.random_range(1..3)).map(|_| hop(random)).collect()
    };
    prefixes.into_iter().map(|prefix| (prefix, random.random_bool(0.7).then(|| hops(random).into()))).collect()
}

/// Random SAs of charon.
pub fn tunnels(random: &mut SmallRng) -> Arc<Tunnels> {
    if random.random_bool(0.1) {
        return Arc::new(Tunnels {
            unreachable: Some("gone".into()),
            heard: random.random_bool(0.5),
            ..Tunnels::default()
        });
    }
    let mut view = Tunnels { heard: true, ..Tunnels::default() };
    for (site, end) in (0..SITES).flat_map(|site| ["", "/a", "/b"].map(|end| (site, end))) {
        let mut tunnel = Tunnel::default();
        for id in 0..random.random_range(0..3) {
            let remote = ["10.{}.0.0/16", "10.{}.1.0/24[tcp/22]", "10.200.0.0/16", "0.0.0.0/0"];
            let remote = remote.choose(random).expect("there are some").replace("{}", &site.to_string());
            let local = ["0.0.0.0/0", "192.168.0.0/24"].choose(random).expect("there are some");
            let selector = |text: &str| vec![TrafficSelector::parse(text).expect("a selector")];
            tunnel.children.push(ChildSa {
                id,
                state: "INSTALLED".into(),
                local: selector(local),
                remote: selector(&remote),
                outside: outside(random),
                ..ChildSa::default()
            });
        }
        view.tunnels.insert(format!("c{site}{end}"), Arc::new(tunnel));
    }
    Arc::new(view)
}

/// Addresses on the host's links, or on none.
fn outside(random: &mut SmallRng) -> Outside {
    let address = |random: &mut SmallRng| {
        random.random_bool(0.7).then(|| IpAddr::V4(Ipv4Addr::new(169, 254, 1, random.random_range(1..8))))
    };
    let is_aead = random.random_bool(0.5);
    Outside {
        local: address(random),
        remote: address(random),
        is_in_udp: random.random_bool(0.5),
        encryption: random.random_bool(0.9).then(|| if is_aead { "AES_GCM_16" } else { "AES_CBC" }.to_owned()),
        integrity: (!is_aead).then(|| "HMAC_SHA2_256_128".to_owned()),
    }
}

pub fn health(random: &mut SmallRng) -> BTreeMap<String, HealthReport> {
    let verdict = match random.random_range(0..4) {
        0 => None,
        1 => Some(Verdict::Healthy),
        2 => Some(Verdict::Degraded { lost: 4, probes: 30 }),
        _ => Some(Verdict::Unhealthy { misses: 3, last_reply_age: None }),
    };
    let tunnel = ["", "/a", "/b"].choose(random).expect("there are some");
    let name = format!("c{}{tunnel}", random.random_range(0..SITES));
    BTreeMap::from([(name, HealthReport { verdict, is_loss_known: random.random(), ..HealthReport::default() })])
}

pub fn packets(random: &mut SmallRng) -> Vec<Packet> {
    let address = |random: &mut SmallRng| match random.random_range(0..4) {
        0 => Ipv4Addr::new(192, 168, 0, random.random_range(0..4)),
        1 => Ipv4Addr::new(10, 200, random.random_range(0..3), 1),
        2 => Ipv4Addr::new(169, 254, 1, random.random_range(1..14)),
        _ => Ipv4Addr::new(10, random.random_range(0..5), random.random_range(0..4), 1),
    };
    let packet = |_| {
        let ifindex = if random.random_bool(0.1) { VPC } else { 10 + random.random_range(0..36) };
        Packet { ifindex, source: address(random), destination: address(random) }
    };
    (0..40).map(packet).collect()
}
