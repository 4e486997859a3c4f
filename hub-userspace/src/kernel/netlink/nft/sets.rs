//! The table's sets and their elements. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::{
    GuardService, Ruleset,
    selectors::{Rectangle, disjoint, range},
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
const KEY_END: u16 = 10;
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

const fn intervals(name: &'static str, key: &'static [Field]) -> Set {
    Set { flags: INTERVAL, ..fixed(name, key) }
}

const fn dynamic(name: &'static str, key: &'static [Field], size: u32, timeout: Duration) -> Set {
    Set { name, key, flags: EVAL | TIMEOUT, size, timeout }
}

pub const SITES: Set = fixed("sites", &[Field::Interface]);
pub const VPC: Set = fixed("vpc", &[Field::Interface]);
pub const NEXT_HOPS: Set = fixed("next_hops", &[Field::Mark, Field::Interface]);
pub const OUTPUT4: Set = intervals("output4", &[Field::Interface, Field::V4, Field::V4]);
pub const OUTPUT6: Set = intervals("output6", &[Field::Interface, Field::V6, Field::V6]);
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

pub const SETS: [&Set; 14] = [
    &SITES,
    &VPC,
    &NEXT_HOPS,
    &OUTPUT4,
    &OUTPUT6,
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
            && attribute(shown, TIME).and_then(big64).unwrap_or(0) == self.milliseconds()
            && size.unwrap_or(0) == self.size
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

/// A key, or an interval of keys.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    key: Vec<u8>,
    /// The last key of an interval; empty for a single key.
    end: Vec<u8>,
}

/// The elements of each set that is not dynamic, by the set's name.
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
                    message.nest(LIST_ELEMENT, |message| element.write(message));
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

/// The elements of an answer in the form for [`change`], and whether each has only the attributes that we write: keys,
/// without a timeout, for example.
pub fn read(answer: &[u8]) -> impl Iterator<Item = (Element, bool)> {
    const VALUE: u16 = 1;
    let listed = attributes(attribute(answer, ELEMENTS).unwrap_or_default());
    listed.filter(|(kind, _)| *kind == LIST_ELEMENT).map(|(_, element)| {
        let value =
            |kind| attribute(element, kind).and_then(|data| attribute(data, VALUE)).unwrap_or_default().to_vec();
        let plain = attributes(element).all(|(kind, _)| kind == KEY || kind == KEY_END);
        (Element { key: value(KEY), end: value(KEY_END) }, plain)
    })
}

impl Element {
    fn one(key: Vec<u8>) -> Self {
        Self { key, end: Vec::new() }
    }

    fn write(&self, message: &mut Messages) {
        message.data(KEY, &self.key);
        if !self.end.is_empty() {
            message.data(KEY_END, &self.end);
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
    let (output4, output6) = output(ruleset);
    BTreeMap::from([
        (SITES.name, names(&ruleset.sites)),
        (VPC.name, names(&ruleset.vpc)),
        (NEXT_HOPS.name, next_hops.collect()),
        (OUTPUT4.name, output4),
        (OUTPUT6.name, output6),
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

/// The pairs by family. Pairs of mixed families are ignored.
fn output(ruleset: &Ruleset) -> (BTreeSet<Element>, BTreeSet<Element>) {
    let (mut elements4, mut elements6) = (BTreeSet::new(), BTreeSet::new());
    let pairs: Vec<_> = ruleset.output.iter().collect();
    for of_interface in pairs.chunk_by(|one, other| one.0 == other.0) {
        let Some(name) = interface(&of_interface[0].0) else {
            continue;
        };
        let family = |v4: bool| {
            let of_family = of_interface
                .iter()
                .filter(|(_, hub, site)| hub.network().is_ipv4() == v4 && site.network().is_ipv4() == v4);
            let rectangles = of_family.map(|(_, hub, site)| Rectangle { hub: range(*hub), site: range(*site) });
            disjoint(&rectangles.collect::<Vec<_>>())
        };
        let key = |bytes: fn(u128) -> Vec<u8>, hub, site| [&name[..], &bytes(hub), &bytes(site)].concat();
        let element = |bytes, Rectangle { hub, site }: Rectangle| Element {
            key: key(bytes, hub.0, site.0),
            end: key(bytes, hub.1, site.1),
        };
        elements4.extend(family(true).into_iter().map(|rectangle| element(v4, rectangle)));
        elements6.extend(family(false).into_iter().map(|rectangle| element(v6, rectangle)));
    }
    (elements4, elements6)
}

fn v4(address: u128) -> Vec<u8> {
    Ipv4Addr::from(address as u32).octets().into()
}

fn v6(address: u128) -> Vec<u8> {
    Ipv6Addr::from(address).octets().into()
}

/// Zero-padded, as the kernel compares it. `None` if it is too long.
pub fn interface(name: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let room = bytes.get_mut(..name.len()).filter(|room| room.len() < 16 && !room.is_empty())?;
    room.copy_from_slice(name.as_bytes());
    Some(bytes)
}
