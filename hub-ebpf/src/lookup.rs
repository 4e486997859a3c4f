//! The two look-ups of routes and selectors: LPM tries, with a walk for each look-up, and the class trie, with a walk
//! for each address. The stages are generic over them; each entry point of the program uses one.

use hub_common::{
    Reason,
    class_trie::{Chunk, Class, Memory, POLICY_COLUMN, Pair, Reader},
    maps::{Local, Remote, Route},
};

use crate::{family::Address, maps, parse::Packet, refusal::Refusal};

/// Routes and selectors.
pub trait Tables<A>: Sized {
    /// A resolved address, the key of the look-ups below.
    type Resolved: Copy;

    fn open() -> Option<Self>;
    fn resolve(&self, address: A) -> Option<Self::Resolved>;
    /// The route of the longest matching destination prefix, or [`PackedRoute::NONE`].
    fn route(&self, address: Self::Resolved) -> PackedRoute;
    /// The longest matching remote prefix of a scope.
    fn remote(&self, address: Self::Resolved, scope: u32) -> Option<Remote>;
    /// The longest matching local prefix of a policy.
    fn local(&self, address: Self::Resolved, policy: u32) -> Option<Local>;
}

/// The resolved addresses of a packet.
pub struct ResolvedPair<A, T: Tables<A>> {
    pub tables: T,
    pub source: T::Resolved,
    pub destination: T::Resolved,
}

impl<A: Address, T: Tables<A>> ResolvedPair<A, T> {
    #[inline(always)]
    pub fn of(packet: &Packet<A>) -> Result<Self, Refusal> {
        // These never fail: the verifier requires the checks.
        let tables = T::open().ok_or(Reason::NoRoute)?;
        // In this order the verifier processes a fifth fewer instructions.
        let destination = tables.resolve(packet.destination).ok_or(Reason::NoRoute)?;
        let source = tables.resolve(packet.source).ok_or(Reason::NoRoute)?;
        Ok(Self { tables, source, destination })
    }
}

/// A [`Route`] in one register: the fields of the structure would take one each.
#[derive(Clone, Copy)]
pub struct PackedRoute(u64);

impl PackedRoute {
    /// [`Route::NONE`].
    pub const NONE: Self = Self::of(Route::NONE);

    const MASK_SHIFT: u32 = 32;
    const FLAGS_SHIFT: u32 = 48;

    #[inline(always)]
    pub const fn of(route: Route) -> Self {
        let mask_and_flags = (route.flags as u64) << Self::FLAGS_SHIFT | (route.bucket_mask as u64) << Self::MASK_SHIFT;
        Self(mask_and_flags | route.first_bucket as u64)
    }

    /// The route of a class. Without a route it is [`Self::NONE`], too.
    #[inline(always)]
    const fn of_class(class: &Class) -> Self {
        const { assert!(Class::NO_ROUTE == Route::NONE.flags) };
        Self(class.packed_route())
    }

    /// Whether it is [`Self::NONE`]. Its flag is the sign bit.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        const { assert!(Route::NONE.flags == 1 << 15) };
        self.0.cast_signed() < 0
    }

    /// Whether it has one of these flags.
    #[inline(always)]
    pub const fn has(self, flags: u16) -> bool {
        self.0 >> Self::FLAGS_SHIFT & flags as u64 != 0
    }

    #[inline(always)]
    pub const fn first_bucket(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub const fn bucket_mask(self) -> u32 {
        (self.0 >> Self::MASK_SHIFT) as u32 & 0xffff
    }

    /// Whether it has one bucket, the one with this number.
    #[inline(always)]
    pub const fn is_only(self, bucket: u32) -> bool {
        self.0 << (u64::BITS - Self::FLAGS_SHIFT) == (bucket as u64) << (u64::BITS - Self::FLAGS_SHIFT)
    }
}

/// LPM tries.
pub struct LpmTries;

impl<A: Address> Tables<A> for LpmTries {
    type Resolved = A;

    #[inline(always)]
    fn open() -> Option<Self> {
        Some(Self)
    }

    #[inline(always)]
    fn resolve(&self, address: A) -> Option<A> {
        Some(address)
    }

    #[inline(always)]
    fn route(&self, address: A) -> PackedRoute {
        address.route().map_or(PackedRoute::NONE, PackedRoute::of)
    }

    #[inline(always)]
    fn remote(&self, address: A, scope: u32) -> Option<Remote> {
        address.scoped(A::remotes(), scope)
    }

    #[inline(always)]
    fn local(&self, address: A, policy: u32) -> Option<Local> {
        address.scoped(A::locals(), policy)
    }
}

/// The class trie, see [`hub_common::class_trie`].
pub struct ClassTrie(Reader<'static, Chunks>);

impl<A: Address> Tables<A> for ClassTrie {
    type Resolved = &'static Class;

    #[inline(always)]
    fn open() -> Option<Self> {
        Reader::new(&Chunks).map(Self)
    }

    #[inline(always)]
    fn resolve(&self, address: A) -> Option<&'static Class> {
        self.0.find(address)
    }

    #[inline(always)]
    fn route(&self, class: &'static Class) -> PackedRoute {
        let route = PackedRoute::of_class(class);
        if !route.is_none() {
            return route;
        }
        self.0.default_class::<A>().map_or(PackedRoute::NONE, PackedRoute::of_class)
    }

    #[inline(always)]
    fn remote(&self, class: &'static Class, scope: u32) -> Option<Remote> {
        Some(self.column::<A>(class, scope)?.remote())
    }

    #[inline(always)]
    fn local(&self, class: &'static Class, policy: u32) -> Option<Local> {
        Some(self.column::<A>(class, policy + POLICY_COLUMN)?.local())
    }
}

impl ClassTrie {
    #[inline(always)]
    fn column<A: Address>(&self, class: &'static Class, column: u32) -> Option<&'static Pair> {
        self.0.pair(class, column).or_else(|| self.0.pair(self.0.default_class::<A>()?, column))
    }
}

/// The memory of the class trie.
struct Chunks;

impl Memory for Chunks {
    #[inline(always)]
    fn chunk(&self, number: u32) -> Option<&Chunk> {
        maps::CHUNKS.get_value(number, &0).map(Chunk::of)
    }
}
