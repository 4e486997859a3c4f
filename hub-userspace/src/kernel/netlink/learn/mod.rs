//! Follows the routes of a routing daemon in a kernel table: dumps and events, with next hop objects.
//!
//! In a task of its own, on a socket of its own: 100,000 changed routes must not delay the report of a failed link.

mod table;
#[cfg(test)]
mod tests;
mod wire;

use std::{future::poll_fn, io, time::Duration};

use anyhow::{Context as _, Result};
use rtnetlink::sys::{AsyncSocket as _, TokioSocket, protocols::NETLINK_ROUTE};
use rustix::io::Errno;
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};
use tracing::warn;

pub use self::table::{KernelHop, KernelHops, TableChanges};
use self::{
    table::{MOST_OVER_QUOTA, RouteTable},
    wire::{AF_INET, AF_INET6, RTM_GETNEXTHOP, RTM_GETROUTE, TableEvent, table_event},
};
use super::socket::{NetlinkError, RawMessage, Requests, enlarge_receive_buffer, only_foreign_routes, raw_messages};

/// `RTNLGRP_IPV4_ROUTE`, `RTNLGRP_IPV6_ROUTE`, `RTNLGRP_NEXTHOP`.
const GROUPS: [u32; 3] = [7, 11, 32];
/// The kernel packs events into datagrams of at most this size.
const LONGEST_EVENT: usize = 32 << 10;
/// Maximum of prefixes reported at once, so that a flood of them does not block the agent.
const AT_ONCE: usize = 8192;
/// Delay of a new dump after an event that may hide others. The kernel announces the removal of a link first and drops
/// its routes afterwards, and a burst causes one dump.
const SETTLE: Duration = Duration::from_millis(100);
/// Delay after a failed dump.
const RETRY: Duration = Duration::from_secs(5);
/// Attempts for a dump that changed while it was read.
const DUMP_ATTEMPTS: usize = 5;
/// Maximum of events stored during a dump: some hundred MiB. Beyond, it starts again.
const MOST_SINCE: usize = 1 << 20;

/// The table to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowedTable {
    pub table: u32,
    /// Routes of all other protocols are ignored.
    pub protocols: Vec<u8>,
    /// Maximum number of routes of a connection that are used. Some more are stored.
    pub most: usize,
}

enum Wish {
    Follow(Option<FollowedTable>),
    Reread,
}

/// Follows a table in a task, which ends when this is dropped.
pub struct RouteFollower {
    wishes: mpsc::UnboundedSender<Wish>,
    changes: mpsc::Receiver<TableChanges>,
    task: JoinHandle<()>,
}

impl Drop for RouteFollower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RouteFollower {
    /// Subscribes and reads the table, in the network namespace of the calling thread. Returns all its routes.
    ///
    /// # Errors
    /// When no netlink socket can be opened or the kernel does not answer. Needs no privileges.
    pub async fn start(followed: Option<FollowedTable>) -> Result<(Self, TableChanges)> {
        let mut state = Follow::default();
        state.follow(followed)?;
        if let Some(ended) = state.reading.join_next().await {
            state.take_reading(ended)?;
        }
        let all = state.table.take_changed(usize::MAX);
        let (wishes, received) = mpsc::unbounded_channel();
        let (sender, changes) = mpsc::channel(1);
        let task = tokio::spawn(state.run(received, sender));
        Ok((Self { wishes, changes, task }, all))
    }

    /// Follows this table from now on. Its differences from the one before are changes.
    pub fn follow(&self, followed: Option<FollowedTable>) {
        // The task ends only with `self`.
        drop(self.wishes.send(Wish::Follow(followed)));
    }

    /// Reads the table again soon: links or addresses have changed, and the kernel drops their routes without an event.
    pub fn reread(&self) {
        drop(self.wishes.send(Wish::Reread));
    }

    /// The next changes, each prefix once. Cancel-safe.
    pub async fn changed(&mut self) -> TableChanges {
        match self.changes.recv().await {
            Some(changes) => changes,
            None => std::future::pending().await,
        }
    }
}

/// The task's state.
#[derive(Default)]
struct Follow {
    followed: Option<FollowedTable>,
    table: RouteTable,
    events: Option<Events>,
    /// When the next dump is due.
    reread: Option<Instant>,
    /// The running dump.
    reading: JoinSet<Result<(RouteTable, Duration), NetlinkError>>,
    /// No dump starts earlier: at most half of the time is spent with dumps.
    rest_until: Option<Instant>,
    /// Events since the dump started: applied at once, and again to its result.
    since: Vec<TableEvent>,
    /// A warning of too many routes is logged already.
    is_flooded: bool,
}

impl Follow {
    async fn run(mut self, mut wishes: mpsc::UnboundedReceiver<Wish>, sender: mpsc::Sender<TableChanges>) {
        loop {
            let due = self.reread.filter(|_| self.reading.is_empty());
            let due = due.map(|due| self.rest_until.map_or(due, |rest| rest.max(due)));
            let wait = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            let result = tokio::select! {
                biased;
                wish = wishes.recv() => match wish {
                    Some(Wish::Follow(followed)) => self.follow(followed),
                    Some(Wish::Reread) => {
                        self.reread_soon();
                        Ok(())
                    }
                    None => return,
                },
                Some(ended) = self.reading.join_next() => self.take_reading(ended),
                Ok(permit) = sender.reserve(), if self.table.has_changed() => {
                    permit.send(self.table.take_changed(AT_ONCE));
                    Ok(())
                }
                events = next(&mut self.events) => self.take_events(events),
                () = sleep_until(wait), if due.is_some() => self.begin_reading(),
            };
            if let Err(error) = result {
                warn!(name: "learned_table_unreadable", "the routing daemon's table cannot be read: {error:#}; next attempt in {} s", RETRY.as_secs());
                self.reread = Some(Instant::now() + RETRY);
            }
        }
    }

