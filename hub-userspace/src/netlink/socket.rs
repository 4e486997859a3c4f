//! Netlink sockets: dumps, changes in batches, and a strict reading of what the kernel answers.

use std::{fmt, io, time::Duration};

use futures_util::{Stream, StreamExt as _};
use rtnetlink::{
    packet_core::{
        DoneMessage, ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage,
        NetlinkPayload, NlasIterator,
    },
    packet_route::RouteNetlinkMessage,
    proto::{ConnectionHandle, new_connection},
    sys::{AsyncSocket as _, Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use rustix::{io::Errno, net::sockopt};
use tokio::{task::JoinHandle, time::timeout};

/// Bytes of receive buffer asked for. Acknowledgements and events that do not fit are lost, the
/// latter with `ENOBUFS`; the default of 208 KiB holds a few hundred events.
const RECEIVE_BUFFER: usize = 8 << 20;

/// Most bytes of requests sent in one `sendmsg`: well below the default send buffer, and few
/// enough messages that their acknowledgements fit the smallest receive buffer.
const BATCH_BYTES: usize = 16 << 10;

/// How often a dump is repeated that changed while it was read (`NLM_F_DUMP_INTR`).
const DUMP_ATTEMPTS: usize = 5;

/// The kernel answers within the call that asks; an answer that has not come by then is lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What can go wrong with a netlink socket, apart from single changes that are [refused](Refusal).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket, or not with the options needed.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// The socket's task ended.
    #[error("the netlink socket was closed while {0}; restart the agent")]
    Closed(&'static str),
    /// An answer was lost.
    #[error("the kernel did not answer within {ANSWER_TIMEOUT:?} while {0}; try again")]
    Lost(&'static str),
    /// The kernel refused to list something.
    #[error("{what}: {refusal}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        refusal: Refusal,
    },
}

/// A request that the kernel refused: its error number and, when it gave one, its own sentence
/// (`NLMSGERR_ATTR_MSG`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `errno`, positive.
    pub errno: i32,
    /// The kernel's own words, "Nexthop has invalid gateway" for one.
    pub detail: Option<String>,
}

impl Refusal {
    fn new(message: &ErrorMessage) -> Self {
        Self { errno: message.raw_code().abs(), detail: kernel_words(&message.header) }
    }

    /// Whether the answer is this error.
    pub(super) fn is(&self, errno: Errno) -> bool {
        self.errno == errno.raw_os_error()
    }

    /// What the operator can do about it, if that is known.
    fn way_out(&self) -> Option<&'static str> {
        Some(match Errno::from_raw_os_error(self.errno) {
            Errno::PERM => "needs CAP_NET_ADMIN: run as root or through `cargo xtask run`",
            Errno::NETDOWN => "the interface is down; it is tried again when that changes",
            Errno::NODEV => "the interface is gone; it is tried again when it is back",
            Errno::NETUNREACH | Errno::HOSTUNREACH => {
                "the gateway is not reachable through that interface; bring it up, or give it an \
                 address in the gateway's network"
            }
            Errno::EXIST => "somebody else's stands in its place; remove that one",
            Errno::OPNOTSUPP | Errno::AFNOSUPPORT => "the kernel was built without it",
            _ => return None,
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        if let Some(detail) = &self.detail {
            write!(f, ", the kernel says \"{detail}\"")?;
        }
        self.way_out().map_or(Ok(()), |way_out| write!(f, " ({way_out})"))
    }
}

/// The sentence in an error's extended acknowledgement: attributes after the header of the request
/// that is repeated there (`netlink_ack_tlv_fill` in `net/netlink/af_netlink.c`).
fn kernel_words(payload: &[u8]) -> Option<String> {
    const NLMSG_HEADER: usize = 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    NlasIterator::new(payload.get(NLMSG_HEADER..)?)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned())
}

/// Asks for [`RECEIVE_BUFFER`], beyond `net.core.rmem_max` when we may (`CAP_NET_ADMIN`).
pub(super) fn enlarge_receive_buffer(socket: &Socket) -> io::Result<()> {
    sockopt::set_socket_recv_buffer_size_force(socket, RECEIVE_BUFFER)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, RECEIVE_BUFFER))
        .map_err(io::Error::from)
}

/// A socket that asks and gets answers. It is subscribed to nothing: an event that carries the
/// sequence number of somebody else's request could else pass for the answer to one of ours.
#[derive(Debug)]
pub(super) struct Requests {
    handle: ConnectionHandle<RouteNetlinkMessage>,
    task: JoinHandle<()>,
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Requests {
    /// Opens one, in the network namespace of the calling thread.
    pub fn open() -> Result<Self, Error> {
        let (mut connection, handle, _unsolicited) = new_connection(NETLINK_ROUTE).map_err(Error::Open)?;
        configure(connection.socket_mut().socket_ref()).map_err(Error::Open)?;
        // Every request has then exactly one last answer, in the order they were sent.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// All objects that `request` (an `RTM_GET*`) selects. `what` completes "while ...".
    ///
    /// A table that does not exist is an empty one.
    pub async fn dump(
        &self,
        what: &'static str,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        for attempt in 1.. {
            let answers = self.send(what, [message.clone()])?;
            let (objects, interrupted) = match within(what, read_dump(what, answers)).await {
                // A family that the host does without, `ipv6.disable=1` for one, has no objects.
                Err(Error::Refused { refusal, .. }) if refusal.is(Errno::AFNOSUPPORT) => return Ok(Vec::new()),
                read => read?,
            };
            // Under constant change no dump is ever whole; events, or the next apply, mend it.
            if !interrupted || attempt == DUMP_ATTEMPTS {
                return Ok(objects);
            }
        }
        unreachable!("the loop returns")
    }

    /// One object, or the kernel's refusal to show it.
    pub async fn get(
        &self,
        what: &'static str,
        request: RouteNetlinkMessage,
    ) -> Result<Result<RouteNetlinkMessage, Refusal>, Error> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST;
        let mut answers = self.send(what, [message])?;
        match within(what, async { answers.next().await.ok_or(Error::Closed(what)) }).await?.payload {
            NetlinkPayload::InnerMessage(object) => Ok(Ok(object)),
            NetlinkPayload::Error(error) => Ok(Err(Refusal::new(&error))),
            _ => Err(Error::Closed(what)),
        }
    }

