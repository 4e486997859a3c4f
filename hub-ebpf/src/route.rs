//! Stage 3: longest prefix match on the destination.

use hub_common::{
    Reason,
    maps::{Attachment, Route},
};

use crate::tables::{Ends, Tables};

/// One answer for the hub's own addresses and for the routes.
#[inline(always)]
pub fn lookup<A, T: Tables<A>>(ends: &Ends<A, T>) -> Route {
    // Not an `Option`: what is undefined where there is none would be kept on the stack, which the verifier refuses.
    ends.tables.route(ends.destination).unwrap_or(Route::NONE)
}

/// Whether what comes in on this attachment may take the route.
#[inline(always)]
pub fn judge(route: Route, attachment: &Attachment) -> Result<Route, Reason> {
    if route.flags & Route::NONE.flags != 0 {
        return Err(Reason::NoRoute);
    }
    if attachment.flags & Attachment::ISOLATED != 0 && route.flags & Route::VPC == 0 {
        return Err(Reason::Isolated);
    }
    Ok(route)
}
