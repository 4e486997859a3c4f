//! Routes: the RIB, and the distribution of a route's flows over its next hops.

pub mod buckets;
pub mod groups;
pub mod learned;
pub mod members;
pub mod policies;
pub mod rib;
