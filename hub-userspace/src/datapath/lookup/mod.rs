//! Route and selector look-up in the kernel: LPM tries, or the class trie.

mod chunks;
pub mod class_trie;

use aya::{
    Ebpf, Pod,
    maps::{LpmTrie, MapData},
};
use hub_common::{
    class_trie::CHUNK_WORDS,
    maps::{Local, Remote, Route, SCOPE_BITS, Scoped},
};
use ipnet::IpNet;

use self::{
    chunks::Chunks,
    class_trie::{Change, ClassTrie, memory::Exhausted},
};
use super::{
    DatapathError,
    named_map::{Named, Written, take},
};
use crate::{
    config::model,
    fib::{
        id_allocator::DeferredFree,
        tables::{MapChanges, Prefix},
    },
};

/// The look-up selected by the settings.
pub enum Lookup {
    Tries(Box<Tries>),
    Compiled { tables: Box<ClassTrie<Chunks>>, mebibytes: u32 },
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

/// The differences between the families.
pub trait Address: Ord + Pod
where
    Scoped<Self>: Pod,
{
    const FAMILY: class_trie::TrieFamily;

    fn tries(tries: &mut Tries) -> &mut FamilyTries<Self>;
    /// Left-aligned in 128 bits.
    fn bits(self) -> u128;
}

impl Address for [u8; 4] {
    const FAMILY: class_trie::TrieFamily = class_trie::TrieFamily::V4;

    fn tries(tries: &mut Tries) -> &mut FamilyTries<Self> {
        &mut tries.v4
    }

    fn bits(self) -> u128 {
        u128::from(u32::from_be_bytes(self)) << 96
    }
}

impl Address for [u8; 16] {
    const FAMILY: class_trie::TrieFamily = class_trie::TrieFamily::V6;

    fn tries(tries: &mut Tries) -> &mut FamilyTries<Self> {
        &mut tries.v6
    }

    fn bits(self) -> u128 {
        u128::from_be_bytes(self)
    }
}

impl Lookup {
    pub fn take(ebpf: &mut Ebpf, settings: &model::DataplaneSettings) -> Result<Self, DatapathError> {
        match settings.lookup {
            model::LookupKind::Lpm => Ok(Self::Tries(Box::new(Tries {
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
            model::LookupKind::Compiled => {
                let mebibytes = settings.lookup_memory;
                let chunks = (mebibytes << 10).div_ceil(CHUNK_WORDS >> 8);
                let tables = ClassTrie::new(Chunks::take(ebpf, chunks)?, chunks);
                Ok(Self::Compiled { tables: Box::new(tables.map_err(|error| exhausted(error, mebibytes))?), mebibytes })
            }
        }
    }

    pub fn change_locals<A: Address>(&mut self, changes: &MapChanges<Prefix<Scoped<A>>, Local>) -> Written
    where
        Scoped<A>: Pod,
    {
        match self {
            Self::Tries(tries) => A::tries(tries).locals.change(changes),
            Self::Compiled { tables, mebibytes } => {
                apply::<A>(tables, *mebibytes, changes.iter().map(|(key, value)| local(key, *value)))
            }
        }
    }

    pub fn change_remotes<A: Address>(&mut self, changes: &MapChanges<Prefix<Scoped<A>>, Remote>) -> Written
    where
        Scoped<A>: Pod,
    {
        match self {
            Self::Tries(tries) => A::tries(tries).remotes.change(changes),
            Self::Compiled { tables, mebibytes } => {
                apply::<A>(tables, *mebibytes, changes.iter().map(|(key, value)| remote(key, *value)))
            }
        }
    }

    /// A route to delete may never have been written.
    pub fn change_routes(&mut self, changes: &MapChanges<IpNet, Route>) -> Written {
        match self {
            Self::Tries(tries) => {
                for (done, (destination, route)) in changes.iter().enumerate() {
                    let result = match destination {
                        IpNet::V4(net) => tries.v4.route(net.network().octets(), net.prefix_len(), *route),
                        IpNet::V6(net) => tries.v6.route(net.network().octets(), net.prefix_len(), *route),
                    };
                    if result.is_err() {
                        return (done, result);
                    }
                }
                (changes.len(), Ok(()))
            }
            Self::Compiled { tables, mebibytes } => {
                let (mut v4, mut v6) = (Vec::new(), Vec::new());
                for (destination, route) in changes {
                    let change = Change::Route(*route);
                    match destination {
                        IpNet::V4(net) => v4.push(((net.network().octets().bits(), net.prefix_len()), change)),
                        IpNet::V6(net) => v6.push(((net.network().octets().bits(), net.prefix_len()), change)),
                    }
                }
                let (written, result) = apply::<[u8; 4]>(tables, *mebibytes, v4.into_iter());
                if result.is_err() {
                    return (written, result);
                }
                let (more, result) = apply::<[u8; 16]>(tables, *mebibytes, v6.into_iter());
                (written + more, result)
            }
        }
    }
}

impl<A: Ord + Pod> FamilyTries<A>
where
    Scoped<A>: Pod,
{
    fn route(&mut self, data: A, length: u8, route: Option<Route>) -> Result<(), DatapathError> {
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

type TrieChange = ((u128, u8), Change);

/// Applies all changes at once. On an error none counts as made: the caller repeats them all.
fn apply<A: Address>(
    tables: &mut ClassTrie<Chunks>,
    mebibytes: u32,
    changes: impl Iterator<Item = TrieChange>,
) -> Written
where
    Scoped<A>: Pod,
{
    let changes: Vec<TrieChange> = changes.collect();
    if changes.is_empty() {
        return (0, Ok(()));
    }
    match tables.apply(A::FAMILY, &changes) {
        Ok(()) => (changes.len(), Ok(())),
        Err(error) => (0, Err(exhausted(error, mebibytes))),
    }
}

fn remote<A: Address>(key: &Prefix<Scoped<A>>, remote: Option<Remote>) -> TrieChange
where
    Scoped<A>: Pod,
{
    (prefix(key), Change::Remote { scope: u32::from_be_bytes(key.data.scope), remote })
}

fn local<A: Address>(key: &Prefix<Scoped<A>>, local: Option<Local>) -> TrieChange
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

fn exhausted(error: Exhausted<DatapathError>, mebibytes: u32) -> DatapathError {
    match error {
        Exhausted::Capacity => DatapathError::LookupMemory { mebibytes },
        Exhausted::Backing(error) => error,
    }
}
