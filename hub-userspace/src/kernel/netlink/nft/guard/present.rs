//! Reads the existing table from the kernel.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::super::{
    GuardError,
    chains::{CHAINS, Chain, counter},
    output,
    requests::NftRequests,
    sets::{self, Element, SETS, Set},
    table::{NftTable, Ownership},
    wire::{Messages, NftMessage, attribute, big32, text},
};

pub const OBJECT_NAME: u16 = 2;
pub const OBJECT_TYPE: u16 = 3;
pub const COUNTER_TYPE: u32 = 1;
pub const SET_NAME: u16 = 2;

/// The existing objects under our table's name.
pub struct Present {
    pub table: Option<NftTable>,
    pub chains: Vec<Vec<u8>>,
    pub sets: Vec<Vec<u8>>,
    pub objects: Vec<Vec<u8>>,
    /// Elements of static sets that can stay.
    pub elements: BTreeMap<&'static str, PresentElements>,
    /// Dynamic elements, as the kernel lists them.
    pub dynamic: BTreeMap<&'static str, Vec<Vec<u8>>>,
}

#[derive(Default)]
pub struct PresentElements {
    pub plain: BTreeSet<Element>,
    /// Elements with attributes that we never write.
    pub odd: BTreeSet<Element>,
}

impl Present {
    pub fn read(requests: &mut NftRequests) -> Result<Self, GuardError> {
        const WHAT: &str = "reading the nftables table";
        let table = requests.table()?;
        let sets = requests.list(WHAT, NftMessage::GetSet, |_| ())?;
        let mut elements = BTreeMap::<_, PresentElements>::new();
        for set in SETS.iter().filter(|ours| !ours.is_dynamic() && sets.iter().any(|shown| are_alike(ours, shown))) {
            let PresentElements { plain, odd } = elements.entry(set.name).or_default();
            for answer in requests.list(WHAT, NftMessage::GetElement, |request| request.string(SET_NAME, set.name))? {
                for (element, is_plain) in sets::read(&answer) {
                    if is_plain { &mut *plain } else { &mut *odd }.insert(element);
                }
            }
        }
        Ok(Self {
            table,
            chains: requests.list(WHAT, NftMessage::GetChain, |_| ())?,
            sets,
            objects: requests.list(WHAT, NftMessage::GetObject, |_| ())?,
            elements,
            dynamic: BTreeMap::new(),
        })
    }

    /// Reads the dynamic elements for a table that replaces this one.
    pub fn read_dynamic(&mut self, requests: &mut NftRequests) -> Result<(), GuardError> {
        const WHAT: &str = "reading the sets of the nftables table";
        for set in SETS.iter().filter(|set| set.is_dynamic() && self.sets.iter().any(|shown| are_alike(set, shown))) {
            let answers = requests.list(WHAT, NftMessage::GetElement, |request| request.string(SET_NAME, set.name))?;
            let elements = answers.iter().flat_map(|answer| sets::raw(answer)).map(<[u8]>::to_vec);
            self.dynamic.insert(set.name, elements.collect());
        }
        Ok(())
    }

    pub fn chain(&self, chain: &Chain) -> Option<&[u8]> {
        self.chains.iter().map(Vec::as_slice).find(|shown| Chain::name_of(shown) == chain.name)
    }

    /// Whether the table can get this owner, and all of our existing chains have the right hook: neither can be changed
    /// later.
    pub fn can_be_kept(&self, ownership: Ownership) -> bool {
        let mut of_sites = self.chains.iter().filter(|shown| output::is_of_site(Chain::name_of(shown)));
        self.table.is_none_or(|table| table.can_become(ownership))
            && CHAINS.iter().all(|chain| self.chain(chain).is_none_or(|shown| chain.is_like(shown)))
            && !of_sites.any(|shown| Chain::is_base(shown))
    }

    /// Removes everything except chains and the objects that can stay.
    pub fn clear(&self, batch: &mut Messages) {
        batch.message(NftMessage::DeleteRule, 0, |_| ());
        for set in &self.sets {
            if !can_stay(set) {
                Set::delete(name(set, SET_NAME), batch);
            }
        }
        for object in &self.objects {
            if !is_our_counter(object) {
                batch.message(NftMessage::DeleteObject, 0, |message| {
                    message.string(OBJECT_NAME, name(object, OBJECT_NAME));
                    message.u32(OBJECT_TYPE, attribute(object, OBJECT_TYPE).and_then(big32).unwrap_or_default());
                });
            }
        }
    }

    /// Removes other chains than these and the table's own. They must not be in use.
    pub fn remove_chains(&self, batch: &mut Messages, of_sites: &HashSet<String>) {
        let ours: BTreeSet<_> = CHAINS.iter().map(|chain| chain.name).collect();
        for chain in self.chains.iter().map(|chain| Chain::name_of(chain)) {
            if !ours.contains(chain) && !of_sites.contains(chain) {
                Chain::delete(chain, batch);
            }
        }
    }
}

pub fn name(attributes: &[u8], kind: u16) -> &str {
    attribute(attributes, kind).map(text).unwrap_or_default()
}

/// The next rules can reuse the set with its dynamic elements.
fn can_stay(shown: &[u8]) -> bool {
    SETS.iter().any(|ours| are_alike(ours, shown))
}

pub fn are_alike(ours: &Set, shown: &[u8]) -> bool {
    ours.name == name(shown, SET_NAME) && ours.is_like(shown)
}

pub fn is_our_counter(object: &[u8]) -> bool {
    attribute(object, OBJECT_TYPE).and_then(big32) == Some(COUNTER_TYPE)
        && counter::ALL.contains(&name(object, OBJECT_NAME))
}
