//! Numbers of segments, and which next hops each may use.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hub_common::maps::{SEGMENTS, VPC_SEGMENT};

use super::id_allocator::{DeferredFree, Full, IdAllocator};
use crate::config::{
    Config,
    segments::{self, Segment},
};

/// Numbers of segments that have connections.
///
/// If a connection moves, or segments reach others than before, each segment with other connections than before gets a
/// new number. Until all tables are written, some senders have old numbers, and next hops of removed routes still admit
/// what they admitted before. So old senders are checked against the old configuration, and new ones against the new
/// one. With the same number for both, two connections that move at once could reach each other although neither
/// configuration allows it.
#[derive(Debug, Clone)]
pub struct SegmentIds {
    /// By name, and how often the segment got a new number.
    numbers: IdAllocator<Key>,
    renumbered: HashMap<String, u64>,
    /// As last compiled.
    reach: Option<Reach>,
    /// The segment of each connection, as last compiled.
    members: HashMap<String, String>,
}

type Key = (String, u64);

/// What decides which segments reach each other.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reach {
    spoke_to_spoke: bool,
    segments: BTreeMap<String, Segment>,
}

impl Default for SegmentIds {
    fn default() -> Self {
        Self {
            numbers: IdAllocator::new("segments that change at once", VPC_SEGMENT + 1..SEGMENTS),
            renumbered: HashMap::new(),
            reach: None,
            members: HashMap::new(),
        }
    }
}

impl SegmentIds {
    /// Begins a compilation of all connections.
    pub fn begin(&mut self, config: &Config) {
        self.numbers.begin();
        let reach = Reach { spoke_to_spoke: config.gateway.spoke_to_spoke, segments: config.segments.clone() };
        let segment_of = |name: &String| config.connections.get(name).map(|connection| &connection.segment);
        let moves = self.members.iter().any(|(name, old)| segment_of(name).is_some_and(|segment| segment != old));
        if moves || self.reach.as_ref().is_some_and(|old| *old != reach) {
            for segment in self.changed(config) {
                *self.renumbered.entry(segment).or_default() += 1;
            }
        }
        self.reach = Some(reach);
        let connections = config.connections.iter();
        self.members = connections.map(|(name, connection)| (name.clone(), connection.segment.clone())).collect();
    }

    /// The segments with other connections than before.
    fn changed(&self, config: &Config) -> BTreeSet<String> {
        let names: BTreeSet<&String> = self.members.keys().chain(config.connections.keys()).collect();
        let segments = names
            .into_iter()
            .map(|name| (self.members.get(name), config.connections.get(name).map(|connection| &connection.segment)));
        let moved = segments.filter(|(old, new)| old != new);
        moved.flat_map(|(old, new)| old.into_iter().chain(new)).cloned().collect()
    }

    /// The number of a segment.
    pub fn take(&mut self, segment: &str) -> Result<u32, Full> {
        let key = self.key(segment);
        self.numbers.take(key)
    }

    fn key(&self, segment: &str) -> Key {
        (segment.to_owned(), self.renumbered.get(segment).copied().unwrap_or_default())
    }

    /// All selectors are written.
    pub fn end(&mut self) {
        let ended = self.numbers.end();
        for (segment, _) in ended {
            if self.numbers.get(&self.key(&segment)).is_none() {
                self.renumbered.remove(&segment);
            }
        }
    }

    /// The numbers that only selectors of an earlier compilation have, a bit each. They may not be replaced yet.
    pub fn retiring(&self) -> u64 {
        self.numbers.unused().into_iter().fold(0, |mask, number| mask | 1 << number)
    }

    /// The segments that reach this one or the VPC side, as [`hub_common::maps::NextHop::segments`].
    pub fn mask(&self, config: &Config, segment: &str) -> u64 {
        let sites = config.segments.keys().map(String::as_str).chain([segments::DEFAULT]);
        let sites = sites.filter_map(|name| Some((name, self.numbers.get(&self.key(name))?)));
        let all = sites.chain([(segments::VPC, VPC_SEGMENT)]);
        all.filter(|(name, _)| config.reaches(name, segment)).fold(0, |mask, (_, number)| mask | 1 << number)
    }
}

impl DeferredFree for SegmentIds {
    fn begin_release(&mut self) -> bool {
        self.numbers.begin_release()
    }

    fn release(&mut self) {
        self.numbers.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    const SEGMENTS: &str = "[segment.a]\nreaches = [\"vpc\", \"b\"]\n[segment.b]\nreaches = [\"a\", \"b\", \"default\"]\n\
                            [segment.unused]\nreaches = [\"default\", \"a\"]\n";

    /// Connections in these segments, in this order.
    fn config(segments: &str, connections: &[&str]) -> Config {
        let connections = connections.iter().zip(0..).map(|(segment, number)| {
            format!(
                "[connection.c{number}]\ncustomer_gateway = \"site\"\ninterface = \"tun{number}\"\nsegment = \"{segment}\"\n\
                 local_cidrs = [\"0.0.0.0/0\"]\nremote_cidrs = [\"10.{number}.0.0/16\"]\n"
            )
        });
        let gateway = "[gateway]\nname = \"hub\"\n[customer_gateway.site]\naddress = \"198.51.100.1\"\n";
        parse(&format!("{gateway}{segments}{}", connections.collect::<String>())).expect("valid").0
    }

    fn compile(ids: &mut SegmentIds, config: &Config) -> Vec<u32> {
        ids.begin(config);
        config.connections.values().map(|connection| ids.take(&connection.segment).expect("room")).collect()
    }

    #[test]
    fn mask_has_the_segments_that_reach_it_and_have_connections() {
        let (config, mut ids) = (config(SEGMENTS, &["b", "default", "a"]), SegmentIds::default());
        assert_eq!(compile(&mut ids, &config), [1, 2, 3]);
        let masks = ["vpc", "default", "a", "b", "unused"].map(|segment| ids.mask(&config, segment));
        assert_eq!(masks, [0b1101, 0b111, 0b11, 0b1110, 0b100]);
    }

    #[test]
    fn segment_with_other_connections_is_renumbered_while_segments_change() {
        let mut ids = SegmentIds::default();
        assert_eq!(compile(&mut ids, &config(SEGMENTS, &["a", "b", "b"])), [1, 2, 2]);
        ids.end();
        // A new connection alone changes no number.
        assert_eq!(compile(&mut ids, &config(SEGMENTS, &["a", "b", "b", "a"])), [1, 2, 2, 1]);
        assert_eq!(ids.retiring(), 0);
        ids.end();
        // The write of these selectors fails: they may have any of the numbers.
        assert_eq!(compile(&mut ids, &config(SEGMENTS, &["a", "a", "b", "a"])), [3, 3, 4, 3]);
        assert_eq!(ids.retiring(), 0b110);
        assert_eq!(compile(&mut ids, &config(SEGMENTS, &["a", "b", "b", "a"])), [5, 6, 6, 5]);
        assert_eq!(ids.retiring(), 0b1_1110);
        ids.end();
        assert_eq!(ids.retiring(), 0);
        // As a new connection, while segments reach others than before.
        let other = SEGMENTS.replace("\"default\", \"a\"", "\"a\"");
        assert_eq!(compile(&mut ids, &config(&other, &["a", "b", "b", "a", "b"])), [5, 7, 7, 5, 7]);
        ids.end();
        assert!(ids.begin_release());
        ids.release();
        assert_eq!(compile(&mut ids, &config(&other, &["default", "b", "b", "a", "b"])), [1, 7, 7, 2, 7]);
    }
}
