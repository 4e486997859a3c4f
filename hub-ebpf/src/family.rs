//! The address families. IPv4 and IPv6 differ only here, in [`crate::parse`], [`crate::nexthop`] and [`crate::rewrite`].
//!
//! Addresses are integers, so that the program compares and shifts them in registers.

use core::mem::{self, MaybeUninit};

use aya_ebpf::maps::{LpmTrie, lpm_trie::Key};
use hub_common::{
    class_trie,
    maps::{Attachment, Local, Remote, Route, SCOPE_BITS, Scoped},
};

use crate::{
    headers::{Ipv4, Ipv6},
    maps,
};

pub type V4 = u32;
/// High half and low half.
pub type V6 = [u64; 2];

/// An address and the tables of its family.
pub trait Address: class_trie::Key + 'static {
    /// IP version.
    const VERSION: u32;
    /// Bits of an address.
    const BITS: u32;
    /// `EtherType` (RFC 894, RFC 2464).
    const ETHERTYPE: u16;
    /// Bytes of an IP header without options.
    const HEADER_LENGTH: usize;
    /// Flag of attachments: there are policy routes.
    const POLICY_ROUTES: u16;
    /// The address in network byte order, as in the tries.
    type Bytes: 'static;

    fn remotes() -> &'static LpmTrie<Scoped<Self::Bytes>, Remote>;
    fn locals() -> &'static LpmTrie<Scoped<Self::Bytes>, Local>;
    /// Looks up the trie of routes.
    fn route(self) -> Option<Route>;
    /// Looks up the address in a scope of a trie.
    fn scoped<V: Copy>(self, trie: &LpmTrie<Scoped<Self::Bytes>, V>, scope: u32) -> Option<V>;
    /// The address as an IPv6 address in network byte order; IPv4-mapped for IPv4.
    fn mapped(self) -> [u64; 2];

    /// Looks up `LINKS` for an interface: bits of [`hub_common::maps::link`].
    #[inline(always)]
    fn on_link(self, ifindex: u32) -> u32 {
        // SAFETY: both arrays have 16 bytes, and every bit pattern is valid.
        let [a, b, c, d] = unsafe { mem::transmute::<[u64; 2], [u32; 4]>(self.mapped()) };
        find(&maps::LINKS, [SCOPE_BITS + V6::BITS, ifindex.to_be(), a, b, c, d]).unwrap_or(0)
    }
}

impl Address for V4 {
    const VERSION: u32 = 4;
    const BITS: u32 = 32;
    const ETHERTYPE: u16 = 0x0800;
    const HEADER_LENGTH: usize = size_of::<Ipv4>();
    const POLICY_ROUTES: u16 = Attachment::POLICY_ROUTES_V4;
    type Bytes = [u8; 4];

    #[inline(always)]
    fn remotes() -> &'static LpmTrie<Scoped<[u8; 4]>, Remote> {
        &maps::REMOTES_V4
    }

    #[inline(always)]
    fn locals() -> &'static LpmTrie<Scoped<[u8; 4]>, Local> {
        &maps::LOCALS_V4
    }

    #[inline(always)]
    fn route(self) -> Option<Route> {
        find(&maps::ROUTES_V4, [Self::BITS, self.to_be()])
    }

    #[inline(always)]
    fn scoped<V: Copy>(self, trie: &LpmTrie<Scoped<[u8; 4]>, V>, scope: u32) -> Option<V> {
        find(trie, [SCOPE_BITS + Self::BITS, scope.to_be(), self.to_be()])
    }

    #[inline(always)]
    fn mapped(self) -> [u64; 2] {
        [0, (0xffff << 32 | u64::from(self)).to_be()]
    }
}

impl Address for V6 {
    const VERSION: u32 = 6;
    const BITS: u32 = 128;
    const ETHERTYPE: u16 = 0x86dd;
    const HEADER_LENGTH: usize = size_of::<Ipv6>();
    const POLICY_ROUTES: u16 = Attachment::POLICY_ROUTES_V6;
    type Bytes = [u8; 16];

    #[inline(always)]
    fn remotes() -> &'static LpmTrie<Scoped<[u8; 16]>, Remote> {
        &maps::REMOTES_V6
    }

    #[inline(always)]
    fn locals() -> &'static LpmTrie<Scoped<[u8; 16]>, Local> {
        &maps::LOCALS_V6
    }

    #[inline(always)]
    fn route(self) -> Option<Route> {
        let [a, b, c, d] = words(self);
        find(&maps::ROUTES_V6, [Self::BITS, a, b, c, d])
    }

    #[inline(always)]
    fn scoped<V: Copy>(self, trie: &LpmTrie<Scoped<[u8; 16]>, V>, scope: u32) -> Option<V> {
        let [a, b, c, d] = words(self);
        find(trie, [SCOPE_BITS + Self::BITS, scope.to_be(), a, b, c, d])
    }

    #[inline(always)]
    fn mapped(self) -> [u64; 2] {
        self.map(u64::to_be)
    }
}

/// In network byte order.
#[inline(always)]
fn words([high, low]: V6) -> [u32; 4] {
    [(high >> 32) as u32, high as u32, (low >> 32) as u32, low as u32].map(u32::to_be)
}

/// Looks up a key that is given as words: the prefix length, then the data.
#[inline(always)]
fn find<K, V: Copy, const N: usize>(trie: &LpmTrie<K, V>, words: [u32; N]) -> Option<V> {
    const { assert!(size_of::<Key<K>>() == size_of::<[u32; N]>()) };
    let mut key = MaybeUninit::<[u32; N]>::uninit();
    let first = key.as_mut_ptr().cast::<u32>();
    for (index, word) in words.into_iter().enumerate() {
        // Volatile: otherwise the compiler merges the stores to wider ones, which the verifier requires to be aligned.
        // SAFETY: a word of the key, to which there are no references.
        unsafe { first.add(index).write_volatile(word) };
    }
    // SAFETY: all words are initialised; `Key` has the same size, is packed, and every bit pattern is valid.
    trie.get(unsafe { &*key.as_ptr().cast::<Key<K>>() }).copied()
}
