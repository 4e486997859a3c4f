//! Packets that do not leave their link: multicast and link-local addresses, frames to groups. Their allowed senders,
//! from the specification: a neighbour on that link, or a source that the selectors allow for the hub itself; never a
//! source behind another link.

use hub_tests::packet::Packet;

use crate::{
    gateway::{HZ, SH, TUN, VPC, WIDE, into, own, peer, udp4, udp6},
    hub::{connection, frame, interface, packet, with_links},
    row::{Expected, row},
    table,
};

const ALL: [u8; 6] = [0xff; 6];
const OF_IPV4: [u8; 6] = [1, 0, 0x5e, 0, 0, 5];
const OF_IPV6: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

fn passed(interface: u32, source: &str, destination: &str, reason: &'static str, account: &str) -> Expected {
    let frame = frame(interface, &packet(source, destination));
    row(format!("{source} to {destination}"), interface, frame).passed(reason, account)
}

fn spoofed(interface: u32, source: &str, destination: &str, account: &str) -> Expected {
    let frame = frame(interface, &packet(source, destination));
    row(format!("{source} to {destination}"), interface, frame).dropped("spoofed_source", account)
}

#[test]
fn neighbour_multicast_is_passed_on_own_link_only() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for group in ["224.0.0.5", "239.1.1.1", "255.255.255.255"] {
        rows.extend([
            // The link's prefix, the peer, and a host without an address yet.
            passed(SH, "10.255.1.2", group, "multicast", "shanghai"),
            passed(SH, "169.254.0.2", group, "multicast", "shanghai"),
            passed(HZ, "10.77.2.2", group, "multicast", "hangzhou"),
            passed(TUN, "10.255.3.2", group, "multicast", "nobody"),
            passed(TUN, "10.77.3.2", group, "multicast", "nobody"),
            passed(SH, "0.0.0.0", group, "multicast", "shanghai"),
            // Other links and peers, the hub itself, and the site, which is behind the link.
            spoofed(SH, "10.77.2.2", group, "shanghai"),
            spoofed(HZ, "10.255.1.2", group, "hangzhou"),
            spoofed(SH, "10.255.1.1", group, "shanghai"),
            spoofed(SH, "10.255.1.7", group, "shanghai"),
            spoofed(SH, "10.255.2.1", group, "shanghai"),
            spoofed(SH, "192.168.0.1", group, "shanghai"),
            spoofed(SH, "10.10.10.1", group, "shanghai"),
            spoofed(SH, "10.10.20.1", group, "shanghai"),
            spoofed(SH, "192.168.0.10", group, "shanghai"),
        ]);
    }
    for group in ["ff02::1", "ff02::1:ff00:1", "ff0e::1"] {
        rows.extend([
            passed(SH, "fd00:255:1::2", group, "multicast", "shanghai"),
            passed(SH, "fe80::9", group, "multicast", "shanghai"),
            passed(TUN, "fe80::9", group, "multicast", "nobody"),
            passed(TUN, "fd00:77:3::2", group, "multicast", "nobody"),
            // Duplicate address detection (RFC 4862 section 5.4.2).
            passed(SH, "::", group, "multicast", "shanghai"),
            spoofed(SH, "fd00:255:1::1", group, "shanghai"),
            spoofed(SH, "fd00:255:1::4", group, "shanghai"),
            spoofed(SH, "fd00:10::1", group, "shanghai"),
            spoofed(SH, "fd00:20::1", group, "shanghai"),
            spoofed(HZ, "fd00:77:3::2", group, "hangzhou"),
        ]);
    }
    rows.extend([
        passed(SH, "fe80::9", "fe80::1", "link_local", "shanghai"),
        passed(SH, "fe80::9", "fd00:255:1::1", "link_local", "shanghai"),
        passed(SH, "fe80::9", "fd00:c::1", "link_local", "shanghai"),
        passed(SH, "fd00:255:1::2", "fe80::1", "link_local", "shanghai"),
        passed(SH, "169.254.0.2", "10.255.1.1", "link_local", "shanghai"),
        passed(SH, "169.254.0.2", "192.168.0.1", "link_local", "shanghai"),
        spoofed(SH, "fd00:20::1", "fe80::1", "shanghai"),
        spoofed(SH, "::", "fe80::1", "shanghai"),
        spoofed(SH, "0.0.0.0", "169.254.9.9", "shanghai"),
        spoofed(SH, "10.10.10.1", "169.254.9.9", "shanghai"),
    ]);
    table(&with_links(), &rows)
}

