//! VICI messages (strongSwan, src/libcharon/plugins/vici/README.md): keys with values, lists and sections.

use std::fmt;

use thiserror::Error;
use zeroize::Zeroize as _;

/// Maximum length of a value (16-bit length).
const LONGEST: usize = u16::MAX as usize;
/// Maximum nesting depth: charon needs only a few levels.
const DEEPEST: usize = 16;

const SECTION_START: u8 = 1;
const SECTION_END: u8 = 2;
const KEY_VALUE: u8 = 3;
const LIST_START: u8 = 4;
const LIST_ITEM: u8 = 5;
const LIST_END: u8 = 6;

/// Key of the values that hold secrets and private keys.
const DATA: &str = "data";

/// A message or a section, in order. The values of `data` are overwritten on drop.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Message(Vec<(String, MessageNode)>);

#[derive(Clone, PartialEq, Eq)]
pub enum MessageNode {
    Value(String),
    List(Vec<String>),
    Section(Message),
}

/// Malformed bytes, or values that do not fit a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    #[error("the message ends early")]
    Truncated,
    #[error("the message has an unexpected element")]
    Unexpected,
    #[error("a name or value is too long for a message")]
    TooLong,
}

impl Drop for Message {
    fn drop(&mut self) {
        for (key, node) in &mut self.0 {
            if let MessageNode::Value(value) = node
                && key == DATA
            {
                value.zeroize();
            }
        }
    }
}

/// Omits the values of `data`: secrets and keys.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (key, node) in &self.0 {
            match node {
                MessageNode::Value(_) if key == DATA => map.entry(key, &".."),
                MessageNode::Value(value) => map.entry(key, value),
                MessageNode::List(items) => map.entry(key, items),
                MessageNode::Section(section) => map.entry(key, section),
            };
        }
        map.finish()
    }
}

impl Message {
    /// Adds a value; of duplicate keys the last one applies.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.0.push((key.to_owned(), MessageNode::Value(value.into())));
        self
    }

    #[must_use]
    pub fn with_list(mut self, key: &str, items: impl IntoIterator<Item = String>) -> Self {
        self.0.push((key.to_owned(), MessageNode::List(items.into_iter().collect())));
        self
    }

    #[must_use]
    pub fn with_section(mut self, key: &str, section: Self) -> Self {
        self.0.push((key.to_owned(), MessageNode::Section(section)));
        self
    }

    /// Removes a key.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.0.retain(|(name, _)| name != key);
        self
    }

    fn node(&self, key: &str) -> Option<&MessageNode> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    pub fn value(&self, key: &str) -> Option<&str> {
        match self.node(key)? {
            MessageNode::Value(value) => Some(value),
            _ => None,
        }
    }

    /// The items; empty without such a list.
    pub fn list(&self, key: &str) -> &[String] {
        match self.node(key) {
            Some(MessageNode::List(items)) => items,
            _ => &[],
        }
    }

    pub fn section(&self, key: &str) -> Option<&Self> {
        match self.node(key)? {
            MessageNode::Section(section) => Some(section),
            _ => None,
        }
    }

    pub fn sections(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.0.iter().filter_map(|(key, node)| match node {
            MessageNode::Section(section) => Some((key.as_str(), section)),
            _ => None,
        })
    }

    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let mut bytes = Vec::with_capacity(self.size());
        self.write(&mut bytes)?;
        Ok(bytes)
    }

    /// Encoded size in bytes. A buffer of this capacity does not reallocate, which would leave copies of secrets in
    /// memory.
    pub(super) fn size(&self) -> usize {
        let node = |node: &MessageNode| match node {
            MessageNode::Value(value) => 2 + value.len(),
            MessageNode::List(items) => 1 + items.iter().map(|item| 3 + item.len()).sum::<usize>(),
            MessageNode::Section(section) => 1 + section.size(),
        };
        self.0.iter().map(|(key, value)| 2 + key.len() + node(value)).sum()
    }

    /// Appends the encoded message.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) -> Result<(), Malformed> {
        for (key, node) in &self.0 {
            match node {
                MessageNode::Value(value) => {
                    bytes.push(KEY_VALUE);
                    write_name(key, bytes)?;
                    write_value(value, bytes)?;
                }
                MessageNode::List(items) => {
                    bytes.push(LIST_START);
                    write_name(key, bytes)?;
                    for item in items {
                        bytes.push(LIST_ITEM);
                        write_value(item, bytes)?;
                    }
                    bytes.push(LIST_END);
                }
                MessageNode::Section(section) => {
                    bytes.push(SECTION_START);
                    write_name(key, bytes)?;
                    section.write(bytes)?;
                    bytes.push(SECTION_END);
                }
            }
        }
        Ok(())
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let message = Self::read(&mut rest, 0)?;
        if rest.is_empty() { Ok(message) } else { Err(Malformed::Unexpected) }
    }

    /// Reads up to and including the section's end, or up to the message's end.
    fn read(rest: &mut &[u8], depth: usize) -> Result<Self, Malformed> {
        let mut message = Self::default();
        while let Some((&element, after)) = rest.split_first() {
            *rest = after;
            let node = match element {
                SECTION_END if depth > 0 => return Ok(message),
                KEY_VALUE => {
                    let name = read_name(rest)?;
                    (name, MessageNode::Value(read_value(rest)?))
                }
                LIST_START => {
                    let name = read_name(rest)?;
                    (name, MessageNode::List(read_items(rest)?))
                }
                SECTION_START if depth < DEEPEST => {
                    let name = read_name(rest)?;
                    (name, MessageNode::Section(Self::read(rest, depth + 1)?))
                }
                _ => return Err(Malformed::Unexpected),
            };
            message.0.push(node);
        }
        if depth == 0 { Ok(message) } else { Err(Malformed::Truncated) }
    }
}

