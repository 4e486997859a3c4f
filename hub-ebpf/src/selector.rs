//! Stage 2: the policy check. XDP runs before the kernel's xfrm policies, so nobody else asks.
//!
//! A selector is a pair of prefixes: `remote`, the site's side, and `local`, the hub's side and all behind it. The tables
//! know the longest remote prefix of a scope; its policy is the set of local prefixes that any pair with a remote around
//! that address has, so that one question about it answers for all pairs at once.

use hub_common::{
    Reason,
    maps::{ANY_LOCAL, Attachment, Remote},
};

use crate::{
    parse::{Nobody, Packet},
    tables::{Ends, Tables},
};

/// Tells which connection of the attachment sent the packet, if any may send it.
///
/// `connection` is left as it was when no selector knows the source.
#[inline(always)]
pub fn ingress<A: Nobody, T: Tables<A>>(
    packet: &Packet<A>,
    ends: &Ends<A, T>,
    attachment: &Attachment,
    connection: &mut u32,
) -> Result<(), Reason> {
    if packet.source.is_nobody() {
        return Err(Reason::SpoofedSource);
    }
    let remote = ends.tables.remote(ends.source, attachment.scope).ok_or(Reason::SpoofedSource)?;
    *connection = remote.connection;
    *connection = paired(&ends.tables, remote, ends.destination).ok_or(Reason::SelectorMismatch)?;
    Ok(())
}

/// The egress connection's own selectors, in whose scope the addresses stand the other way round.
#[inline(always)]
pub fn egress<A, T: Tables<A>>(ends: &Ends<A, T>, scope: u32) -> Result<(), Reason> {
    match ends.tables.remote(ends.destination, scope) {
        Some(remote) if paired(&ends.tables, remote, ends.source).is_some() => Ok(()),
        _ => Err(Reason::SelectorMismatch),
    }
}

/// The connection of the pair that admits both ends.
#[inline(always)]
fn paired<A, T: Tables<A>>(tables: &T, remote: Remote, local: T::Known) -> Option<u32> {
    if remote.policy == ANY_LOCAL {
        return Some(remote.connection);
    }
    tables.local(local, remote.policy)
}