/// RFC 3927 section 7, RFC 4291 section 2.5.6. The kernel would forward such packets.
#[test]
fn link_local_packets_are_not_forwarded() -> anyhow::Result<()> {
    let unpaired = |interface, source: &str, destination: &str, account| {
        let frame = frame(interface, &packet(source, destination));
        row(format!("{source} to {destination}"), interface, frame).dropped("selector_mismatch", account)
    };
    let mut rows = Vec::new();
    // A neighbour, to the Internet, the VPC, a site, another site's neighbour, and a missing host.
    for destination in ["8.8.8.8", "192.168.0.10", "10.10.20.1", "10.10.10.1", "10.255.2.2", "169.254.9.9", "127.0.0.1"]
    {
        rows.push(unpaired(SH, "169.254.0.2", destination, "shanghai"));
    }
    for destination in
        ["2001:db8::1", "fd00:c::10", "fd00:20::1", "fd00:10::1", "fd00:255:1::2", "fe80::77", "::1", "::"]
    {
        rows.push(unpaired(SH, "fe80::9", destination, "shanghai"));
        rows.push(unpaired(TUN, "fe80::9", destination, "nobody"));
        rows.push(unpaired(VPC, "fe80::9", destination, "vpc"));
    }
    rows.extend([
        unpaired(SH, "10.255.1.2", "169.254.9.9", "shanghai"),
        unpaired(TUN, "10.77.3.2", "169.254.0.2", "nobody"),
        unpaired(VPC, "192.168.0.10", "169.254.169.254", "vpc"),
        unpaired(VPC, "8.8.8.8", "169.254.0.2", "vpc"),
    ]);
    table(&with_links(), &rows)?;

    // A cloud's own services use such addresses. In this world one of the sites has them.
    let mut world = with_links();
    world.routes.retain(|route| route.next_hop != "macau");
    table(&world, &[passed(VPC, "169.254.169.254", "192.168.0.1", "link_local", "vpc")])
}

/// Hubs often have 169.254 addresses on their tunnels, and sites probe them.
#[test]
fn link_local_hub_address_is_reachable_within_selectors() -> anyhow::Result<()> {
    let mut world = with_links();
    interface(&mut world, SH).addresses = vec!["169.254.0.1/30".parse()?];
    table(
        &world,
        &[
            passed(SH, "169.254.0.2", "169.254.0.1", "link_local", "shanghai"),
            passed(SH, "10.10.10.1", "169.254.0.1", "link_local", "shanghai"),
            passed(HZ, "10.10.20.1", "169.254.0.1", "link_local", "hangzhou"),
            passed(WIDE, "8.8.8.8", "169.254.0.1", "link_local", "macau"),
            spoofed(SH, "10.10.20.1", "169.254.0.1", "shanghai"),
            spoofed(SH, "169.254.0.1", "169.254.0.1", "shanghai"),
            spoofed(SH, "169.254.0.5", "169.254.0.1", "shanghai"),
            spoofed(HZ, "169.254.0.2", "169.254.0.1", "hangzhou"),
            passed(VPC, "192.168.0.10", "169.254.0.1", "link_local", "vpc"),
            spoofed(VPC, "10.10.10.1", "169.254.0.1", "vpc"),
            spoofed(VPC, "169.254.0.2", "169.254.0.1", "vpc"),
        ],
    )
}

