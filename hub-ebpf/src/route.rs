//! Stage 4: policy routes, then longest prefix match on the destination, and the segments of both sides.

use hub_common::{
    Reason,
    maps::{Attachment, GroupMember, NextHop, PolicyPair, VPC, policy_sources},
};

use crate::{
    counters::{Admission, Attribution},
    family::Address,
    frame::Frame,
    lookup::{PackedRoute, ResolvedPair, Tables},
    maps,
    refusal::Refusal,
};

/// Looks up an address. The hub's own addresses are routes, too.
#[inline(always)]
pub fn lookup<A, T: Tables<A>>(pair: &ResolvedPair<A, T>, address: T::Resolved) -> PackedRoute {
    pair.tables.route(address)
}

/// The policy route that matches first, otherwise the destination's own route. Packets to the hub itself do not get here.
#[inline(always)]
pub fn policy<A: Address, T: Tables<A>>(
    pair: &ResolvedPair<A, T>,
    attachment: &Attachment,
    route: PackedRoute,
) -> PackedRoute {
    if attachment.flags & A::POLICY_ROUTES == 0 {
        return route;
    }
    let scope = policy_sources(Attachment::policy_generation(attachment.flags));
    let Some(source) = pair.tables.remote(pair.source, scope) else { return route };
    let Some(destination) = pair.tables.remote(pair.destination, scope + 1) else { return route };
    let pair = PolicyPair { source: source.policy, destination: destination.policy };
    let found = match policy_route(pair) {
        None if source.connection != 0 => policy_route(PolicyPair::other(source.policy)),
        found => found,
    };
    match found {
        Some(found) if !found.is_none() => found,
        _ => route,
    }
}

#[inline(always)]
fn policy_route(pair: PolicyPair) -> Option<PackedRoute> {
    let slot = maps::POLICY_ROUTES.get(pair.slot())?;
    if slot.pair == pair {
        return Some(PackedRoute::of(slot.route));
    }
    if slot.more == 0 {
        return None;
    }
    // SAFETY: the value is copied at once; the kernel replaces elements, it does not change them.
    unsafe { maps::POLICY_OVERFLOW.get(pair) }.map(|found| PackedRoute::of(*found))
}

/// Whether a connection is a member of the route's group, whatever its weight and state. In a route without a group of
/// connections, the first bucket is not the slot of a connection.
#[inline(always)]
pub fn leads_to(route: PackedRoute, connection: u32) -> bool {
    if route.is_only(connection) {
        return true;
    }
    let first_bucket = route.first_bucket();
    route.bucket_mask() != 0 && maps::GROUP_MEMBERS.get_ptr(GroupMember { first_bucket, connection }).is_some()
}

/// Checks whether packets from this attachment may use the route.
#[inline(always)]
pub fn check<F: Frame>(
    route: PackedRoute,
    attachment: &Attachment,
    attribution: &Attribution,
) -> Result<PackedRoute, Refusal> {
    if route.is_none() {
        // The kernel may forward packets from the VPC by its own routes, but to no site: no mark.
        attribution.set_admission::<F>(if attachment.connection == VPC {
            Admission::Nothing
        } else {
            Admission::NoRoute
        });
        return Err(Reason::NoRoute.into());
    }
    Ok(route)
}

/// Checks whether the sender's segment may use the next hop. The members of a group may be in different segments, so
/// this follows the choice.
#[inline(always)]
pub fn reaches(segment: u32, next_hop: &NextHop) -> Result<(), Refusal> {
    if next_hop.segments >> segment & 1 == 0 { Err(Reason::Isolated.into()) } else { Ok(()) }
}
