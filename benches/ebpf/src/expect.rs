//! Expected form of pktgen's frames, and counts. Shared source: compiled into the kernel programs and the binary.

/// UDP destination port: discard (RFC 863), as pktgen has it by default.
pub const PORT: u16 = 9;

/// Times are counted in classes of this many nanoseconds; the last class has all that is longer.
pub const CLASS: u64 = 100;
pub const CLASSES: u32 = 1 << 14;

/// How a frame must come out. IPv4 addresses are the first four bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Expect {
    pub source: [u8; 16],
    pub destination: [u8; 16],
    /// Ethernet address of the receiving device.
    pub mac: [u8; 6],
    /// 4 or 6.
    pub version: u8,
    /// 1 if the frames contain the time at which they were sent: see `stamp`.
    pub stamped: u8,
    /// Bytes of a frame, from the Ethernet header on.
    pub length: u32,
}

const _: () = assert!(size_of::<Expect>() == 44);

/// Counts of one CPU.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Tally {
    /// Frames that came out as they must.
    pub good: u64,
    /// pktgen's other frames.
    pub garbled: u64,
    /// Nanoseconds that the slowest of the good ones took; 0 when they are not stamped.
    pub slowest: u64,
}
