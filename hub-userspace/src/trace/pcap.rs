//! Reads packets of captures: pcap (`draft-ietf-opsawg-pcap`) and pcapng (`draft-ietf-opsawg-pcapng`), of either byte
//! order.

/// Link types of frames with an Ethernet header, and of packets that begin with the IP header.
const ETHERNET: u32 = 1;
const RAW: [u32; 4] = [12, 101, 228, 229];

/// Most bytes of a packet in a file: as much as `tcpdump -s 0` writes.
const LONGEST: usize = 256 * 1024;

/// A packet of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Counted from 1, as Wireshark does.
    pub number: usize,
    /// It begins with an Ethernet header, otherwise with the IP header.
    pub is_ethernet: bool,
    /// As captured. It may be shorter than it was.
    pub bytes: Vec<u8>,
    /// Bytes that the packet had.
    pub length: usize,
}

/// Why a capture cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PcapError {
    #[error("not a capture: it begins like neither pcap nor pcapng")]
    Kind,
    #[error("truncated or damaged at byte {at}")]
    Damaged { at: usize },
    #[error("packet {number} has link type {link_type}: only Ethernet (1) and raw IP (101, 228, 229) can be traced")]
    LinkType { number: usize, link_type: u32 },
}

/// All packets of a file.
pub fn read(file: &[u8]) -> Result<Vec<Captured>, PcapError> {
    let magic = file.first_chunk::<4>().ok_or(PcapError::Kind)?;
    // With microseconds or nanoseconds; the latter only changes the meaning of times.
    match (u32::from_le_bytes(*magic), u32::from_be_bytes(*magic)) {
        (0xa1b2_c3d4 | 0xa1b2_3c4d, _) => pcap(Reader { file, at: 4, is_big: false }),
        (_, 0xa1b2_c3d4 | 0xa1b2_3c4d) => pcap(Reader { file, at: 4, is_big: true }),
        (SECTION, _) => pcapng(Reader { file, at: 0, is_big: false }),
        _ => Err(PcapError::Kind),
    }
}

/// Block types of pcapng; that of a section is the same in both byte orders.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    is_big: bool,
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], PcapError> {
        let bytes = self.at.checked_add(count).and_then(|end| self.file.get(self.at..end));
        let bytes = bytes.ok_or(PcapError::Damaged { at: self.at })?;
        self.at += count;
        Ok(bytes)
    }

    fn word(&mut self) -> Result<u32, PcapError> {
        let bytes = self.bytes(4)?;
        let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
        Ok(if self.is_big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn half(&mut self) -> Result<u32, PcapError> {
        let bytes = self.bytes(2)?;
        let bytes = [bytes[0], bytes[1]];
        Ok(u32::from(if self.is_big { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) }))
    }

    fn packet(&mut self, number: usize, link_type: u32, captured: u32, length: u32) -> Result<Captured, PcapError> {
        let at = self.at;
        let captured = usize::try_from(captured).ok().filter(|captured| *captured <= LONGEST);
        let bytes = self.bytes(captured.ok_or(PcapError::Damaged { at })?)?.to_vec();
        let is_ethernet = link_type == ETHERNET;
        if !is_ethernet && !RAW.contains(&link_type) {
            return Err(PcapError::LinkType { number, link_type });
        }
        Ok(Captured { number, is_ethernet, length: bytes.len().max(length as usize), bytes })
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.file.len()
    }
}

fn pcap(mut reader: Reader<'_>) -> Result<Vec<Captured>, PcapError> {
    // Version, time zone, accuracy, longest packet.
    reader.bytes(16)?;
    // The upper bits are about checksums of frames.
    let link_type = reader.word()? & 0x0fff_ffff;
    let mut packets = Vec::new();
    while !reader.is_at_end() {
        reader.bytes(8)?;
        let (captured, length) = (reader.word()?, reader.word()?);
        packets.push(reader.packet(packets.len() + 1, link_type, captured, length)?);
    }
    Ok(packets)
}

fn pcapng(mut reader: Reader<'_>) -> Result<Vec<Captured>, PcapError> {
    let (mut packets, mut interfaces) = (Vec::new(), Vec::new());
    while !reader.is_at_end() {
        let start = reader.at;
        let damaged = PcapError::Damaged { at: start };
        let kind = reader.word()?;
        if kind == SECTION {
            let order = reader.file.get(start + 8..start + 12).ok_or(damaged.clone())?;
            let order = [order[0], order[1], order[2], order[3]];
            reader.is_big = match (u32::from_le_bytes(order), u32::from_be_bytes(order)) {
                (BYTE_ORDER, _) => false,
                (_, BYTE_ORDER) => true,
                _ => return Err(damaged),
            };
            interfaces.clear();
        }
        let length = reader.word()? as usize;
        let end = start.checked_add(length).filter(|end| length >= 12 && *end <= reader.file.len());
        let end = end.ok_or(damaged.clone())?;
        let number = packets.len() + 1;
        match kind {
            INTERFACE => interfaces.push(reader.half()?),
            ENHANCED_PACKET => {
                let interface = reader.word()? as usize;
                reader.bytes(8)?;
                let (captured, length) = (reader.word()?, reader.word()?);
                let link_type = *interfaces.get(interface).ok_or(damaged.clone())?;
                packets.push(reader.packet(number, link_type, captured, length)?);
            }
            SIMPLE_PACKET => {
                let length = reader.word()?;
                let captured = length.min(end.saturating_sub(4 + reader.at) as u32);
                let link_type = *interfaces.first().ok_or(damaged.clone())?;
                packets.push(reader.packet(number, link_type, captured, length)?);
            }
            _ => {}
        }
        if reader.at > end {
            return Err(damaged);
        }
        reader.at = end;
    }
    Ok(packets)
}