fn read_items(rest: &mut &[u8]) -> Result<Vec<String>, Malformed> {
    let mut items = Vec::new();
    loop {
        match take(rest, 1)?[0] {
            LIST_ITEM => items.push(read_value(rest)?),
            LIST_END => return Ok(items),
            _ => return Err(Malformed::Unexpected),
        }
    }
}

/// A name with an 8-bit length prefix.
pub(super) fn write_name(name: &str, bytes: &mut Vec<u8>) -> Result<(), Malformed> {
    bytes.push(u8::try_from(name.len()).map_err(|_| Malformed::TooLong)?);
    bytes.extend_from_slice(name.as_bytes());
    Ok(())
}

fn write_value(value: &str, bytes: &mut Vec<u8>) -> Result<(), Malformed> {
    if value.len() > LONGEST {
        return Err(Malformed::TooLong);
    }
    bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
    bytes.extend_from_slice(value.as_bytes());
    Ok(())
}

pub(super) fn read_name(rest: &mut &[u8]) -> Result<String, Malformed> {
    let length = usize::from(take(rest, 1)?[0]);
    take(rest, length).map(text)
}

fn read_value(rest: &mut &[u8]) -> Result<String, Malformed> {
    let length = take(rest, 2)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    take(rest, length).map(text)
}

fn text(bytes: &[u8]) -> String {
    // Identities may contain any bytes; they are only displayed.
    String::from_utf8_lossy(bytes).into_owned()
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, after) = rest.split_at_checked(length).ok_or(Malformed::Truncated)?;
    *rest = after;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Message {
        let section =
            Message::default().with("sub-section-key", "").with_list("list", ["a".to_owned(), "b".to_owned()]);
        Message::default().with("key1", "value1").with_section("section1", section).with_list("empty", [])
    }

    #[test]
    fn message_encoding_matches_protocol_bytes() {
        // The protocol's own example, shortened: key 3, section 1, list 4.
        let bytes = Message::default().with("key1", "value1").encode().expect("it fits");
        assert_eq!(bytes, b"\x03\x04key1\x00\x06value1");
        let bytes = Message::default().with_section("s", Message::default().with_list("l", ["x".to_owned()]));
        assert_eq!(bytes.encode().expect("it fits"), b"\x01\x01s\x04\x01l\x05\x00\x01x\x06\x02");
    }

    #[test]
    fn message_round_trips() {
        let bytes = example().encode().expect("it fits");
        assert_eq!(bytes.len(), example().size());
        let read = Message::decode(&bytes).expect("well-formed");
        assert_eq!(read, example());
        assert_eq!(read.value("key1"), Some("value1"));
        let section = read.section("section1").expect("it is there");
        assert_eq!((section.value("sub-section-key"), section.list("list").len()), (Some(""), 2));
        assert_eq!((read.value("section1"), read.section("key1"), read.list("none").len()), (None, None, 0));
    }

    #[test]
    fn truncated_or_malformed_message_is_rejected() {
        let bytes = example().encode().expect("it fits");
        // A prefix that ends between top-level elements is a valid message.
        let ends: Vec<usize> = (0..bytes.len()).filter(|length| Message::decode(&bytes[..*length]).is_ok()).collect();
        assert_eq!(ends, [0, 14, 59]);
        for bytes in [&b"\x02"[..], b"\x05\x00\x00", b"\x06", b"\x07", b"\x01\x01s\x03", b"\x04\x01l\x03", b"\x01\x01s"]
        {
            assert!(Message::decode(bytes).is_err(), "{bytes:?}");
        }
        assert!(Message::decode(&b"\x01\x00".repeat(100_000)).is_err());
    }

    #[test]
    fn oversized_message_is_rejected() {
        let long = "x".repeat(65536);
        assert_eq!(Message::default().with("key", long).encode(), Err(Malformed::TooLong));
        assert_eq!(Message::default().with(&"k".repeat(256), "").encode(), Err(Malformed::TooLong));
    }

    #[test]
    fn message_debug_output_hides_secrets() {
        let message = Message::default().with("type", "IKE").with("data", "never-to-be-seen");
        let shown = format!("{message:?} {:#?}", Message::default().with_section("s", message.clone()));
        assert!(shown.contains("IKE") && !shown.contains("never"), "{shown}");
    }
}
