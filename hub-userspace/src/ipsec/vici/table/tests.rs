//! Sequences of events, regular and irregular.

use super::{
    super::{event::ViciEvent, message::Message, selector::TrafficSelector},
    *,
};

fn ike(id: u64) -> IkeSa {
    IkeSa { id, connection: "a".to_owned(), state: "ESTABLISHED".to_owned(), is_busy: false, addresses: [None; 2] }
}

fn child(id: u64) -> ChildSa {
    let selectors = |text| vec![TrafficSelector::parse(text).expect("a selector")];
    ChildSa {
        id,
        name: "a".to_owned(),
        state: "INSTALLED".to_owned(),
        spi_in: format!("c{id:07x}"),
        spi_out: format!("d{id:07x}"),
        local: selectors("192.168.0.0/24"),
        remote: selectors("10.10.10.0/24"),
        ..ChildSa::default()
    }
}

fn up(ike_id: u64, id: u64) -> SaChange {
    SaChange::ChildUp(ike(ike_id), child(id))
}

fn down(id: u64) -> SaChange {
    SaChange::ChildDown(child(id))
}

fn rekeyed(ike_id: u64, old: u64, new: u64) -> SaChange {
    SaChange::ChildRekeyed { ike: ike(ike_id), old, new: child(new) }
}

fn ids(table: &SaTable) -> Vec<u64> {
    table.tunnel("a").children.iter().map(|child| child.id).collect()
}

#[test]
fn event_sequences_end_in_existing_sas() {
    let ike_down = |id| SaChange::IkeDown(ike(id));
    let ike_rekeyed = |old, new| SaChange::IkeRekeyed { old, new: ike(new) };
    let table: Vec<(&str, Vec<SaChange>, &[u64])> = vec![
        ("up", vec![SaChange::IkeUp(ike(1)), up(1, 1)], &[1]),
        ("up, the IKE SA reported later", vec![up(1, 1), SaChange::IkeUp(ike(1))], &[1]),
        ("up and down", vec![up(1, 1), down(1)], &[]),
        ("twice each", vec![up(1, 1), up(1, 1), down(1), down(1)], &[]),
        ("up reported after down", vec![down(1), up(1, 1)], &[]),
        ("rekeyed", vec![up(1, 1), rekeyed(1, 1, 2)], &[2]),
        ("rekeyed, the old one closes then", vec![up(1, 1), rekeyed(1, 1, 2), down(1)], &[2]),
        ("rekeyed, reported twice", vec![up(1, 1), rekeyed(1, 1, 2), rekeyed(1, 1, 2)], &[2]),
        ("rekeyed twice", vec![up(1, 1), rekeyed(1, 1, 2), rekeyed(1, 2, 3)], &[3]),
        ("rekeyed twice, reported the wrong way round", vec![up(1, 1), rekeyed(1, 2, 3), rekeyed(1, 1, 2)], &[3]),
        ("rekeyed, the old one reported up too late", vec![rekeyed(1, 1, 2), up(1, 1)], &[2]),
        ("the new one closes before the rekeying is reported", vec![up(1, 1), down(2), rekeyed(1, 1, 2)], &[]),
        (
            "both ends rekey at once, the first of the new ones loses",
            vec![up(1, 1), rekeyed(1, 1, 2), rekeyed(1, 1, 3), down(2)],
            &[3],
        ),
        (
            "both ends rekey at once, the second of the new ones loses",
            vec![up(1, 1), rekeyed(1, 1, 2), rekeyed(1, 1, 3), down(3)],
            &[2],
        ),
        ("both ends begin at once, one closes", vec![up(1, 1), up(2, 2), down(1)], &[2]),
        ("the IKE SA goes, and then its child", vec![up(1, 1), ike_down(1), down(1)], &[]),
        ("the child goes, and then its IKE SA", vec![up(1, 1), down(1), ike_down(1)], &[]),
        ("the IKE SA goes, and no word about its child", vec![up(1, 1), ike_down(1)], &[]),
        ("an old IKE SA goes after a new one is up", vec![up(1, 1), up(2, 2), ike_down(1)], &[2]),
        ("the IKE SA is rekeyed, and the old one goes", vec![up(1, 1), ike_rekeyed(1, 2), ike_down(1)], &[1]),
        ("the IKE SA is rekeyed, and the new one goes", vec![up(1, 1), ike_rekeyed(1, 2), ike_down(2)], &[]),
        ("the IKE SA is rekeyed, then the child", vec![up(1, 1), ike_rekeyed(1, 2), rekeyed(2, 1, 2)], &[2]),
        ("down of one that nobody knows", vec![up(1, 1), down(7), ike_down(7)], &[1]),
    ];
    for (name, changes, expected) in table {
        let mut table = SaTable::default();
        for change in changes {
            table.apply(change);
        }
        assert_eq!(ids(&table), expected, "{name}");
    }
}

