//! Routes and selectors in the kernel: LPM tries, or the compiled look-up.

use aya::{
    Ebpf, Pod,
    maps::{LpmTrie, MapData},
};
use hub_common::{
    compiled::CHUNK_WORDS,
    maps::{Local, Remote, Route, SCOPE_BITS, Scoped},
};
use ipnet::IpNet;

use super::{
    Error,
    chunks::Chunks,
    maps::{Named, delete, put, take},
};
use crate::{
    compiled::{self, Change, Compiled, memory::Exhausted},
    config::model,
    diff::{Difference, difference},
    id_allocator::DeferredFree,
    tables::{Family, Prefix},
};

/// What changes of one family's selectors.
pub struct Selectors<A> {
    remotes: Difference<Prefix<Scoped<A>>, Remote>,
    locals: Difference<Prefix<Scoped<A>>, Local>,
}

impl<A: Ord + Copy> Selectors<A> {
    pub fn between(old: &Family<A>, new: &Family<A>) -> Self {
        Self { remotes: difference(&old.remotes, &new.remotes), locals: difference(&old.locals, &new.locals) }
    }
}

/// As the settings want it.
pub enum Lookup {
    Tries(Box<Tries>),
    Compiled { tables: Box<Compiled<Chunks>>, mebibytes: u32 },
}

/// LPM tries of both families.
pub struct Tries {
    v4: FamilyTries<[u8; 4]>,
    v6: FamilyTries<[u8; 16]>,
}

pub struct FamilyTries<A>
where
    Scoped<A>: Pod,
    A: Pod,
{
    remotes: Named<LpmTrie<MapData, Scoped<A>, Remote>>,
    locals: Named<LpmTrie<MapData, Scoped<A>, Local>>,
    routes: Named<LpmTrie<MapData, A, Route>>,
}

/// What differs by family.
pub trait Address: Ord + Pod
where
    Scoped<Self>: Pod,
{
    const FAMILY: compiled::Family;

    fn tries(tries: &mut Tries) -> &mut FamilyTries<Self>;
    /// From the highest of 128 bits on.
    fn bits(self) -> u128;
}

impl Address for [u8; 4] {
    const FAMILY: compiled::Family = compiled::Family::V4;

    fn tries(tries: &mut Tries) -> &mut FamilyTries<Self> {
        &mut tries.v4
    }

    fn bits(self) -> u128 {
        u128::from(u32::from_be_bytes(self)) << 96
    }
}

impl Address for [u8; 16] {
    const FAMILY: compiled::Family = compiled::Family::V6;

    fn tries(tries: &mut Tries) -> &mut FamilyTries<Self> {
        &mut tries.v6
    }

    fn bits(self) -> u128 {
        u128::from_be_bytes(self)
    }
}

impl Lookup {
    pub fn take(ebpf: &mut Ebpf, settings: &model::Dataplane) -> Result<Self, Error> {
        match settings.lookup {
            model::Lookup::Lpm => Ok(Self::Tries(Box::new(Tries {
                v4: FamilyTries {
                    remotes: take(ebpf, "REMOTES_V4")?,
                    locals: take(ebpf, "LOCALS_V4")?,
                    routes: take(ebpf, "ROUTES_V4")?,
                },
                v6: FamilyTries {
                    remotes: take(ebpf, "REMOTES_V6")?,
                    locals: take(ebpf, "LOCALS_V6")?,
                    routes: take(ebpf, "ROUTES_V6")?,
                },
            }))),
            model::Lookup::Compiled => {
                let mebibytes = settings.lookup_memory;
                let chunks = (mebibytes << 10).div_ceil(CHUNK_WORDS >> 8);
                let tables = Compiled::new(Chunks::take(ebpf, chunks)?, chunks);
                Ok(Self::Compiled { tables: Box::new(tables.map_err(|error| exhausted(error, mebibytes))?), mebibytes })
            }
        }
    }

    /// Writes selectors that are new or have changed: what a remote leads to before the remote.
    pub fn put<A: Address>(&mut self, loaded: &mut Family<A>, changes: &Selectors<A>) -> Result<usize, Error>
    where
        Scoped<A>: Pod,
    {
        match self {
            Self::Tries(tries) => {
                let tries = A::tries(tries);
                Ok(put(&mut tries.locals, &mut loaded.locals, &changes.locals)?
                    + put(&mut tries.remotes, &mut loaded.remotes, &changes.remotes)?)
            }
            Self::Compiled { tables, mebibytes } => {
                let locals = changes.locals.puts.iter().map(|(key, value)| local(key, Some(*value)));
                let remotes = changes.remotes.puts.iter().map(|(key, value)| remote(key, Some(*value)));
                let written = apply::<A>(tables, *mebibytes, locals)? + apply::<A>(tables, *mebibytes, remotes)?;
                loaded.locals.extend(changes.locals.puts.iter().copied());
                loaded.remotes.extend(changes.remotes.puts.iter().copied());
                Ok(written)
            }
        }
    }

