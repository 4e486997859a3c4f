//! Stage 4: longest prefix match on the destination.

use hub_common::{
    Reason,
    maps::{Attachment, GroupMember, Route, VPC},
};

use crate::{
    counters::{Admission, Attribution},
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
    if attachment.flags & Attachment::ISOLATED != 0 && !route.has(Route::VPC) {
        return Err(Reason::Isolated.into());
    }
    Ok(route)
}
