//! Stage 6: out of the right port, and the books: per CPU, by connection and by reason.

use core::cell::Cell;

use aya_log_ebpf::warn;
use hub_common::{
    Mark, Reason,
    maps::{NextHop, VPC},
};

use crate::{frame::Frame, maps, parse::Packet};

/// Whose packet it is, and what it is to be charged with.
///
/// Kept in memory: in registers, each of the many checks would have to bring both to where packets are refused.
pub struct Account {
    /// `COUNTERS` slot.
    connection: Cell<u64>,
    /// Bytes of the IP packet, once the connection's selectors have admitted it; none is empty.
    bytes: Cell<u64>,
    /// What the kernel is told of it, if it passes.
    admission: Cell<u64>,
    /// Of several next hops of the kernel's own route, which one: see [`hub_common::maps::path_of`].
    path: Cell<u64>,
}

impl Account {
    #[inline(always)]
    pub fn new<F: Frame>(connection: u32) -> Self {
        let account =
            Self { connection: Cell::new(0), bytes: Cell::new(0), admission: Cell::new(0), path: Cell::new(0) };
        account.charge(connection);
        put(&account.bytes, 0);
        account.tell_kernel::<F>(Admission::Local);
        account.choose_path::<F>(0);
        account
    }

    /// The packet came from this connection.
    #[inline(always)]
    pub fn charge(&self, connection: u32) {
        put(&self.connection, connection.into());
    }

    /// The connection's selectors have admitted the packet.
    #[inline(always)]
    pub fn admit<A>(&self, packet: &Packet<A>) {
        put(&self.bytes, packet.length as u64);
    }

    /// What the kernel may do with the packet, if it passes: at first, take it for the hub itself.
    #[inline(always)]
    pub fn tell_kernel<F: Frame>(&self, admission: Admission) {
        if !F::IS_LAST {
            return;
        }
        put(
            &self.admission,
            match admission {
                Admission::Nothing => NOTHING,
                Admission::Local => LOCAL,
                Admission::NoRoute => Mark::NO_ROUTE.into(),
                Admission::NextHop(connection) => connection.into(),
            },
        );
    }

    /// `COUNTERS` slot.
    #[inline(always)]
    pub fn connection(&self) -> u32 {
        get(&self.connection) as u32
    }

    #[inline(always)]
    fn bytes(&self) -> u64 {
        get(&self.bytes)
    }

    /// Which way the kernel is to take of a route with several next hops.
    #[inline(always)]
    pub fn choose_path<F: Frame>(&self, path: u32) {
        if F::IS_LAST {
            put(&self.path, path.into());
        }
    }

    /// Our bits of the packet mark.
    #[inline(always)]
    fn mark(&self) -> u32 {
        match get(&self.admission) {
            NOTHING => 0,
            // ESP may come in on the VPC side, and what is decrypted keeps the mark.
            LOCAL if self.connection() == VPC => 0,
            LOCAL => maps::mark().local(),
            number => maps::mark().numbered(number as u32),
        }
    }
}

/// What the kernel may do with a packet that passes: see [`hub_common::mark`].
pub enum Admission {
    /// Forward it by its own routes, but to no site.
    Nothing,
    /// Take it for the hub itself, and never forward it.
    Local,
    /// Answer that there is no route.
    NoRoute,
    /// Forward or answer it, by the next hop with this `COUNTERS` slot and no other.
    NextHop(u32),
}

/// Above all numbers of a mark.
const LOCAL: u64 = 1 << 32;
const NOTHING: u64 = 1 << 33;

#[inline(always)]
fn put(place: &Cell<u64>, value: u64) {
    // SAFETY: a cell is its value's place, and nobody has a reference into it.
    unsafe { place.as_ptr().write_volatile(value) }
}

#[inline(always)]
fn get(place: &Cell<u64>) -> u64 {
    // SAFETY: as above.
    unsafe { place.as_ptr().read_volatile() }
}

/// Sends the packet out of the next hop's interface.
#[inline(always)]
pub fn redirect<F: Frame>(frame: &F, account: &Account, next_hop: &NextHop) -> Result<u32, Reason> {
    let Ok(action) = frame.send(next_hop) else {
        log_gone_port(frame, account.connection(), next_hop);
        return Err(Reason::RedirectFailed);
    };
    let bytes = account.bytes();
    received(account.connection(), bytes);
    if let Some(traffic) = own(maps::TRAFFIC.get_ptr_mut(next_hop.connection)) {
        traffic.tx_packets += 1;
        traffic.tx_bytes += bytes;
    }
    Ok(action)
}

/// The device went and the agent has not heard yet: rare, and short. Says so at the first, second, fourth, eighth, ...
/// such packet of a connection and CPU, so that a flood of packets is no flood of messages.
#[inline(always)]
fn log_gone_port<F: Frame>(frame: &F, connection: u32, next_hop: &NextHop) {
    let refusals = maps::REFUSALS.get(connection);
    let before = refusals.map_or(0, |refusals| refusals.reasons[Reason::RedirectFailed as usize]);
    if before & (before + 1) == 0 {
        warn!(frame.context(), "port {} of interface {} is gone: packet dropped", next_hop.port, next_hop.ifindex);
    }
}

/// Ends the way of a packet that is not forwarded.
#[inline(always)]
pub fn refuse<F: Frame>(frame: &mut F, account: &Account, reason: Reason) -> u32 {
    if !F::IS_LAST && !reason.is_drop() {
        return F::PASS;
    }
    let (connection, bytes) = (account.connection(), account.bytes());
    if bytes != 0 {
        received(connection, bytes);
    }
    // The number of a reason is below the length; the verifier wants to see it.
    if let Some(refusals) = own(maps::REFUSALS.get_ptr_mut(connection))
        && let Some(counter) = refusals.reasons.get_mut(reason as usize)
    {
        *counter += 1;
    }
    if reason.is_drop() {
        return F::DROP;
    }
    frame.mark(account.mark());
    let path = get(&account.path) as u32;
    if path != 0 {
        frame.set_hash(path);
    }
    F::PASS
}

/// Counts a packet that its connection's selectors have admitted.
#[inline(always)]
fn received(connection: u32, bytes: u64) {
    if let Some(traffic) = own(maps::TRAFFIC.get_ptr_mut(connection)) {
        traffic.rx_packets += 1;
        traffic.rx_bytes += bytes;
    }
}

/// An element of a per-CPU array, to write to.
#[inline(always)]
fn own<'a, T>(element: Option<*mut T>) -> Option<&'a mut T> {
    // SAFETY: the element is this CPU's own, programs of XDP and TC ingress do not interrupt one another on a CPU, and no
    // reference is kept while another is made.
    element.map(|element| unsafe { &mut *element })
}
