//! Stage 3: longest prefix match on the destination.

use aya_ebpf::maps::lpm_trie::Key;
use hub_common::{
    Reason,
    maps::{Attachment, Route},
};

use crate::{address::Address, parse::Packet};

/// One walk of the trie, for the hub's own addresses and for the routes alike.
#[inline(always)]
pub fn lookup<A: Address>(packet: &Packet<A>) -> Option<&'static Route> {
    A::routes().get(Key::new(A::BITS, packet.destination))
}

/// Whether what comes in on this attachment may take the route.
#[inline(always)]
pub fn judge(route: Option<&'static Route>, attachment: &Attachment) -> Result<&'static Route, Reason> {
    let route = route.ok_or(Reason::NoRoute)?;
    if attachment.flags & Attachment::ISOLATED != 0 && route.flags & Route::VPC == 0 {
        return Err(Reason::Isolated);
    }
    Ok(route)
}
