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

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Arc, Mutex},
    };

    use pcap_file::pcapng::{PcapNgReader, blocks::Block};

    use super::*;
    use crate::{
        api_types::packet::{LeftOut, LeftOutCause, PacketLine, PacketLink},
        cli::table,
    };

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn packet() -> PacketEvent {
        PacketEvent {
            time: 1_700_000_000.25,
            verdict: PacketVerdict::Drop,
            reason: Some("selector_mismatch".to_owned()),
            connection: Some("shanghai".to_owned()),
            next_hop: None,
            interface: "tun-sh".to_owned(),
            link: PacketLink::Raw,
            source: "10.10.10.1".parse().ok(),
            destination: "172.16.0.1".parse().ok(),
            protocol: Some(17),
            source_port: Some(53),
            destination_port: Some(5353),
            length: 60,
            bytes: "4500003c".to_owned(),
        }
    }

    fn forwarded() -> PacketEvent {
        PacketEvent {
            verdict: PacketVerdict::Forward,
            reason: None,
            next_hop: Some("vpc".to_owned()),
            interface: "vpc0".to_owned(),
            link: PacketLink::Ethernet,
            source: "fd00::1".parse().ok(),
            destination: "fd00::2".parse().ok(),
            ..packet()
        }
    }

    #[test]
    fn file_has_interfaces_directions_and_comments() {
        let memory = Memory::default();
        let mut file = CaptureFile::start(Box::new(memory.clone()), 96).unwrap();
        for packet in [packet(), forwarded(), packet()] {
            file.write(&packet).unwrap();
        }
        let bytes = memory.0.lock().unwrap().clone();
        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let mut interfaces = Vec::new();
        let mut packets = Vec::new();
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::InterfaceDescription(interface) => interfaces.push((interface.linktype, interface.snaplen)),
                Block::EnhancedPacket(packet) => packets.push(packet.into_owned()),
                _ => {}
            }
        }
        assert_eq!(interfaces, [(DataLink::RAW, 96), (DataLink::ETHERNET, 96)]);
        assert_eq!(packets.iter().map(|packet| packet.interface_id).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!(packets[0].timestamp, Duration::from_millis(1_700_000_000_250));
        assert_eq!((packets[0].original_len, &packets[0].data[..]), (60, &[0x45, 0, 0, 0x3c][..]));
        let options = |comment: &'static str, direction| {
            [EnhancedPacketOption::Comment(comment.into()), EnhancedPacketOption::Flags(direction)]
        };
        assert_eq!(packets[0].options, options("drop selector_mismatch, connection shanghai", INBOUND));
        assert_eq!(packets[1].options, options("forward, connection shanghai, next hop vpc", OUTBOUND));
    }

    #[test]
    fn lines_for_people_and_programs_are_these() {
        let (packet, forwarded) = (PacketLine::Packet(packet()), PacketLine::Packet(forwarded()));
        let left_out = LeftOut { left_out: 12, reason: "spoofed_source".to_owned(), cause: LeftOutCause::RateLimit };
        let left_out = PacketLine::LeftOut(left_out);
        assert_eq!(
            [&packet, &forwarded, &left_out].map(table::packet).concat(),
            "1700000000.250000 shanghai tun-sh drop selector_mismatch 10.10.10.1:53 > 172.16.0.1:5353 udp 60 bytes\n\
             1700000000.250000 shanghai vpc0 forward to vpc [fd00::1]:53 > [fd00::2]:5353 udp 60 bytes\n\
             12 more spoofed_source left out: over the rate limit\n"
        );
        assert_eq!(
            serde_json::to_string(&packet).unwrap(),
            r#"{"time":1700000000.25,"verdict":"drop","reason":"selector_mismatch","connection":"shanghai","next_hop":null,"interface":"tun-sh","link":"raw","source":"10.10.10.1","destination":"172.16.0.1","protocol":17,"source_port":53,"destination_port":5353,"length":60,"bytes":"4500003c"}"#
        );
        assert_eq!(
            serde_json::to_string(&left_out).unwrap(),
            r#"{"left_out":12,"reason":"spoofed_source","cause":"rate_limit"}"#
        );
        for line in [packet, forwarded, left_out] {
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<PacketLine>(&text).unwrap(), line);
        }
    }
}
