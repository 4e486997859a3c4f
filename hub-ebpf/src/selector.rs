//! Stage 2: the policy check. XDP runs before the kernel's xfrm policies, so nobody else asks.
//!
//! A selector is a pair of prefixes: `remote`, the site's side, and `local`, the hub's side and all behind it. The tables
//! know the longest remote prefix of a scope; its policy is the set of local prefixes that any pair with a remote around
//! that address has, so that one question about it answers for all pairs at once. A pair may be for a protocol or ports
//! alone: [`crate::limits`].

use hub_common::{
    Reason,
    maps::{ANY_LOCAL, Attachment, NO_LIMITS, Remote},
};

use crate::{
    address::Address,
    frame::Frame,
    limits::{self, Way},
    parse::Packet,
    redirect::Account,
    tables::{Ends, Tables},
};

/// Tells which connection of the attachment sent the packet, if any may send it.
///
/// The account is left as it was when no selector knows the source.
#[inline(always)]
pub fn ingress<A: Address, T: Tables<A>, F: Frame>(
    packet: &Packet<A>,
    frame: &F,
    ends: &Ends<A, T>,
    attachment: &Attachment,
    account: &Account,
) -> Result<(), Reason> {
    if packet.source.is_nobody() {
        return Err(Reason::SpoofedSource);
    }
    let remote = ends.tables.remote(ends.source, attachment.scope).ok_or(Reason::SpoofedSource)?;
    account.charge(remote.connection);
    let connection = paired(packet, frame, &ends.tables, remote, ends.destination, Way::FromSite);
    account.charge(connection.ok_or(Reason::SelectorMismatch)?);
    Ok(())
}

/// The egress connection's own selectors, in whose scope the addresses stand the other way round.
#[inline(always)]
pub fn egress<A: Address, T: Tables<A>, F: Frame>(
    packet: &Packet<A>,
    frame: &F,
    ends: &Ends<A, T>,
    scope: u32,
) -> Result<(), Reason> {
    match ends.tables.remote(ends.destination, scope) {
        Some(remote) if paired(packet, frame, &ends.tables, remote, ends.source, Way::ToSite).is_some() => Ok(()),
        _ => Err(Reason::SelectorMismatch),
    }
}

/// The connection of the pair that admits the packet, `local` being its end on the hub's side.
#[inline(always)]
fn paired<A: Address, T: Tables<A>, F: Frame>(
    packet: &Packet<A>,
    frame: &F,
    tables: &T,
    remote: Remote,
    local: T::Known,
    way: Way,
) -> Option<u32> {
    if remote.policy == ANY_LOCAL {
        return Some(remote.connection);
    }
    let local = tables.local(local, remote.policy)?;
    if local.limits == NO_LIMITS {
        return Some(local.connection);
    }
    limits::admit(packet, frame, local.limits, way)
}
