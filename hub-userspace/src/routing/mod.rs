//! Routes: the RIB, and how the flows of a route are shared out over its next hops.

pub mod buckets;
pub mod rib;
