//! nfnetlink messages: header, attributes, batches (`linux/netfilter/nfnetlink.h`, `nf_tables.h`). Pure.
//!
//! Attribute values are in network byte order, headers in host byte order. Attributes and messages are aligned to four
//! bytes.

use std::iter;

use super::TABLE;
pub use crate::kernel::netlink::attributes::attributes;
use crate::kernel::netlink::attributes::number16;

/// `struct nlmsghdr` and `struct nfgenmsg`.
pub const NETLINK_HEADER: usize = 16;
pub const HEADER: usize = NETLINK_HEADER + 4;
const ALIGNMENT: usize = 4;

pub const NFPROTO_INET: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;
pub const NLM_F_REQUEST: u16 = 0x1;
pub const NLM_F_ACK: u16 = 0x4;
pub const NLM_F_DUMP_INTR: u16 = 0x10;
pub const NLM_F_EXCL: u16 = 0x200;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_CREATE: u16 = 0x400;
pub const NLM_F_APPEND: u16 = 0x800;
const NLA_F_NESTED: u16 = 0x8000;

/// `NFTA_LIST_ELEM`.
pub const LIST_ELEMENT: u16 = 1;
/// The table's name, in messages of every type: `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, ...
pub const TABLE_NAME: u16 = 1;

/// `NFT_MSG_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum NftMessage {
    NewTable = 0,
    GetTable = 1,
    DeleteTable = 2,
    NewChain = 3,
    GetChain = 4,
    DeleteChain = 5,
    NewRule = 6,
    DeleteRule = 8,
    NewSet = 9,
    GetSet = 10,
    DeleteSet = 11,
    NewElement = 12,
    GetElement = 13,
    DeleteElement = 14,
    GetGeneration = 16,
    NewObject = 18,
    GetObject = 19,
    DeleteObject = 20,
}

impl NftMessage {
    /// `nlmsg_type`.
    pub const fn number(self) -> u16 {
        SUBSYSTEM << 8 | self as u16
    }
}

/// A buffer of consecutive messages.
#[derive(Debug, Default)]
pub struct Messages {
    bytes: Vec<u8>,
    /// Offset of the last message.
    last: usize,
    sequence: u32,
    count: u32,
}

/// Offset of an attribute that is not closed yet.
#[must_use]
#[derive(Debug, Clone, Copy)]
struct OpenAttribute(usize);

impl Messages {
    /// Starts after this sequence number.
    pub fn after(sequence: u32) -> Self {
        Self { sequence, ..Self::default() }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Sequence number of the last message.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Number of messages.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// A batch: the kernel applies the messages between begin and end completely or not at all.
    pub fn batch(sequence: u32, write: impl FnOnce(&mut Self)) -> Self {
        let mut messages = Self::after(sequence);
        messages.begin(BATCH_BEGIN, 0, 0, SUBSYSTEM);
        write(&mut messages);
        // Not on the end: the kernel acknowledges that only since 6.10.
        messages.acknowledge_last();
        messages.begin(BATCH_END, 0, 0, SUBSYSTEM);
        messages
    }

    /// A message about our table, including its name. `write` adds the other attributes.
    pub fn message(&mut self, kind: NftMessage, flags: u16, write: impl FnOnce(&mut Self)) {
        self.bare(kind, flags, |message| {
            message.string(TABLE_NAME, TABLE);
            write(message);
        });
    }

    /// A message with only the attributes that `write` adds.
    pub fn bare(&mut self, kind: NftMessage, flags: u16, write: impl FnOnce(&mut Self)) {
        self.begin(kind.number(), flags, NFPROTO_INET, 0);
        write(self);
        let length = (self.bytes.len() - self.last) as u32;
        self.bytes[self.last..][..4].copy_from_slice(&length.to_ne_bytes());
    }

    fn begin(&mut self, kind: u16, flags: u16, family: u8, resource: u16) {
        const NFNETLINK_V0: u8 = 0;
        self.sequence = self.sequence.wrapping_add(1);
        self.count += 1;
        self.last = self.bytes.len();
        self.bytes.extend((HEADER as u32).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family, NFNETLINK_V0]);
        self.bytes.extend(resource.to_be_bytes());
    }

    /// Requests an acknowledgement of the last message, which covers all before it.
    fn acknowledge_last(&mut self) {
        let at = self.last + 6;
        let flags = number16(&self.bytes, at).unwrap_or(NLM_F_REQUEST) | NLM_F_ACK;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }

    pub fn put(&mut self, kind: u16, value: &[u8]) {
        let open = self.open(kind);
        self.bytes.extend(value);
        self.close(open);
    }

    pub fn u8(&mut self, kind: u16, value: u8) {
        self.put(kind, &[value]);
    }

    pub fn u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    pub fn u64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    /// With a terminating zero.
    pub fn string(&mut self, kind: u16, value: &str) {
        let open = self.open(kind);
        self.bytes.extend(value.as_bytes());
        self.bytes.push(0);
        self.close(open);
    }

    /// A nested attribute of encoded attributes.
    pub fn nested(&mut self, kind: u16, attributes: &[u8]) {
        self.put(kind | NLA_F_NESTED, attributes);
    }

    /// A nested attribute. Its contents must stay below 64 KiB.
    pub fn nest(&mut self, kind: u16, write: impl FnOnce(&mut Self)) {
        let open = self.open(kind | NLA_F_NESTED);
        write(self);
        self.close(open);
    }

    /// `NFTA_DATA_VALUE` in an attribute: an operand, or an element's key.
    pub fn data(&mut self, kind: u16, value: &[u8]) {
        const NFTA_DATA_VALUE: u16 = 1;
        self.nest(kind, |message| message.put(NFTA_DATA_VALUE, value));
    }

    fn open(&mut self, kind: u16) -> OpenAttribute {
        let open = OpenAttribute(self.bytes.len());
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        open
    }

    fn close(&mut self, open: OpenAttribute) {
        let length = self.bytes.len() - open.0;
        let length = u16::try_from(length).expect("an attribute is below 64 KiB: long lists go in several messages");
        self.bytes[open.0..][..2].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

/// A message from the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// The bytes after `struct nlmsghdr`.
    pub body: &'a [u8],
}

/// The messages of a datagram.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    let mut rest = datagram;
    iter::from_fn(move || {
        let length = number32(rest, 0)? as usize;
        let message = rest.get(..length).filter(|message| message.len() >= NETLINK_HEADER)?;
        rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        Some(Received {
            kind: number16(message, 4)?,
            flags: number16(message, 6)?,
            sequence: number32(message, 8)?,
            body: &message[NETLINK_HEADER..],
        })
    })
}

impl<'a> Received<'a> {
    /// The attributes of an `nf_tables` message about our table; `None` for any other message.
    pub fn of_our_table(self) -> Option<&'a [u8]> {
        let attributes = self.body.get(HEADER - NETLINK_HEADER..)?;
        let ours = self.kind >> 8 == SUBSYSTEM
            && self.body[0] == NFPROTO_INET
            && attribute(attributes, TABLE_NAME).map(text) == Some(TABLE);
        ours.then_some(attributes)
    }
}

/// The first attribute of a type.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Up to the first zero; empty if that is not UTF-8.
pub fn text(bytes: &[u8]) -> &str {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..end]).unwrap_or_default()
}

pub fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().map(u32::from_ne_bytes).ok()
}

/// A big-endian attribute value.
pub fn big32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().map(u32::from_be_bytes).ok()
}

/// A big-endian attribute value.
pub fn big64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().map(u64::from_be_bytes).ok()
}
