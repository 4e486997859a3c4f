//! Raw frames on a device: sent unchanged, captured as they were on the wire.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

use super::Namespace;
use super::socket::{Received, length_of, readable, receive, set_option};
use crate::packet::hex;

/// 16 bits, as in `sockaddr_ll`.
const AF_PACKET: libc::sa_family_t = 17;
const ETH_P_ALL: u16 = 3;
const PACKET_AUXDATA: libc::c_int = 8;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const PACKET_FANOUT: libc::c_int = 18;
/// Socket N of the group gets the frames that the kernel receives on CPU N.
const PACKET_FANOUT_CPU: libc::c_int = 2 << 16;
const PACKET_FANOUT_FLAG_IGNORE_OUTGOING: libc::c_int = 0x4000 << 16;
const TP_STATUS_CSUM_NOT_READY: u32 = 1 << 3;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;

/// Time limit for a full queue. A slow virtual machine empties it within milliseconds.
const ROOM_WITHIN: Duration = Duration::from_secs(2);

/// The used fields of struct `tpacket_auxdata` (`linux/if_packet.h`).
struct AuxData {
    status: u32,
    vlan_tci: u16,
    vlan_tpid: u16,
}

impl AuxData {
    /// Status, two lengths, two offsets, VLAN tag, in the machine's byte order.
    fn read(data: &[u8]) -> Option<Self> {
        let number16 = |at: usize| data.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes));
        Some(Self {
            status: u32::from_ne_bytes(*data.first_chunk()?),
            vlan_tci: number16(16)?,
            vlan_tpid: number16(18)?,
        })
    }
}

/// A frame that a device received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// From the link header on, VLAN tags included. Raw IP from devices without link headers.
    pub bytes: Vec<u8>,
    /// The checksum is not filled in: the sender left it to an offload, or this device's GRO (see
    /// [`End::receives_redirects`](super::End::receives_redirects)) merged segments of a TCP stream. GRO merges neither
    /// single TCP segments nor other packets.
    pub checksum_pending: bool,
}

/// A packet socket on one device. It receives frames that arrive there (not those sent), starting when it was opened.
///
/// On a device with an XDP program it sees only the frames that XDP passes to the kernel. It sees frames that XDP on
/// another device redirects to this device's far end.
#[derive(Debug)]
pub struct FrameSocket {
    socket: OwnedFd,
    name: String,
}

