//! Keys and values of the program's maps.
//!
//! The look-ups for a packet that came in on `ifindex`. `REMOTES`, `LOCALS` and `ROUTES` are LPM tries or the
//! [`crate::class_trie`]:
//!
//! ```text
//! ATTACHMENTS[ifindex]                         -> Attachment { scope, translations, .. }
//! TRANSLATIONS[translations]                   -> Translations     (only where translations is not 0)
//! REMOTES[scope, source]      longest prefix   -> Remote { policy, connection }
//! LOCALS[policy, destination] longest prefix   -> Local { connection, rules }  (only where policy is not ANY_LOCAL)
//! PORT_RULES[rules]                            -> Rules            (only where rules is not NO_PORT_RULES)
//! ROUTES[source]              longest prefix   -> Route: must lead back to that connection (reverse path)
//! GROUP_MEMBERS[first_bucket, connection]      (only where the route has several next hops)
//! ROUTES[destination]         longest prefix   -> Route { first_bucket, bucket_mask, flags }
//! REMOTES[generation, source], REMOTES[generation + 1, destination] -> numbers  (only with policy routes)
//! POLICY_ROUTES[numbers]                       -> Route, instead of the destination's
//! BUCKETS[first_bucket + (flow hash & mask)]   -> index into NEXT_HOPS
//! NEXT_HOPS[index]                             -> NextHop { port, MACs, MTU, scope, .. }
//! MSS_LIMITS[connection]                       -> MssLimits        (only for a SYN, from and to its connections)
//! PORTS[port]                                  -> the egress device (devmap)
//! ```
//!
//! For a packet to the hub itself whose source is in no selector: `LINKS[ifindex, address]`.
//!
//! The egress check looks up `REMOTES` and `LOCALS` again, with the next hop's scope and the addresses swapped.

mod attachment;
mod capture;
mod counters;
#[cfg(feature = "user")]
mod pod;
mod policy;
mod routing;
mod translation;

pub use self::{
    attachment::{Attachment, MAX_CONNECTIONS, NEAR_INTERFACES, POLICY_GENERATIONS, Vlan, link},
    capture::{
        CAPTURE_BURST, CAPTURE_FILTERS, CAPTURE_INTERVAL, CAPTURE_OUTCOMES, CAPTURE_RARE, CAPTURE_RING_BYTES,
        CaptureFilter, CaptureLimit, CapturePrefix, CaptureRecord, CaptureSwitch, FORWARDED, MAX_SNAPLEN,
    },
    counters::{ConnectionRecord, GroupRecord, NAME_BYTES, Refusals, Traffic, UNATTRIBUTED, VPC},
    policy::{
        ADMITS_NOTHING, ANY_LOCAL, Local, MAX_PORT_RULES, MAX_PREFIXES, NO_PORT_RULES, NO_REVERSE_PATH,
        RULES_PER_ENTRY, Remote, Rule, Rules, SCOPE_BITS, SEGMENTS, SHARED_SCOPE, Scoped, VPC_SEGMENT, owner,
        policy_sources, segment_of, slot_of,
    },
    routing::{
        BUCKET_INDEX, GROUP_BUCKETS, GroupMember, LinkAddress, MAX_BUCKETS, MAX_GROUP_MEMBERS, MAX_NEIGHBOURS,
        MAX_NEXT_HOPS, MAX_POLICY_PAIRS, MssLimits, NEIGHBOUR_MISS_BYTES, Neighbour, NextHop, POLICY_SLOTS, PolicyPair,
        PolicySlot, Route, link_addresses, path_of, redirected,
    },
    translation::{TRANSLATIONS_PER_INTERFACE, Translation, Translations},
};
