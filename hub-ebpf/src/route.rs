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

/// One answer for the hub's own addresses and for the routes.
#[inline(always)]
pub fn lookup<A, T: Tables<A>>(pair: &ResolvedPair<A, T>, address: T::Resolved) -> Route {
    match pair.tables.route(address) {
        Some(route) => route,
        // SAFETY: a valid, aligned static that nobody writes.
        None => unsafe { ptr::read_volatile(&raw const NONE) },
    }
}

/// [`Route::NONE`], where the compiler does not know it. Else it would leave undefined what nobody asks of such a route, and
/// keep that on the stack, which the verifier refuses.
static NONE: Route = Route::NONE;

/// Whether a connection is one of those that the route leads to, whatever its weight and state. The first bucket of other
/// routes is no connection's slot.
#[inline(always)]
pub fn leads_to(route: Route, connection: u32) -> bool {
    if route.bucket_mask == 0 {
        return route.first_bucket == connection;
    }
    maps::GROUP_MEMBERS.get_ptr(GroupMember { first_bucket: route.first_bucket, connection }).is_some()
}

/// Whether what comes in on this attachment may take the route.
#[inline(always)]
pub fn check<F: Frame>(route: Route, attachment: &Attachment, attribution: &Attribution) -> Result<Route, Reason> {
    if route.flags & Route::NONE.flags != 0 {
        // What comes from the VPC may go on by the kernel's own routes, but to no site: no mark.
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
