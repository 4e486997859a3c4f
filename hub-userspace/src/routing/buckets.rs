//! How the buckets of a next-hop group are distributed over its members.
//!
//! A group is an array of buckets. The program picks one by flow hash, so a flow moves exactly when its bucket does.
//! [`fill`] gives every member its share, exact to one bucket, with the fewest moves. If a member leaves, only its
//! buckets move. If one joins, it takes its share, and no bucket moves between other members.
//!
//! A share is rarely a whole number, and which members are rounded up depends on the buckets they have. No fixed rule
//! works. With the method of largest remainders, a member may lose a bucket because another one *left* (the Alabama
//! paradox). Methods without such paradoxes miss shares by more than one (Balinski and Young).

/// Members that share buckets, with weights above 0.
pub type WeightedMembers<M> = [(M, u32)];

/// Distributes `buckets` over `members`.
///
/// `buckets` holds the previous distribution over `before`, with `None` for a bucket without a member. Afterwards every
/// bucket belongs to one of `members`, or is `None` if there are none. The result depends on the arguments alone.
///
/// A member whose fraction of the weights has not decreased never loses a bucket. In one case that costs exactness: if
/// a member leaves that had fewer buckets than the others need to be rounded up, one of these stays below its share by
/// a fraction more than one bucket.
pub fn fill<M: Copy + Eq>(buckets: &mut [Option<M>], before: &WeightedMembers<M>, members: &WeightedMembers<M>) {
    let mut missing = targets(buckets, before, members);
    for bucket in buckets.iter_mut() {
        // A bucket stays with its owner until the owner has its share.
        let owner = bucket.and_then(|owner| position(members, owner));
        match owner {
            Some(owner) if missing[owner] > 0 => missing[owner] -= 1,
            _ => *bucket = None,
        }
    }
    for (free, member) in buckets.iter_mut().filter(|bucket| bucket.is_none()).zip(deal(members, missing)) {
        *free = Some(member);
    }
}

fn position<M: Copy + Eq>(members: &WeightedMembers<M>, desired: M) -> Option<usize> {
    members.iter().position(|(member, _)| *member == desired)
}

fn total<M>(members: &WeightedMembers<M>) -> u64 {
    members.iter().map(|(_, weight)| u64::from(*weight)).sum()
}

/// The target number of buckets of each member.
fn targets<M: Copy + Eq>(
    buckets: &[Option<M>],
    before: &WeightedMembers<M>,
    members: &WeightedMembers<M>,
) -> Vec<usize> {
    let (total_before, total) = (total(before), total(members));
    if total == 0 {
        return vec![0; members.len()];
    }
    let mut shares: Vec<Share> = members
        .iter()
        .map(|(member, weight)| {
            let exact = u64::from(*weight) * buckets.len() as u64;
            let shrinks = position(before, *member)
                .is_none_or(|old| u64::from(*weight) * total_before < u64::from(before[old].1) * total);
            Share { exact, total, shrinks, target: 0 }
        })
        .collect();
    for owner in buckets.iter().flatten().filter_map(|owner| position(members, *owner)) {
        let share = &mut shares[owner];
        share.target = (share.target + 1).min(share.most());
    }
    let mut free = buckets.len() - shares.iter().map(|share| share.target).sum::<usize>();
    // First round every share down; members with a decreased weight give up buckets if needed.
    while let Some(poor) = (0..shares.len()).find(|index| shares[*index].target < shares[*index].least()) {
        if free > 0 {
            free -= 1;
        } else if let Some(rich) = first_largest(&shares, |share| share.may_give().then_some(share.excess())) {
            shares[rich].target -= 1;
        } else {
            break;
        }
        shares[poor].target += 1;
    }
    // Then round up the largest fractions.
    for _ in 0..free {
        let room = |share: &Share| (share.target < share.most()).then_some(-share.excess());
        let next = first_largest(&shares, room).expect("the shares rounded up are as many as the buckets, or more");
        shares[next].target += 1;
    }
    shares.into_iter().map(|share| share.target).collect()
}

/// A member's target share. `exact` is in units of 1/`total` of a bucket.
struct Share {
    exact: u64,
    total: u64,
    /// Its fraction of the weights has decreased.
    shrinks: bool,
    /// In buckets.
    target: usize,
}

impl Share {
    fn least(&self) -> usize {
        (self.exact / self.total) as usize
    }

    fn most(&self) -> usize {
        self.exact.div_ceil(self.total) as usize
    }

    fn may_give(&self) -> bool {
        self.shrinks && self.target > self.least()
    }

    /// Buckets above its share, in units of 1/`total`.
    fn excess(&self) -> i64 {
        (self.target as u64 * self.total) as i64 - self.exact as i64
    }
}

/// The index of the share with the largest value; the first of equal ones.
fn first_largest(shares: &[Share], value: impl Fn(&Share) -> Option<i64>) -> Option<usize> {
    let values = shares.iter().enumerate().filter_map(|(index, share)| Some((value(share)?, index)));
    values.max_by_key(|(value, index)| (*value, std::cmp::Reverse(*index))).map(|(_, index)| index)
}

