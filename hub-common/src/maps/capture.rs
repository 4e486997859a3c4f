//! Packets for `vpnhub monitor --packets` and `vpnhub capture`: `CAPTURE_FILTERS`, `CAPTURE_LIMITS`, and the records of
//! the ring `CAPTURE`.

/// Filters at a time; each is a bit of a word.
pub const CAPTURE_FILTERS: u32 = 16;
/// Bytes of the ring `CAPTURE`.
pub const CAPTURE_RING_BYTES: u32 = 1 << 20;
/// Maximum bytes of a packet in a record: an Ethernet frame of any usual MTU.
pub const MAX_SNAPLEN: u32 = 4096;
/// Instead of a reason's number: the packet was forwarded.
pub const FORWARDED: u32 = 31;
/// Outcomes with a rate limit each, per filter: reasons and [`FORWARDED`].
pub const CAPTURE_OUTCOMES: u32 = 32;

/// Nanoseconds that a record takes from its rate limit: 1,000 records a second, of each filter, outcome and CPU.
pub const CAPTURE_INTERVAL: u64 = 1_000_000;
/// Records that may come at once.
pub const CAPTURE_BURST: u64 = 1_000;
/// While the ring is half full, only outcomes that have used less than this part of their burst are recorded, so that
/// a flood leaves room for the others.
pub const CAPTURE_RARE: u64 = CAPTURE_BURST / 2;

/// The switch of all of this: the program's only variable. The agent replaces it as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CaptureSwitch {
    /// Filters in use, a bit each.
    pub filters: u32,
    /// Those of them that want forwarded packets.
    pub forwards: u32,
    /// The switch is off from this time on (`CLOCK_MONOTONIC`, nanoseconds), because the agent is gone.
    pub until: u64,
}

/// Value of `CAPTURE_FILTERS`: the packets that a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct CaptureFilter {
    /// Outcomes, a bit each.
    pub outcomes: u32,
    /// `COUNTERS` slot, or [`CaptureFilter::ANY_CONNECTION`].
    pub connection: u32,
    pub source: CapturePrefix,
    pub destination: CapturePrefix,
    /// IP protocol, or [`CaptureFilter::ANY_PROTOCOL`].
    pub protocol: u32,
    /// Ports that may be, first and last, in host byte order; [`CaptureFilter::ANY_PORT`] for all, also of packets
    /// without ports.
    pub source_ports: [u16; 2],
    pub destination_ports: [u16; 2],
    /// Bytes of each packet to record, up to [`MAX_SNAPLEN`].
    pub snaplen: u32,
    /// One of this many forwarded packets, at random.
    pub one_in: u32,
    /// 1 if the filter has no conditions on addresses, protocol and ports: so the program need not parse a packet that is
    /// above the rate limit.
    pub is_plain: u32,
}

/// A prefix of addresses in network byte order, those of IPv4 as IPv4-mapped ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct CapturePrefix {
    pub address: [u64; 2],
    pub mask: [u64; 2],
    /// 4 or 6; 0 for any address, and for packets without addresses.
    pub family: u64,
}

impl CaptureFilter {
    pub const ANY_CONNECTION: u32 = u32::MAX;
    pub const ANY_PROTOCOL: u32 = u32::MAX;
    pub const ANY_PORT: [u16; 2] = [0, u16::MAX];

    /// Whether the filter admits a packet.
    #[inline(always)]
    pub fn admits(&self, packet: &CaptureRecord) -> bool {
        self.admits_outcome(packet)
            && (self.protocol == Self::ANY_PROTOCOL || (packet.family != 0 && self.protocol == packet.protocol))
            && self.source.contains(&packet.source, packet.family)
            && self.destination.contains(&packet.destination, packet.family)
            && admits_port(self.source_ports, packet.ports >> 16, packet.has_ports)
            && admits_port(self.destination_ports, packet.ports & 0xffff, packet.has_ports)
    }

    /// The part of [`CaptureFilter::admits`] for which the packet need not be parsed: outcome and connections.
    #[inline(always)]
    pub fn admits_outcome(&self, packet: &CaptureRecord) -> bool {
        let connection = self.connection;
        self.outcomes & 1 << (packet.outcome & 31) != 0
            && (connection == Self::ANY_CONNECTION || connection == packet.connection || connection == packet.egress)
    }

