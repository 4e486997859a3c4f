//! VICI packets (strongSwan, src/libcharon/plugins/vici/README.md), with a reader and writer of their own.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
};

use anyhow::{Context as _, Result, bail};

pub const CMD_REQUEST: u8 = 0;
pub const CMD_RESPONSE: u8 = 1;
pub const EVENT_REGISTER: u8 = 3;
pub const EVENT_UNREGISTER: u8 = 4;
pub const EVENT_CONFIRM: u8 = 5;
pub const EVENT: u8 = 7;

const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

/// A message or section.
pub type Section = Vec<(String, Node)>;

#[derive(Debug, Clone)]
pub enum Node {
    Value(String),
    List(Vec<String>),
    Section(Section),
}

/// A packet; the name is empty in kinds that have none.
#[derive(Debug)]
pub struct Packet {
    pub kind: u8,
    pub name: String,
    pub message: Section,
}

impl Packet {
    pub fn new(kind: u8, name: &str, message: Section) -> Self {
        Self { kind, name: name.to_owned(), message }
    }

    /// With its length in front.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0, 0, self.kind];
        if !self.name.is_empty() {
            write_name(&self.name, &mut bytes);
        }
        write_section(&self.message, &mut bytes);
        let length = u32::try_from(bytes.len() - 4).expect("below 4 GiB");
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    pub fn send(&self, mut stream: &UnixStream) -> Result<()> {
        stream.write_all(&self.encode()).context("writing to VICI")
    }

    /// `None` at the end of the stream.
    pub fn receive(mut stream: &UnixStream) -> Result<Option<Self>> {
        let mut length = [0; 4];
        if stream.read(&mut length[..1]).context("reading from VICI")? == 0 {
            return Ok(None);
        }
        stream.read_exact(&mut length[1..])?;
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut bytes)?;
        let mut rest = &bytes[..];
        let kind = take(&mut rest, 1)?[0];
        let is_named = matches!(kind, CMD_REQUEST | EVENT_REGISTER | EVENT_UNREGISTER | EVENT);
        let name = if is_named { read_name(&mut rest)? } else { String::new() };
        Ok(Some(Self { kind, name, message: read_section(&mut rest, false)? }))
    }
}

/// The value or the items of a key.
pub fn node<'a>(section: &'a Section, key: &str) -> Option<&'a Node> {
    section.iter().find(|(name, _)| name == key).map(|(_, node)| node)
}

pub fn value<'a>(section: &'a Section, key: &str) -> Option<&'a str> {
    match node(section, key)? {
        Node::Value(value) => Some(value),
        _ => None,
    }
}

pub fn sections(section: &Section) -> impl Iterator<Item = (&str, &Section)> {
    section
        .iter()
        .filter_map(|(name, node)| if let Node::Section(inner) = node { Some((&**name, inner)) } else { None })
}

fn write_name(name: &str, bytes: &mut Vec<u8>) {
    bytes.push(u8::try_from(name.len()).expect("a short name"));
    bytes.extend(name.as_bytes());
}

fn write_value(value: &str, bytes: &mut Vec<u8>) {
    bytes.extend(u16::try_from(value.len()).expect("a short value").to_be_bytes());
    bytes.extend(value.as_bytes());
}

fn write_section(section: &Section, bytes: &mut Vec<u8>) {
    for (name, node) in section {
        bytes.push(match node {
            Node::Value(_) => KEY_VALUE,
            Node::List(_) => LIST_START,
            Node::Section(_) => SECTION_START,
        });
        write_name(name, bytes);
        match node {
            Node::Value(value) => write_value(value, bytes),
            Node::List(items) => {
                for item in items {
                    bytes.push(LIST_ITEM);
                    write_value(item, bytes);
                }
                bytes.push(LIST_END);
            }
            Node::Section(section) => {
                write_section(section, bytes);
                bytes.push(SECTION_END);
            }
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length).context("a VICI message ends early")?;
    *rest = after;
    Ok(taken)
}

fn read_name(rest: &mut &[u8]) -> Result<String> {
    let length = take(rest, 1)?[0];
    Ok(String::from_utf8_lossy(take(rest, length.into())?).into_owned())
}

fn read_value(rest: &mut &[u8]) -> Result<String> {
    let length = take(rest, 2)?;
    let length = u16::from_be_bytes([length[0], length[1]]);
    Ok(String::from_utf8_lossy(take(rest, length.into())?).into_owned())
}

fn read_section(rest: &mut &[u8], is_inner: bool) -> Result<Section> {
    let mut section = Section::new();
    while !rest.is_empty() {
        let node = match take(rest, 1)?[0] {
            SECTION_END if is_inner => return Ok(section),
            KEY_VALUE => (read_name(rest)?, Node::Value(read_value(rest)?)),
            LIST_START => {
                let (name, mut items) = (read_name(rest)?, Vec::new());
                loop {
                    match take(rest, 1)?[0] {
                        LIST_ITEM => items.push(read_value(rest)?),
                        LIST_END => break,
                        other => bail!("element {other} in a VICI list"),
                    }
                }
                (name, Node::List(items))
            }
            SECTION_START => (read_name(rest)?, Node::Section(read_section(rest, true)?)),
            other => bail!("element {other} in a VICI message"),
        };
        section.push(node);
    }
    Ok(section)
}
