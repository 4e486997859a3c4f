//! Keeps a picture of the host current from netlink's events.

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
    sys::{AsyncSocket as _, Socket},
};
use socket2::{SockFilter, SockRef};
use tokio::{
    task::{JoinError, JoinHandle, JoinSet, yield_now},
    time::{Instant, sleep_until},
};

use super::{
    INTERNAL_PROTOCOL, MAIN_TABLE, PROTOCOL,
    socket::{self, Requests},
    state::{Changes, HostState},
};

/// Most events taken at once: a flood of them must not keep the agent from acting.
const BURST: usize = 8192;

/// How long after an event that may hide others everything is read again. The kernel announces the
/// end of a link or address first and drops its routes after; bursts cost one reading.
const SETTLE: Duration = Duration::from_millis(100);

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

type NetlinkEvent = NetlinkMessage<RouteNetlinkMessage>;

/// Follows the host's links, addresses, neighbours and gateways.
///
/// Events and dumps have a socket each. Events that are older than a dump are applied after it;
/// since each says how its object is from then on, the last one leaves the picture right.
pub struct HostFollower {
    events: Events,
    /// When everything must be read again.
    reread: Option<Instant>,
    /// The reading under way, if there is one; a set because that ends its task when it is dropped. A task because a
    /// caller that often has something else to do drops the future of [`HostFollower::changed`] as often: a reading within
    /// it would begin anew each time, and never end where there are many routes.
    reading: JoinSet<Result<Reading>>,
    /// Events since it began: applied at once, and again to what it finds.
    since: Vec<NetlinkEvent>,
    /// What changed and has not been told yet. Kept here so that a call of [`HostFollower::changed`]
    /// that is dropped half way loses nothing.
    untold: Changes,
}

impl HostFollower {
    /// Subscribes, then reads how everything is, in the network namespace of the calling thread.
    /// Neighbours that are stale already are told by the first [`Self::changed`].
    ///
    /// # Errors
    /// When the kernel gives no netlink socket or does not answer. Needs no privileges.
    pub async fn start() -> Result<(HostState, Self)> {
        let events = Events::subscribe().context("cannot follow the host's interfaces")?;
        let (state, changes) = read_host(Requests::open()?).await?;
        let untold = Changes { stale: changes.stale, ..Changes::default() };
        Ok((state, Self { events, reread: None, reading: JoinSet::new(), since: Vec::new(), untold }))
    }

    /// Waits until something changes, takes whatever else has arrived by then, and brings `state`
    /// up to date; says which parts changed. Events that change nothing are passed over.
    ///
    /// When events were lost (`ENOBUFS`) or their socket ended, everything is read again, and
    /// `changed` tells the difference; events are told meanwhile, too. May be dropped while it waits, as in `select!`: a
    /// reading that is under way goes on.
    ///
    /// # Errors
    /// When the kernel does not answer; the next call tries again.
    pub async fn changed(&mut self, state: &mut HostState) -> Result<Changes> {
        loop {
            if self.reading.is_empty() && self.reread.is_some_and(|due| due <= Instant::now()) {
                self.begin_reading()?;
            }
            if !self.untold.is_empty() {
                return Ok(std::mem::take(&mut self.untold));
            }
            self.wait(state).await?;
        }
    }

    /// Waits for an event, the end of a reading or the time to begin one, and applies what is there.
    async fn wait(&mut self, state: &mut HostState) -> Result<()> {
        let due = self.reread.filter(|_| self.reading.is_empty());
        let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        let first = tokio::select! {
            Some(ended) = self.reading.join_next() => return self.take_reading(ended, state),
            event = self.events.next() => event,
            () = sleep_until(due) => return Ok(()),
        };
        self.take(first, state)?;
        // Lets the socket's task fetch what has arrived.
        yield_now().await;
        for _ in 0..BURST {
            let Poll::Ready(event) = self.events.next_now() else {
                break;
            };
            self.take(event, state)?;
        }
        Ok(())
    }

