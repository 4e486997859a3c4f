//! The table's sets and their elements. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    GuardService, Ruleset,
    expression::{NftVerdict, verdict},
    wire::{LIST_ELEMENT, Messages, NLM_F_CREATE, NftMessage, attribute, attributes, big32, big64},
};

/// `NFT_SET_*`.
const ANONYMOUS: u32 = 1;
const CONSTANT: u32 = 2;
const INTERVAL: u32 = 4;
const MAP: u32 = 8;
const TIMEOUT: u32 = 16;
const EVAL: u32 = 32;
const OBJECT: u32 = 64;
const CONCAT: u32 = 128;

/// `NFTA_SET_*`.
const NAME: u16 = 2;
const FLAGS: u16 = 3;
const KEY_TYPE: u16 = 4;
const KEY_LENGTH: u16 = 5;
const DATA_TYPE: u16 = 6;
const DESCRIPTION: u16 = 9;
const ID: u16 = 10;
const TIME: u16 = 11;
const USER_DATA: u16 = 13;
const EXPRESSION: u16 = 17;
const EXPRESSIONS: u16 = 18;
/// `NFTA_SET_ELEM_LIST_*`.
const SET: u16 = 2;
const ELEMENTS: u16 = 3;
/// `NFTA_SET_ELEM_*`.
const KEY: u16 = 1;
const DATA: u16 = 2;
/// `NFTA_SET_DESC_*`.
const SIZE: u16 = 1;
const FIELDS: u16 = 2;

/// Lifetime of a UDP reply pinhole.
const REPLY_TIME: Duration = Duration::from_secs(60);
/// Time after which a silent interface is removed.
const STRANGER_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// Elements per message: together they must stay below 64 KiB.
const ELEMENTS_OF_A_MESSAGE: usize = 256;

/// A field of a key.
#[derive(Debug, Clone, Copy)]
enum Field {
    Interface,
    Mark,
    V4,
    V6,
    Port,
    Icmp,
    Icmp6,
}

impl Field {
    /// Bytes.
    const fn length(self) -> usize {
        match self {
            Self::Interface | Self::V6 => 16,
            Self::Mark | Self::V4 => 4,
            Self::Port => 2,
            Self::Icmp | Self::Icmp6 => 1,
        }
    }

    /// The type for `nft list` (`enum datatypes` of nftables); the kernel ignores it.
    const fn shown_as(self) -> u32 {
        match self {
            Self::V4 => 7,
            Self::V6 => 8,
            Self::Port => 13,
            Self::Icmp => 14,
            Self::Mark => 19,
            Self::Icmp6 => 29,
            Self::Interface => 41,
        }
    }

    const fn is_host_order(self) -> bool {
        matches!(self, Self::Interface | Self::Mark)
    }
}

/// A set of the table.
#[derive(Debug)]
pub struct Set {
    pub name: &'static str,
    key: &'static [Field],
    flags: u32,
    /// 0: unlimited.
    size: u32,
    timeout: Duration,
}

const fn fixed(name: &'static str, key: &'static [Field]) -> Set {
    Set { name, key, flags: 0, size: 0, timeout: Duration::ZERO }
}

/// Its elements have a verdict.
const fn verdicts(name: &'static str, key: &'static [Field]) -> Set {
    Set { flags: MAP, ..fixed(name, key) }
}

const fn dynamic(name: &'static str, key: &'static [Field], size: u32, timeout: Duration) -> Set {
    Set { name, key, flags: EVAL | TIMEOUT, size, timeout }
}

/// With a size the kernel has a table of fixed size, which it looks up faster (`nft_hash_lookup`): every packet of the
/// host meets this set. Four times as many as the connections of a configuration.
pub const SITES: Set = Set { size: 1 << 14, ..fixed("sites", &[Field::Interface]) };
pub const VPC: Set = fixed("vpc", &[Field::Interface]);
pub const NEXT_HOPS: Set = fixed("next_hops", &[Field::Mark, Field::Interface]);
/// Leads to the chain of the interface's selectors.
pub const SELECTORS: Set = verdicts("selectors", &[Field::Interface]);
pub const TCP_SERVICES: Set = fixed("tcp_services", &[Field::Port]);
pub const UDP_SERVICES: Set = fixed("udp_services", &[Field::Port]);
/// ICMP that sites may send to the hub.
pub const ICMP_INPUT: Set = fixed("icmp_input", &[Field::Icmp]);
pub const ICMP6_INPUT: Set = fixed("icmp6_input", &[Field::Icmp6]);
/// ICMP that the hub may send regardless of selectors.
pub const ICMP_OUTPUT: Set = fixed("icmp_output", &[Field::Icmp]);
pub const ICMP6_OUTPUT: Set = fixed("icmp6_output", &[Field::Icmp6]);
/// The hub's address and port, and the peer's, of UDP packets that the hub sent.
pub const UDP_REPLIES4: Set =
    dynamic("udp_replies4", &[Field::V4, Field::V4, Field::Port, Field::Port], 65536, REPLY_TIME);
pub const UDP_REPLIES6: Set =
    dynamic("udp_replies6", &[Field::V6, Field::V6, Field::Port, Field::Port], 65536, REPLY_TIME);
