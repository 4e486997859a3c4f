//! Netlink sockets: dumps, batches of changes, and strict parsing of the kernel's answers.

mod filter;
mod raw;

use std::{fmt, future::poll_fn, io, iter, time::Duration};

use rtnetlink::{
    packet_core::{
        ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
        NlasIterator,
    },
    packet_route::RouteNetlinkMessage,
    sys::{AsyncSocket as _, Socket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use rustix::{io::Errno, net::sockopt};
use tokio::{task::yield_now, time::timeout};

pub(super) use self::{
    filter::only_foreign_routes,
    raw::{RawMessage, raw_messages},
};

/// Requested receive buffer in bytes. Answers and events that do not fit are lost and reported as `ENOBUFS`; the
/// default of 208 KiB holds a few hundred.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Size in bytes at which a batch is sent: well below the default send buffer, and with so few messages that all
/// refusals fit the receive buffer.
const BATCH_BYTES: usize = 32 << 10;

/// The kernel fills its answers to dumps up to this size, if the reader has the room (`netlink_recvmsg`).
const LONGEST_ANSWER: usize = 32 << 10;

/// Alignment of messages (`NLMSG_ALIGN`).
const ALIGNMENT: usize = 4;

/// Attempts for a dump that changed while it was read (`NLM_F_DUMP_INTR`).
const DUMP_ATTEMPTS: usize = 5;

/// The kernel answers within the system call. A later answer counts as lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Errors of a netlink socket, except single changes that are [refused](Refusal).
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket, or not with the required options.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The socket failed, or answers were lost (`ENOBUFS`), during `what`.
    #[error("the netlink socket failed while {what}: {source}")]
    Socket { what: &'static str, source: io::Error },
    /// An answer was lost.
    #[error("the kernel did not answer within {ANSWER_TIMEOUT:?} while {0}; try again")]
    Lost(&'static str),
    /// The kernel refused to list something.
    #[error("{what}: {refusal}")]
    Refused { what: &'static str, refusal: Refusal },
}

/// A request that the kernel refused: its error number and, if present, its message (`NLMSGERR_ATTR_MSG`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `errno`, positive.
    pub errno: i32,
    /// The kernel's message, such as "Nexthop has invalid gateway".
    pub detail: Option<String>,
}

impl Refusal {
    fn new(message: &ErrorMessage) -> Self {
        Self { errno: message.raw_code().abs(), detail: kernel_words(&message.header) }
    }

    /// Whether the error number is this one.
    pub(super) fn is(&self, errno: Errno) -> bool {
        self.errno == errno.raw_os_error()
    }

    /// Advice for the operator, if known.
    fn way_out(&self) -> Option<&'static str> {
        Some(match Errno::from_raw_os_error(self.errno) {
            Errno::PERM => "needs CAP_NET_ADMIN: run as root",
            Errno::NETDOWN => "the interface is down; retried when that changes",
            Errno::NODEV => "the interface is gone; retried when it is back",
            Errno::NETUNREACH | Errno::HOSTUNREACH => {
                "the gateway is not reachable through that interface; bring it up, or give it an \
                 address in the gateway's network"
            }
            Errno::EXIST => "another process has an entry in its place; remove that entry",
            Errno::OPNOTSUPP | Errno::AFNOSUPPORT => "the kernel was built without support for it",
            _ => return None,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        if let Some(detail) = &self.detail {
            write!(f, ", the kernel's message is \"{detail}\"")?;
        }
        self.way_out().map_or(Ok(()), |way_out| write!(f, " ({way_out})"))
    }
}

/// The message in an error's extended acknowledgement: attributes after the repeated header of the request
/// (`netlink_ack_tlv_fill` in `net/netlink/af_netlink.c`).
pub(super) fn kernel_words(payload: &[u8]) -> Option<String> {
    const NLMSG_HEADER: usize = 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    NlasIterator::new(payload.get(NLMSG_HEADER..)?)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned())
}

/// Sets [`RECEIVE_BUFFER`], beyond `net.core.rmem_max` if permitted (`CAP_NET_ADMIN`).
pub(super) fn enlarge_receive_buffer(socket: &Socket) -> io::Result<()> {
    sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER))
        .map_err(io::Error::from)
}

/// A socket for requests and answers. It has no subscriptions: an event with the sequence number of another process'
/// request could be mistaken for an answer to one of ours.
///
/// All futures may be dropped: the next request skips their unread answers.
pub(super) struct Requests {
    socket: TokioSocket,
    /// Netlink port: the author of our changes in the kernel's events.
    port: u32,
    /// Sequence number of the last request.
    sequence: u32,
    /// The requests to send.
    sending: Vec<u8>,
    /// The datagram received last.
    received: Vec<u8>,
    /// A dump not read to its end; the kernel starts no other before.
    unfinished: Option<u32>,
}

impl Requests {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(NetlinkError::Open)?;
        configure(socket.socket_ref()).map_err(NetlinkError::Open)?;
        let port = socket.socket_mut().bind_auto().map_err(NetlinkError::Open)?.port_number();
        let received = Vec::with_capacity(LONGEST_ANSWER);
        Ok(Self { socket, port, sequence: 0, sending: Vec::new(), received, unfinished: None })
    }

    pub fn port(&self) -> u32 {
        self.port
    }

    /// All objects that `request` (an `RTM_GET*`) selects. `what` completes "while ...".
    ///
    /// A table that does not exist is empty.
    pub async fn list(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut objects = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            objects.clear();
            // Under constant change no dump is ever complete. Events or the next resync correct it.
            if self.dump(what, request.clone(), |object| objects.push(object)).await? {
                break;
            }
        }
        Ok(objects)
    }

    /// As [`Self::list`], one object at a time, so that 200,000 of them need no memory and other tasks can run in
    /// between. Returns whether the dump is complete; otherwise objects changed meanwhile and may be missing or
    /// duplicated.
    pub async fn dump(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
        mut take: impl FnMut(RouteNetlinkMessage),
    ) -> Result<bool, NetlinkError> {
        if let Some(sequence) = self.unfinished {
            self.read_dump(what, sequence, &mut |_| ()).await?;
        }
        self.sending.clear();
        self.put(request, NLM_F_DUMP);
        self.send(what).await?;
        self.unfinished = Some(self.sequence);
        self.read_dump(what, self.sequence, &mut take).await
    }

    async fn read_dump(
        &mut self,
        what: &'static str,
        sequence: u32,
        take: &mut impl FnMut(RouteNetlinkMessage),
    ) -> Result<bool, NetlinkError> {
        let mut whole = true;
        loop {
            self.receive(what).await?;
            for message in answers(&self.received, sequence, 1) {
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                let refusal = match message.payload {
                    NetlinkPayload::InnerMessage(object) => {
                        take(object);
                        continue;
                    }
                    NetlinkPayload::Done(done) => Refusal { errno: done.code.abs(), detail: None },
                    NetlinkPayload::Error(error) => Refusal::new(&error),
                    _ => continue,
                };
                self.unfinished = None;
                return if is_end(&refusal) { Ok(whole) } else { Err(NetlinkError::Refused { what, refusal }) };
            }
            yield_now().await;
        }
    }

    /// Reads one object, or returns the kernel's refusal.
    pub async fn get(
        &mut self,
        what: &'static str,
        request: RouteNetlinkMessage,
    ) -> Result<Result<RouteNetlinkMessage, Refusal>, NetlinkError> {
        self.sending.clear();
        self.put(request, 0);
        self.send(what).await?;
        loop {
            self.receive(what).await?;
            for message in answers(&self.received, self.sequence, 1) {
                match message.payload {
                    NetlinkPayload::InnerMessage(object) => return Ok(Ok(object)),
                    NetlinkPayload::Error(error) => return Ok(Err(Refusal::new(&error))),
                    _ => {}
                }
            }
        }
    }

    /// Makes the changes, each with its `NLM_F_*` flags, and returns the kernel's answers in the same order. A refused
    /// change does not stop later ones.
    ///
    /// One `sendmsg` carries many changes, and only the last one requests an acknowledgement: the kernel processes them
    /// in order and always reports refusals (`netlink_rcv_skb` in `net/netlink/af_netlink.c`).
    pub async fn change(
        &mut self,
        what: &'static str,
        changes: Vec<(RouteNetlinkMessage, u16)>,
    ) -> Result<Vec<Result<(), Refusal>>, NetlinkError> {
        let mut results = Vec::new();
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let batch = results.len();
            let mut last = 0;
            self.sending.clear();
            while self.sending.len() < BATCH_BYTES
                && let Some((change, flags)) = changes.next()
            {
                last = self.sending.len();
                self.put(change, flags);
                results.push(Ok(()));
            }
            self.acknowledge(last);
            self.send(what).await?;
            self.read_results(what, &mut results[batch..]).await?;
        }
        Ok(results)
    }

    /// Records the refusals among the answers to the last changes, until the last one is acknowledged.
    async fn read_results(
        &mut self,
        what: &'static str,
        results: &mut [Result<(), Refusal>],
    ) -> Result<(), NetlinkError> {
        let count = u32::try_from(results.len()).unwrap_or(u32::MAX);
        let first = self.sequence.wrapping_sub(count).wrapping_add(1);
        loop {
            self.receive(what).await?;
            for message in answers(&self.received, first, count) {
                let NetlinkPayload::Error(answer) = message.payload else {
                    continue;
                };
                let sequence = message.header.sequence_number;
                if answer.code.is_some() {
                    results[sequence.wrapping_sub(first) as usize] = Err(Refusal::new(&answer));
                }
                if sequence == self.sequence {
                    return Ok(());
                }
            }
        }
    }

    fn put(&mut self, request: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let (start, length) = (self.sending.len(), message.buffer_len());
        self.sending.resize(start + length.next_multiple_of(ALIGNMENT), 0);
        message.serialize(&mut self.sending[start..start + length]);
    }

    /// Requests an acknowledgement for the message at this offset.
    fn acknowledge(&mut self, start: usize) {
        const FLAGS: usize = 6;
        let at = start + FLAGS;
        let flags = u16::from_ne_bytes([self.sending[at], self.sending[at + 1]]) | NLM_F_ACK;
        self.sending[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }

    async fn send(&self, what: &'static str) -> Result<(), NetlinkError> {
        let kernel = SocketAddr::new(0, 0);
        let send = poll_fn(|context| self.socket.poll_send_to(context, &self.sending, &kernel));
        within(what, send).await.map(drop)
    }

    /// Receives one datagram of answers.
    async fn receive(&mut self, what: &'static str) -> Result<(), NetlinkError> {
        loop {
            self.received.clear();
            let receive = poll_fn(|context| self.socket.poll_recv_from(context, &mut self.received));
            // Other processes may send to this port.
            if within(what, receive).await?.port_number() == 0 {
                return Ok(());
            }
        }
    }
}

