//! Stage 3: the policy check. XDP and TC run before the kernel's xfrm policies, so this is the only check.
//!
//! A selector is a pair of prefixes: `remote`, the site's side, and `local`, the hub's side and everything behind it.
//! The tables have the longest remote prefix of a scope. Its policy is the set of local prefixes of all pairs whose
//! remote contains that prefix, so one look-up covers all pairs. A pair may be limited to a protocol or ports:
//! [`crate::policy::ports`].
//!
//! The reverse path check follows: the route of the source must lead back to that connection, so that a site with a
//! broad selector cannot use another site's addresses. Only packets that pass these checks may go to the hub itself.

use hub_common::{
    Reason,
    maps::{ANY_LOCAL, Attachment, NO_PORT_RULES, NO_REVERSE_PATH, Remote, Route, VPC, link, segment_of, slot_of},
};

use crate::{
    counters::Attribution,
    family::Address,
    frame::Frame,
    lookup::{PackedRoute, ResolvedPair, Tables},
    parse::{Packet, ParseIp, Reach},
    policy::ports::{self, Direction},
    refusal::Refusal,
    route,
    special::Special,
};

/// Checks the packet against the selectors of the attachment, and sets its connection in `attribution`. Returns the
/// connection's segment. `route`: the destination's.
///
/// `attribution` is unchanged if the source is in no selector.
#[inline(always)]
pub fn ingress<A: Address + ParseIp + Special, T: Tables<A>, F: Frame>(
    packet: &Packet<A>,
    reach: Reach,
    frame: &F,
    pair: &ResolvedPair<A, T>,
    route: PackedRoute,
    attachment: &Attachment,
    attribution: &Attribution,
) -> Result<u32, Refusal> {
    let back = route::lookup(pair, pair.source);
    if reach != Reach::Forwardable {
        if reach == Reach::Martian {
            return Err(Reason::SpoofedSource.into());
        }
        let is_multicast = reach == Reach::Multicast;
        return Err(on_link(packet, is_multicast, frame, pair, route, back, attachment).into());
    }
    if back.has(Route::HUB) {
        return Err(Reason::SpoofedSource.into());
    }
    let remote = pair.tables.remote(pair.source, attachment.scope);
    if route.has(Route::HUB) {
        return Err(to_hub(packet, frame, remote, back, attachment, attribution).into());
    }
    let remote = remote.ok_or(Reason::SpoofedSource)?;
    attribution.set_connection(slot_of(remote.connection));
    let owner = paired(packet, frame, &pair.tables, remote, pair.destination, Direction::FromSite);
    let owner = owner.ok_or(Reason::SelectorMismatch)?;
    if owner != remote.connection {
        attribution.set_connection(slot_of(owner));
    }
    if leads_back(back, owner) { Ok(segment_of(owner)) } else { Err(Reason::SpoofedSource.into()) }
}

/// The reverse path check: whether the source's route leads back to the packet's connection.
#[inline(always)]
fn leads_back(back: PackedRoute, owner: u32) -> bool {
    owner & NO_REVERSE_PATH != 0 || route::leads_to(back, slot_of(owner))
}

/// The result for a packet that must not leave its link: multicast or link-local. The source is checked because the hub
/// may answer. `route`: the destination's, `back`: the source's.
#[inline(always)]
fn on_link<A: Address + ParseIp + Special, T: Tables<A>, F: Frame>(
    packet: &Packet<A>,
    is_multicast: bool,
    frame: &F,
    pair: &ResolvedPair<A, T>,
    route: PackedRoute,
    back: PackedRoute,
    attachment: &Attachment,
) -> Reason {
    let is_hub = route.has(Route::HUB);
    let reason = match is_multicast {
        true => Reason::Multicast,
        // The kernel forwards link-local packets, against RFC 3927 section 7; in IPv6 back to the same link.
        false if is_hub => Reason::LinkLocal,
        false => Reason::SelectorMismatch,
    };
    let source = packet.source;
    if source.is_of_any_link() || (is_multicast && source.is_unspecified()) {
        return reason;
    }
    if back.has(Route::HUB) {
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
        && leads_back(back, remote.connection)
    {
        return reason;
    }
    Reason::SpoofedSource
}

/// Whether an address is behind a connection. The VPC side also receives management, IKE and ESP, from any address that
/// is not. The default route does not locate an address.
#[inline(always)]
fn is_behind_connection(back: PackedRoute) -> bool {
    !back.has(Route::NONE.flags | Route::VPC | Route::DEFAULT)
}

/// The result for a packet to the hub itself. `back`: the route of its source.
#[inline(always)]
fn to_hub<A: Address + ParseIp + Special, F: Frame>(
    packet: &Packet<A>,
    frame: &F,
    remote: Option<Remote>,
    back: PackedRoute,
    attachment: &Attachment,
    attribution: &Attribution,
) -> Reason {
    if attachment.connection == VPC {
        let is_spoofed = is_behind_connection(back) || packet.source.on_link(frame.interface()) & link::SITE != 0;
        return if is_spoofed { Reason::SpoofedSource } else { Reason::ToHub };
    }
    if let Some(remote) = remote
        && leads_back(back, remote.connection)
    {
        attribution.set_connection(slot_of(remote.connection));
        return Reason::ToHub;
    }
    // Neighbours on the link: probes, routing protocols.
    let ifindex = frame.interface();
    if packet.source.on_link(ifindex) & link::SOURCE != 0 && packet.destination.on_link(ifindex) & link::HUB != 0 {
        return Reason::ToHub;
    }
    Reason::SpoofedSource
}

/// Checks the packet against the egress connection's selectors, with the addresses swapped.
#[inline(always)]
pub fn egress<A: Address + ParseIp + Special, T: Tables<A>, F: Frame>(
    packet: &Packet<A>,
    frame: &F,
    pair: &ResolvedPair<A, T>,
    scope: u32,
) -> Result<(), Refusal> {
    match pair.tables.remote(pair.destination, scope) {
        Some(remote) if paired(packet, frame, &pair.tables, remote, pair.source, Direction::ToSite).is_some() => Ok(()),
        _ => Err(Reason::SelectorMismatch.into()),
    }
}

/// The owner of the pair that admits the packet ([`hub_common::maps::owner`]). `local`: the address on the
/// hub's side.
#[inline(always)]
fn paired<A: Address + ParseIp + Special, T: Tables<A>, F: Frame>(
    packet: &Packet<A>,
    frame: &F,
    tables: &T,
    remote: Remote,
    local: T::Resolved,
    direction: Direction,
) -> Option<u32> {
    if remote.policy == ANY_LOCAL {
        return Some(remote.connection);
    }
    let local = tables.local(local, remote.policy)?;
    if local.rules == NO_PORT_RULES {
        return Some(local.connection);
    }
    ports::admit(packet, frame, local.rules, direction)
}
