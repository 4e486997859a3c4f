//! The two look-ups of routes and selectors: LPM tries, with a walk for each look-up, and the class trie, with a walk
//! for each address. The stages are generic over them; each entry point of the program uses one.

use hub_common::{
    Reason,
    class_trie::{Chunk, Class, Memory, POLICY_COLUMN, Pair, Reader},
    maps::{Local, Remote, Route},
};

use crate::{family::Address, maps, parse::Packet};

/// Routes and selectors.
pub trait Tables<A>: Sized {
    /// A resolved address, the key of the look-ups below.
    type Resolved: Copy;

    fn open() -> Option<Self>;
    fn resolve(&self, address: A) -> Option<Self::Resolved>;
    /// The route of the longest matching destination prefix.
    fn route(&self, address: Self::Resolved) -> Option<Route>;
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
    pub fn of(packet: &Packet<A>) -> Result<Self, Reason> {
        // These never fail: the verifier requires the checks.
        let tables = T::open().ok_or(Reason::NoRoute)?;
        // In this order the verifier processes a fifth fewer instructions.
        let destination = tables.resolve(packet.destination).ok_or(Reason::NoRoute)?;
        let source = tables.resolve(packet.source).ok_or(Reason::NoRoute)?;
        Ok(Self { tables, source, destination })
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
    fn route(&self, address: A) -> Option<Route> {
        address.route()
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
    fn route(&self, class: &'static Class) -> Option<Route> {
        class.route().or_else(|| self.0.default_class::<A>()?.route())
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
    fn column<A: Address>(&self, class: &'static Class, column: u32) -> Option<Pair> {
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
