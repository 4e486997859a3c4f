//! Attribution of a packet to a connection, and the counters: per CPU, by connection and by reason.

use core::cell::Cell;

use hub_common::{Mark, Reason, maps::VPC};

use crate::{
    capture,
    frame::{Direction, Frame},
    maps,
    refusal::Refusal,
};

/// The connection that a packet is counted for, and the mark that it gets if it passes to the kernel.
///
/// The fields are in memory, by volatile accesses. In registers, each of the many checks would have to carry them to
/// the exit.
pub struct Attribution {
    /// `COUNTERS` slot.
    connection: Cell<u64>,
    /// Bytes of the IP packet, after the connection's selectors have admitted it; 0 before. No IP packet is empty.
    bytes: Cell<u64>,
    /// The admission if the packet passes: a number of [`hub_common::mark`], [`LOCAL`] or [`NOTHING`].
    admission: Cell<u64>,
    /// Flow hash for the kernel's own multipath route: see [`hub_common::maps::path_of`]. 0: leave the hash alone.
    path: Cell<u64>,
}

impl Attribution {
    #[inline(always)]
    pub const fn new(connection: u32) -> Self {
        Self {
            connection: Cell::new(connection as u64),
            bytes: Cell::new(0),
            admission: Cell::new(LOCAL),
            path: Cell::new(0),
        }
    }

    /// Sets the `COUNTERS` slot of the connection that sent the packet.
    #[inline(always)]
    pub fn set_connection(&self, connection: u32) {
        put(&self.connection, connection.into());
    }

    /// Sets the length of the IP packet. Call it when the connection's selectors have admitted the packet.
    #[inline(always)]
    pub fn set_bytes(&self, length: usize) {
        put(&self.bytes, length as u64);
    }

    /// Sets what the kernel may do with the packet if it passes. The initial value is [`Admission::Local`].
    #[inline(always)]
    pub fn set_admission<F: Frame>(&self, admission: Admission) {
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

    /// Sets the flow hash by which the kernel chooses among the next hops of its own route.
    #[inline(always)]
    pub fn set_path<F: Frame>(&self, path: u32) {
        if F::IS_LAST {
            put(&self.path, path.into());
        }
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

    /// The bits of the packet mark that belong to the program.
    #[inline(always)]
    fn mark(&self) -> u32 {
        match get(&self.admission) {
            NOTHING => 0,
            // ESP may arrive on the VPC side, and the decrypted packet inherits the mark.
            LOCAL if self.connection() == VPC => 0,
            LOCAL => maps::mark().local(),
            number => maps::mark().numbered(number as u32),
        }
    }
}

/// The permission of the kernel for a packet that passes: see [`hub_common::mark`].
pub enum Admission {
    /// Forward it by its own routes, but to no site.
    Nothing,
    /// Deliver it to the hub itself, never forward it.
    Local,
    /// Answer "unreachable", never forward it.
    NoRoute,
    /// Forward or answer it, only by the next hop with this `COUNTERS` slot.
    NextHop(u32),
}

/// Above all numbers of a mark.
const LOCAL: u64 = 1 << 30;
const NOTHING: u64 = 1 << 31;

#[inline(always)]
fn put(field: &Cell<u64>, value: u64) {
    // SAFETY: the pointer is to the cell's own value, and there are no references into it.
    unsafe { field.as_ptr().write_volatile(value) }
}

#[inline(always)]
fn get(field: &Cell<u64>) -> u64 {
    // SAFETY: as above.
    unsafe { field.as_ptr().read_volatile() }
}

/// Counts a forwarded packet: received from its connection, sent to the next hop's connection.
#[inline(always)]
pub fn count_forwarded(attribution: &Attribution, egress: u32) {
    let bytes = attribution.bytes();
    count_received(attribution.connection(), bytes);
    if let Some(traffic) = on_this_cpu(maps::TRAFFIC.get_ptr_mut(egress)) {
        traffic.tx_packets += 1;
        traffic.tx_bytes += bytes;
    }
}

/// Counts and marks a packet that is not forwarded. Returns the program's exit code: drop, or pass to the kernel.
#[inline(always)]
pub fn finish<F: Frame>(frame: &mut F, attribution: &Attribution, refusal: &Refusal) -> u32 {
    if !F::IS_LAST && !refusal.is_drop() {
        return F::PASS;
    }
    let (connection, bytes) = (attribution.connection(), attribution.bytes());
    if bytes != 0 {
        count_received(connection, bytes);
    }
    // The number of a reason is always below the length; the verifier requires the check.
    if let Some(refusals) = on_this_cpu(maps::REFUSALS.get_ptr_mut(connection))
        && let Some(counter) = refusals.reasons.get_mut(refusal.number() as usize)
    {
        *counter += 1;
    }
    capture::refused(frame, attribution, refusal.number());
    if refusal.is_drop() {
        return F::DROP;
    }
    frame.mark(attribution.mark());
    let path = get(&attribution.path) as u32;
    if path != 0 {
        frame.set_hash(path);
    }
    frame.note_passed(Direction::Ingress);
    F::PASS
}

/// Packets of a connection that this CPU has dropped or passed for a reason.
#[inline(always)]
pub fn refusals(connection: u32, reason: Reason) -> u64 {
    maps::REFUSALS.get(connection).map_or(0, |refusals| refusals.reasons[reason as usize])
}

/// Counts a packet that its connection's selectors have admitted.
#[inline(always)]
fn count_received(connection: u32, bytes: u64) {
    if let Some(traffic) = on_this_cpu(maps::TRAFFIC.get_ptr_mut(connection)) {
        traffic.rx_packets += 1;
        traffic.rx_bytes += bytes;
    }
}

/// An element of a per-CPU array, to write to.
#[inline(always)]
fn on_this_cpu<'a, T>(element: Option<*mut T>) -> Option<&'a mut T> {
    // SAFETY: the element belongs to this CPU, programs of XDP and TC ingress do not interrupt one another on a CPU,
    // and no reference lives while another is made.
    element.map(|element| unsafe { &mut *element })
}