impl FrameSocket {
    /// # Errors
    /// When the place has no such device.
    pub fn open(place: &Namespace, device: &str) -> anyhow::Result<Self> {
        let name = format!("{device} in {}", place.name());
        let index = place.ifindex(device)?;
        let socket = place
            // Without a protocol it receives nothing yet, not even from other devices.
            .enter(|| socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None))?
            .with_context(|| format!("opening a packet socket on {name}"))?;
        set_option(&socket, libc::SOL_PACKET, PACKET_AUXDATA, 1).context("PACKET_AUXDATA")?;
        set_option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1).context("PACKET_IGNORE_OUTGOING")?;
        // Room for bursts; the default holds a few hundred frames.
        setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).context("enlarging the receive buffer")?;
        bind(&socket, index).with_context(|| format!("binding to {name}"))?;
        Ok(Self { socket, name })
    }

    /// One socket for each of the CPUs 0 to `cpus` - 1, for the frames that the kernel receives on it.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_by_cpu(place: &Namespace, device: &str, cpus: usize) -> anyhow::Result<Vec<Self>> {
        let group = place.ifindex(device)?.cast_signed() & 0xffff;
        let join = |_| {
            let socket = Self::open(place, device)?;
            let fanout = group | PACKET_FANOUT_CPU | PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
            set_option(&socket.socket, libc::SOL_PACKET, PACKET_FANOUT, fanout).context("PACKET_FANOUT")?;
            Ok(socket)
        };
        (0..cpus).map(join).collect()
    }

    /// Sends a frame unchanged: link header first, no checksums or padding added. It bypasses the device's own XDP.
    /// Waits for room if the far end is slower than the sender.
    ///
    /// # Errors
    /// When the device is down, or the frame is longer than its MTU and link header.
    pub fn send(&self, frame: &[u8]) -> anyhow::Result<()> {
        let deadline = Instant::now() + ROOM_WITHIN;
        loop {
            // SAFETY: the frame is readable for its length during the call.
            let sent = unsafe { libc::send(self.socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            // The device has dropped the frame.
            if error.raw_os_error() != Some(libc::ENOBUFS) || Instant::now() > deadline {
                return Err(error).with_context(|| format!("sending {} bytes on {}", frame.len(), self.name));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The next frame, or `None` when there is none within `timeout`.
    ///
    /// # Errors
    /// When the device has gone or gone down.
    pub fn receive(&self, timeout: Duration) -> anyhow::Result<Option<Frame>> {
        self.receive_until(Instant::now() + timeout)
    }

    /// The first frame that `filter` accepts, or `None` after `timeout`. Discards the others.
    ///
    /// # Errors
    /// When the device has gone or gone down.
    pub fn find(&self, timeout: Duration, mut filter: impl FnMut(&[u8]) -> bool) -> anyhow::Result<Option<Frame>> {
        let deadline = Instant::now() + timeout;
        while let Some(frame) = self.receive_until(deadline)? {
            if filter(&frame.bytes) {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// Like [`find`](Self::find), for a frame that must arrive.
    ///
    /// # Errors
    /// When it does not: with a hex dump of the other frames.
    pub fn expect(&self, timeout: Duration, mut filter: impl FnMut(&[u8]) -> bool) -> anyhow::Result<Frame> {
        let mut others = String::new();
        let found = self.find(timeout, |frame| {
            let found = filter(frame);
            // Enough to diagnose the failure.
            if !found && others.len() < 4000 {
                others += &hex(frame);
                others.push('\n');
            }
            found
        })?;
        match found {
            Some(frame) => Ok(frame),
            None if others.is_empty() => {
                bail!("nothing arrived on {} within {timeout:?}", self.name)
            }
            None => {
                bail!("the expected frame did not arrive on {} within {timeout:?}, but these did:\n{others}", self.name)
            }
        }
    }

    /// All frames that arrive within a time.
    ///
    /// # Errors
    /// When the device has gone or gone down.
    pub fn collect(&self, time: Duration) -> anyhow::Result<Vec<Frame>> {
        let deadline = Instant::now() + time;
        let mut frames = Vec::new();
        while let Some(frame) = self.receive_until(deadline)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Discards all frames received so far.
    ///
    /// # Errors
    /// When the device has gone or gone down.
    pub fn discard(&self) -> anyhow::Result<()> {
        while self.receive(Duration::ZERO)?.is_some() {}
        Ok(())
    }

    fn receive_until(&self, deadline: Instant) -> anyhow::Result<Option<Frame>> {
        if !readable(&self.socket, deadline)? {
            return Ok(None);
        }
        let received = receive(&self.socket).with_context(|| format!("receiving on {}", self.name))?;
        Ok(Some(frame(received)))
    }
}

fn bind(socket: &OwnedFd, index: u32) -> io::Result<()> {
    // SAFETY: sockaddr_ll is plain old data, for which all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = AF_PACKET;
    address.sll_protocol = ETH_P_ALL.to_be();
    address.sll_ifindex = index.cast_signed();
    let length = length_of(&address);
    // SAFETY: the address outlives the call, and its length is given.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reassembles a frame from the kernel's data: its bytes, and the tag removed from them.
fn frame(received: Received) -> Frame {
    let mut bytes = received.bytes;
    let aux = received.control.iter().find_map(|(level, kind, data)| {
        (*level == libc::SOL_PACKET && *kind == PACKET_AUXDATA).then(|| AuxData::read(data))?
    });
    let Some(aux) = aux else {
        return Frame { bytes, checksum_pending: false };
    };
    if aux.status & TP_STATUS_VLAN_VALID != 0 && bytes.len() >= 12 {
        // The kernel removes the outer tag before any socket sees the frame: restore it.
        let tpid = if aux.status & TP_STATUS_VLAN_TPID_VALID != 0 { aux.vlan_tpid } else { 0x8100 };
        bytes.splice(12..12, [tpid.to_be_bytes(), aux.vlan_tci.to_be_bytes()].concat());
    }
    Frame { bytes, checksum_pending: aux.status & TP_STATUS_CSUM_NOT_READY != 0 }
}
