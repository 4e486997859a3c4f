//! The floor at TC for two interfaces: the cost of a redirect alone.

use aya_ebpf::{
    bindings::TC_ACT_SHOT,
    helpers::bpf_redirect,
    macros::{classifier, map},
    maps::Array,
    programs::TcContext,
};

/// The index of one interface xor that of the other.
#[map]
static PAIR: Array<u32> = Array::with_max_entries(1, 0);

/// Sends everything from each of the two interfaces to the other one. It checks nothing and writes nothing.
#[classifier]
pub fn bare_pair(context: TcContext) -> i32 {
    let Some(pair) = PAIR.get(0) else { return TC_ACT_SHOT };
    // SAFETY: the kernel passes a valid context to the program; the helper has no conditions.
    unsafe { bpf_redirect((*context.skb.skb).ifindex ^ pair, 0) as i32 }
}
