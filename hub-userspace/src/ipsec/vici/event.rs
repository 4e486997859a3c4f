//! What charon tells of its SAs, read out of its messages.

use serde::{Deserialize, Serialize};

use super::{fault::Fault, message::Message, selector::TrafficSelector, session::ViciEvent};

/// Events that the table lives by.
pub const EVENTS: [&str; 5] = ["ike-updown", "ike-rekey", "child-updown", "child-rekey", "log"];

/// An IKE SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeSa {
    /// charon's number; each is given once in its life.
    pub id: u64,
    /// charon's name of the connection.
    pub connection: String,
    /// As `ESTABLISHED` or `CONNECTING`.
    pub state: String,
}

/// A pair of ESP SAs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildSa {
    /// charon's number; each is given once in its life.
    pub id: u64,
    /// As `INSTALLED` or `REKEYING`.
    pub state: String,
    /// Hexadecimal.
    pub spi_in: String,
    pub spi_out: String,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Seconds.
    pub age: u64,
    /// The hub's side.
    pub local: Vec<TrafficSelector>,
    /// The site's.
    pub remote: Vec<TrafficSelector>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SaChange {
    IkeUp(IkeSa),
    IkeDown(IkeSa),
    IkeRekeyed {
        old: u64,
        new: IkeSa,
    },
    ChildUp(IkeSa, ChildSa),
    ChildDown(ChildSa),
    ChildRekeyed {
        ike: IkeSa,
        old: u64,
        new: ChildSa,
    },
    /// Of charon's connection of this name.
    Failed {
        connection: String,
        fault: Fault,
    },
}

impl SaChange {
    /// All that an event says; nothing of one that is not understood: the next look at all SAs makes up for it.
    pub fn of_event(event: &ViciEvent) -> Vec<Self> {
        let ViciEvent { name, message } = event;
        let is_up = message.value("up") == Some("yes");
        let ikes = || message.sections();
        match name.as_str() {
            "ike-updown" => ikes()
                .filter_map(|(name, ike)| {
                    let ike = IkeSa::read(name, ike)?;
                    Some(if is_up { Self::IkeUp(ike) } else { Self::IkeDown(ike) })
                })
                .collect(),
            "ike-rekey" => ikes()
                .filter_map(|(name, both)| {
                    let (old, new) = (both.section("old")?, both.section("new")?);
                    Some(Self::IkeRekeyed { old: number(old, "uniqueid")?, new: IkeSa::read(name, new)? })
                })
                .collect(),
            "child-updown" => children(message)
                .filter_map(|(ike, child)| {
                    let child = ChildSa::read(child)?;
                    Some(if is_up { Self::ChildUp(ike, child) } else { Self::ChildDown(child) })
                })
                .collect(),
            "child-rekey" => children(message)
                .filter_map(|(ike, both)| {
                    let (old, new) = (both.section("old")?, both.section("new")?);
                    Some(Self::ChildRekeyed { ike, old: number(old, "uniqueid")?, new: ChildSa::read(new)? })
                })
                .collect(),
            "log" => failed(message).into_iter().collect(),
            _ => Vec::new(),
        }
    }
}

fn failed(message: &Message) -> Option<SaChange> {
    let connection = message.value("ikesa-name")?.to_owned();
    let fault = Fault::of_line(message.value("msg")?)?;
    Some(SaChange::Failed { connection, fault })
}

/// The sections of children, each with its IKE SA.
fn children(message: &Message) -> impl Iterator<Item = (IkeSa, &Message)> {
    message
        .sections()
        .filter_map(|(name, ike)| Some((IkeSa::read(name, ike)?, ike.section("child-sas")?)))
        .flat_map(|(ike, children)| children.sections().map(move |(_, child)| (ike.clone(), child)))
}

/// The SAs of a `list-sa` message.
pub fn listed(message: &Message) -> Vec<(IkeSa, Vec<ChildSa>)> {
    let read = |(name, section): (&str, &Message)| {
        let ike = IkeSa::read(name, section)?;
        let children = section.section("child-sas");
        let children = children.into_iter().flat_map(Message::sections);
        Some((ike, children.filter_map(|(_, child)| ChildSa::read(child)).collect()))
    };
    message.sections().filter_map(read).collect()
}

impl IkeSa {
    fn read(name: &str, section: &Message) -> Option<Self> {
        Some(Self {
            id: number(section, "uniqueid")?,
            connection: name.to_owned(),
            state: section.value("state")?.to_owned(),
        })
    }
}

impl ChildSa {
    fn read(section: &Message) -> Option<Self> {
        let selectors = |key| section.list(key).iter().filter_map(|text| TrafficSelector::parse(text)).collect();
        let text = |key| section.value(key).unwrap_or_default().to_owned();
        Some(Self {
            id: number(section, "uniqueid")?,
            state: section.value("state")?.to_owned(),
            spi_in: text("spi-in"),
            spi_out: text("spi-out"),
            bytes_in: number(section, "bytes-in").unwrap_or_default(),
            bytes_out: number(section, "bytes-out").unwrap_or_default(),
            age: number(section, "install-time").unwrap_or_default(),
            local: selectors("local-ts"),
            remote: selectors("remote-ts"),
        })
    }

    /// Whether it carries traffic.
    pub fn is_live(&self) -> bool {
        matches!(self.state.as_str(), "INSTALLED" | "UPDATING" | "REKEYING")
    }
}

fn number(section: &Message, key: &str) -> Option<u64> {
    section.value(key)?.parse().ok()
}
