//! The maps, which the agent fills; [`hub_common::maps`] documents them.

use core::cell::UnsafeCell;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps,
    macros::{btf_map, map},
    maps::{Array, DevMap, HashMap, LpmTrie, PerCpuArray, RingBuf},
};
use hub_common::{
    Mark,
    class_trie::{MAX_CHUNKS, Words},
    maps::{
        self, Attachment, CAPTURE_OUTCOMES, CAPTURE_RING_BYTES, CaptureFilter, CaptureLimit, CaptureRecord,
        CaptureSwitch, GroupMember, LinkAddress, Local, MAX_BUCKETS, MAX_CONNECTIONS, MAX_GROUP_MEMBERS,
        MAX_NEIGHBOURS, MAX_NEXT_HOPS, MAX_POLICY_PAIRS, MAX_PORT_RULES, MAX_PREFIXES, MAX_SNAPLEN, MssLimits,
        NEAR_INTERFACES, NEIGHBOUR_MISS_BYTES, Neighbour, NextHop, POLICY_SLOTS, PolicyPair, PolicySlot, Refusals,
        Remote, Route, Rules, Scoped, Traffic, Translations, Vlan,
    },
};

/// Bits of the packet mark. The agent sets them before it loads the program.
#[unsafe(no_mangle)]
static MARK: Mark = Mark::DEFAULT;

#[inline(always)]
pub fn mark() -> Mark {
    // SAFETY: a valid, aligned static without writers. Volatile, so that the compiler does not assume the initial
    // value.
    unsafe { core::ptr::read_volatile(&raw const MARK) }
}

/// A random number of this agent. The agent sets it before it loads the program.
#[unsafe(no_mangle)]
static HANDOVER_TAG: [u32; 2] = [0; 2];

#[inline(always)]
pub fn handover_tag() -> [u32; 2] {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const HANDOVER_TAG) }
}

/// 1 while the agent replaces filters by TCX links. An interface then has both for a moment, and the second one must
/// not process and count again what the first one passes.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.handover")]
static HANDOVER: Variable<u32> = Variable(UnsafeCell::new(0));

#[inline(always)]
pub fn is_handing_over() -> bool {
    // SAFETY: as below.
    unsafe { HANDOVER.0.get().read_volatile() != 0 }
}

/// The switch of [`crate::capture`]: off unless somebody listens.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.capture")]
static CAPTURE_SWITCH: Variable<CaptureSwitch> =
    Variable(UnsafeCell::new(CaptureSwitch { filters: 0, forwards: 0, until: 0 }));

/// Filters in use, a bit each.
#[inline(always)]
pub fn capture_filters() -> u32 {
    // SAFETY: a valid, aligned static. Volatile: the agent changes it at any time.
    unsafe { (&raw const (*CAPTURE_SWITCH.0.get()).filters).read_volatile() }
}

/// Those that want forwarded packets.
#[inline(always)]
pub fn capture_forwards() -> u32 {
    // SAFETY: as above.
    unsafe { (&raw const (*CAPTURE_SWITCH.0.get()).forwards).read_volatile() }
}

/// When the switch is off, in nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn capture_until() -> u64 {
    // SAFETY: as above.
    unsafe { (&raw const (*CAPTURE_SWITCH.0.get()).until).read_volatile() }
}

/// A word, or some, that the agent changes while the program runs. In a section, and so a map, of its own: the program
/// reads it without a look-up.
#[repr(transparent)]
struct Variable<T>(UnsafeCell<T>);

// SAFETY: the program only reads it, a word at a time.
unsafe impl<T> Sync for Variable<T> {}

#[map]
pub static CAPTURE: RingBuf = RingBuf::with_byte_size(CAPTURE_RING_BYTES, 0);

#[map]
pub static CAPTURE_FILTERS: Array<CaptureFilter> = Array::with_max_entries(maps::CAPTURE_FILTERS, 0);

#[map]
pub static CAPTURE_LIMITS: PerCpuArray<CaptureLimit> =
    PerCpuArray::with_max_entries(maps::CAPTURE_FILTERS * CAPTURE_OUTCOMES, 0);

/// The record that is being made: too large for the stack.
#[map]
pub static CAPTURE_SCRATCH: PerCpuArray<CaptureScratch> = PerCpuArray::with_max_entries(1, 0);

