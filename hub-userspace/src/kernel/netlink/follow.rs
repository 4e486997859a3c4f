//! Updates the host state from netlink events.

use std::{io, pin::Pin, task::Poll, time::Duration};

use anyhow::{Context as _, Result};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use rtnetlink::{
    MulticastGroup, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        address::AddressMessage,
        link::{LinkAttribute, LinkExtentMask, LinkMessage},
        neighbour::NeighbourMessage,
        route::{RouteAttribute, RouteMessage},
    },
    sys::AsyncSocket as _,
};
use tokio::{
    task::{JoinError, JoinHandle, JoinSet, yield_now},
    time::{Instant, sleep_until},
};

use super::{
    MAIN_TABLE,
    socket::{self, Requests},
    state::{Changes, HostState},
};

/// Maximum of events processed at once, so that a flood of them does not block the agent.
const BURST: usize = 8192;

/// Delay of a resync after an event that may hide others. The kernel announces the removal of a link or address first
/// and drops its routes afterwards. A burst causes one resync.
const SETTLE: Duration = Duration::from_millis(100);

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

const NOT_FOLLOWED: &str = "cannot follow the host's interfaces";

type NetlinkEvent = NetlinkMessage<RouteNetlinkMessage>;

/// Follows the host's links, addresses, neighbours and gateways.
///
/// Events and dumps use separate sockets. Events that precede a dump may be applied after it. Each carries the full new
/// state of its object, so the last event leaves the host state correct.
pub struct HostFollower {
    events: Events,
    /// When the next resync is due.
    reread: Option<Instant>,
    /// The running resync, if any. It is a task because callers often drop the future of [`HostFollower::changed`]: a
    /// dump within that future would restart each time, and never end with many routes. A `JoinSet` aborts its task
    /// when dropped.
    reading: JoinSet<Result<Reading>>,
    /// Events since the resync started: applied at once, and again to its result.
    since: Vec<NetlinkEvent>,
    /// Changes not reported yet. Stored here so that dropping a call of [`HostFollower::changed`] loses nothing.
    unreported: Changes,
}

impl HostFollower {
    /// Subscribes, then reads the complete state, in the network namespace of the calling thread. The first
    /// [`Self::changed`] reports neighbours that are already stale.
    ///
    /// # Errors
    /// When no netlink socket can be opened or the kernel does not answer. Needs no privileges.
    pub async fn start() -> Result<(HostState, Self)> {
        let events = Events::subscribe().context(NOT_FOLLOWED)?;
        let (state, changes) = read_host(Requests::open()?).await?;
        let unreported = Changes { stale: changes.stale, ..Changes::default() };
        Ok((state, Self { events, reread: None, reading: JoinSet::new(), since: Vec::new(), unreported }))
    }

    /// Waits for a change, processes all pending events, and updates `state`; returns which parts changed. Ignores
    /// events without effect.
    ///
    /// After lost events (`ENOBUFS`) or the end of their socket, everything is read again and `changed` reports the
    /// difference. Events are still reported meanwhile. Cancel-safe: a running resync continues.
    ///
    /// # Errors
    /// When the kernel does not answer; the next call retries.
    pub async fn changed(&mut self, state: &mut HostState) -> Result<Changes> {
        loop {
            if self.reading.is_empty() && self.reread.is_some_and(|due| due <= Instant::now()) {
                self.begin_reading()?;
            }
            if !self.unreported.is_empty() {
                return Ok(std::mem::take(&mut self.unreported));
            }
            self.wait(state).await?;
        }
    }

    /// Waits for an event, the end of a resync or the time to start one, and applies pending events.
    async fn wait(&mut self, state: &mut HostState) -> Result<()> {
        let due = self.reread.filter(|_| self.reading.is_empty());
        let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        let first = tokio::select! {
            Some(ended) = self.reading.join_next() => return self.take_reading(ended, state),
            event = self.events.next() => event,
            () = sleep_until(due) => return Ok(()),
        };
        self.take(first, state)?;
        // Lets the socket's task read pending events.
        yield_now().await;
        for _ in 0..BURST {
            let Poll::Ready(event) = self.events.next_now() else {
                break;
            };
            self.take(event, state)?;
        }
        Ok(())
    }

