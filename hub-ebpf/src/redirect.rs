//! Stage 7: sends the packet out of the next hop's interface.

use aya_log_ebpf::warn;
use hub_common::{Reason, maps::NextHop};

use crate::{
    capture,
    counters::{self, Attribution},
    frame::Frame,
    refusal::Refusal,
};

#[inline(always)]
pub fn redirect<F: Frame>(frame: &F, attribution: &Attribution, next_hop: &NextHop) -> Result<u32, Refusal> {
    let Ok(action) = frame.send(next_hop) else {
        log_missing_port(frame, attribution.connection(), next_hop);
        return Err(Reason::RedirectFailed.into());
    };
    counters::count_forwarded(attribution, next_hop.connection);
    capture::forwarded(frame, attribution, next_hop);
    Ok(action)
}

/// The device was removed and the agent has not processed that yet, which is rare and short. Logs the first, second,
/// fourth, eighth, ... such packet of a connection and CPU, which limits the rate.
#[inline(always)]
fn log_missing_port<F: Frame>(frame: &F, connection: u32, next_hop: &NextHop) {
    let before = counters::refusals(connection, Reason::RedirectFailed);
    if before & (before + 1) == 0 {
        warn!(frame.context(), "port {} of interface {} is gone: packet dropped", next_hop.port, next_hop.ifindex);
    }
}
