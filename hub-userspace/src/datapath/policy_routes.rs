//! Policy routes in the program's two maps: an array of slots, and a hash map for pairs whose slot is taken.

use std::collections::{BTreeMap, BTreeSet};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError},
};
use hub_common::maps::{PolicyPair, PolicySlot, Route};

use super::{
    DatapathError,
    named_map::{Named, Writer, take},
};

/// The maps, and what is in them.
pub struct PolicyRoutes<M = Maps> {
    maps: M,
    /// By index; the others are vacant.
    slots: BTreeMap<u32, PolicySlot>,
    /// Pairs in the hash map.
    more: BTreeSet<PolicyPair>,
}

/// The program's maps.
pub struct Maps {
    slots: Array<MapData, PolicySlot>,
    overflow: HashMap<MapData, PolicyPair, Route>,
}

/// Single writes.
pub trait Memory {
    fn set(&mut self, index: u32, slot: PolicySlot) -> Result<(), MapError>;
    fn insert(&mut self, pair: PolicyPair, route: Route) -> Result<(), MapError>;
    fn remove(&mut self, pair: PolicyPair) -> Result<(), MapError>;
}

impl Memory for Maps {
    fn set(&mut self, index: u32, slot: PolicySlot) -> Result<(), MapError> {
        self.slots.set(index, slot, 0)
    }

    fn insert(&mut self, pair: PolicyPair, route: Route) -> Result<(), MapError> {
        self.overflow.insert(pair, route, 0)
    }

    fn remove(&mut self, pair: PolicyPair) -> Result<(), MapError> {
        self.overflow.remove(&pair)
    }
}

impl PolicyRoutes {
    pub fn take(ebpf: &mut Ebpf) -> Result<Named<Self>, DatapathError> {
        let slots = take(ebpf, "POLICY_ROUTES")?;
        let Named { name, capacity, map: overflow } = take(ebpf, "POLICY_OVERFLOW")?;
        Ok(Named { name, capacity, map: Self::new(Maps { slots: slots.map, overflow }) })
    }
}

impl<M: Memory> PolicyRoutes<M> {
    fn new(maps: M) -> Self {
        Self { maps, slots: BTreeMap::new(), more: BTreeSet::new() }
    }

    fn slot(&self, pair: PolicyPair) -> PolicySlot {
        self.slots.get(&pair.slot()).copied().unwrap_or(PolicySlot::VACANT)
    }

    fn set(&mut self, index: u32, slot: PolicySlot) -> Result<(), MapError> {
        self.maps.set(index, slot)?;
        match slot == PolicySlot::VACANT {
            true => self.slots.remove(&index),
            false => self.slots.insert(index, slot),
        };
        Ok(())
    }
}

/// The kernel does not replace a slot as one. No packet is affected: the agent writes pairs of a generation that no packet
/// uses, and a pair of another generation is not equal to either half.
impl<M: Memory> Writer<PolicyPair, Route> for PolicyRoutes<M> {
    fn put(&mut self, pair: &PolicyPair, route: &Route) -> Result<(), MapError> {
        let (index, slot) = (pair.slot(), self.slot(*pair));
        if self.more.contains(pair) {
            return self.maps.insert(*pair, *route);
        }
        let is_own = slot.pair == *pair;
        if is_own && slot.route == *route {
            return Ok(());
        }
        if is_own {
            // Rather no policy route for a moment than half of one.
            self.delete(pair)?;
        }
        if is_own || slot.pair == PolicySlot::VACANT.pair {
            return self.set(index, PolicySlot { pair: *pair, route: *route, ..slot });
        }
        self.maps.insert(*pair, *route)?;
        self.more.insert(*pair);
        self.set(index, PolicySlot { more: slot.more + 1, ..slot })
    }

