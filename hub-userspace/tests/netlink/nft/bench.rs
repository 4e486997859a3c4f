//! A hub with two sites, a VPC and a foreign interface, and all their far ends, in one namespace. So a packet sent at a
//! far end arrives with its sender's mark (`SO_MARK`), as from the program.
//!
//! Each far end has its own network behind it, `10.N.0.0/16` and `2001:db8:N::/48`; the hub has `.1` and `::1` of the
//! link's `10.0.N.0/24` and `2001:db8:0:N::/64`.

use std::{
    collections::HashMap,
    fs, io,
    mem::{MaybeUninit, size_of},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::libc;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use super::packet::{What, packet};
use crate::lab::{Lab, addr, index, ip, ip_batch};

/// Number, name at the hub and name at the far end.
const WIRES: [(u8, &str, &str); 4] =
    [(1, "site1", "far1"), (2, "site2", "far2"), (3, "vpc0", "far3"), (4, "strange", "far4")];
/// No interface has it, so the far ends' own stack accepts nothing.
const FAR_MAC: &str = "02:00:00:00:00:99";

/// Protocols of packets that arrive at the hub itself.
const TAPS: [(Domain, i32); 9] = [
    (Domain::IPV4, 1),
    (Domain::IPV4, 2),
    (Domain::IPV4, 6),
    (Domain::IPV4, 17),
    (Domain::IPV4, 89),
    (Domain::IPV6, 58),
    (Domain::IPV6, 6),
    (Domain::IPV6, 17),
    (Domain::IPV6, 89),
];

/// A packet passes two interfaces at most, and its answer one more.
const FENCES: usize = 4;

struct FarEnd {
    name: String,
    socket: Socket,
    ifindex: u32,
    /// The link address of the hub's end.
    hub: [u8; 6],
}

pub struct Bench {
    far_ends: Vec<FarEnd>,
    taps: Vec<Socket>,
    fence: [FarEnd; 2],
    /// Number of the last packet.
    number: u32,
}

impl Bench {
    pub async fn new(lab: &Lab) -> Self {
        // One queue on one CPU preserves the order of packets.
        let mut cpus = rustix::thread::CpuSet::new();
        cpus.set(rustix::thread::sched_getcpu());
        rustix::thread::sched_setaffinity(None, &cpus).unwrap();
        for (key, value) in [
            ("ipv4/ip_forward", 1),
            ("ipv4/conf/all/rp_filter", 0),
            ("ipv4/conf/default/rp_filter", 0),
            // Disables the per-destination limits and the one that all namespaces share.
            ("ipv4/icmp_ratemask", 0),
            ("ipv6/icmp/ratemask", 255),
            ("ipv6/conf/all/forwarding", 1),
            ("ipv6/conf/default/accept_dad", 0),
        ] {
            set(key, value);
        }
        let mut far_ends = Vec::new();
        for (number, hub, far) in WIRES {
            lab.veth(hub, far).await;
            set(&format!("ipv6/conf/{far}/disable_ipv6"), 1);
            ip_batch(&[
                format!("address add 10.0.{number}.1/24 dev {hub}"),
                format!("address add 2001:db8:0:{number}::1/64 dev {hub} nodad"),
                format!("neighbour add 10.0.{number}.2 lladdr {FAR_MAC} dev {hub}"),
                format!("neighbour add 2001:db8:0:{number}::2 lladdr {FAR_MAC} dev {hub}"),
                format!("route add 10.{number}.0.0/16 via 10.0.{number}.2"),
                format!("route add 2001:db8:{number}::/48 via 2001:db8:0:{number}::2"),
            ]);
            far_ends.push(FarEnd::new(far, hub));
        }
        lab.veth("fence0", "fence1").await;
        let taps = TAPS.map(|(domain, protocol)| {
            let tap = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol))).unwrap();
            tap.set_nonblocking(true).unwrap();
            tap
        });
        let fence = [FarEnd::new("fence0", "fence1"), FarEnd::new("fence1", "fence0")];
        Self { far_ends, taps: taps.into(), fence, number: 0 }
    }

    /// Adds foreign interfaces, `s0` and so on, whose far ends are `p0` and so on.
    pub fn add_strangers(&mut self, count: usize) {
        let make = |number| {
            [
                format!("link add s{number} type veth peer name p{number}"),
                format!("link set dev s{number} up"),
                format!("link set dev p{number} up"),
            ]
        };
        ip_batch(&(0..count).flat_map(make).collect::<Vec<_>>());
        let shown = ip("link show");
        let links: HashMap<_, _> =
            shown.as_array().unwrap().iter().map(|link| (link["ifname"].as_str().unwrap(), link)).collect();
        self.far_ends.extend((0..count).map(|number| {
            let [hub, far] = [format!("s{number}"), format!("p{number}")];
            let ifindex = links[far.as_str()]["ifindex"].as_u64().unwrap();
            FarEnd::open(&far, u32::try_from(ifindex).unwrap(), links[hub.as_str()]["address"].as_str().unwrap())
        }));
    }

    /// Sends a packet at a far end, and returns where it arrives: at `far2` and so on, at the `hub`, or an ICMP error
    /// about it, as `far1 icmp 3/1`.
    pub fn send(&mut self, from: &str, mark: u32, source: &str, destination: &str, what: What) -> Vec<String> {
        self.send_all(from, mark, source, destination, &[what])
    }

    /// Like [`send`](Self::send), for several packets one after the other.
    pub fn send_all(
        &mut self,
        from: &str,
        mark: u32,
        source: &str,
        destination: &str,
        packets: &[What],
    ) -> Vec<String> {
        let tag = self.tag();
        let far_end = self.far_ends.iter().find(|far_end| far_end.name == from).unwrap();
        for what in packets {
            far_end.send(mark, &packet(addr(source), addr(destination), *what, &tag));
        }
        self.settle();
        self.arrived(&tag)
    }

    /// Sends a packet repeatedly, on any CPU, until it is ended.
    pub fn flood(&self, from: &str, packet: Vec<u8>) -> Flood {
        let far_end = self.far_ends.iter().find(|far_end| far_end.name == from).unwrap();
        let (socket, to) = (far_end.socket.try_clone().unwrap(), address(far_end.ifindex, libc::ETH_P_IP, far_end.hub));
        socket.set_mark(0).unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            let mut cpus = rustix::thread::CpuSet::new();
            (0..rustix::thread::CpuSet::MAX_CPU).for_each(|cpu| cpus.set(cpu));
            rustix::thread::sched_setaffinity(None, &cpus).unwrap();
            let mut sent = 0;
            while !end.load(Ordering::Relaxed) {
                // A full queue: not sent.
                sent += u64::from(socket.send_to(&packet, &to).is_ok());
                // Packets of other senders wait in the same queues.
                thread::yield_now();
            }
            sent
        });
        Flood { ended, thread }
    }

    /// A new tag, of the length of a tag.
    pub fn tag(&mut self) -> String {
        self.number += 1;
        format!("tag-{:08}", self.number)
    }

    /// Waits until all packets in flight have arrived.
    pub fn settle(&mut self) {
        for _ in 0..FENCES {
            let tag = self.tag();
            let [from, to] = &self.fence;
            from.send(0, &packet(addr("10.99.0.1"), addr("10.99.0.2"), What::Udp(9, 9), &tag));
            to.socket.set_nonblocking(false).unwrap();
            while !contains(&to.receive().expect("the fence fell"), &tag) {}
        }
    }

    /// The places with a packet with that tag, or an ICMP error about it.
    pub fn arrived(&mut self, tag: &str) -> Vec<String> {
        let mut places = Vec::new();
        for tap in &self.taps {
            places.extend(received(tap).filter(|packet| contains(packet, tag)).map(|_| "hub".to_owned()));
        }
        for FarEnd { name, socket, .. } in &self.far_ends {
            places.extend(received(socket).filter(|packet| contains(packet, tag)).map(|packet| {
                match (packet[0] >> 4, packet[9], packet[6]) {
                    (4, 1, _) if packet[20] == 3 => format!("{name} icmp {}/{}", packet[20], packet[21]),
                    (6, _, 58) if packet[40] < 128 => format!("{name} icmp6 {}/{}", packet[40], packet[41]),
                    _ => name.clone(),
                }
            }));
        }
        places
    }
}

