//! Stage 3: longest prefix match on the destination.

use core::ptr;

use hub_common::{
    Reason,
    maps::{Attachment, GroupMember, Route, VPC},
};

use crate::{
    counters::{Admission, Attribution},
    frame::Frame,
    lookup::{ResolvedPair, Tables},
    maps,
};

/// Looks up an address. The hub's own addresses are routes, too.
#[inline(always)]
pub fn lookup<A, T: Tables<A>>(pair: &ResolvedPair<A, T>, address: T::Resolved) -> Route {
    match pair.tables.route(address) {
        Some(route) => route,
        // SAFETY: a valid, aligned static without writers.
        None => unsafe { ptr::read_volatile(&raw const NONE) },
    }
}

/// [`Route::NONE`], hidden from the compiler. Otherwise it leaves unused fields undefined on the stack, which the
/// verifier rejects.
static NONE: Route = Route::NONE;

/// Whether a connection is a member of the route's group, whatever its weight and state. In a route without a group of
/// connections, the first bucket is not the slot of a connection.
#[inline(always)]
pub fn leads_to(route: Route, connection: u32) -> bool {
    if route.bucket_mask == 0 {
        return route.first_bucket == connection;
    }
    maps::GROUP_MEMBERS.get_ptr(GroupMember { first_bucket: route.first_bucket, connection }).is_some()
}

/// Checks whether packets from this attachment may use the route.
#[inline(always)]
pub fn check<F: Frame>(route: Route, attachment: &Attachment, attribution: &Attribution) -> Result<Route, Reason> {
    if route.flags & Route::NONE.flags != 0 {
        // The kernel may forward packets from the VPC by its own routes, but to no site: no mark.
        attribution.set_admission::<F>(if attachment.connection == VPC {
            Admission::Nothing
        } else {
            Admission::NoRoute
        });
        return Err(Reason::NoRoute);
    }
    if attachment.flags & Attachment::ISOLATED != 0 && route.flags & Route::VPC == 0 {
        return Err(Reason::Isolated);
    }
    Ok(route)
}