/// Interfaces that are no attachment and sent packets to a site, with counters.
pub const STRANGERS: Set = dynamic("strangers", &[Field::Interface], 256, STRANGER_TIME);

pub const SETS: [&Set; 13] = [
    &SITES,
    &VPC,
    &NEXT_HOPS,
    &SELECTORS,
    &TCP_SERVICES,
    &UDP_SERVICES,
    &ICMP_INPUT,
    &ICMP6_INPUT,
    &ICMP_OUTPUT,
    &ICMP6_OUTPUT,
    &UDP_REPLIES4,
    &UDP_REPLIES6,
    &STRANGERS,
];

impl Set {
    /// Whether the kernel fills it.
    pub fn is_dynamic(&self) -> bool {
        self.flags & EVAL != 0
    }

    fn all_flags(&self) -> u32 {
        self.flags | if self.key.len() > 1 { CONCAT } else { 0 }
    }

    fn key_length(&self) -> u32 {
        self.key.iter().map(|field| padded(field.length())).sum::<usize>() as u32
    }

    fn milliseconds(&self) -> u64 {
        self.timeout.as_millis() as u64
    }

    /// Whether the kernel's set has the same definition.
    pub fn is_like(&self, shown: &[u8]) -> bool {
        const COMPARED: u32 = ANONYMOUS | CONSTANT | INTERVAL | MAP | TIMEOUT | EVAL | OBJECT;
        let number = |kind| attribute(shown, kind).and_then(big32);
        let size = attribute(shown, DESCRIPTION).and_then(|description| attribute(description, SIZE)).and_then(big32);
        // The kernel may add flags of its own.
        let fields = attribute(shown, DESCRIPTION).and_then(|description| attribute(description, FIELDS));
        let fields = attributes(fields.unwrap_or_default()).filter_map(|(_, field)| big32(attribute(field, 1)?));
        number(FLAGS).unwrap_or(0) & COMPARED == self.flags
            // A set with one field has none.
            && (self.key.len() == 1 || fields.eq(self.key.iter().map(|field| field.length() as u32)))
            && attribute(shown, EXPRESSION).is_none()
            && attribute(shown, EXPRESSIONS).is_none()
            && number(KEY_LENGTH) == Some(self.key_length_shown())
            && number(DATA_TYPE) == self.data_type()
            && attribute(shown, TIME).and_then(big64).unwrap_or(0) == self.milliseconds()
            && size.unwrap_or(0) == self.size
    }

    fn data_type(&self) -> Option<u32> {
        const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
        (self.flags & MAP != 0).then_some(NFT_DATA_VERDICT)
    }

    fn key_length_shown(&self) -> u32 {
        match self.key {
            [field] => field.length() as u32,
            _ => self.key_length(),
        }
    }

    /// Creates the set. `id` must be unique within the batch.
    pub fn create(&self, messages: &mut Messages, id: u32) {
        messages.message(NftMessage::NewSet, NLM_F_CREATE, |message| {
            message.string(NAME, self.name);
            message.u32(FLAGS, self.all_flags());
            let shown_as = self.key.iter().fold(0, |before, field| before << 6 | field.shown_as());
            message.u32(KEY_TYPE, shown_as);
            message.u32(KEY_LENGTH, self.key_length_shown());
            message.u32(ID, id);
            if let Some(data) = self.data_type() {
                message.u32(DATA_TYPE, data);
            }
            message.nest(DESCRIPTION, |message| {
                if self.size != 0 {
                    message.u32(SIZE, self.size);
                }
                if self.key.len() > 1 {
                    message.nest(FIELDS, |message| {
                        for field in self.key {
                            message.nest(LIST_ELEMENT, |message| message.u32(1, field.length() as u32));
                        }
                    });
                }
            });
            if !self.timeout.is_zero() {
                message.u64(TIME, self.milliseconds());
            }
            if let [field] = self.key {
                message.put(USER_DATA, &byte_order(*field));
            }
        });
    }

    pub fn delete(name: &str, messages: &mut Messages) {
        messages.message(NftMessage::DeleteSet, 0, |message| message.string(NAME, name));
    }
}

/// Makes `nft list` format the field: `NFTNL_UDATA_SET_KEYBYTEORDER` of libnftnl: type, length, number in host byte
/// order.
fn byte_order(field: Field) -> [u8; 6] {
    let order: u32 = if field.is_host_order() { 1 } else { 2 };
    let [a, b, c, d] = order.to_ne_bytes();
    [0, 4, a, b, c, d]
}

const fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// A key, and the chain that it leads to; empty in a set without verdicts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    key: Vec<u8>,
    chain: String,
}

/// The elements of the sets that are neither dynamic nor have verdicts, by the set's name.
pub type Elements = BTreeMap<&'static str, BTreeSet<Element>>;

