//! Stage 4: which member of the route's next-hop group, and whether its connection admits the packet.
//!
//! The agent spreads the buckets of a group over its members by weight and state; the program does one load.

use hub_common::{
    Reason,
    maps::{BUCKET_INDEX, NextHop, Route},
};

use crate::{
    counters::{Admission, Attribution},
    family::Address,
    frame::Frame,
    lookup::{ResolvedPair, Tables},
    maps,
    parse::Packet,
    policy::selector,
};

#[inline(always)]
pub fn choose<A: Address, T: Tables<A>, F: Frame>(
    packet: &Packet<A>,
    frame: &F,
    pair: &ResolvedPair<A, T>,
    route: &Route,
    attribution: &Attribution,
) -> Result<&'static NextHop, Reason> {
    let bucket = match route.bucket_mask {
        0 => route.first_bucket,
        mask => route.first_bucket + (A::flow_hash(packet, frame) & u32::from(mask)),
    };
    // Both are arrays and the agent writes indices within them: the misses are for the verifier.
    let value = *maps::BUCKETS.get(bucket).ok_or(Reason::NextHopDown)?;
    let next_hop = maps::NEXT_HOPS.get(value & BUCKET_INDEX).ok_or(Reason::NextHopDown)?;
    // First the policy: what is not admitted must not reach the kernel's slow path either.
    selector::egress(packet, frame, pair, next_hop.scope)?;
    // From here on the kernel may have to go on with it, by this next hop and no other.
    attribution.set_admission::<F>(Admission::NextHop(next_hop.connection));
    attribution.set_path::<F>(value & !BUCKET_INDEX);
    if next_hop.flags & NextHop::UP == 0 {
        return Err(Reason::NextHopDown);
    }
    Ok(next_hop)
}