/// Whether a dump ends without an error. No such table, or a family that is disabled on the host ("ipv6.disable=1"), has
/// no objects.
fn is_end(refusal: &Refusal) -> bool {
    refusal.errno == 0 || [Errno::NOENT, Errno::AFNOSUPPORT].iter().any(|errno| refusal.is(*errno))
}

async fn within<T>(what: &'static str, answer: impl Future<Output = io::Result<T>>) -> Result<T, NetlinkError> {
    match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|source| NetlinkError::Socket { what, source }),
        Err(_) => Err(NetlinkError::Lost(what)),
    }
}

/// The messages of a datagram that answer one of `count` requests, starting at sequence number `first`. Others answer
/// requests whose future was dropped.
fn answers(datagram: &[u8], first: u32, count: u32) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    messages_of(datagram, move |sequence| sequence.wrapping_sub(first) < count)
}

/// The messages of a datagram whose sequence number is selected.
pub(super) fn messages_of(
    datagram: &[u8],
    select: impl Fn(u32) -> bool,
) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    const HEADER: usize = 16;
    const SEQUENCE: usize = 8;
    let mut rest = datagram;
    let number = |bytes: &[u8]| bytes.try_into().map(u32::from_ne_bytes).unwrap_or_default();
    iter::from_fn(move || {
        loop {
            let length = number(rest.get(..4)?) as usize;
            let message = rest.get(..length).filter(|message| message.len() >= HEADER)?;
            rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
            if !select(number(&message[SEQUENCE..SEQUENCE + 4])) {
                continue;
            }
            match NetlinkMessage::deserialize(message) {
                Ok(message) => return Some(message),
                Err(error) => tracing::debug!("cannot parse the kernel's answer: {error}"),
            }
        }
    })
}

fn configure(socket: &Socket) -> io::Result<()> {
    enlarge_receive_buffer(socket)?;
    // The kernel filters dumps: on a host with a full BGP table we read only our own routes.
    socket.set_netlink_get_strict_chk(true)?;
    // Errors include the kernel's message, and omit the request.
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)
}

#[cfg(test)]
mod tests;