/// Deals members out round-robin, each as often as it is missing buckets.
fn deal<M: Copy>(members: &WeightedMembers<M>, mut missing: Vec<usize>) -> impl Iterator<Item = M> {
    let mut turn = 0;
    std::iter::from_fn(move || {
        let index =
            (turn..turn + members.len()).map(|index| index % members.len()).find(|index| missing[*index] > 0)?;
        missing[index] -= 1;
        turn = index + 1;
        Some(members[index].0)
    })
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};

    use super::fill;

    /// Members with their weights.
    type Members = Vec<(u32, u32)>;

    const BUCKETS: usize = 256;

    /// 1 to 64 members in any order, with weights in the valid range.
    fn members(rng: &mut SmallRng) -> Members {
        let mut all: Vec<u32> = (0..64).collect();
        all.shuffle(rng);
        let same = rng.random_bool(0.3);
        let weight = |rng: &mut SmallRng| if same { 100 } else { rng.random_range(1..=100) };
        let count = rng.random_range(1..=64);
        all.into_iter().take(count).map(|member| (member, weight(rng))).collect()
    }

    fn held(buckets: &[Option<u32>], member: u32) -> usize {
        buckets.iter().filter(|bucket| **bucket == Some(member)).count()
    }

    /// Checks the invariants of a redistribution from `before` to `after`.
    fn check(before: &[Option<u32>], after: &[Option<u32>], members: &Members) {
        let total: usize = members.iter().map(|(_, weight)| *weight as usize).sum();
        let has = |member: u32| held(after, member);
        assert_eq!(members.iter().map(|(member, _)| has(*member)).sum::<usize>(), BUCKETS, "every bucket has a member");
        for (member, weight) in members {
            let (has, exact) = (has(*member) * total, BUCKETS * *weight as usize);
            assert!(has.abs_diff(exact) < total, "{member} has {has}/{total} buckets, not {exact}/{total}");
        }
        // A bucket moves only from a member with a surplus, or from one that left.
        let surplus: usize = (0..64).map(|member| held(before, member).saturating_sub(has(member))).sum();
        let nobodys = before.iter().filter(|bucket| bucket.is_none()).count();
        let moved = before.iter().zip(after).filter(|(before, after)| before != after).count();
        assert_eq!(moved, surplus + nobodys, "{members:?}");
    }

    #[test]
    fn random_member_changes_keep_shares_with_fewest_moves() {
        for seed in 0..300 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut buckets = vec![None; BUCKETS];
            let mut former = Members::new();
            for _ in 0..8 {
                let members = members(&mut rng);
                let before = buckets.clone();
                fill(&mut buckets, &former, &members);
                check(&before, &buckets, &members);

                let mut again = before.clone();
                fill(&mut again, &former, &members);
                assert_eq!(again, buckets, "the same comes out of the same");
                fill(&mut again, &members, &members);
                assert_eq!(again, buckets, "a second time changes nothing");
                former = members;
            }
        }
    }

    #[test]
    fn random_returning_member_regains_its_share() {
        for seed in 0..300 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let members = members(&mut rng);
            if members.len() == 1 {
                continue;
            }
            let mut buckets = vec![None; BUCKETS];
            fill(&mut buckets, &[], &members);
            let full = buckets.clone();
            let gone = rng.random_range(0..members.len());
            let mut others = members.clone();
            let (gone, _) = others.remove(gone);
            fill(&mut buckets, &members, &others);
            for (before, now) in full.iter().zip(&buckets) {
                assert!(*before == Some(gone) || before == now, "a flow moved that nothing had happened to");
            }
            let without = buckets.clone();
            fill(&mut buckets, &others, &members);
            for (before, now) in without.iter().zip(&buckets) {
                assert!(*now == Some(gone) || before == now, "a flow moved to somebody else than who came");
            }
            check(&without, &buckets, &members);
        }
    }

    fn count(buckets: &[Option<char>], member: char) -> usize {
        buckets.iter().filter(|bucket| **bucket == Some(member)).count()
    }

    fn moved(before: &[Option<char>], after: &[Option<char>]) -> usize {
        before.iter().zip(after).filter(|(before, after)| before != after).count()
    }

    #[test]
    fn shares_are_exact_to_one_bucket() {
        // (weights, buckets)
        let table = [
            (vec![100], vec![256]),
            (vec![50, 50], vec![128, 128]),
            (vec![30, 70], vec![77, 179]),
            (vec![1, 1, 1], vec![86, 85, 85]),
            (vec![100, 1], vec![253, 3]),
        ];
        for (weights, expected) in table {
            let members: Vec<(char, u32)> = ('a'..).zip(weights).collect();
            let mut buckets = vec![None; 256];
            fill(&mut buckets, &[], &members);
            let counts: Vec<usize> = members.iter().map(|(member, _)| count(&buckets, *member)).collect();
            assert_eq!(counts, expected, "{members:?}");
        }
    }

    #[test]
    fn leaving_member_moves_own_buckets_only() {
        let all = [('a', 20), ('b', 30), ('c', 50)];
        let mut full = vec![None; 256];
        fill(&mut full, &[], &all);
        let mut without = full.clone();
        let others = [('a', 20), ('c', 50)];
        fill(&mut without, &all, &others);
        assert_eq!(moved(&full, &without), count(&full, 'b'));
        let mut back = without.clone();
        fill(&mut back, &others, &all);
        assert_eq!(moved(&without, &back), count(&back, 'b'));
        assert_eq!(['a', 'b', 'c'].map(|member| count(&back, member)), [52, 76, 128]);
    }

    #[test]
    fn second_fill_changes_nothing() {
        let members = [('a', 7), ('b', 11), ('c', 13)];
        let mut once = vec![None; 256];
        fill(&mut once, &[], &members);
        let mut twice = once.clone();
        fill(&mut twice, &members, &members);
        assert_eq!(once, twice);
    }

    #[test]
    fn fill_without_members_empties_buckets() {
        let mut buckets = vec![Some('a'); 8];
        fill(&mut buckets, &[('a', 1)], &[]);
        assert_eq!(buckets, [None; 8]);
    }
}