#[test]
fn vpc_side_packets_with_site_or_link_source_are_dropped() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for to in ["224.0.0.5", "255.255.255.255", "192.168.0.1"] {
        let reason = if to == "192.168.0.1" { "to_hub" } else { "multicast" };
        for source in ["192.168.0.10", "192.168.77.1", "8.8.8.8", "10.255.9.9"] {
            rows.push(passed(VPC, source, to, reason, "vpc"));
        }
        // Sites, the prefixes of their links, their peers, and the hub.
        for source in ["10.10.10.1", "10.10.60.1", "10.255.1.2", "10.255.3.2", "10.77.2.2", "10.77.3.2", "192.168.0.1"]
        {
            rows.push(spoofed(VPC, source, to, "vpc"));
        }
    }
    for to in ["ff02::1", "fd00:c::1"] {
        let reason = if to == "ff02::1" { "multicast" } else { "to_hub" };
        for source in ["fd00:c::10", "2001:db8::1"] {
            rows.push(passed(VPC, source, to, reason, "vpc"));
        }
        for source in ["fd00:10::1", "fd00:255:1::2", "fd00:77:3::2", "fd00:c::1"] {
            rows.push(spoofed(VPC, source, to, "vpc"));
        }
    }
    table(&with_links(), &rows)?;

    // Links to a site within the VPC's own prefix, and around it: the longer prefix decides an address's owner.
    let mut world = with_links();
    interface(&mut world, SH).addresses = vec!["192.168.0.129/29".parse()?];
    interface(&mut world, HZ).addresses = vec!["192.168.0.200/16".parse()?];
    let rows = ["192.168.0.1", "224.0.0.5"].map(|to| {
        let reason = if to == "224.0.0.5" { "multicast" } else { "to_hub" };
        [
            passed(VPC, "192.168.0.10", to, reason, "vpc"),
            passed(VPC, "192.168.0.137", to, reason, "vpc"),
            spoofed(VPC, "192.168.0.130", to, "vpc"),
            spoofed(VPC, "192.168.1.1", to, "vpc"),
        ]
    });
    table(&world, rows.as_flattened())
}

/// An operator's mistake, which must not let anybody impersonate the hub.
#[test]
fn peer_equal_to_hub_address_is_no_neighbour() -> anyhow::Result<()> {
    for own in ["10.255.1.1", "10.255.1.7", "192.168.0.1", "203.0.113.255"] {
        let mut world = with_links();
        connection(&mut world, "shanghai").peer = Some(own.parse()?);
        table(
            &world,
            &[
                spoofed(SH, own, "224.0.0.5", "shanghai"),
                spoofed(SH, own, "10.255.1.1", "shanghai"),
                spoofed(SH, own, "192.168.0.10", "shanghai"),
                passed(SH, "10.255.1.2", "224.0.0.5", "multicast", "shanghai"),
            ],
        )?;
    }
    Ok(())
}

/// RFC 1122 section 3.3.6: a link-layer broadcast or multicast must not contain a packet to a unicast address.
#[test]
fn group_frame_with_unicast_packet_is_dropped() -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let to = |packet: &Packet, mac| packet.clone().ethernet(peer(SH), mac).build();
    for mac in [ALL, OF_IPV4, OF_IPV6, [1, 0x80, 0xc2, 0, 0, 0xe]] {
        let multicast = udp4("10.255.1.2", "224.0.0.5");
        let multicast6 = udp6("fe80::9", "ff02::1");
        rows.extend([
            row("multicast", SH, to(&multicast, mac)).passed("multicast", "shanghai"),
            row("multicast, tagged", SH, to(&multicast.clone().vlan(5), mac)).passed("multicast", "shanghai"),
            row("multicast, IPv6", SH, to(&multicast6, mac)).passed("multicast", "shanghai"),
            row("a stranger's", SH, to(&udp4("10.10.20.1", "224.0.0.5"), mac)).dropped("spoofed_source", "shanghai"),
            row("cut off", SH, to(&multicast.clone().cut(40), mac)).dropped("malformed", "shanghai"),
            row("cut off, IPv6", SH, to(&multicast6.clone().cut(60), mac)).dropped("malformed", "shanghai"),
        ]);
        for destination in ["10.10.20.1", "10.255.1.1", "10.255.1.7", "192.168.0.10", "169.254.0.1", "127.0.0.1"] {
            for source in ["10.10.10.1", "10.255.1.2", "0.0.0.0"] {
                let frame = to(&udp4(source, destination), mac);
                rows.push(row(format!("{source} to {destination}"), SH, frame).dropped("malformed", "shanghai"));
            }
        }
        for destination in ["fd00:20::1", "fd00:255:1::1", "fe80::1", "::1"] {
            for source in ["fd00:10::1", "fe80::9", "::"] {
                let frame = to(&udp6(source, destination), mac);
                rows.push(row(format!("{source} to {destination}"), SH, frame).dropped("malformed", "shanghai"));
            }
        }
    }
    // A multicast packet may arrive in a frame to the hub only.
    rows.push(row("to the hub's MAC", SH, into(SH, &udp4("10.255.1.2", "224.0.0.5"))).passed("multicast", "shanghai"));
    // The group bit of the sender's address does not matter.
    let frame = udp4("10.255.1.2", "224.0.0.5").ethernet(ALL, own(SH)).build();
    rows.push(row("from a group's MAC", SH, frame).passed("multicast", "shanghai"));
    table(&with_links(), &rows)
}
