//! Several SAs of one child with the same selectors, from messages as strongSwan 6.0.2 sends them.

use super::{
    super::{
        event::{ViciEvent, listed},
        message::Message,
    },
    *,
};

/// The IKE SA with these child SAs: number, CPU and state.
fn ike(children: &[(u64, Option<u32>, &str)]) -> Message {
    let child = |(id, cpu, state): &(u64, Option<u32>, &str)| {
        let child = Message::default()
            .with("name", "vpnhub-a")
            .with("uniqueid", id.to_string())
            .with("reqid", "1")
            .with("state", *state)
            .with("mode", "TUNNEL")
            .with("protocol", "ESP")
            .with("spi-in", format!("c{id:07x}"))
            .with("spi-out", format!("d{id:07x}"))
            .with("per-cpu-sas", "yes")
            .with_list("local-ts", ["192.168.0.0/24".to_owned()])
            .with_list("remote-ts", ["10.10.10.0/24".to_owned()]);
        match cpu {
            Some(cpu) => child.with("cpu", cpu.to_string()),
            None => child,
        }
    };
    let children = children
        .iter()
        .fold(Message::default(), |all, found| all.with_section(&format!("vpnhub-a-{}", found.0), child(found)));
    let ike = Message::default().with("uniqueid", "1").with("state", "ESTABLISHED").with_section("child-sas", children);
    Message::default().with_section("vpnhub-a", ike)
}

fn apply(table: &mut SaTable, name: &str, message: Message) {
    let changes = SaChange::of_event(&ViciEvent { name: name.to_owned(), message });
    assert!(!changes.is_empty(), "{name}");
    changes.into_iter().for_each(|change| table.apply(change));
}

/// Numbers and CPUs of the SAs, and the pairs that they admit.
fn seen(table: &SaTable) -> (Vec<(u64, Option<u32>)>, Vec<String>) {
    let tunnel = table.tunnel("vpnhub-a");
    let sas = tunnel.children.iter().map(|child| (child.id, child.cpu)).collect();
    (sas, tunnel.pairs(100).iter().map(Pair::to_string).collect())
}

const ADMITTED: &str = "10.10.10.0/24 === 192.168.0.0/24";
/// The SA for packets of any CPU, and those of CPUs 0 to 2.
const SAS: [(u64, Option<u32>); 4] = [(1, None), (2, Some(0)), (3, Some(1)), (4, Some(2))];

fn all_up() -> SaTable {
    let mut table = SaTable::default();
    for (id, cpu) in SAS {
        apply(&mut table, "child-updown", ike(&[(id, cpu, "INSTALLED")]).with("up", "yes"));
    }
    table
}

#[test]
fn selectors_stay_until_the_last_sa_of_a_child_is_gone_in_any_order() {
    for first in 0..SAS.len() {
        let mut table = all_up();
        let mut left = SAS.to_vec();
        assert_eq!(seen(&table), (left.clone(), vec![ADMITTED.to_owned()]));
        left.rotate_left(first);
        while let Some((id, cpu)) = left.pop() {
            apply(&mut table, "child-updown", ike(&[(id, cpu, "DELETING")]));
            let mut sorted = left.clone();
            sorted.sort_unstable();
            let admitted = if left.is_empty() { vec![] } else { vec![ADMITTED.to_owned()] };
            assert_eq!(seen(&table), (sorted, admitted), "{id}");
            assert_eq!(table.is_up("vpnhub-a"), !left.is_empty(), "{id}");
        }
    }
}

#[test]
fn rekeying_of_one_cpu_replaces_its_sa_alone() {
    let mut table = all_up();
    let both = |old: Message, new: Message| {
        let child = |message: &Message, id: &str| {
            let children = message.section("vpnhub-a").and_then(|ike| ike.section("child-sas"));
            children.and_then(|all| all.section(id)).cloned().expect("a child")
        };
        let both = Message::default()
            .with_section("old", child(&old, "vpnhub-a-3"))
            .with_section("new", child(&new, "vpnhub-a-9"));
        let ike = Message::default().with("uniqueid", "1").with("state", "ESTABLISHED");
        let ike = ike.with_section("child-sas", Message::default().with_section("vpnhub-a-3", both));
        Message::default().with_section("vpnhub-a", ike)
    };
    let rekeyed = both(ike(&[(3, Some(1), "REKEYED")]), ike(&[(9, Some(1), "INSTALLED")]));
    apply(&mut table, "child-rekey", rekeyed);
    let expected = vec![(1, None), (2, Some(0)), (4, Some(2)), (9, Some(1))];
    assert_eq!(seen(&table), (expected, vec![ADMITTED.to_owned()]));
    assert_eq!(table.tunnel("vpnhub-a").rekeys, 1);
}

#[test]
fn listing_has_all_sas_of_a_child() {
    let mut table = all_up();
    let message =
        ike(&[(1, None, "INSTALLED"), (2, Some(0), "REKEYING"), (3, Some(1), "REKEYED"), (5, Some(63), "INSTALLED")]);
    table.replace(listed(&message));
    assert_eq!(seen(&table).0, [(1, None), (2, Some(0)), (5, Some(63))]);
    table.replace(Vec::new());
    assert_eq!(seen(&table), (vec![], vec![]));
}