/// A sending thread.
pub struct Flood {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Flood {
    /// Ends it and returns the number of packets sent.
    pub fn end(self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl FarEnd {
    fn new(name: &str, hub: &str) -> Self {
        // Not from /sys, which shows the namespace in which it was mounted.
        let shown = ip(&format!("link show dev {hub}"));
        Self::open(name, index(name), shown[0]["address"].as_str().unwrap())
    }

    fn open(name: &str, ifindex: u32, hub: &str) -> Self {
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0))).unwrap();
        socket.attach_filter(&not_outgoing()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&address(ifindex, libc::ETH_P_ALL, [0; 6])).unwrap();
        let hub: Vec<u8> = hub.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        Self { name: name.to_owned(), socket, ifindex, hub: hub.try_into().unwrap() }
    }

    fn send(&self, mark: u32, packet: &[u8]) {
        let protocol = if packet[0] >> 4 == 4 { libc::ETH_P_IP } else { libc::ETH_P_IPV6 };
        self.socket.set_mark(mark).unwrap();
        self.socket.send_to(packet, &address(self.ifindex, protocol, self.hub)).unwrap();
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        receive(&self.socket)
    }
}

fn received(socket: &Socket) -> impl Iterator<Item = Vec<u8>> {
    std::iter::from_fn(|| receive(socket).ok())
}

fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    let mut buffer = [MaybeUninit::new(0_u8); 2048];
    let length = socket.recv(&mut buffer)?;
    // SAFETY: the array was initialised with zeros.
    Ok(buffer[..length].iter().map(|byte| unsafe { byte.assume_init() }).collect())
}

fn contains(packet: &[u8], tag: &str) -> bool {
    packet.windows(tag.len()).any(|bytes| bytes == tag.as_bytes())
}

/// Filters out packets sent by the interface itself (`SKF_AD_PKTTYPE`, `PACKET_OUTGOING`).
fn not_outgoing() -> [SockFilter; 4] {
    const PACKET_TYPE: u32 = (-0x1000_i32 + 4).cast_unsigned();
    [
        SockFilter::new(0x20, 0, 0, PACKET_TYPE),
        SockFilter::new(0x15, 0, 1, 4),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
    ]
}

fn address(ifindex: u32, protocol: i32, mac: [u8; 6]) -> SockAddr {
    // SAFETY: plain data, for which zeros are valid.
    let mut link: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    link.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    link.sll_protocol = u16::try_from(protocol).unwrap().to_be();
    link.sll_ifindex = ifindex as i32;
    link.sll_halen = 6;
    link.sll_addr[..6].copy_from_slice(&mac);
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a storage has room for every kind of address.
    unsafe { *storage.view_as() = link };
    // SAFETY: it holds an address of that length.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as u32) }
}

/// A setting of this thread's namespace.
fn set(key: &str, value: u8) {
    fs::write(format!("/proc/sys/net/{key}"), value.to_string()).unwrap_or_else(|error| panic!("{key}: {error}"));
}