    /// Makes the changes, each with its `NLM_F_*` flags, and returns the kernel's answer to each,
    /// in the same order. A refused change does not stop those after it.
    ///
    /// Many changes travel in one `sendmsg`: 100,000 routes are 100,000 acknowledgements but only
    /// some hundred round trips.
    pub async fn change(
        &self,
        what: &'static str,
        changes: impl IntoIterator<Item = (RouteNetlinkMessage, u16)>,
    ) -> Result<Vec<Result<(), Refusal>>, Error> {
        let mut answers = Vec::new();
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (change, flags) in changes {
            let mut message = NetlinkMessage::from(change);
            message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
            bytes += message.buffer_len();
            batch.push(message);
            if bytes >= BATCH_BYTES {
                self.change_batch(what, std::mem::take(&mut batch), &mut answers).await?;
                bytes = 0;
            }
        }
        self.change_batch(what, batch, &mut answers).await?;
        Ok(answers)
    }

    async fn change_batch(
        &self,
        what: &'static str,
        batch: Vec<NetlinkMessage<RouteNetlinkMessage>>,
        answers: &mut Vec<Result<(), Refusal>>,
    ) -> Result<(), Error> {
        let expected = answers.len() + batch.len();
        if batch.is_empty() {
            return Ok(());
        }
        let mut stream = self.send(what, batch)?;
        within(what, async {
            while let Some(message) = stream.next().await {
                if let NetlinkPayload::Error(answer) = message.payload {
                    let refused = answer.code.is_some();
                    answers.push(if refused { Err(Refusal::new(&answer)) } else { Ok(()) });
                }
            }
            Ok(())
        })
        .await?;
        if answers.len() == expected { Ok(()) } else { Err(Error::Closed(what)) }
    }

    fn send<I>(
        &self,
        what: &'static str,
        messages: I,
    ) -> Result<impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + use<I>, Error>
    where
        I: IntoIterator<Item = NetlinkMessage<RouteNetlinkMessage>>,
    {
        self.handle.request_batch(messages, SocketAddr::new(0, 0)).map_err(|_| Error::Closed(what))
    }
}

fn configure(socket: &Socket) -> io::Result<()> {
    enlarge_receive_buffer(socket)?;
    // Dumps filtered by the kernel: of a full BGP table we read our own routes only.
    socket.set_netlink_get_strict_chk(true)?;
    // Errors with the kernel's sentence, and without the whole request.
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)
}

async fn within<T>(what: &'static str, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    timeout(ANSWER_TIMEOUT, answer).await.unwrap_or(Err(Error::Lost(what)))
}

/// The objects of a dump, and whether the kernel says that they changed meanwhile.
async fn read_dump(
    what: &'static str,
    mut answers: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin,
) -> Result<(Vec<RouteNetlinkMessage>, bool), Error> {
    let mut objects = Vec::new();
    let mut interrupted = false;
    while let Some(message) = answers.next().await {
        interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        let refusal = match message.payload {
            NetlinkPayload::InnerMessage(object) => {
                objects.push(object);
                continue;
            }
            NetlinkPayload::Done(DoneMessage { code: 0, .. }) => return Ok((objects, interrupted)),
            NetlinkPayload::Done(done) => Refusal { errno: done.code.abs(), detail: None },
            NetlinkPayload::Error(error) => Refusal::new(&error),
            _ => continue,
        };
        return if refusal.is(Errno::NOENT) {
            Ok((objects, interrupted))
        } else {
            Err(Error::Refused { what, refusal })
        };
    }
    Err(Error::Closed(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_error_the_kernels_words_and_the_way_out() {
        let refusal = Refusal { errno: 100, detail: Some("Device for nexthop is not up".into()) };
        assert_eq!(
            refusal.to_string(),
            "Network is down (os error 100), the kernel says \"Device for nexthop is not up\" \
             (the interface is down; it is tried again when that changes)"
        );
        let refusal = Refusal { errno: 1, detail: None };
        assert!(refusal.to_string().contains("needs CAP_NET_ADMIN: run as root"), "{refusal}");
    }

    #[test]
    fn the_kernels_words_stand_after_the_repeated_header() {
        let mut payload = vec![0; 16];
        // NLMSGERR_ATTR_OFFS = 2 (u32), then NLMSGERR_ATTR_MSG = 1 ("no\0").
        payload.extend([8, 0, 2, 0, 1, 2, 3, 4].map(|byte: u8| byte));
        payload.extend([7, 0, 1, 0, b'n', b'o', 0, 0]);
        if cfg!(target_endian = "little") {
            assert_eq!(kernel_words(&payload).as_deref(), Some("no"));
        }
        assert_eq!(kernel_words(&[0; 16]), None);
        assert_eq!(kernel_words(&[]), None);
    }
}
