//! Stage 6: out of the right port, and the books: per CPU, by connection and by reason.

use aya_log_ebpf::warn;
use hub_common::{
    Reason,
    maps::{Counters, NextHop},
};

use crate::{address::Address, frame::Frame, maps, parse::Packet};

/// Sends the packet, which came from `connection`, out of the next hop's port.
#[inline(always)]
pub fn redirect<A: Address, F: Frame>(
    frame: &F,
    connection: u32,
    packet: &Packet<A>,
    next_hop: &NextHop,
) -> Result<u32, Reason> {
    // The flags are what the helper returns when the port is gone.
    let Ok(action) = maps::PORTS.redirect(next_hop.port, u64::from(F::DROP)) else {
        log_gone_port(frame, connection, next_hop);
        return Err(Reason::RedirectFailed);
    };
    count(next_hop.connection, |counters| {
        counters.tx_packets += 1;
        counters.tx_bytes += packet.length as u64;
    });
    Ok(action)
}

/// The device went and the agent has not heard yet: rare, and short. Says so at the first, second, fourth, eighth, ...
/// such packet of a connection and CPU, so that a flood of packets is no flood of messages.
#[inline(always)]
fn log_gone_port<F: Frame>(frame: &F, connection: u32, next_hop: &NextHop) {
    let counters = maps::COUNTERS.get(connection);
    let before = counters.map_or(0, |counters| counters.reasons[Reason::RedirectFailed as usize]);
    if before & (before + 1) == 0 {
        warn!(frame.context(), "port {} of interface {} is gone: packet dropped", next_hop.port, next_hop.ifindex);
    }
}

/// Counts what a connection's selectors have admitted.
#[inline(always)]
pub fn received<A: Address>(connection: u32, packet: &Packet<A>) {
    count(connection, |counters| {
        counters.rx_packets += 1;
        counters.rx_bytes += packet.length as u64;
    });
}

/// Ends the way of a packet that is not forwarded.
#[inline(always)]
pub fn refuse<F: Frame>(connection: u32, reason: Reason) -> u32 {
    count(connection, |counters| {
        // The number of a reason is below the length; the verifier wants to see it.
        if let Some(counter) = counters.reasons.get_mut(reason as usize) {
            *counter += 1;
        }
    });
    if reason.is_drop() { F::DROP } else { F::PASS }
}

#[inline(always)]
fn count(connection: u32, update: impl FnOnce(&mut Counters)) {
    if let Some(counters) = maps::COUNTERS.get_ptr_mut(connection) {
        // SAFETY: the element is this CPU's own, and XDP programs do not interrupt one another on a CPU.
        update(unsafe { &mut *counters });
    }
}
