//! Packets over the control socket: `GET /v1/packets`, one JSON object per line for as long as the client listens. Only
//! for root: the bytes of packets are the sites' own.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use axum::{
    Extension,
    body::Body,
    extract::{Query, State},
    http::{Method, header},
    response::{IntoResponse as _, Response},
};
use futures_util::{StreamExt as _, stream};
use hub_common::{
    Reason,
    maps::{CaptureFilter, CapturePrefix, CaptureRecord, FORWARDED, MAX_SNAPLEN},
};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{
    AppState, Client, PACKETS,
    access::Peer,
    events::{JSON_LINES, Lines},
    failure::Failure,
    path::{QueryOf, segment},
};
use crate::{
    agent::{PacketNames, Request},
    api_types::{
        packet::{LeftOut, LeftOutCause, PacketEvent, PacketLine, PacketLink, PacketVerdict},
        problem::ProblemType,
    },
    datapath::PacketRecord,
    observe::packets::{Delivery, SubscribeError, Subscription},
    trace::hex,
};

/// Names of connections and interfaces are read again after this time.
const NAMES_FOR: Duration = Duration::from_secs(1);
/// Lines that wait for the client's connection; further records wait in the listener's queue.
const WAITING_LINES: usize = 16;
/// The name of forwarded packets among the reasons.
const FORWARD: &str = "forward";

/// The packets that a client wants: the fields of the request's query.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PacketQuery {
    /// Names of reasons, separated by commas; none: all.
    pub reason: Option<String>,
    /// The connection that sent the packet, or that it was forwarded to.
    pub connection: Option<String>,
    /// A prefix that has the source.
    #[schemars(with = "Option<String>")]
    pub src: Option<IpNet>,
    /// A prefix that has the destination.
    #[schemars(with = "Option<String>")]
    pub dst: Option<IpNet>,
    /// IP protocol.
    pub protocol: Option<u8>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
    /// Also one of this many forwarded packets.
    pub forwarded: Option<u32>,
    /// Bytes of each packet; none: no bytes.
    pub snaplen: Option<u32>,
}

impl PacketQuery {
    /// The program's filter.
    fn filter(&self, names: &PacketNames) -> Result<CaptureFilter> {
        let snaplen = self.snaplen.unwrap_or(0);
        if snaplen > MAX_SNAPLEN {
            bail!("at most {MAX_SNAPLEN} bytes of a packet can be captured");
        }
        let forwards = match self.forwarded {
            Some(0) => bail!("one in 0 forwarded packets: write 1/1 or more"),
            Some(_) => 1 << FORWARDED,
            None => 0,
        };
        let connection = match &self.connection {
            Some(name) => names.slot(name).ok_or_else(|| match names.tunnels(name).as_str() {
                "" => anyhow!("connection {name:?} does not exist: `vpnhub connection list` shows all of them"),
                tunnels => anyhow!("connection {name} has several tunnels, and the filter is for one: {tunnels}"),
            })?,
            None => CaptureFilter::ANY_CONNECTION,
        };
        let port = |port: Option<u16>| port.map_or(CaptureFilter::ANY_PORT, |port| [port, port]);
        Ok(CaptureFilter {
            outcomes: reasons(self.reason.as_deref())? | forwards,
            connection,
            source: self.src.map_or(CapturePrefix::ANY, prefix),
            destination: self.dst.map_or(CapturePrefix::ANY, prefix),
            protocol: self.protocol.map_or(CaptureFilter::ANY_PROTOCOL, u32::from),
            source_ports: port(self.sport),
            destination_ports: port(self.dport),
            snaplen,
            one_in: self.forwarded.unwrap_or(1),
            is_plain: 0,
        }
        .marked())
    }
}

/// A bit for each reason. [`Reason::HandedOver`] never ends the processing.
fn reasons(names: Option<&str>) -> Result<u32> {
    let all = || Reason::ALL.into_iter().filter(|reason| *reason != Reason::HandedOver);
    let bit = |reason: Reason| 1 << reason as u32;
    let Some(names) = names else { return Ok(all().map(bit).sum()) };
    let known = |name: &str| {
        let found = all().find(|reason| reason.name() == name).map(bit);
        found.ok_or_else(|| {
            let names: Vec<_> = all().map(Reason::name).collect();
            anyhow!("reason {name:?} does not exist: use {}", names.join(", "))
        })
    };
    names.split(',').map(known).try_fold(0, |bits, bit| Ok(bits | bit?))
}

