//! Parses charon's messages about SAs.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{fault::Fault, hint::Hint, message::Message, selector::TrafficSelector};

/// Events that update the table.
pub const EVENTS: [&str; 4] = ["ike-updown", "ike-rekey", "child-updown", "child-rekey"];
/// Each line of charon's log.
pub const LOG: &str = "log";

/// A named event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViciEvent {
    pub name: String,
    pub message: Message,
}

impl ViciEvent {
    /// Whether the event may change the table. charon sends each line of its log; almost none reports a fault.
    pub fn is_relevant(&self) -> bool {
        self.name != LOG || failed(&self.message).is_some() || self.hint().is_some()
    }

    pub fn hint(&self) -> Option<Hint> {
        Hint::of(&self.message).filter(|_| self.name == "log")
    }
}

/// An IKE SA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IkeSa {
    /// charon's unique id, never reused by the process.
    pub id: u64,
    /// charon's name of the connection.
    pub connection: String,
    /// Such as `ESTABLISHED` or `CONNECTING`.
    pub state: String,
    /// charon is negotiating, or will next: as of the last listing or event.
    pub is_busy: bool,
    /// The hub's address, and the site's.
    pub addresses: [Option<IpAddr>; 2],
}

/// A pair of ESP SAs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildSa {
    /// charon's unique id, never reused by the process.
    pub id: u64,
    /// charon's name of the child in the configuration.
    #[serde(default)]
    pub name: String,
    /// Such as `INSTALLED` or `REKEYING`.
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
    /// Its packets on the outside.
    #[serde(default)]
    pub outside: Outside,
    /// The CPU whose packets it carries, if it is one of several SAs of a child (RFC 9611).
    #[serde(default)]
    pub cpu: Option<u32>,
}

/// The packets of a pair of ESP SAs, as they leave.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// The hub's address, and the site's; `None` if unknown.
    pub local: Option<IpAddr>,
    pub remote: Option<IpAddr>,
    /// ESP is in UDP: NAT traversal.
    pub is_in_udp: bool,
    /// charon's names of the algorithms, such as `AES_GCM_16`; `None` while it does not say. An AEAD has no integrity
    /// algorithm.
    pub encryption: Option<String>,
    pub integrity: Option<String>,
}

/// A change of SAs.
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
    /// `connection` is charon's name.
    Failed {
        connection: String,
        fault: Fault,
    },
}

impl SaChange {
    /// All changes in an event; empty for an event that cannot be parsed: the next listing of all SAs corrects that.
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
                    let child = ChildSa::read(&ike, child)?;
                    Some(if is_up { Self::ChildUp(ike, child) } else { Self::ChildDown(child) })
                })
                .collect(),
            "child-rekey" => children(message)
                .filter_map(|(ike, both)| {
                    let (old, new) = (both.section("old")?, both.section("new")?);
                    Some(Self::ChildRekeyed { old: number(old, "uniqueid")?, new: ChildSa::read(&ike, new)?, ike })
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

/// The `child-sas` sections, each with its IKE SA.
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
        let children = children.filter_map(|(_, child)| ChildSa::read(&ike, child)).collect();
        Some((ike, children))
    };
    message.sections().filter_map(read).collect()
}

impl IkeSa {
    fn read(name: &str, section: &Message) -> Option<Self> {
        Some(Self {
            id: number(section, "uniqueid")?,
            connection: name.to_owned(),
            state: section.value("state")?.to_owned(),
            is_busy: ["tasks-active", "tasks-queued"].iter().any(|tasks| !section.list(tasks).is_empty()),
            addresses: ["local-host", "remote-host"].map(|key| section.value(key)?.parse().ok()),
        })
    }
}

impl ChildSa {
    fn read(ike: &IkeSa, section: &Message) -> Option<Self> {
        let selectors = |key| section.list(key).iter().filter_map(|text| TrafficSelector::parse(text)).collect();
        let text = |key| section.value(key).unwrap_or_default().to_owned();
        Some(Self {
            id: number(section, "uniqueid")?,
            name: text("name"),
            state: section.value("state")?.to_owned(),
            spi_in: text("spi-in"),
            spi_out: text("spi-out"),
            bytes_in: number(section, "bytes-in").unwrap_or_default(),
            bytes_out: number(section, "bytes-out").unwrap_or_default(),
            age: number(section, "install-time").unwrap_or_default(),
            local: selectors("local-ts"),
            remote: selectors("remote-ts"),
            outside: Outside::read(ike, section),
            cpu: section.value("cpu").and_then(|cpu| cpu.parse().ok()),
        })
    }

    /// Whether both are the same SA in the same state: their counters may differ.
    pub fn is_same(&self, other: &Self) -> bool {
        let Self { id, name, state, spi_in, spi_out, bytes_in: _, bytes_out: _, age: _, local, remote, outside, cpu } =
            self;
        (id, name, state, spi_in, spi_out) == (&other.id, &other.name, &other.state, &other.spi_in, &other.spi_out)
            && (local, remote, outside, cpu) == (&other.local, &other.remote, &other.outside, &other.cpu)
    }

    /// Whether it carries traffic.
    pub fn is_live(&self) -> bool {
        matches!(self.state.as_str(), "INSTALLED" | "UPDATING" | "REKEYING")
    }
}

impl Outside {
    fn read(ike: &IkeSa, section: &Message) -> Self {
        let [local, remote] = ike.addresses;
        let text = |key| section.value(key).map(str::to_owned);
        Self {
            local,
            remote,
            is_in_udp: section.value("encap") == Some("yes"),
            encryption: text("encr-alg"),
            integrity: text("integ-alg"),
        }
    }
}

fn number(section: &Message, key: &str) -> Option<u64> {
    section.value(key)?.parse().ok()
}