    /// Deletes selectors that are gone, the other way round.
    pub fn delete<A: Address>(&mut self, loaded: &mut Family<A>, changes: &Selectors<A>) -> Result<usize, Error>
    where
        Scoped<A>: Pod,
    {
        match self {
            Self::Tries(tries) => {
                let tries = A::tries(tries);
                Ok(delete(&mut tries.remotes, &mut loaded.remotes, &changes.remotes)?
                    + delete(&mut tries.locals, &mut loaded.locals, &changes.locals)?)
            }
            Self::Compiled { tables, mebibytes } => {
                let remotes = changes.remotes.deletes.iter().map(|key| remote(key, None));
                let locals = changes.locals.deletes.iter().map(|key| local(key, None));
                let written = apply::<A>(tables, *mebibytes, remotes)? + apply::<A>(tables, *mebibytes, locals)?;
                loaded.remotes.retain(|key, _| changes.remotes.deletes.binary_search(key).is_err());
                loaded.locals.retain(|key, _| changes.locals.deletes.binary_search(key).is_err());
                Ok(written)
            }
        }
    }

    /// Writes and deletes routes. One that is to be deleted may never have been written.
    pub fn change_routes<'a>(
        &mut self,
        routes: impl Iterator<Item = &'a (IpNet, Option<Route>)>,
    ) -> Result<usize, Error> {
        match self {
            Self::Tries(tries) => {
                let mut written = 0;
                for (destination, route) in routes {
                    match destination {
                        IpNet::V4(net) => tries.v4.route(net.network().octets(), net.prefix_len(), *route)?,
                        IpNet::V6(net) => tries.v6.route(net.network().octets(), net.prefix_len(), *route)?,
                    }
                    written += 1;
                }
                Ok(written)
            }
            Self::Compiled { tables, mebibytes } => {
                let (mut v4, mut v6) = (Vec::new(), Vec::new());
                for (destination, route) in routes {
                    let change = Change::Route(*route);
                    match destination {
                        IpNet::V4(net) => v4.push(((net.network().octets().bits(), net.prefix_len()), change)),
                        IpNet::V6(net) => v6.push(((net.network().octets().bits(), net.prefix_len()), change)),
                    }
                }
                Ok(apply::<[u8; 4]>(tables, *mebibytes, v4.into_iter())?
                    + apply::<[u8; 16]>(tables, *mebibytes, v6.into_iter())?)
            }
        }
    }
}

impl<A: Ord + Pod> FamilyTries<A>
where
    Scoped<A>: Pod,
{
    fn route(&mut self, data: A, length: u8, route: Option<Route>) -> Result<(), Error> {
        match route {
            Some(route) => self.routes.put(&Prefix { data, length }, &route),
            None => self.routes.delete(&Prefix { data, length }),
        }
    }
}

impl DeferredFree for Lookup {
    fn begin_release(&mut self) -> bool {
        match self {
            Self::Tries(_) => false,
            Self::Compiled { tables, .. } => tables.begin_release(),
        }
    }

    fn release(&mut self) {
        if let Self::Compiled { tables, .. } = self {
            tables.release();
        }
    }
}

type Changed = ((u128, u8), Change);

fn apply<A: Address>(
    tables: &mut Compiled<Chunks>,
    mebibytes: u32,
    changes: impl Iterator<Item = Changed>,
) -> Result<usize, Error>
where
    Scoped<A>: Pod,
{
    let changes: Vec<Changed> = changes.collect();
    if !changes.is_empty() {
        tables.apply(A::FAMILY, &changes).map_err(|error| exhausted(error, mebibytes))?;
    }
    Ok(changes.len())
}

fn remote<A: Address>(key: &Prefix<Scoped<A>>, remote: Option<Remote>) -> Changed
where
    Scoped<A>: Pod,
{
    (prefix(key), Change::Remote { scope: u32::from_be_bytes(key.data.scope), remote })
}

fn local<A: Address>(key: &Prefix<Scoped<A>>, local: Option<Local>) -> Changed
where
    Scoped<A>: Pod,
{
    (prefix(key), Change::Local { policy: u32::from_be_bytes(key.data.scope), local })
}

fn prefix<A: Address>(key: &Prefix<Scoped<A>>) -> (u128, u8)
where
    Scoped<A>: Pod,
{
    (key.data.address.bits(), key.length - SCOPE_BITS as u8)
}

fn exhausted(error: Exhausted<Error>, mebibytes: u32) -> Error {
    match error {
        Exhausted::ProtoPorts => Error::LookupMemory { mebibytes },
        Exhausted::Backing(error) => error,
    }
}
