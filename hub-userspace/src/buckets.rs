//! How the buckets of a next-hop group are shared out.
//!
//! A group is an array of buckets; the program picks one by flow hash, so a flow moves exactly when its bucket does.
//! [`fill`] gives every member its share, exact to one bucket, and moves no bucket that it need not move: when a
//! member goes, only its buckets do; when one comes, it takes its share and nobody else's buckets change hands.

/// Shares `buckets` out over `members`, as `(member, weight)` with weights above 0.
///
/// `buckets` holds the array as it was, `None` where nobody had the bucket; afterwards every bucket has a member of
/// `members`, unless there are none: then every bucket is `None`. The result depends on the arguments alone.
pub fn fill<M: Copy + Eq>(buckets: &mut [Option<M>], members: &[(M, u32)]) {
    let mut missing = targets(buckets.len(), members);
    for bucket in buckets.iter_mut() {
        // A bucket stays where it is while its owner has not had its share yet.
        let owner = bucket.and_then(|owner| members.iter().position(|(member, _)| *member == owner));
        match owner {
            Some(owner) if missing[owner] > 0 => missing[owner] -= 1,
            _ => *bucket = None,
        }
    }
    for (free, member) in buckets.iter_mut().filter(|bucket| bucket.is_none()).zip(deal(members, missing)) {
        *free = Some(member);
    }
}

/// Buckets each member should have: its part of the weights, the remainders going to the largest fractions, and of
/// equal ones to the first (Hamilton's method).
fn targets(buckets: usize, members: &[(impl Copy, u32)]) -> Vec<usize> {
    let total: u64 = members.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if total == 0 {
        return vec![0; members.len()];
    }
    let parts: Vec<u64> = members.iter().map(|(_, weight)| u64::from(*weight) * buckets as u64).collect();
    let mut targets: Vec<usize> = parts.iter().map(|part| (part / total) as usize).collect();
    let mut by_remainder: Vec<usize> = (0..members.len()).collect();
    by_remainder.sort_by_key(|index| std::cmp::Reverse(parts[*index] % total));
    let left = buckets - targets.iter().sum::<usize>();
    for index in by_remainder.into_iter().take(left) {
        targets[index] += 1;
    }
    targets
}

/// Deals members out in turn, each as often as it is still missing buckets.
fn deal<M: Copy>(members: &[(M, u32)], mut missing: Vec<usize>) -> impl Iterator<Item = M> {
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
    use super::fill;

    fn count(buckets: &[Option<char>], member: char) -> usize {
        buckets.iter().filter(|bucket| **bucket == Some(member)).count()
    }

    fn moved(before: &[Option<char>], after: &[Option<char>]) -> usize {
        before.iter().zip(after).filter(|(before, after)| before != after).count()
    }

    #[test]
    fn shares_are_exact_to_the_bucket() {
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
            fill(&mut buckets, &members);
            let counts: Vec<usize> = members.iter().map(|(member, _)| count(&buckets, *member)).collect();
            assert_eq!(counts, expected, "{members:?}");
        }
    }

    #[test]
    fn a_member_that_goes_moves_its_own_buckets_alone_and_takes_its_share_back() {
        let all = [('a', 20), ('b', 30), ('c', 50)];
        let mut full = vec![None; 256];
        fill(&mut full, &all);
        let mut without = full.clone();
        fill(&mut without, &[('a', 20), ('c', 50)]);
        assert_eq!(moved(&full, &without), count(&full, 'b'));
        let mut back = without.clone();
        fill(&mut back, &all);
        assert_eq!(moved(&without, &back), count(&full, 'b'));
        assert_eq!(['a', 'b', 'c'].map(|member| count(&back, member)), ['a', 'b', 'c'].map(|m| count(&full, m)));
    }

    #[test]
    fn filling_twice_changes_nothing() {
        let members = [('a', 7), ('b', 11), ('c', 13)];
        let mut once = vec![None; 256];
        fill(&mut once, &members);
        let mut twice = once.clone();
        fill(&mut twice, &members);
        assert_eq!(once, twice);
    }

    #[test]
    fn nobody_to_share_leaves_them_empty() {
        let mut buckets = vec![Some('a'); 8];
        fill(&mut buckets, &[]);
        assert_eq!(buckets, [None; 8]);
    }
}
