//! The frame. Shared source: compiled into the kernel programs and the binary.
//!
//! A frame has an Ethernet, an IPv4 or IPv6 and a UDP header, then a magic number, its own number, and zeros. All that
//! differs from frame to frame follows from the number: destination address, source port, checksums. So the sink can
//! tell what must have come out.
//!
//! The head is handled in 16-bit *halves*, on which all fields begin, in memory order: network byte order.
//! One's-complement sums may be taken over halves in any byte order (RFC 1071).

#![expect(clippy::inline_always, reason = "kernel programs: a call costs, and constant indices need no check")]
#![expect(clippy::cast_possible_truncation, reason = "halves are taken out of words all over")]

/// UDP destination port of all frames: discard (RFC 863).
pub const DESTINATION_PORT: u16 = 9;
/// The lowest source port, which identifies the flow.
pub const FIRST_SOURCE_PORT: u16 = 0x8000;
/// First in the payload.
pub const MAGIC: [u8; 4] = *b"vpnh";

/// Number of tunnels with a sink that records arrivals.
pub const TUNNELS: u32 = 2;
/// How many frames back the record goes: 1.3 s at 100,000 frames a second. A power of two.
pub const ARRIVALS: u32 = 1 << 17;

/// Ports that frames can be sent out of: interface indices of a namespace with a few devices stay below.
pub const PORTS: u32 = 256;

/// Where the programs at TC send frames, as indices of a map: `bare_tc` out of the first device, `feed` into the
/// second.
pub const DEVICE_OUT: u32 = 0;
pub const DEVICE_IN: u32 = 1;

/// Devices that flows can be spread over. A power of two.
pub const FAN: u32 = 4096;

const SPREAD_DESTINATIONS: u32 = 0x9e37_79b1;
const SPREAD_FLOWS: u32 = 0x85eb_ca6b;

/// The first bytes of a frame, in words of 8. Byte order as in memory.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head<const WORDS: usize>(pub [u64; WORDS]);

/// Long enough for either family.
pub type LongHead = Head<{ IPV6.words }>;

impl<const WORDS: usize> Head<WORDS> {
    /// The first words of it. Does not compile for more than there are.
    #[inline(always)]
    pub fn first<const FEWER: usize>(&self) -> Head<FEWER> {
        const { assert!(FEWER <= WORDS) };
        // SAFETY: an array of at least as many words; the same alignment.
        unsafe { *(&raw const *self).cast() }
    }

    #[inline(always)]
    pub fn half(&self, index: usize) -> u16 {
        debug_assert!(index < WORDS * 4);
        // SAFETY: all callers take `index` from a `Layout`, whose fields are within its words.
        unsafe { (&raw const self.0).cast::<u16>().add(index).read() }
    }

    #[inline(always)]
    pub fn set_half(&mut self, index: usize, value: u16) {
        debug_assert!(index < WORDS * 4);
        // SAFETY: as above.
        unsafe { (&raw mut self.0).cast::<u16>().add(index).write(value) }
    }
}

/// Where the fields are: indices of halves, the first where a field has two.
pub struct Layout {
    /// Words that hold everything up to the number.
    pub words: usize,
    /// The header's first half and its checksum, where the family has one.
    pub header: Option<(usize, usize)>,
    /// The 32 bits of the destination address that the number determines: the low ones, except for [`IPV6_NETWORKS`].
    pub destination: usize,
    /// UDP: source port, destination port, length, checksum.
    pub udp: usize,
    pub magic: usize,
    pub number: usize,
}

/// 50 bytes of fields, in 7 words.
pub const IPV4: Layout = Layout { words: 7, header: Some((7, 12)), destination: 15, udp: 17, magic: 21, number: 23 };

/// 70 bytes of fields, in 9 words.
pub const IPV6: Layout = Layout { words: 9, header: None, destination: 25, udp: 27, magic: 31, number: 33 };

/// The same with destinations that differ in bits 32 to 63 of their address: in their network, not their host.
pub const IPV6_NETWORKS: Layout = Layout { destination: 21, ..IPV6 };

/// Settings of the programs, from the binary.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Settings {
    /// The head as it is sent. Zero where the number decides and in the header's checksum.
    pub sent: LongHead,
    /// The same as it must come out of the hub.
    pub arrives: LongHead,
    /// Bits of the head that must be as in `arrives`: all but the source MAC and the header's checksum, which is
    /// verified in full.
    pub checked: LongHead,
    /// Sum over the halves of `sent`'s IPv4 header.
    pub header_sum: u32,
    /// What the number changes in `sent`, and in `arrives`: they differ if the hub translates addresses.
    pub sent_base: Base,
    pub arrives_base: Base,
    /// Destinations, from the first on; at least 1.
    pub destinations: u32,
    /// How far they are apart, in the same bits; at least 1.
    pub stride: u32,
    /// Flows, at least 1 and as many as there are source ports from the first on.
    pub flows: u32,
    /// Bytes of a frame.
    pub length: u32,
    /// 4 or 6.
    pub version: u32,
    /// With 6, whether the layout is [`IPV6_NETWORKS`]: 1 or 0.
    pub networks: u32,
    /// How many frames may be between generator and sink.
    pub window: u32,
}

