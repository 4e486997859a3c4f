//! Stage 3: longest prefix match on the destination.

use hub_common::{
    Reason,
    maps::{Attachment, GroupMember, Route, VPC},
};

use crate::{
    maps,
    redirect::{Account, Admission},
    tables::{Ends, Tables},
};

/// One answer for the hub's own addresses and for the routes.
#[inline(always)]
pub fn lookup<A, T: Tables<A>>(ends: &Ends<A, T>, address: T::Known) -> Route {
    // Not an `Option`: what is undefined where there is none would be kept on the stack, which the verifier refuses.
    ends.tables.route(address).unwrap_or(Route::NONE)
}

/// Whether a connection is one of those that the route leads to, whatever its weight and state.
#[inline(always)]
pub fn leads_to(route: Route, connection: u32) -> bool {
    if route.flags & (Route::NONE.flags | Route::HUB | Route::VPC) != 0 {
        return false;
    }
    if route.bucket_mask == 0 {
        return route.first_bucket == connection;
    }
    maps::GROUP_MEMBERS.get_ptr(GroupMember { first_bucket: route.first_bucket, connection }).is_some()
}

/// Whether what comes in on this attachment may take the route.
#[inline(always)]
pub fn judge(route: Route, attachment: &Attachment, account: &Account) -> Result<Route, Reason> {
    if route.flags & Route::NONE.flags != 0 {
        // What comes from the VPC may go on by the kernel's own routes, but to no site: no mark.
        account.tell_kernel(if attachment.connection == VPC { Admission::Nothing } else { Admission::NoRoute });
        return Err(Reason::NoRoute);
    }
    if attachment.flags & Attachment::ISOLATED != 0 && route.flags & Route::VPC == 0 {
        return Err(Reason::Isolated);
    }
    Ok(route)
}