    /// Applies an event; `None` is the end of the events.
    fn take(&mut self, event: Option<NetlinkEvent>, state: &mut HostState) -> Result<()> {
        match event {
            Some(NetlinkEvent { payload: NetlinkPayload::Overrun(_), .. }) => {
                tracing::warn!("netlink events were lost; reading everything again");
                self.reread = Some(Instant::now());
            }
            Some(event) => {
                state.apply(&event, &mut self.untold);
                if !self.reading.is_empty() {
                    self.since.push(event);
                }
                if std::mem::take(&mut self.untold.unannounced) {
                    self.reread.get_or_insert_with(|| Instant::now() + SETTLE);
                }
            }
            None => {
                tracing::warn!("the netlink event socket ended; opening another");
                self.reread = Some(Instant::now());
                self.events = Events::subscribe().context("cannot follow the host's interfaces")?;
            }
        }
        Ok(())
    }

    /// On a socket of its own: there are no answers to an earlier reading on it.
    fn begin_reading(&mut self) -> Result<()> {
        let requests = Requests::open()?;
        self.reread = None;
        self.since.clear();
        self.reading.spawn(read_host(requests));
        Ok(())
    }

    fn take_reading(&mut self, ended: Result<Result<Reading>, JoinError>, state: &mut HostState) -> Result<()> {
        let ended = ended.context("the reading of the host ended early").and_then(|reading| reading);
        let (mut fresh, mut changes) = ended.inspect_err(|_| self.reread = Some(Instant::now()))?;
        for event in std::mem::take(&mut self.since) {
            fresh.apply(&event, &mut changes);
        }
        self.untold.compare(state, &fresh);
        self.untold.stale = changes.stale;
        *state = fresh;
        Ok(())
    }
}

/// How everything is, and what is to be told of it.
type Reading = (HostState, Changes);

/// A socket that is subscribed to [`GROUPS`] and asks nothing.
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
        skip_uninteresting_routes(socket)?;
        let incoming = incoming.map(|(event, _sender)| event).boxed();
        Ok(Self { incoming, task: tokio::spawn(connection) })
    }

    /// The next event; nothing when the socket has ended.
    async fn next(&mut self) -> Option<NetlinkEvent> {
        self.incoming.next().await
    }

    /// The same, if it has been received already.
    fn next_now(&mut self) -> Poll<Option<NetlinkEvent>> {
        self.incoming.next().now_or_never().map_or(Poll::Pending, Poll::Ready)
    }
}

/// Has the kernel withhold events of routes that are our own or not in the main table: we publish
/// 100,000 at a time, and each would come back as an event.
///
/// A classic BPF program, which reads in network byte order, on `struct nlmsghdr` (16 bytes) and
/// `struct rtmsg` behind it; `sk_filter` in `do_one_broadcast`, `net/netlink/af_netlink.c`.
fn skip_uninteresting_routes(socket: &Socket) -> io::Result<()> {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const MESSAGE_TYPE: u32 = 4;
    const ROUTE_TABLE: u32 = 16 + 4;
    const ROUTE_PROTOCOL: u32 = 16 + 5;
    const RTM_NEWROUTE: u16 = 24;
    const RTM_DELROUTE: u16 = 25;
    // (operation, jump if equal, jump if not, operand); jumps count from the next instruction.
    let program = [
        SockFilter::new(LOAD_HALF, 0, 0, MESSAGE_TYPE),
        SockFilter::new(JUMP_EQUAL, 1, 0, RTM_NEWROUTE.to_be().into()),
        SockFilter::new(JUMP_EQUAL, 0, 5, RTM_DELROUTE.to_be().into()),
        SockFilter::new(LOAD_BYTE, 0, 0, ROUTE_TABLE),
        SockFilter::new(JUMP_EQUAL, 0, 4, MAIN_TABLE),
        SockFilter::new(LOAD_BYTE, 0, 0, ROUTE_PROTOCOL),
        SockFilter::new(JUMP_EQUAL, 2, 0, PROTOCOL.into()),
        SockFilter::new(JUMP_EQUAL, 1, 0, INTERNAL_PROTOCOL.into()),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ];
    SockRef::from(socket).attach_filter(&program)
}

/// Reads everything.
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