#[test]
fn rekeying_is_never_reported_as_down() {
    let mut table = SaTable::default();
    table.apply(up(1, 1));
    for id in 1..100 {
        for change in [rekeyed(1, id, id + 1), down(id), rekeyed(1, id, id + 1)] {
            table.apply(change);
            assert!(table.tunnel("a").is_up(), "{id}");
        }
    }
    assert_eq!(ids(&table), [100]);
}

#[test]
fn each_rekeying_counts_once_in_any_order_and_outlives_its_sas() {
    let ike_rekeyed = |old, new| SaChange::IkeRekeyed { old, new: ike(new) };
    let cases = [
        ("none", vec![up(1, 1), down(1), up(1, 2)], 0),
        ("reported twice", vec![up(1, 1), rekeyed(1, 1, 2), rekeyed(1, 1, 2)], 1),
        ("two, the wrong way round", vec![up(1, 1), rekeyed(1, 2, 3), rekeyed(1, 1, 2)], 2),
        ("both ends begin", vec![up(1, 1), rekeyed(1, 1, 2), rekeyed(1, 1, 3), down(2)], 1),
        ("an IKE SA, reported twice", vec![up(1, 1), ike_rekeyed(1, 2), ike_rekeyed(1, 2)], 1),
        ("an IKE SA, then its child", vec![up(1, 1), ike_rekeyed(1, 2), rekeyed(2, 1, 2)], 2),
    ];
    for (case, changes, expected) in cases {
        let mut table = SaTable::default();
        for change in changes {
            table.apply(change);
        }
        table.replace(Vec::new());
        assert_eq!(table.tunnel("a").rekeys, expected, "{case}");
        table.keep_rekeys(|name| name != "a");
        assert_eq!(table.tunnel("a").rekeys, 0, "{case}");
    }
}

#[test]
fn full_sa_list_replaces_table() {
    let mut table = SaTable::default();
    table.apply(up(5, 9));
    table.apply(down(3));
    // charon has restarted, and its numbers start again.
    table.replace(vec![(ike(1), vec![child(3)])]);
    assert_eq!(ids(&table), [3]);
    // Events during the listing arrive afterwards, some for the second time.
    table.apply(up(1, 3));
    table.apply(rekeyed(1, 3, 4));
    assert_eq!(ids(&table), [4]);
    table.replace(Vec::new());
    assert_eq!((ids(&table), table.tunnel("a").ike), (Vec::new(), None));
}

#[test]
fn sa_carries_traffic_only_when_installed_or_rekeying() {
    for (state, is_live) in [
        ("CREATED", false),
        ("INSTALLING", false),
        ("INSTALLED", true),
        ("REKEYING", true),
        ("REKEYED", false),
        ("DELETING", false),
    ] {
        let mut table = SaTable::default();
        table.replace(vec![(ike(1), vec![ChildSa { state: state.to_owned(), ..child(1) }])]);
        assert_eq!(table.tunnel("a").is_up(), is_live, "{state}");
    }
}

#[test]
fn selectors_join_all_sas_until_last_ends() {
    let of = |id, local: &str, remote: &str| {
        let selector = |text| vec![TrafficSelector::parse(text).expect("a selector")];
        SaChange::ChildUp(ike(1), ChildSa { local: selector(local), remote: selector(remote), ..child(id) })
    };
    let shown = |table: &SaTable| -> Vec<String> {
        let pairs = table.tunnel("a").pairs(100);
        pairs.iter().map(Pair::to_string).collect()
    };
    let mut table = SaTable::default();
    table.apply(of(1, "192.168.0.0/24", "10.10.10.0/24"));
    table.apply(of(2, "192.168.0.0/24", "10.10.10.0/24"));
    table.apply(of(3, "192.168.1.0/24[tcp/443]", "10.10.10.0/24"));
    table.apply(of(4, "fd00:1::/64", "10.10.10.0/24"));
    assert_eq!(shown(&table), ["10.10.10.0/24 === 192.168.0.0/24", "10.10.10.0/24[tcp] === 192.168.1.0/24[tcp/443]"]);
    table.apply(down(1));
    table.apply(down(3));
    assert_eq!(shown(&table), ["10.10.10.0/24 === 192.168.0.0/24"]);
    table.apply(down(2));
    assert!(shown(&table).is_empty());
}