    /// Applies an event; `None` is the end of the stream.
    fn take(&mut self, event: Option<NetlinkEvent>, state: &mut HostState) -> Result<()> {
        match event {
            Some(NetlinkEvent { payload: NetlinkPayload::Overrun(_), .. }) => {
                tracing::warn!(name: "netlink_events_lost", "netlink events were lost; reading everything again");
                self.reread = Some(Instant::now());
                // The old socket still holds events from before the loss. A dump may be newer than they are, and the
                // events that would correct them are lost.
                self.events = Events::subscribe().context(NOT_FOLLOWED)?;
            }
            Some(event) => {
                state.apply(&event, &mut self.unreported);
                if !self.reading.is_empty() {
                    self.since.push(event);
                }
                if std::mem::take(&mut self.unreported.unannounced) {
                    self.reread.get_or_insert_with(|| Instant::now() + SETTLE);
                }
            }
            None => {
                tracing::warn!(name: "netlink_socket_ended", "the netlink event socket ended; opening another");
                self.reread = Some(Instant::now());
                self.events = Events::subscribe().context(NOT_FOLLOWED)?;
            }
        }
        Ok(())
    }

    /// Uses a new socket, which has no answers to an earlier resync.
    fn begin_reading(&mut self) -> Result<()> {
        let requests = Requests::open()?;
        self.reread = None;
        self.since.clear();
        self.reading.spawn(read_host(requests));
        Ok(())
    }

    fn take_reading(&mut self, ended: Result<Result<Reading>, JoinError>, state: &mut HostState) -> Result<()> {
        let ended = ended.context("reading the host's state ended early").and_then(|reading| reading);
        let (mut fresh, mut changes) = ended.inspect_err(|_| self.reread = Some(Instant::now()))?;
        for event in std::mem::take(&mut self.since) {
            fresh.apply(&event, &mut changes);
        }
        self.unreported.compare(state, &fresh);
        self.unreported.stale = changes.stale;
        *state = fresh;
        Ok(())
    }
}

/// The complete state, and the changes to report.
type Reading = (HostState, Changes);

/// A socket subscribed to [`GROUPS`] that sends no requests.
struct Events {
    incoming: Pin<Box<dyn Stream<Item = NetlinkEvent> + Send>>,
    task: JoinHandle<()>,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Events {
    fn subscribe() -> io::Result<Self> {
        let (mut connection, _, incoming) = new_multicast_connection(&GROUPS)?;
        let socket = connection.socket_mut().socket_ref();
        socket::enlarge_receive_buffer(socket)?;
        socket::only_foreign_routes(socket, MAIN_TABLE)?;
        let incoming = incoming.map(|(event, _sender)| event).boxed();
        Ok(Self { incoming, task: tokio::spawn(connection) })
    }

    /// The next event; `None` when the socket has ended.
    async fn next(&mut self) -> Option<NetlinkEvent> {
        self.incoming.next().await
    }

    /// The next event, if already received.
    fn next_now(&mut self) -> Poll<Option<NetlinkEvent>> {
        self.incoming.next().now_or_never().map_or(Poll::Pending, Poll::Ready)
    }
}

async fn read_host(mut requests: Requests) -> Result<Reading> {
    let (mut state, mut changes) = Reading::default();
    for (what, request) in everything() {
        for object in requests.list(what, request).await? {
            state.apply_object(&object, false, &mut changes);
        }
    }
    state.forget_dead_gateways();
    Ok((state, changes))
}

fn everything() -> Vec<(&'static str, RouteNetlinkMessage)> {
    use RouteNetlinkMessage::{GetAddress, GetLink, GetNeighbour, GetRoute};
    let mut links = LinkMessage::default();
    links.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    let main_table = |family| {
        let mut routes = RouteMessage::default();
        routes.header.address_family = family;
        routes.attributes = vec![RouteAttribute::Table(MAIN_TABLE)];
        routes
    };
    vec![
        ("reading the interfaces", GetLink(links)),
        ("reading the addresses", GetAddress(AddressMessage::default())),
        ("reading the neighbours", GetNeighbour(NeighbourMessage::default())),
        ("reading the IPv4 routes", GetRoute(main_table(AddressFamily::Inet))),
        ("reading the IPv6 routes", GetRoute(main_table(AddressFamily::Inet6))),
    ]
}