#[repr(C)]
pub struct CaptureScratch {
    pub record: CaptureRecord,
    pub bytes: [u8; MAX_SNAPLEN as usize],
}

#[map]
pub static ATTACHMENTS: Array<Attachment> = Array::with_max_entries(NEAR_INTERFACES, 0);

/// Attachments of interfaces whose index is too high for the array. Indices grow as interfaces are added and removed.
#[map]
pub static FAR_ATTACHMENTS: HashMap<u32, Attachment> = HashMap::with_max_entries(MAX_CONNECTIONS, 0);

/// Index 0 is never used.
#[map]
pub static TRANSLATIONS: Array<Translations> = Array::with_max_entries(MAX_CONNECTIONS, 0);

#[map]
pub static VLANS: HashMap<Vlan, u32> = HashMap::with_max_entries(MAX_NEIGHBOURS, BPF_F_NO_PREALLOC);

#[map]
pub static REMOTES_V4: LpmTrie<Scoped<[u8; 4]>, Remote> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);
#[map]
pub static REMOTES_V6: LpmTrie<Scoped<[u8; 16]>, Remote> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);

#[map]
pub static LOCALS_V4: LpmTrie<Scoped<[u8; 4]>, Local> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);
#[map]
pub static LOCALS_V6: LpmTrie<Scoped<[u8; 16]>, Local> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);

#[map]
pub static LINKS: LpmTrie<Scoped<[u8; 16]>, u32> = LpmTrie::with_max_entries(MAX_NEIGHBOURS, 0);

#[map]
pub static PORT_RULES: Array<Rules> = Array::with_max_entries(MAX_PORT_RULES, 0);

#[map]
pub static ROUTES_V4: LpmTrie<[u8; 4], Route> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);
#[map]
pub static ROUTES_V6: LpmTrie<[u8; 16], Route> = LpmTrie::with_max_entries(MAX_PREFIXES, 0);

/// Memory of the class trie: an array of one element for each chunk. All have the same size, so that the kernel inlines
/// both look-ups. The agent maps them into its memory, so that it changes a word by one store.
///
/// A separate map for chunk 0, which every packet needs, would be faster to find. But pointers into two kinds of maps
/// are distinct to the verifier: it would check the code that follows four times as often.
#[btf_map]
pub static CHUNKS: btf_maps::ArrayOfMaps<ChunkMap, { MAX_CHUNKS as usize }> = btf_maps::ArrayOfMaps::new();
type ChunkMap = btf_maps::Array<Words, 1, { BPF_F_MMAPABLE as usize }>;

#[map]
pub static BUCKETS: Array<u32> = Array::with_max_entries(MAX_BUCKETS, 0);

#[map]
pub static GROUP_MEMBERS: HashMap<GroupMember, u32> = HashMap::with_max_entries(MAX_GROUP_MEMBERS, BPF_F_NO_PREALLOC);

#[map]
pub static POLICY_ROUTES: Array<PolicySlot> = Array::with_max_entries(POLICY_SLOTS, 0);

#[map]
pub static POLICY_OVERFLOW: HashMap<PolicyPair, Route> = HashMap::with_max_entries(MAX_POLICY_PAIRS, BPF_F_NO_PREALLOC);

#[map]
pub static NEXT_HOPS: Array<NextHop> = Array::with_max_entries(MAX_NEXT_HOPS, 0);

#[map]
pub static MSS_LIMITS: Array<MssLimits> = Array::with_max_entries(MAX_CONNECTIONS + 2, 0);

#[map]
pub static NEIGHBOURS: HashMap<Neighbour, LinkAddress> = HashMap::with_max_entries(MAX_NEIGHBOURS, BPF_F_NO_PREALLOC);

#[map]
pub static NEIGHBOUR_MISS: RingBuf = RingBuf::with_byte_size(NEIGHBOUR_MISS_BYTES, 0);

#[map]
pub static PORTS: DevMap = DevMap::with_max_entries(MAX_CONNECTIONS, 0);

#[map]
pub static TRAFFIC: PerCpuArray<Traffic> = PerCpuArray::with_max_entries(MAX_CONNECTIONS + 2, 0);

#[map]
pub static REFUSALS: PerCpuArray<Refusals> = PerCpuArray::with_max_entries(MAX_CONNECTIONS + 2, 0);
