use std::sync::Arc;

use super::{EgressIds, Member};
use crate::{
    fib::old_group::{OldGroup, record},
    routing::rib::Members,
};

fn members(weights: &[(&str, u8)]) -> Arc<Members> {
    Arc::new(weights.iter().map(|(name, weight)| ((*name).to_owned(), (*weight).into())).collect())
}

/// Compiles groups with all members up, each with its predecessor.
fn round(layout: &mut EgressIds, groups: &[(&Arc<Members>, Option<&Arc<Members>>)]) -> Vec<Vec<Option<Member>>> {
    round_without(layout, groups, "")
}

/// As [`round`], with one member down.
fn round_without(
    layout: &mut EgressIds,
    groups: &[(&Arc<Members>, Option<&Arc<Members>>)],
    down: &str,
) -> Vec<Vec<Option<Member>>> {
    layout.begin();
    let owners = groups.iter().map(|(members, predecessor)| {
        // Stable numbers, unrelated to the order of members.
        let member = |name: &str| Member::Connection(u32::from(name.as_bytes()[0]));
        let active: Vec<(Member, u32)> = members
            .iter()
            .filter(|(name, _)| *name != down)
            .map(|(name, weight)| (member(name), u32::from(weight.route)))
            .collect();
        layout.shared(members, &active, *predecessor).unwrap().owners.to_vec()
    });
    let owners = owners.collect();
    layout.end();
    owners
}

fn moved(before: &[Option<Member>], after: &[Option<Member>]) -> usize {
    before.iter().zip(after).filter(|(before, after)| before != after).count()
}

#[test]
fn weight_change_moves_difference_only() {
    let mut layout = EgressIds::default();
    let (even, uneven) = (members(&[("a", 50), ("b", 50)]), members(&[("a", 25), ("b", 75)]));
    let before = round(&mut layout, &[(&even, None)]);
    let after = round(&mut layout, &[(&uneven, Some(&even))]);
    assert_eq!(moved(&before[0], &after[0]), 64);
}

#[test]
fn new_member_moves_its_share_only() {
    let mut layout = EgressIds::default();
    let (two, three) = (members(&[("a", 100), ("b", 100)]), members(&[("a", 100), ("b", 100), ("c", 100)]));
    let before = round(&mut layout, &[(&two, None)]);
    let after = round(&mut layout, &[(&three, Some(&two))]);
    let came = after[0].iter().filter(|owner| **owner == Some(Member::Connection(u32::from(b'c')))).count();
    assert_eq!((came, moved(&before[0], &after[0])), (85, 85));
}

/// While a member comes up, one of two destinations loses it.
#[test]
fn new_group_starts_from_predecessor_before_its_change() {
    let (all, fewer) = (members(&[("a", 1), ("b", 1), ("c", 1)]), members(&[("b", 1), ("c", 1)]));
    for predecessor_first in [true, false] {
        let mut layout = EgressIds::default();
        let before = round_without(&mut layout, &[(&all, None)], "a").remove(0);
        let groups = [(&all, None), (&fewer, Some(&all))];
        let new = if predecessor_first {
            round(&mut layout, &groups).remove(1)
        } else {
            round(&mut layout, &[groups[1], groups[0]]).remove(0)
        };
        assert_eq!(moved(&before, &new), 0, "predecessor first: {predecessor_first}");
    }
}

#[test]
fn group_without_predecessor_starts_fresh() {
    let (one, other) = (members(&[("a", 50), ("b", 50)]), members(&[("a", 30), ("b", 70)]));
    let fresh = round(&mut EgressIds::default(), &[(&other, None)]);
    let both = round(&mut EgressIds::default(), &[(&one, None), (&other, None)]);
    assert_eq!(both[1], fresh[0]);
}

/// The state that an agent leaves behind.
fn left(members: &Members, owners: &[Option<Member>]) -> OldGroup {
    let slot = |owner: &Option<Member>| match owner {
        Some(Member::Connection(slot)) => Some(*slot),
        _ => None,
    };
    OldGroup { record: record(members), owners: owners.iter().map(slot).collect() }
}

#[test]
fn inherited_group_moves_no_bucket() {
    let (one, same_names) = (members(&[("a", 30), ("b", 70), ("c", 1)]), members(&[("a", 70), ("b", 30), ("c", 1)]));
    let mut layout = EgressIds::default();
    // Members left and returned, so that the buckets differ from those of a fresh start.
    let without = members(&[("a", 30), ("c", 1)]);
    round(&mut layout, &[(&without, None)]);
    let before = round(&mut layout, &[(&one, Some(&without))]).remove(0);
    let other = round(&mut EgressIds::default(), &[(&same_names, None)]).remove(0);
    assert_ne!(before, round(&mut EgressIds::default(), &[(&one, None)])[0]);

    let mut next = EgressIds::default();
    next.inherit(vec![left(&one, &before), left(&same_names, &other)]);
    assert_eq!(round(&mut next, &[(&one, None), (&same_names, None)]), [before, other]);
}

#[test]
fn weight_change_across_restart_moves_difference_only() {
    let (even, uneven) = (members(&[("a", 50), ("b", 50)]), members(&[("a", 25), ("b", 75)]));
    let before = round(&mut EgressIds::default(), &[(&even, None)]).remove(0);
    let mut next = EgressIds::default();
    next.inherit(vec![left(&even, &before)]);
    assert_eq!(moved(&before, &round(&mut next, &[(&uneven, None)])[0]), 64);
}

#[test]
fn existing_equal_group_is_reused_unchanged() {
    let mut layout = EgressIds::default();
    let (one, other) = (members(&[("a", 50), ("b", 50)]), members(&[("a", 30), ("b", 70)]));
    let before = round(&mut layout, &[(&one, None), (&other, None)]);
    assert_eq!(round(&mut layout, &[(&other, Some(&one))])[0], before[1]);
}