/// Adds elements to a set, or deletes them.
pub fn change<'a>(
    messages: &mut Messages,
    kind: NftMessage,
    set: &str,
    elements: impl IntoIterator<Item = &'a Element>,
) {
    let mut elements = elements.into_iter().peekable();
    while elements.peek().is_some() {
        messages.message(kind, NLM_F_CREATE * u16::from(kind == NftMessage::NewElement), |message| {
            message.string(SET, set);
            message.nest(ELEMENTS, |message| {
                for element in elements.by_ref().take(ELEMENTS_OF_A_MESSAGE) {
                    message.nest(LIST_ELEMENT, |message| element.write(message, kind));
                }
            });
        });
    }
}

/// The elements of an answer with all attributes, such as counters and remaining lifetime.
pub fn raw(answer: &[u8]) -> impl Iterator<Item = &[u8]> {
    let listed = attributes(attribute(answer, ELEMENTS).unwrap_or_default());
    listed.filter(|(kind, _)| *kind == LIST_ELEMENT).map(|(_, element)| element)
}

/// Adds such elements to a set.
pub fn add_raw(messages: &mut Messages, set: &str, elements: &[Vec<u8>]) {
    for elements in elements.chunks(ELEMENTS_OF_A_MESSAGE) {
        messages.message(NftMessage::NewElement, NLM_F_CREATE, |message| {
            message.string(SET, set);
            message.nest(ELEMENTS, |message| {
                for element in elements {
                    message.nested(LIST_ELEMENT, element);
                }
            });
        });
    }
}

/// The elements of an answer in the form for [`change`], and whether each has only what we write: no timeout, for
/// example.
pub fn read(answer: &[u8]) -> impl Iterator<Item = (Element, bool)> {
    const VALUE: u16 = 1;
    const VERDICT: u16 = 2;
    raw(answer).map(|element| {
        let key = attribute(element, KEY).and_then(|key| attribute(key, VALUE)).unwrap_or_default().to_vec();
        let jump = attribute(element, DATA).map(|data| verdict::jump(attribute(data, VERDICT).unwrap_or_default()));
        let plain = jump != Some(None) && attributes(element).all(|(kind, _)| kind == KEY || kind == DATA);
        (Element { key, chain: jump.flatten().unwrap_or_default().to_owned() }, plain)
    })
}

impl Element {
    fn one(key: Vec<u8>) -> Self {
        Self { key, chain: String::new() }
    }

    pub fn jump(key: Vec<u8>, chain: String) -> Self {
        Self { key, chain }
    }

    pub fn chain(&self) -> &str {
        &self.chain
    }

    fn write(&self, message: &mut Messages, kind: NftMessage) {
        message.data(KEY, &self.key);
        if kind == NftMessage::NewElement && !self.chain.is_empty() {
            message.nest(DATA, |message| verdict::write(message, NftVerdict::Jump(&self.chain)));
        }
    }
}

/// Names that are invalid for an interface are left out.
pub fn elements(ruleset: &Ruleset) -> Elements {
    let ports = |select: fn(&GuardService) -> Option<u16>| {
        let ports = ruleset.services.iter().filter_map(select);
        ports.map(|port| Element::one(port.to_be_bytes().into())).collect()
    };
    let types = |types: &[u8], ping: u8| {
        let ping = ruleset.services.contains(&GuardService::Icmp).then_some(&ping);
        types.iter().chain(ping).map(|kind| Element::one(vec![*kind])).collect()
    };
    let fixed = |types: &[u8]| types.iter().map(|kind| Element::one(vec![*kind])).collect();
    let names = |names: &BTreeSet<String>| {
        names.iter().filter_map(|name| interface(name)).map(|name| Element::one(name.into())).collect()
    };
    // The program sets no mark without the flag.
    let admitted = ruleset.next_hops.iter().filter(|(mark, _)| mark & ruleset.mark.flag != 0);
    let next_hops =
        admitted.filter_map(|(mark, name)| Some(Element::one([&mark.to_ne_bytes()[..], &interface(name)?].concat())));
    BTreeMap::from([
        (SITES.name, names(&ruleset.sites)),
        (VPC.name, names(&ruleset.vpc)),
        (NEXT_HOPS.name, next_hops.collect()),
        (TCP_SERVICES.name, ports(|service| if let GuardService::Tcp(port) = service { Some(*port) } else { None })),
        (UDP_SERVICES.name, ports(|service| if let GuardService::Udp(port) = service { Some(*port) } else { None })),
        // Echo reply, destination unreachable, time exceeded, parameter problem; echo.
        (ICMP_INPUT.name, types(&[0, 3, 11, 12], 8)),
        // The errors, echo reply, router solicitation, neighbour solicitation and advertisement; echo.
        (ICMP6_INPUT.name, types(&[1, 2, 3, 4, 129, 133, 135, 136], 128)),
        (ICMP_OUTPUT.name, fixed(&[3, 11, 12])),
        // The errors, multicast listeners, neighbour discovery.
        (ICMP6_OUTPUT.name, fixed(&[1, 2, 3, 4, 130, 131, 132, 133, 134, 135, 136, 137, 143])),
    ])
}

/// Zero-padded, as the kernel compares it. `None` if it is too long.
pub fn interface(name: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let room = bytes.get_mut(..name.len()).filter(|room| room.len() < 16 && !room.is_empty())?;
    room.copy_from_slice(name.as_bytes());
    Some(bytes)
}