    /// Sets [`CaptureFilter::is_plain`].
    #[must_use]
    pub fn marked(self) -> Self {
        let is_plain = self.protocol == Self::ANY_PROTOCOL
            && self.source.family == 0
            && self.destination.family == 0
            && self.source_ports == Self::ANY_PORT
            && self.destination_ports == Self::ANY_PORT;
        Self { is_plain: is_plain.into(), ..self }
    }
}

impl CapturePrefix {
    pub const ANY: Self = Self { address: [0; 2], mask: [0; 2], family: 0 };

    #[inline(always)]
    fn contains(&self, address: &[u64; 2], family: u32) -> bool {
        if self.family == 0 {
            return true;
        }
        let differs = |half: usize| (self.address[half] ^ address[half]) & self.mask[half];
        self.family == u64::from(family) && differs(0) | differs(1) == 0
    }
}

#[inline(always)]
fn admits_port([first, last]: [u16; 2], port: u32, has_ports: u32) -> bool {
    if first == 0 && last == u16::MAX {
        return true;
    }
    has_ports != 0 && u32::from(first) <= port && port <= u32::from(last)
}

/// Value of `CAPTURE_LIMITS`, per CPU, at index filter × [`CAPTURE_OUTCOMES`] + outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CaptureLimit {
    /// Time at which the whole burst is available again (`CLOCK_MONOTONIC`, nanoseconds).
    pub full_at: u64,
    /// Packets that the filter admits but that were not recorded: above the rate, or the ring was full.
    pub left_out: u64,
}

/// Start of a record in the ring `CAPTURE`; the packet's bytes follow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CaptureRecord {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
    /// In network byte order; an IPv4 address as an IPv4-mapped one.
    pub source: [u64; 2],
    pub destination: [u64; 2],
    /// The filters that the record is for, a bit each.
    pub filters: u32,
    /// Number of the [`Reason`](crate::Reason), or [`FORWARDED`].
    pub outcome: u32,
    /// The interface that the packet came in by; where it was forwarded, the one that it left by.
    pub ifindex: u32,
    /// `COUNTERS` slot of the connection that sent it.
    pub connection: u32,
    /// `COUNTERS` slot of the connection that it was forwarded to; 0 otherwise.
    pub egress: u32,
    /// [`CaptureRecord::ETHERNET`] and the like.
    pub link: u32,
    /// The tag (IEEE 802.1Q) that the kernel had removed from the frame: protocol in the upper half, control word in
    /// the lower; 0 for none.
    pub tag: u32,
    /// IP version; 0: the packet has no IP header that can be parsed, and the fields below are 0.
    pub family: u32,
    /// Protocol, or the last IPv6 next header that was parsed.
    pub protocol: u32,
    /// Source port in the upper half.
    pub ports: u32,
    /// 1 if the packet has ports.
    pub has_ports: u32,
    /// Bytes of the frame, without the removed tag.
    pub length: u32,
    /// Bytes of it that follow.
    pub captured: u32,
    pub padding: u32,
}

impl CaptureRecord {
    /// The bytes start with an Ethernet header.
    pub const ETHERNET: u32 = 1;
    /// The bytes start with an IP header.
    pub const RAW: u32 = 2;
    /// The interface is not attached: not known.
    pub const UNKNOWN: u32 = 0;

    /// Reads a record of the ring: the record and the packet's bytes. `None` if it is truncated.
    #[cfg(feature = "user")]
    pub fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_first_chunk::<{ size_of::<Self>() }>()?;
        let long = |at: usize| head[at..].first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)).unwrap_or_default();
        let word =
            |at: usize| head[40 + 4 * at..].first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).unwrap_or_default();
        let record = Self {
            time: long(0),
            source: [long(8), long(16)],
            destination: [long(24), long(32)],
            filters: word(0),
            outcome: word(1),
            ifindex: word(2),
            connection: word(3),
            egress: word(4),
            link: word(5),
            tag: word(6),
            family: word(7),
            protocol: word(8),
            ports: word(9),
            has_ports: word(10),
            length: word(11),
            captured: word(12),
            padding: 0,
        };
        Some((record, rest.get(..record.captured as usize)?))
    }
}

const _: () = {
    assert!(size_of::<CaptureSwitch>() == 16);
    assert!(size_of::<CaptureFilter>() == 8 + 2 * 40 + 24);
    assert!(size_of::<CaptureLimit>() == 16);
    assert!(size_of::<CaptureRecord>() == 8 + 2 * 16 + 14 * 4);
    assert!(crate::Reason::COUNT <= FORWARDED as usize);
};
