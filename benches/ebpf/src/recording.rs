//! A recorded frame, and the start of the packet in it. Shared source: compiled into the kernel programs and the binary.

/// Bytes of a frame that can be recorded. A power of two.
pub const CAPACITY: usize = 2048;
/// Words of a decrypted packet that are compared: 36 bytes, IPv4 with UDP and 8 bytes of payload.
pub const HEAD_WORDS: usize = 9;

/// Frames that can be sent in turn.
pub const IN_TURN: u32 = 16;

/// From the Ethernet header on.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Recording {
    /// In bytes, not 0.
    pub length: u32,
    pub bytes: [u8; CAPACITY],
}

/// The frames that are sent in turn: the next one, and their number. Each CPU has its own.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Turn {
    pub next: u32,
    pub count: u32,
}

const _: () = assert!(size_of::<Recording>() == 4 + CAPACITY);