const _: () = assert!(size_of::<Settings>() == 3 * 72 + 48);

/// A head before it is numbered.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Base {
    /// Sum over the pseudo header, the UDP header and the payload.
    pub udp_sum: u32,
    /// The 32 bits at the layout's `destination` of the first destination, in host byte order.
    pub first_destination: u32,
}

/// Counts of the sink, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames that came out as they must.
    pub good: u64,
    /// The generator's other frames.
    pub garbled: u64,
}

/// Time and tunnel of a frame's arrival, at index number modulo [`ARRIVALS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// `CLOCK_MONOTONIC`, in nanoseconds. 0 where nothing has come yet.
    pub time: u64,
    /// The frame's number.
    pub number: u32,
    /// The tunnel, from 0.
    pub tunnel: u32,
}

const _: () = assert!(size_of::<Arrival>() == 16);

impl Layout {
    /// Makes a head that of frame `number`: destination, source port, number, UDP checksum.
    #[inline(always)]
    pub fn number<const WORDS: usize>(&self, head: &mut Head<WORDS>, base: Base, settings: &Settings, number: u32) {
        let pick = destination(number, settings.destinations);
        let destination = base.first_destination.wrapping_add(pick.wrapping_mul(settings.stride));
        let [high, low] = halves(destination);
        // No more flows than ports: fits.
        let port = (FIRST_SOURCE_PORT + scatter(number, SPREAD_FLOWS, settings.flows) as u16).to_be();
        let [number_high, number_low] = halves(number);
        head.set_half(self.destination, high);
        head.set_half(self.destination + 1, low);
        head.set_half(self.udp, port);
        head.set_half(self.number, number_high);
        head.set_half(self.number + 1, number_low);

        let mut sum = base.udp_sum;
        for half in [high, low, port, number_high, number_low] {
            sum += u32::from(half);
        }
        // 0 means no checksum (RFC 768, RFC 8200); 0xffff is its other representation.
        let checksum = match !fold(sum) {
            0 => 0xffff,
            checksum => checksum,
        };
        head.set_half(self.udp + 3, checksum);
    }

    /// Completes the IPv4 header of a numbered head that is to be sent.
    #[inline(always)]
    pub fn sum_header<const WORDS: usize>(&self, head: &mut Head<WORDS>, settings: &Settings) {
        if let Some((_, checksum)) = self.header {
            let destination = u32::from(head.half(self.destination)) + u32::from(head.half(self.destination + 1));
            head.set_half(checksum, !fold(settings.header_sum + destination));
        }
    }

    /// The number of a frame, if it is the generator's.
    #[inline(always)]
    pub fn generated<const WORDS: usize>(&self, head: &Head<WORDS>) -> Option<u32> {
        let ours = head.half(self.udp + 1) == DESTINATION_PORT.to_be()
            && [head.half(self.magic), head.half(self.magic + 1)] == halves(u32::from_be_bytes(MAGIC));
        let number = [head.half(self.number), head.half(self.number + 1)];
        ours.then(|| u32::from(u16::from_be(number[0])) << 16 | u32::from(u16::from_be(number[1])))
    }

    /// Whether the head of frame `number` is as it must come out: MAC of the far device, addresses, TTL, ports,
    /// checksums.
    #[inline(always)]
    pub fn is_right<const WORDS: usize>(&self, head: &Head<WORDS>, settings: &Settings, number: u32) -> bool {
        let mut expected: Head<WORDS> = settings.arrives.first();
        self.number(&mut expected, settings.arrives_base, settings, number);
        let mut difference = 0;
        // Without a branch between the words: nearly every frame is good.
        for word in 0..WORDS {
            difference |= (head.0[word] ^ expected.0[word]) & settings.checked.0[word];
        }
        difference == 0 && self.header_sum_verifies(head)
    }

    /// Whether the header's checksum is right, computed over the whole header.
    #[inline(always)]
    pub fn header_sum_verifies<const WORDS: usize>(&self, head: &Head<WORDS>) -> bool {
        let Some((first, _)) = self.header else { return true };
        let mut sum = 0;
        for index in first..first + 10 {
            sum += u32::from(head.half(index));
        }
        fold(sum) == 0xffff
    }
}

/// Which of so many destinations frame `number` goes to.
#[inline(always)]
pub fn destination(number: u32, destinations: u32) -> u32 {
    scatter(number, SPREAD_DESTINATIONS, destinations)
}

/// A pick of `0..count` for a number: neighbours get far apart, and each pick comes equally often.
#[inline(always)]
fn scatter(number: u32, odd: u32, count: u32) -> u32 {
    ((u64::from(number.wrapping_mul(odd)) * u64::from(count)) >> 32) as u32
}

/// A number in the byte order of the frame.
#[inline(always)]
pub const fn halves(number: u32) -> [u16; 2] {
    [((number >> 16) as u16).to_be(), (number as u16).to_be()]
}

/// One's-complement sum in 16 bits, of up to 65535 halves.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}