#[test]
fn fault_lasts_until_tunnel_is_up() {
    let failed = |fault| SaChange::Failed { connection: "a".to_owned(), fault };
    let mut table = SaTable::default();
    table.apply(failed(Fault::Silent));
    table.apply(failed(Fault::WrongSecret));
    // The site's refusal follows from the wrong secret.
    table.apply(failed(Fault::Refused));
    assert_eq!(table.tunnel("a").fault, Some(Fault::WrongSecret));
    table.apply(up(1, 1));
    assert_eq!(table.tunnel("a").fault, None);
}

/// As recorded from strongSwan 5.9.8: the site deletes a child, another one is created, and the IKE SA ends.
#[test]
fn recorded_strongswan_events_are_applied() {
    let ike = |state: &str| Message::default().with("uniqueid", "2").with("version", "2").with("state", state);
    let sa = |id: &str, state: &str| {
        Message::default()
            .with("name", "a")
            .with("uniqueid", id)
            .with("reqid", "1")
            .with("state", state)
            .with("spi-in", "43efc213")
            .with("spi-out", "174beb86")
            .with("bytes-in", "168")
            .with("install-time", "5")
            .with_list("local-ts", ["192.168.0.0/24".to_owned()])
            .with_list("remote-ts", ["10.10.10.0/24".to_owned()])
    };
    let event = |name: &str, message| ViciEvent { name: name.to_owned(), message };
    let of = |ike: Message, name: &str, child: Message| {
        let children = Message::default().with_section(name, child);
        Message::default().with_section("a", ike.with_section("child-sas", children))
    };
    let both = Message::default().with_section("old", sa("3", "REKEYED")).with_section("new", sa("4", "INSTALLED"));
    let up = |message: Message| {
        Message::default().with("up", "yes").with_section("a", message.section("a").expect("an SA").clone())
    };
    let ikes = Message::default()
        .with_section("old", ike("REKEYED"))
        .with_section("new", Message::default().with("uniqueid", "5").with("state", "ESTABLISHED"));
    let log = Message::default()
        .with("group", "IKE")
        .with("ikesa-name", "a")
        .with("msg", "received TS_UNACCEPTABLE notify, no CHILD_SA built");
    let mut table = SaTable::default();
    let mut apply = |event| {
        for change in SaChange::of_event(&event) {
            table.apply(change);
        }
        let Tunnel { ike, children, fault, rekeys: _ } = table.tunnel("a");
        (ike.is_some(), children.iter().map(|child| child.id).collect::<Vec<_>>(), fault)
    };
    let none = Vec::<u64>::new;
    assert_eq!(
        apply(event("ike-updown", up(Message::default().with_section("a", ike("ESTABLISHED"))))),
        (true, none(), None)
    );
    assert_eq!(apply(event("log", log)), (true, none(), Some(Fault::Selectors)));
    assert_eq!(
        apply(event("child-updown", up(of(ike("ESTABLISHED"), "a-3", sa("3", "INSTALLED"))))),
        (true, vec![3], None)
    );
    assert_eq!(apply(event("child-rekey", of(ike("ESTABLISHED"), "a", both))), (true, vec![4], None));
    assert_eq!(apply(event("ike-rekey", Message::default().with_section("a", ikes))), (true, vec![4], None));
    let end = Message::default().with("uniqueid", "5").with("state", "DELETING");
    assert_eq!(apply(event("ike-updown", Message::default().with_section("a", end.clone()))), (false, none(), None));
    assert_eq!(apply(event("child-updown", of(end, "a-4", sa("4", "INSTALLED")))), (false, none(), None));
    assert_eq!(apply(event("child-updown", Message::default().with("nonsense", "yes"))), (false, none(), None));
}

