//! Stage 2: the policy check. XDP runs before the kernel's xfrm policies, so nobody else asks.
//!
//! A selector is a pair of prefixes: `remote`, the site's side, and `local`, the hub's side and all behind it. The tables
//! know the longest remote prefix of a scope; its policy is the set of local prefixes that any pair with a remote around
//! that address has, so that one question about it answers for all pairs at once. A pair may be for a protocol or ports
//! alone: [`crate::policy::ports`].
//!
//! Then the reverse path: the source's own route must lead back to that connection, so that a site whose selector admits any
//! address cannot speak with another's. Only a packet that has come so far may be for the hub itself.

use hub_common::{
    Reason,
    maps::{ANY_LOCAL, Attachment, NO_PORT_RULES, NO_REVERSE_PATH, Remote, Route, VPC, link},
};

use crate::{
    counters::Attribution,
    family::Address,
    frame::Frame,
    lookup::{ResolvedPair, Tables},
    parse::{Packet, Reach},
    policy::ports::{self, Direction},
    route,
};

/// Tells which connection of the attachment sent the packet, if any may send it. `route` is the destination's.
///
/// The attribution is left as it was when no selector knows the source.
#[inline(always)]
pub fn ingress<A: Address, T: Tables<A>, F: Frame>(
    packet: &Packet<A>,
    frame: &F,
    pair: &ResolvedPair<A, T>,
    route: Route,
    attachment: &Attachment,
    attribution: &Attribution,
) -> Result<(), Reason> {
    let back = route::lookup(pair, pair.source);
    if packet.reach != Reach::Forwardable {
        return Err(on_link(packet, frame, pair, route, back, attachment));
    }
    if packet.source.is_martian_source() || back.flags & Route::HUB != 0 {
        return Err(Reason::SpoofedSource);
    }
    let remote = pair.tables.remote(pair.source, attachment.scope);
    if route.flags & Route::HUB != 0 {
        return Err(to_hub(packet, frame, remote, back, attachment, attribution));
    }
    let remote = remote.ok_or(Reason::SpoofedSource)?;
    attribution.set_connection(remote.connection & !NO_REVERSE_PATH);
    let owner = paired(packet, frame, &pair.tables, remote, pair.destination, Direction::FromSite);
    let owner = owner.ok_or(Reason::SelectorMismatch)?;
    attribution.set_connection(owner & !NO_REVERSE_PATH);
    reverse_path(back, owner)
}

/// Whether the source's route leads back to the connection that the packet is from.
#[inline(always)]
fn reverse_path(back: Route, owner: u32) -> Result<(), Reason> {
    if owner & NO_REVERSE_PATH != 0 || route::leads_to(back, owner) { Ok(()) } else { Err(Reason::SpoofedSource) }
}

/// What becomes of a packet that does not go further than its link: the hub answers it, and the answer must not go to
/// somebody else. `route` is the destination's, `back` the source's.
#[inline(always)]
fn on_link<A: Address, T: Tables<A>, F: Frame>(
    packet: &Packet<A>,
    frame: &F,
    pair: &ResolvedPair<A, T>,
    route: Route,
    back: Route,
    attachment: &Attachment,
) -> Reason {
    let is_multicast = packet.reach == Reach::Multicast;
    let is_hub = route.flags & Route::HUB != 0;
    let reason = match is_multicast {
        true => Reason::Multicast,
        // The kernel forwards what is link-local, against RFC 3927 section 7, in IPv6 back to the same link.
        false if is_hub => Reason::LinkLocal,
        false => Reason::SelectorMismatch,
    };
    let source = packet.source;
    if source.is_of_any_link() || (is_multicast && source.is_unspecified()) {
        return reason;
    }
    if back.flags & Route::HUB != 0 {
        return Reason::SpoofedSource;
    }
    let link = source.on_link(frame.interface());
    if link & link::SOURCE != 0 {
        return reason;
    }
    if source.is_martian_source() {
        return Reason::SpoofedSource;
    }
    if attachment.connection == VPC {
        let is_spoofed = link & link::SITE != 0 || is_behind_connection(back);
        return if is_spoofed { Reason::SpoofedSource } else { reason };
    }
    // The hub's addresses on its links are often link-local ones of IPv4.
    if is_hub
        && let Some(remote) = pair.tables.remote(pair.source, attachment.scope)
        && reverse_path(back, remote.connection).is_ok()
    {
        return reason;
    }
    Reason::SpoofedSource
}

/// On the VPC side, management, IKE and ESP come in, too: from anywhere that is not behind a connection. The default route
/// says nothing about where an address is.
#[inline(always)]
fn is_behind_connection(back: Route) -> bool {
    back.flags & (Route::NONE.flags | Route::VPC | Route::DEFAULT) == 0
}

/// Whether the packet may be for the hub itself. `back` is the route of its source.
#[inline(always)]
fn to_hub<A: Address, F: Frame>(
    packet: &Packet<A>,
    frame: &F,
    remote: Option<Remote>,
    back: Route,
    attachment: &Attachment,
    attribution: &Attribution,
) -> Reason {
    if attachment.connection == VPC {
        let is_spoofed = is_behind_connection(back) || packet.source.on_link(frame.interface()) & link::SITE != 0;
        return if is_spoofed { Reason::SpoofedSource } else { Reason::ToHub };
    }
    if let Some(remote) = remote
        && reverse_path(back, remote.connection).is_ok()
    {
        attribution.set_connection(remote.connection & !NO_REVERSE_PATH);
        return Reason::ToHub;
    }
    // Neighbours on the link: probes, routing protocols.
    let ifindex = frame.interface();
    if packet.source.on_link(ifindex) & link::SOURCE != 0 && packet.destination.on_link(ifindex) & link::HUB != 0 {
        return Reason::ToHub;
    }
    Reason::SpoofedSource
}

/// The egress connection's own selectors, in whose scope the addresses stand the other way round.
#[inline(always)]
pub fn egress<A: Address, T: Tables<A>, F: Frame>(
    packet: &Packet<A>,
    frame: &F,
    pair: &ResolvedPair<A, T>,
    scope: u32,
) -> Result<(), Reason> {
    match pair.tables.remote(pair.destination, scope) {
        Some(remote) if paired(packet, frame, &pair.tables, remote, pair.source, Direction::ToSite).is_some() => Ok(()),
        _ => Err(Reason::SelectorMismatch),
    }
}

/// The connection, perhaps with [`NO_REVERSE_PATH`], of the pair that admits the packet, `local` being its end on the hub's side.
#[inline(always)]
fn paired<A: Address, T: Tables<A>, F: Frame>(
    packet: &Packet<A>,
    frame: &F,
    tables: &T,
    remote: Remote,
    local: T::Resolved,
    way: Direction,
) -> Option<u32> {
    if remote.policy == ANY_LOCAL {
        return Some(remote.connection);
    }
    let local = tables.local(local, remote.policy)?;
    if local.rules == NO_PORT_RULES {
        return Some(local.connection);
    }
    ports::admit(packet, frame, local.rules, way)
}
