//! Numbers of segments, and which next hops each may use.

use std::collections::{BTreeSet, HashMap};

use hub_common::maps::{DEFAULT_SEGMENT, SEGMENTS, VPC_SEGMENT};

use super::id_allocator::{Full, IdAllocator};
use crate::config::{Config, segments};

/// Numbers of segments that have connections.
///
/// A connection that moves to another segment has its old number in some selectors, and the new one in others, until
/// all are written. Next hops then admit only the senders that both configurations admit ([`Self::is_moving`]):
/// otherwise two connections that move at once could reach each other although neither configuration allows it.
#[derive(Debug, Clone)]
pub struct SegmentIds {
    /// Of the segments that the configuration defines.
    pub named: IdAllocator<String>,
    /// The number of each connection, by `COUNTERS` slot.
    current: HashMap<u32, u32>,
    /// The numbers that the written selectors of a connection may have, the current one included.
    written: HashMap<u32, BTreeSet<u32>>,
}

impl Default for SegmentIds {
    fn default() -> Self {
        Self {
            named: IdAllocator::new("segments that change at once", DEFAULT_SEGMENT + 1..SEGMENTS),
            current: HashMap::new(),
            written: HashMap::new(),
        }
    }
}

impl SegmentIds {
    pub fn begin(&mut self) {
        self.named.begin();
        self.current.clear();
    }

    /// The number of a connection's segment.
    pub fn take(&mut self, slot: u32, segment: &str) -> Result<u32, Full> {
        let number = match segment {
            segments::DEFAULT => DEFAULT_SEGMENT,
            named => self.named.take(named.to_owned())?,
        };
        self.current.insert(slot, number);
        self.written.entry(slot).or_default().insert(number);
        Ok(number)
    }

    /// Whether the written selectors of a connection may have another number than the current one.
    pub fn is_moving(&self) -> bool {
        self.written.values().any(|numbers| numbers.len() > 1)
    }

    /// All selectors are written.
    pub fn end(&mut self) {
        self.named.end();
        self.written = self.current.iter().map(|(slot, number)| (*slot, BTreeSet::from([*number]))).collect();
    }

    /// The segments that reach this one or the VPC side, as [`hub_common::maps::NextHop::segments`].
    pub fn mask(&self, config: &Config, segment: &str) -> u64 {
        let named = config.segments.keys().filter_map(|name| Some((name.as_str(), self.named.get(name)?)));
        let all = [(segments::VPC, VPC_SEGMENT), (segments::DEFAULT, DEFAULT_SEGMENT)].into_iter().chain(named);
        all.filter(|(name, _)| config.reaches(name, segment)).fold(0, |mask, (_, number)| mask | 1 << number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::parse, fib::id_allocator::DeferredFree as _};

    #[test]
    fn mask_has_the_segments_that_reach_it_and_have_connections() {
        let text = "[gateway]\nname = \"hub\"\n[segment.a]\nreaches = [\"vpc\", \"b\"]\n[segment.b]\nreaches = [\"a\", \"b\", \"default\"]\n\
                    [segment.unused]\nreaches = [\"default\", \"a\"]\n";
        let config = parse(text).expect("valid").0;
        let mut ids = SegmentIds::default();
        ids.begin();
        assert_eq!((ids.take(2, "b"), ids.take(3, "default"), ids.take(4, "a")), (Ok(2), Ok(1), Ok(3)));
        let masks = ["vpc", "default", "a", "b", "unused"].map(|segment| ids.mask(&config, segment));
        assert_eq!(masks, [0b1011, 0b111, 0b101, 0b1110, 0b10]);
    }

    #[test]
    fn connection_moves_until_all_selectors_are_written() {
        let mut ids = SegmentIds::default();
        let mut numbers = |segments: &[&str]| {
            ids.begin();
            let taken = segments.iter().zip(2..).map(|(segment, slot)| ids.take(slot, segment).expect("room"));
            (taken.collect::<Vec<_>>(), ids.is_moving())
        };
        assert_eq!(numbers(&["a", "b"]), (vec![2, 3], false));
        // Not written: nothing is known of what the selectors have.
        assert_eq!(numbers(&["b", "b", "c"]), (vec![3, 3, 4], true));
        assert_eq!(numbers(&["a", "b"]), (vec![2, 3], true));
        ids.end();
        assert!(!ids.is_moving());
        // The number of a segment without connections is not reused before the grace period.
        ids.begin();
        assert_eq!((ids.take(3, "b"), ids.is_moving()), (Ok(3), false));
        ids.end();
        assert_eq!(ids.take(3, "d"), Ok(5));
        assert!(ids.named.begin_release());
        ids.named.release();
        assert_eq!(ids.take(3, "e"), Ok(2));
    }
}
