//! Detects overlapping prefixes in large sets.
//!
//! One sort and one pass. For each prefix, only the earliest container and the earliest of another owner are tracked,
//! likewise for contents. The cost therefore does not depend on how deeply prefixes are nested.

use ipnet::IpNet;

/// A prefix to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub prefix: IpNet,
    /// Claims of one owner do not conflict.
    pub owner: usize,
    /// Byte offset in the file: the later claim conflicts with the earlier one.
    pub at: usize,
}

/// How a claim conflicts with an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    EqualOrInside,
    Contains,
}

/// `claim` and `earlier` are indices into the claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Conflict {
    pub claim: usize,
    pub earlier: usize,
    pub relation: Relation,
}

/// For each claim at most one conflict, with the earliest claim that it overlaps. A containing claim takes precedence
/// over a contained one. In the file's order.
pub(super) fn conflicts(claims: &[Claim]) -> Vec<Conflict> {
    let mut sorted: Vec<usize> = (0..claims.len()).collect();
    // Containers sort before their contents, equal prefixes together.
    sorted.sort_by_key(|&index| (claims[index].prefix, claims[index].at));
    let mut found = Vec::new();
    let mut open: Vec<Level> = Vec::new();
    for group in sorted.chunk_by(|&a, &b| claims[a].prefix == claims[b].prefix) {
        let prefix = claims[group[0]].prefix;
        while open.last().is_some_and(|level| !level.prefix.contains(&prefix)) {
            close(&mut open, claims, &mut found);
        }
        let mut containers = open.last().map_or_else(Earliest::default, |level| level.containers);
        let mut all = Earliest::default();
        for &index in group {
            containers.add(claims, index);
            all.add(claims, index);
        }
        let mut undecided = Vec::new();
        for &index in group {
            match containers.before(claims, index) {
                Some(earlier) => found.push(Conflict { claim: index, earlier, relation: Relation::EqualOrInside }),
                None => undecided.push(index),
            }
        }
        open.push(Level { prefix, containers, contents: Earliest::default(), all, undecided });
    }
    while !open.is_empty() {
        close(&mut open, claims, &mut found);
    }
    found.sort_by_key(|conflict| claims[conflict.claim].at);
    found
}

/// A prefix on the path from the widest container to the current prefix.
struct Level {
    prefix: IpNet,
    /// Claims for this prefix and its containers.
    containers: Earliest,
    /// Claims for prefixes within this one, as far as processed.
    contents: Earliest,
    /// Claims for this prefix.
    all: Earliest,
    /// Claims for this prefix that no earlier claim contains.
    undecided: Vec<usize>,
}

/// Checks the innermost level against its contents, and passes them to the enclosing level.
fn close(open: &mut Vec<Level>, claims: &[Claim], found: &mut Vec<Conflict>) {
    let Some(level) = open.pop() else { return };
    for index in level.undecided {
        if let Some(earlier) = level.contents.before(claims, index) {
            found.push(Conflict { claim: index, earlier, relation: Relation::Contains });
        }
    }
    if let Some(around) = open.last_mut() {
        for index in level.contents.indices().chain(level.all.indices()) {
            around.contents.add(claims, index);
        }
    }
}

/// The earliest of a set of claims, and the earliest with a different owner. That is enough to decide for any claim
/// whether an earlier one has another owner.
#[derive(Debug, Clone, Copy, Default)]
struct Earliest {
    first: Option<usize>,
    of_another: Option<usize>,
}

impl Earliest {
    fn add(&mut self, claims: &[Claim], index: usize) {
        let is_before = |other: Option<usize>| other.is_none_or(|other| claims[index].at < claims[other].at);
        match self.first {
            Some(first) if claims[first].owner == claims[index].owner => {
                if is_before(self.first) {
                    self.first = Some(index);
                }
            }
            Some(_) if is_before(self.first) => {
                self.of_another = self.first;
                self.first = Some(index);
            }
            Some(_) if is_before(self.of_another) => self.of_another = Some(index),
            Some(_) => {}
            None => self.first = Some(index),
        }
    }

    /// The earliest claim with another owner than that of `index`, if it precedes `index`.
    fn before(&self, claims: &[Claim], index: usize) -> Option<usize> {
        let earliest = self.indices().find(|&other| claims[other].owner != claims[index].owner)?;
        (claims[earliest].at < claims[index].at).then_some(earliest)
    }

    fn indices(&self) -> impl Iterator<Item = usize> + use<> {
        self.first.into_iter().chain(self.of_another)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(texts: &[(&str, usize)]) -> Vec<Claim> {
        let claim =
            |(at, &(text, owner)): (usize, &(&str, usize))| Claim { prefix: text.parse().expect(text), owner, at };
        texts.iter().enumerate().map(claim).collect()
    }

    /// The definition, by pairwise comparison.
    fn by_definition(claims: &[Claim]) -> Vec<(usize, Relation)> {
        let mut found = Vec::new();
        for (index, claim) in claims.iter().enumerate() {
            let others = || claims[..index].iter().filter(|other| other.owner != claim.owner);
            if others().any(|other| other.prefix.contains(&claim.prefix)) {
                found.push((index, Relation::EqualOrInside));
            } else if others().any(|other| claim.prefix.contains(&other.prefix)) {
                found.push((index, Relation::Contains));
            }
        }
        found
    }

    #[test]
    fn conflict_is_reported_at_later_claim() {
        let inside = claims(&[("10.0.0.0/8", 1), ("10.1.0.0/16", 2)]);
        let contains = claims(&[("10.1.0.0/16", 2), ("10.0.0.0/8", 1)]);
        let expected = |relation| vec![Conflict { claim: 1, earlier: 0, relation }];
        assert_eq!(conflicts(&inside), expected(Relation::EqualOrInside));
        assert_eq!(conflicts(&contains), expected(Relation::Contains));
    }

    #[test]
    fn conflicts_in_one_pass_equal_definition() {
        let mut state = 7_u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % below
        };
        for _ in 0..2000 {
            let claims: Vec<Claim> = (0..12)
                .map(|at| {
                    let length = u8::try_from(random(5)).expect("small");
                    let address = if random(4) == 0 {
                        IpNet::new(std::net::Ipv6Addr::from(u128::from(random(16)) << 124).into(), length)
                    } else {
                        IpNet::new(std::net::Ipv4Addr::from(random(16) << 28).into(), length)
                    };
                    Claim { prefix: address.expect("a length of at most 4").trunc(), owner: random(3) as usize, at }
                })
                .collect();
            let found: Vec<_> = conflicts(&claims).iter().map(|found| (found.claim, found.relation)).collect();
            assert_eq!(found, by_definition(&claims), "{claims:?}");
        }
    }
}