fn prefix(prefix: IpNet) -> CapturePrefix {
    let halves = |address: IpAddr| {
        let octets = mapped(address).octets();
        let half = |at: usize| u64::from_ne_bytes(octets[at..at + 8].try_into().expect("it has 16 bytes"));
        [half(0), half(8)]
    };
    let (bits, family) = match prefix {
        IpNet::V4(prefix) => (96 + prefix.prefix_len(), 4),
        IpNet::V6(prefix) => (prefix.prefix_len(), 6),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    CapturePrefix { address: halves(prefix.addr()), mask: halves(Ipv6Addr::from(mask).into()), family }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

pub(super) async fn follow(
    State(state): State<AppState>,
    Extension(peer): Extension<Peer>,
    query: QueryOf<PacketQuery>,
) -> Result<Response, Failure> {
    if !peer.is_root {
        return Err(Failure::new(ProblemType::Forbidden, "only root can see the sites' packets: run as root"));
    }
    let Query(query) = query?;
    let names = Names::read(&state.agent).await.ok_or_else(Failure::stopping)?;
    let filter = query.filter(&names.names);
    let filter = filter.map_err(|error| Failure::new(ProblemType::InvalidRequest, error.to_string()))?;
    let subscription = state.packets.subscribe(filter).await.map_err(|error| {
        let kind = match error {
            SubscribeError::Full => ProblemType::TooManyFilters,
            SubscribeError::Stopping => ProblemType::Stopping,
            SubscribeError::Program(_) => ProblemType::Internal,
        };
        Failure::new(kind, error.to_string())
    })?;
    let snaplen = filter.snaplen as usize;
    let connection = query.connection.map(|name| (name, filter.connection));
    let listener = Listener { subscription, names, agent: state.agent, connection, snaplen };
    let (sender, receiver) = mpsc::channel(WAITING_LINES);
    state.packets.spawn(send_lines(listener, sender));
    let lines = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
    // The headers are sent at once: the client knows that it listens.
    let lines = stream::once(async { String::new() }).chain(lines);
    let lines = Body::from_stream(lines.map(Ok::<_, Infallible>));
    Ok(([(header::CONTENT_TYPE, JSON_LINES)], lines).into_response())
}

/// Ends with the client, or with the listener.
async fn send_lines(mut listener: Listener, lines: mpsc::Sender<String>) {
    loop {
        let line = tokio::select! {
            line = listener.next() => line,
            () = lines.closed() => return,
        };
        let Some(line) = line else { return };
        // Only strings and numbers: serialization cannot fail.
        let text = serde_json::to_string(&line).unwrap_or_default() + "\n";
        if lines.send(text).await.is_err() {
            return;
        }
    }
}

struct Listener {
    subscription: Subscription,
    names: Names,
    agent: mpsc::Sender<Request>,
    /// The connection of the filter, and its slot.
    connection: Option<(String, u32)>,
    snaplen: usize,
}

/// Names, and when they were read.
struct Names {
    names: PacketNames,
    at: Instant,
}

impl Names {
    async fn read(agent: &mpsc::Sender<Request>) -> Option<Self> {
        let (sender, answer) = oneshot::channel();
        let at = Instant::now();
        agent.send(Request::PacketNames(sender)).await.ok()?;
        Some(Self { names: answer.await.ok()?, at })
    }
}

impl Listener {
    /// The next line. `None` when the agent ends, or when the connection of the filter has been deleted: another one may
    /// have its slot.
    async fn next(&mut self) -> Option<PacketLine> {
        Some(match self.subscription.next().await? {
            Delivery::LeftOut { outcome, packets } => left_out(outcome, packets, LeftOutCause::RateLimit),
            Delivery::Lost { outcome, packets } => left_out(outcome, packets, LeftOutCause::SlowReader),
            Delivery::Packet { record, time } => {
                // Not more often, even if a name is missing: the agent's loop answers.
                if self.names.at.elapsed() > NAMES_FOR {
                    self.names = Names::read(&self.agent).await?;
                }
                if let Some((name, slot)) = &self.connection
                    && self.names.names.slot(name) != Some(*slot)
                {
                    return None;
                }
                PacketLine::Packet(event(&record, time, &self.names.names, self.snaplen))
            }
        })
    }
}

fn left_out(outcome: u32, left_out: u64, cause: LeftOutCause) -> PacketLine {
    PacketLine::LeftOut(LeftOut { left_out, reason: outcome_name(outcome).to_owned(), cause })
}

fn outcome_name(outcome: u32) -> &'static str {
    Reason::ALL.get(outcome as usize).map_or(FORWARD, |reason| reason.name())
}

fn event(record: &Arc<PacketRecord>, time: f64, names: &PacketNames, snaplen: usize) -> PacketEvent {
    let head = &record.head;
    let connection = |slot: u32| names.connection(slot).map(str::to_owned);
    let (interface, is_ethernet) = match names.interface(head.ifindex) {
        Some((name, is_ethernet)) => (name.to_owned(), is_ethernet),
        None => (format!("#{}", head.ifindex), true),
    };
    let link = match head.link {
        CaptureRecord::RAW => PacketLink::Raw,
        CaptureRecord::UNKNOWN if !is_ethernet => PacketLink::Raw,
        _ => PacketLink::Ethernet,
    };
    let address = |halves: [u64; 2]| {
        let [first, second] = halves.map(u64::to_ne_bytes);
        let octets: [u8; 16] = [first, second].concat().try_into().expect("two halves");
        let address = Ipv6Addr::from(octets);
        match head.family {
            4 => Some(address.to_canonical()),
            6 => Some(address.into()),
            _ => None,
        }
    };
    let has_ports = head.has_ports != 0;
    let bytes = with_tag(record);
    let tag = if head.tag == 0 { 0 } else { head.tag.to_be_bytes().len() };
    PacketEvent {
        time,
        verdict: match head.outcome {
            FORWARDED => PacketVerdict::Forward,
            number if Reason::is_drop_number(number) => PacketVerdict::Drop,
            _ => PacketVerdict::Pass,
        },
        reason: (head.outcome != FORWARDED).then(|| outcome_name(head.outcome).to_owned()),
        connection: connection(head.connection),
        next_hop: connection(head.egress),
        interface,
        link,
        source: address(head.source),
        destination: address(head.destination),
        protocol: (head.family != 0).then_some(head.protocol as u8),
        source_port: has_ports.then_some((head.ports >> 16) as u16),
        destination_port: has_ports.then_some(head.ports as u16),
        length: head.length + tag as u32,
        bytes: hex::encode(&bytes[..bytes.len().min(snaplen)]),
    }
}

/// The captured bytes with the tag that the kernel had removed: after the link addresses (`skb_vlan_push`,
/// net/core/skbuff.c).
fn with_tag(record: &PacketRecord) -> Vec<u8> {
    const ADDRESSES: usize = 12;
    let mut bytes = record.bytes.clone();
    if record.head.tag != 0 && bytes.len() >= ADDRESSES {
        bytes.splice(ADDRESSES..ADDRESSES, record.head.tag.to_be_bytes());
    }
    bytes
}

impl Client {
    /// Passes each line to `handle` until that returns false or the agent ends, which is an error. `started` is called
    /// once the program records.
    pub async fn packets(
        &self,
        query: &PacketQuery,
        started: impl FnOnce() -> Result<()>,
        mut handle: impl FnMut(&PacketLine) -> Result<bool>,
    ) -> Result<()> {
        let path = format!("{PACKETS}?{}", fields(query)?);
        let answer = self.ask(Method::GET, &path, None, None).await?;
        started()?;
        let mut lines = Lines { answer, rest: Vec::new() };
        while let Some(line) = lines.next().await? {
            if !handle(&line)? {
                return Ok(());
            }
        }
        bail!("the agent has stopped, or the connection of the filter was deleted")
    }
}

/// The query of a request.
fn fields(query: &PacketQuery) -> Result<String> {
    let fields = serde_json::to_value(query).context("a query")?;
    let fields = fields.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let field = |(key, value): (&String, &serde_json::Value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{key}={}", segment(&value))
    };
    Ok(fields.map(field).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_bits_by_number() {
        assert_eq!(reasons(Some("malformed,isolated")).unwrap(), 1 << 14 | 1 << 19);
        // All but `handed_over`, which never ends the processing.
        assert_eq!(reasons(None).unwrap(), (1 << Reason::COUNT) - 1 - (1 << Reason::HandedOver as u32));
        let error = reasons(Some("nonsense")).unwrap_err().to_string();
        assert!(error.starts_with("reason \"nonsense\" does not exist: use not_attached, not_ip, "), "{error}");
        assert!(reasons(Some("handed_over")).is_err());
    }

    #[test]
    fn prefix_admits_addresses_of_its_family_only() {
        let record = |source: &str| {
            let source: IpAddr = source.parse().unwrap();
            let octets = mapped(source).octets();
            let half = |at: usize| u64::from_ne_bytes(octets[at..at + 8].try_into().unwrap());
            let family = if source.is_ipv4() { 4 } else { 6 };
            CaptureRecord { source: [half(0), half(8)], family, ..CaptureRecord::default() }
        };
        let admits = |text: &str, source: &str| {
            let filter = CaptureFilter {
                outcomes: u32::MAX,
                connection: CaptureFilter::ANY_CONNECTION,
                source: prefix(text.parse().unwrap()),
                destination: CapturePrefix::ANY,
                protocol: CaptureFilter::ANY_PROTOCOL,
                source_ports: CaptureFilter::ANY_PORT,
                destination_ports: CaptureFilter::ANY_PORT,
                snaplen: 0,
                one_in: 1,
                is_plain: 0,
            };
            filter.admits(&record(source))
        };
        assert!(admits("10.10.10.0/23", "10.10.11.255") && !admits("10.10.10.0/23", "10.10.12.0"));
        assert!(admits("10.0.0.1/32", "10.0.0.1") && !admits("10.0.0.1/32", "10.0.0.2"));
        assert!(admits("0.0.0.0/0", "1.2.3.4") && !admits("0.0.0.0/0", "fd00::1"));
        assert!(admits("fd00:10::/33", "fd00:10::1") && !admits("fd00:10::/33", "fd00:10:8000::1"));
        assert!(admits("::/0", "fd00::1") && !admits("::/0", "1.2.3.4"));
    }

    #[test]
    fn removed_tag_is_put_back_after_link_addresses() {
        let head = CaptureRecord { tag: 0x8100_0064, ..CaptureRecord::default() };
        let record = PacketRecord { head, bytes: (0..16).collect() };
        let expected = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x81, 0, 0, 100, 12, 13, 14, 15];
        assert_eq!(with_tag(&record), expected);
    }
}