/// The children of a connection after events, each given as the bytes that charon sends after the event's name.
fn after(table: &mut SaTable, events: &[(&str, &[u8])]) -> Vec<u64> {
    for (name, bytes) in events {
        let message = Message::decode(bytes).expect("a message");
        for change in SaChange::of_event(&ViciEvent { name: (*name).to_owned(), message }) {
            table.apply(change);
        }
    }
    ids(table)
}

/// Encodes a key with a value.
fn key(name: &str, value: &str) -> Vec<u8> {
    [&[3, name.len() as u8][..], name.as_bytes(), &[0, value.len() as u8], value.as_bytes()].concat()
}

fn list(name: &str, item: &str) -> Vec<u8> {
    [&[4, name.len() as u8][..], name.as_bytes(), &[5, 0, item.len() as u8], item.as_bytes(), &[6]].concat()
}

fn section(name: &str, content: &[Vec<u8>]) -> Vec<u8> {
    [&[1, name.len() as u8][..], name.as_bytes(), &content.concat(), &[2]].concat()
}

fn child_bytes(name: &str, id: &str, remote: &str) -> Vec<u8> {
    let keys = [
        key("name", "a"),
        key("uniqueid", id),
        key("state", "INSTALLED"),
        key("spi-in", "c0000001"),
        list("local-ts", "192.168.0.0/24"),
        list("remote-ts", remote),
    ];
    section(name, &keys)
}

/// An event of a connection, with the content of its section of children.
fn event_bytes(connection: &str, ike: &str, children: &[Vec<u8>]) -> Vec<u8> {
    section(connection, &[key("uniqueid", ike), key("state", "ESTABLISHED"), section("child-sas", children)])
}

fn up_bytes(connection: &str, ike: &str, children: &[Vec<u8>]) -> Vec<u8> {
    [key("up", "yes"), event_bytes(connection, ike, children)].concat()
}

fn rekey_bytes(ike: &str, old: &str, new: &str) -> Vec<u8> {
    let both = [child_bytes("old", old, "10.10.10.0/24"), child_bytes("new", new, "10.10.10.0/24")];
    event_bytes("a", ike, &[section("a", &both)])
}

#[test]
fn child_updown_bytes_add_and_remove_sa() {
    let up: &[u8] = b"\x03\x02up\x00\x03yes\x01\x01a\x03\x08uniqueid\x00\x011\x03\x05state\x00\x0bESTABLISHED\
        \x01\x09child-sas\x01\x03a-7\x03\x08uniqueid\x00\x017\x03\x05state\x00\x09INSTALLED\
        \x04\x08local-ts\x05\x00\x0e192.168.0.0/24\x06\x04\x09remote-ts\x05\x00\x0d10.10.10.0/24\x06\x02\x02\x02";
    let mut table = SaTable::default();
    assert_eq!(after(&mut table, &[("child-updown", up)]), [7]);
    let pairs: Vec<String> = table.tunnel("a").pairs(100).iter().map(Pair::to_string).collect();
    assert_eq!(pairs, ["10.10.10.0/24 === 192.168.0.0/24"]);
    // The event of a deleted child has no `up`: the same message from there on.
    assert!(after(&mut table, &[("child-updown", &up[9..])]).is_empty());
    assert!(table.tunnel("a").pairs(100).is_empty());
}

#[test]
fn events_of_foreign_connections_are_ignored() {
    let (ours, theirs) = (child_bytes("a-1", "1", "10.10.10.0/24"), child_bytes("rw-2", "2", "10.66.0.0/16"));
    let mut table = SaTable::default();
    let events = [
        ("child-updown", up_bytes("a", "1", std::slice::from_ref(&ours))),
        ("child-updown", up_bytes("roadwarrior", "2", std::slice::from_ref(&theirs))),
        ("ike-updown", [key("up", "yes"), event_bytes("roadwarrior", "2", &[])].concat()),
    ];
    let events: Vec<(&str, &[u8])> = events.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    assert_eq!(after(&mut table, &events), [1]);
    let before = table.tunnel("a");
    let down = event_bytes("roadwarrior", "2", &[theirs]);
    let never = event_bytes("nobody", "9", &[child_bytes("nobody-9", "9", "10.99.0.0/16")]);
    for bytes in [&down, &never] {
        after(&mut table, &[("child-updown", bytes), ("ike-updown", bytes)]);
        assert_eq!(table.tunnel("a"), before);
    }
    assert!(table.tunnel("roadwarrior").children.is_empty() && table.tunnel("nobody").ike.is_none());
}

