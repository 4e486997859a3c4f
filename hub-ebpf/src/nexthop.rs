//! Stage 5: chooses a member of the route's next-hop group, and checks the packet against its connection's selectors.
//!
//! The agent assigns the buckets of a group to its members by weight and state.

use hub_common::{
    Reason, flow,
    maps::{BUCKET_INDEX, NextHop},
};

use crate::{
    counters::{Admission, Attribution},
    family::{Address, V4, V6},
    frame::Frame,
    lookup::{PackedRoute, ResolvedPair, Tables},
    maps,
    parse::{Packet, ParseIp},
    policy::selector,
    refusal::Refusal,
    route,
    special::Special,
};

/// `segment`: the sender's.
#[inline(always)]
pub fn choose<A: Address + ParseIp + Special + FlowHash, T: Tables<A>, F: Frame>(
    packet: &Packet<A>,
    frame: &F,
    pair: &ResolvedPair<A, T>,
    segment: u32,
    route: PackedRoute,
    attribution: &Attribution,
) -> Result<&'static NextHop, Refusal> {
    let bucket = match route.bucket_mask() {
        0 => route.first_bucket(),
        mask => route.first_bucket() + (A::flow_hash(packet, frame) & mask),
    };
    // Both are arrays and the agent writes valid indices: the verifier requires the checks.
    let value = *maps::BUCKETS.get(bucket).ok_or(Reason::NextHopDown)?;
    let next_hop = maps::NEXT_HOPS.get(value & BUCKET_INDEX).ok_or(Reason::NextHopDown)?;
    // The policy checks come first: a packet that is not admitted must not reach the kernel's slow path either.
    route::reaches(segment, next_hop)?;
    selector::egress(packet, frame, pair, next_hop.scope)?;
    // From here on the packet may pass to the kernel, which must use this next hop.
    attribution.set_admission::<F>(Admission::NextHop(next_hop.connection));
    attribution.set_path::<F>(value & !BUCKET_INDEX);
    if next_hop.flags & NextHop::UP == 0 {
        return Err(Reason::NextHopDown.into());
    }
    Ok(next_hop)
}

/// The part of the choice that differs by family.
pub trait FlowHash: Sized {
    fn flow_hash<F: Frame>(packet: &Packet<Self>, frame: &F) -> u32;
}

impl FlowHash for V4 {
    #[inline(always)]
    fn flow_hash<F: Frame>(packet: &Packet<Self>, frame: &F) -> u32 {
        flow::hash_v4(packet.source, packet.destination, packet.protocol, Self::ports(packet, frame))
    }
}

impl FlowHash for V6 {
    #[inline(always)]
    fn flow_hash<F: Frame>(packet: &Packet<Self>, frame: &F) -> u32 {
        flow::hash_v6(packet.source, packet.destination, packet.protocol, Self::ports(packet, frame))
    }
}
