//! The two ways to ask for routes and selectors: LPM tries, a walk for each question, and the compiled look-up, one walk
//! for each address. The stages do not know which; an entry point of the program has the one or the other.

use hub_common::{
    Reason,
    compiled::{self, CHUNK_LINES, Class, Line, Memory, POLICY_COLUMN},
    maps::{Remote, Route},
};

use crate::{address::Address, maps, parse::Packet};

/// Routes and selectors.
pub trait Tables<A> {
    /// What the tables know an address by.
    type Known: Copy;

    fn know(address: A) -> Option<Self::Known>;
    /// What the longest matching destination says.
    fn route(address: Self::Known) -> Option<Route>;
    /// What the longest matching remote prefix of a scope says.
    fn remote(address: Self::Known, scope: u32) -> Option<Remote>;
    /// The connection by whose pair a policy admits the address.
    fn local(address: Self::Known, policy: u32) -> Option<u32>;
}

/// The packet's addresses, as the tables know them.
pub struct Ends<A, T: Tables<A>> {
    pub source: T::Known,
    pub destination: T::Known,
}

impl<A: Address, T: Tables<A>> Ends<A, T> {
    #[inline(always)]
    pub fn of(packet: &Packet<A>) -> Result<Self, Reason> {
        // All addresses are known: the misses are for the verifier.
        let source = T::know(packet.source).ok_or(Reason::NoRoute)?;
        let destination = T::know(packet.destination).ok_or(Reason::NoRoute)?;
        Ok(Self { source, destination })
    }
}

/// LPM tries.
pub struct Tries;

impl<A: Address> Tables<A> for Tries {
    type Known = A;

    #[inline(always)]
    fn know(address: A) -> Option<A> {
        Some(address)
    }

    #[inline(always)]
    fn route(address: A) -> Option<Route> {
        address.route()
    }

    #[inline(always)]
    fn remote(address: A, scope: u32) -> Option<Remote> {
        address.scoped(A::remotes(), scope)
    }

    #[inline(always)]
    fn local(address: A, policy: u32) -> Option<u32> {
        address.scoped(A::locals(), policy)
    }
}

/// The compiled look-up.
pub struct Compiled;

impl<A: Address> Tables<A> for Compiled {
    type Known = Class;

    #[inline(always)]
    fn know(address: A) -> Option<Class> {
        compiled::class(&Chunks, compiled::find(&Chunks, address)?)
    }

    #[inline(always)]
    fn route(class: Class) -> Option<Route> {
        class.route().or_else(|| compiled::default_class::<A>(&Chunks)?.route())
    }

    #[inline(always)]
    fn remote(class: Class, scope: u32) -> Option<Remote> {
        Some(column::<A>(class, scope)?.remote())
    }

    #[inline(always)]
    fn local(class: Class, policy: u32) -> Option<u32> {
        Some(column::<A>(class, policy + POLICY_COLUMN)?.connection)
    }
}

#[inline(always)]
fn column<A: Address>(class: Class, column: u32) -> Option<compiled::Pair> {
    compiled::pair(&Chunks, &class, column)
        .or_else(|| compiled::pair(&Chunks, &compiled::default_class::<A>(&Chunks)?, column))
}

/// The memory of the compiled look-up.
struct Chunks;

impl Memory for Chunks {
    #[inline(always)]
    fn line(&self, number: u32) -> Option<&Line> {
        maps::CHUNKS.get_value(number / CHUNK_LINES, &(number % CHUNK_LINES))
    }
}