    fn follow(&mut self, followed: Option<FollowedTable>) -> Result<()> {
        self.followed = followed;
        self.resubscribe()?;
        if self.followed.is_none() {
            self.reading = JoinSet::new();
            self.reread = None;
            self.table.replace(RouteTable::default());
            return Ok(());
        }
        self.begin_reading()
    }

    fn resubscribe(&mut self) -> Result<()> {
        let subscribe = |followed: &FollowedTable| Events::subscribe(followed.table);
        let events = self.followed.as_ref().map(subscribe).transpose();
        self.events = events.context("cannot follow the routing daemon's table")?;
        Ok(())
    }

    fn reread_soon(&mut self) {
        if self.followed.is_some() {
            self.reread.get_or_insert_with(|| Instant::now() + SETTLE);
        }
    }

    /// Uses a new socket, which has no answers to an earlier dump.
    fn begin_reading(&mut self) -> Result<()> {
        let Some(followed) = self.followed.clone() else { return Ok(()) };
        let requests = Requests::open()?;
        self.reread = None;
        self.since.clear();
        self.reading = JoinSet::new();
        self.reading.spawn(read(requests, followed));
        Ok(())
    }

    fn take_reading(&mut self, ended: Result<Result<(RouteTable, Duration), NetlinkError>, JoinError>) -> Result<()> {
        let (mut fresh, took) = ended.context("reading the routes ended early")??;
        for event in std::mem::take(&mut self.since) {
            fresh.apply(event);
        }
        self.table.replace(fresh);
        self.note_flood();
        self.rest_until = Some(Instant::now() + took);
        if self.table.take_uncertain() {
            self.reread_soon();
        }
        Ok(())
    }

    /// Says once that routes are ignored, until none are.
    fn note_flood(&mut self) {
        let ignored = self.table.ignored();
        if ignored > 0 && !self.is_flooded {
            warn!(
                name: "learned_routes_ignored",
                "the routing daemon has routes by one next hop that exceed learn.max_per_connection by more than \
                 {MOST_OVER_QUOTA}: the rest is ignored until some of the others are gone; limit what the site may announce \
                 in the routing daemon"
            );
        }
        self.is_flooded = ignored > 0;
    }

    fn take_events(&mut self, events: io::Result<Vec<TableEvent>>) -> Result<()> {
        let lost = |error: &io::Error| error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error());
        let events = match events {
            Ok(events) => events,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => {
                if lost(&error) {
                    warn!(name: "learned_events_lost", "changes of routes were lost; reading the routing daemon's table again");
                }
                // The old socket still holds events from before the loss. A dump may be newer than they are.
                self.resubscribe()?;
                self.reading = JoinSet::new();
                self.reread = Some(Instant::now());
                return if lost(&error) { Ok(()) } else { Err(error.into()) };
            }
        };
        let is_reading = !self.reading.is_empty();
        for event in events {
            if is_reading {
                self.since.push(event.clone());
            }
            self.table.apply(event);
        }
        self.note_flood();
        if self.since.len() > MOST_SINCE {
            self.reading = JoinSet::new();
            self.since = Vec::new();
            self.reread_soon();
        }
        if self.table.take_uncertain() {
            self.reread_soon();
        }
        Ok(())
    }
}

/// The events of the next datagram; never without a socket.
async fn next(events: &mut Option<Events>) -> io::Result<Vec<TableEvent>> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

struct Events {
    socket: TokioSocket,
    received: Vec<u8>,
    table: u32,
}

impl Events {
    fn subscribe(table: u32) -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        enlarge_receive_buffer(socket.socket_ref())?;
        only_foreign_routes(socket.socket_ref(), table)?;
        socket.socket_mut().bind_auto()?;
        GROUPS.iter().try_for_each(|group| socket.socket_mut().add_membership(*group))?;
        Ok(Self { socket, received: Vec::with_capacity(LONGEST_EVENT), table })
    }

    /// The events of the next datagram. Cancel-safe.
    async fn next(&mut self) -> io::Result<Vec<TableEvent>> {
        self.received.clear();
        let from = poll_fn(|context| self.socket.poll_recv_from(context, &mut self.received)).await?;
        // Other processes may send to this port.
        if from.port_number() != 0 {
            return Ok(Vec::new());
        }
        Ok(raw_messages(&self.received).filter_map(|message| table_event(message, self.table)).collect())
    }
}

/// The complete table, and the time that reading it took.
async fn read(mut requests: Requests, followed: FollowedTable) -> Result<(RouteTable, Duration), NetlinkError> {
    let begin = Instant::now();
    let mut table = RouteTable::default();
    for _ in 0..DUMP_ATTEMPTS {
        let most = followed.most.saturating_add(MOST_OVER_QUOTA);
        table = RouteTable::new(followed.protocols.iter().copied(), most);
        let mut add = |message: RawMessage<'_>| {
            if let Some(event) = table_event(message, followed.table) {
                table.add_dumped(event);
            }
        };
        let objects = requests.dump_raw("reading the next hops", RTM_GETNEXTHOP, &wire::all_objects(), &mut add).await;
        let mut whole = match objects {
            // A kernel without next hop objects.
            Err(NetlinkError::Refused { refusal, .. }) if refusal.is(Errno::OPNOTSUPP) => true,
            objects => objects?,
        };
        for family in [AF_INET, AF_INET6] {
            let request = wire::routes_of(family, followed.table);
            whole &= requests.dump_raw("reading the routes", RTM_GETROUTE, &request, &mut add).await?;
        }
        // Under constant change no dump is ever complete. Events correct it.
        if whole {
            break;
        }
    }
    Ok((table, begin.elapsed()))
}
