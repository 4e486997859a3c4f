//! Captures in the format pcapng (draft-ietf-opsawg-pcapng): a section, interfaces as they appear, packets.

use std::{borrow::Cow, collections::BTreeMap, io, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use pcap_file::{
    DataLink,
    pcapng::{
        PcapNgBlock, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
        },
    },
};

use super::packets::{comment, is_ethernet};
use crate::api_types::packet::{PacketEvent, PacketVerdict};

/// Times in nanoseconds: 10 to the power of minus this.
const RESOLUTION: u8 = 9;
// Direction in the flags of a packet.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// A capture that is being written.
pub struct CaptureFile {
    writer: PcapNgWriter<Box<dyn io::Write>>,
    snaplen: u32,
    /// Numbers of the interfaces, by name and kind of link.
    interfaces: BTreeMap<(String, bool), u32>,
}

impl CaptureFile {
    pub fn start(file: Box<dyn io::Write>, snaplen: u32) -> Result<Self> {
        let mut writer = PcapNgWriter::new(file)?;
        writer.get_mut().flush()?;
        Ok(Self { writer, snaplen, interfaces: BTreeMap::new() })
    }

    /// Writes a packet, and its interface before the first of it. Both are written out at once.
    pub fn write(&mut self, packet: &PacketEvent) -> Result<()> {
        let interface = self.interface(packet)?;
        let data = bytes(&packet.bytes).context("the agent's bytes of a packet are not hexadecimal")?;
        let direction = if packet.verdict == PacketVerdict::Forward { OUTBOUND } else { INBOUND };
        let block = EnhancedPacketBlock {
            interface_id: interface,
            timestamp: Duration::try_from_secs_f64(packet.time).unwrap_or_default(),
            original_len: packet.length,
            data: Cow::Owned(data),
            options: vec![
                EnhancedPacketOption::Comment(comment(packet).into()),
                EnhancedPacketOption::Flags(direction),
            ],
        };
        self.put(block)?;
        self.writer.get_mut().flush().map_err(Into::into)
    }

    fn interface(&mut self, packet: &PacketEvent) -> Result<u32> {
        let key = (packet.interface.clone(), is_ethernet(packet));
        if let Some(number) = self.interfaces.get(&key) {
            return Ok(*number);
        }
        let block = InterfaceDescriptionBlock {
            linktype: if key.1 { DataLink::ETHERNET } else { DataLink::RAW },
            snaplen: self.snaplen,
            options: vec![
                InterfaceDescriptionOption::IfName(key.0.as_str().into()),
                InterfaceDescriptionOption::IfTsResol(RESOLUTION),
            ],
        };
        self.put(block.into_owned())?;
        let number = u32::try_from(self.interfaces.len())?;
        self.interfaces.insert(key, number);
        Ok(number)
    }

    fn put<'a>(&mut self, block: impl PcapNgBlock<'a>) -> Result<()> {
        self.writer.write_pcapng_block(block).map(drop).map_err(|error| match error {
            pcap_file::PcapError::IoError(error) => error.into(),
            error => anyhow!("{error}"),
        })
    }
}

/// Bytes from hexadecimal digits.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok().filter(|_| pair.len() == 2)).collect()
}