    fn delete(&mut self, pair: &PolicyPair) -> Result<(), MapError> {
        let (index, slot) = (pair.slot(), self.slot(*pair));
        if slot.pair == *pair {
            return self.set(index, PolicySlot { more: slot.more, ..PolicySlot::VACANT });
        }
        if self.more.contains(pair) {
            self.maps.remove(*pair)?;
            self.more.remove(pair);
            return self.set(index, PolicySlot { more: slot.more - 1, ..slot });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

    use super::*;

    #[derive(Default)]
    struct Fake {
        slots: BTreeMap<u32, PolicySlot>,
        more: BTreeMap<PolicyPair, Route>,
    }

    impl Memory for Fake {
        fn set(&mut self, index: u32, slot: PolicySlot) -> Result<(), MapError> {
            self.slots.insert(index, slot);
            Ok(())
        }

        fn insert(&mut self, pair: PolicyPair, route: Route) -> Result<(), MapError> {
            self.more.insert(pair, route);
            Ok(())
        }

        fn remove(&mut self, pair: PolicyPair) -> Result<(), MapError> {
            self.more.remove(&pair).map(drop).ok_or(MapError::KeyNotFound)
        }
    }

    impl Fake {
        /// As in the program.
        fn find(&self, pair: PolicyPair) -> Option<Route> {
            let slot = self.slots.get(&pair.slot()).copied().unwrap_or(PolicySlot::VACANT);
            match slot.pair == pair {
                true => Some(slot.route),
                false if slot.more == 0 => None,
                false => self.more.get(&pair).copied(),
            }
        }
    }

    /// Pairs of which many share a slot.
    fn pairs() -> Vec<PolicyPair> {
        let all = (1..400_u32).flat_map(|source| (0..400).map(move |destination| PolicyPair { source, destination }));
        let (few, rest): (Vec<_>, Vec<_>) = all.partition(|pair| pair.slot() < 40);
        few.into_iter().chain(rest.into_iter().step_by(300)).collect()
    }

    #[test]
    fn look_up_equals_a_map_after_any_changes() {
        let (pairs, mut random) = (pairs(), SmallRng::seed_from_u64(3));
        let mut routes = PolicyRoutes::new(Fake::default());
        let mut model = BTreeMap::new();
        for step in 0..20_000_u32 {
            let pair = pairs[random.random_range(0..pairs.len())];
            // Now fuller, now emptier.
            if random.random_range(0..100) < 30 + step / 2000 % 2 * 40 {
                let route = Route { first_bucket: step, bucket_mask: 0, flags: 0 };
                routes.put(&pair, &route).unwrap();
                model.insert(pair, route);
            } else {
                routes.delete(&pair).unwrap();
                model.remove(&pair);
            }
            assert_eq!(routes.maps.find(pair), model.get(&pair).copied(), "{pair:?}");
            if step % 500 == 0 {
                for pair in &pairs {
                    assert_eq!(routes.maps.find(*pair), model.get(pair).copied());
                }
            }
        }
        for pair in &pairs {
            routes.delete(pair).unwrap();
        }
        assert!(routes.maps.more.is_empty() && routes.more.is_empty() && routes.slots.is_empty());
        assert!(routes.maps.slots.values().all(|slot| *slot == PolicySlot::VACANT));
    }

    #[test]
    fn pairs_of_a_thousand_policy_routes_hardly_ever_share_a_slot() {
        for generation in 0..4 {
            let first = (generation << 24) + 1;
            // One source and a thousand destinations; the reverse; 32 of each.
            for (sources, destinations) in [(1, 1000), (1000, 1), (32, 32)] {
                let mut slots = BTreeSet::new();
                for source in 0..sources {
                    let of_source = |destination| PolicyPair {
                        source: first + destinations + source,
                        destination: first + destination,
                    };
                    slots.extend((0..destinations).map(|destination| of_source(destination).slot()));
                }
                assert!(slots.len() >= 970, "{generation}: {sources} by {destinations}: {}", slots.len());
            }
        }
    }
}