#[test]
fn rekeying_events_in_any_order_keep_selectors() {
    let first = up_bytes("a", "1", &[child_bytes("a-1", "1", "10.10.10.0/24")]);
    let down = |id: &str| event_bytes("a", "1", &[child_bytes(&format!("a-{id}"), id, "10.10.10.0/24")]);
    let (to_2, to_3) = (rekey_bytes("1", "1", "2"), rekey_bytes("1", "1", "3"));
    let rekeyed = |bytes: &[u8]| ("child-rekey", bytes.to_vec());
    let updown = |bytes: &[u8]| ("child-updown", bytes.to_vec());
    // Both ends rekey at once, and one of the new SAs is closed again; events in every possible order.
    for (what, events, last) in [
        ("ours wins", vec![rekeyed(&to_2), rekeyed(&to_3), updown(&down("3")), updown(&down("1"))], 2),
        ("theirs wins", vec![rekeyed(&to_2), rekeyed(&to_3), updown(&down("2")), updown(&down("1"))], 3),
        ("the loser is reported last", vec![rekeyed(&to_2), updown(&down("1")), rekeyed(&to_3), updown(&down("3"))], 2),
        ("the loser's end is reported first", vec![rekeyed(&to_2), updown(&down("3")), rekeyed(&to_3)], 2),
        ("each twice", vec![rekeyed(&to_2), rekeyed(&to_2), updown(&down("1")), updown(&down("1"))], 2),
    ] {
        let mut table = SaTable::default();
        after(&mut table, &[("child-updown", &first)]);
        let pairs = table.tunnel("a").pairs(100);
        for (name, bytes) in &events {
            after(&mut table, &[(name, bytes)]);
            assert_eq!(table.tunnel("a").pairs(100), pairs, "{what}");
        }
        assert_eq!(ids(&table), [last], "{what}");
    }
}

#[test]
fn restarted_charon_may_reuse_sa_ids() {
    let up = up_bytes("a", "1", &[child_bytes("a-1", "1", "10.10.10.0/24")]);
    let down = event_bytes("a", "1", &[child_bytes("a-1", "1", "10.10.10.0/24")]);
    let mut table = SaTable::default();
    assert!(after(&mut table, &[("child-updown", &up), ("child-updown", &down)]).is_empty());
    assert!(after(&mut table, &[("child-updown", &up)]).is_empty(), "reported too late by the same one");
    // The new process reuses the number of a closed SA for its first one.
    table.lose_all();
    assert_eq!(after(&mut table, &[("child-updown", &up)]), [1]);
    // The next process has none: the SAs of the previous one need no event of their end.
    table.lose_all();
    assert!(table.lost_by(&[]).is_empty() && !table.tunnel("a").is_up() && table.tunnel("a").ike.is_none());
}

/// A list made during the replacement of an IKE SA: the new one had no children yet, the old one was gone.
#[test]
fn list_lacking_live_sas_names_their_connections() {
    let mut table = SaTable::default();
    table.apply(up(1, 1));
    let of_b = IkeSa { connection: "b".to_owned(), ..ike(7) };
    table.apply(SaChange::ChildUp(of_b.clone(), child(7)));
    let connecting = IkeSa { state: "CONNECTING".to_owned(), ..ike(2) };
    let rekeying = ChildSa { state: "REKEYED".to_owned(), ..child(1) };
    let b = (of_b, vec![child(7)]);
    for (listed, lost) in [
        (vec![(connecting, vec![]), b.clone()], vec!["a"]),
        (vec![b.clone()], vec!["a"]),
        (vec![], vec!["a", "b"]),
        (vec![(ike(1), vec![child(1)])], vec!["b"]),
        (vec![(ike(1), vec![rekeying]), b.clone()], vec!["a"]),
        (vec![(ike(2), vec![child(1)]), b.clone()], vec![]),
        (vec![(ike(1), vec![]), (ike(2), vec![child(3)]), b.clone()], vec![]),
    ] {
        assert_eq!(table.lost_by(&listed), lost.into_iter().map(str::to_owned).collect(), "{listed:?}");
    }
    table.apply(down(1));
    assert!(table.lost_by(&[b]).is_empty());
}
