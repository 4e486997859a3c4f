//! Compares bytes with those of `nft --debug=mnl`, where the packet tests in namespaces cannot detect a difference.

use super::{
    expression::{Compare, Expressions, Meta, NftVerdict},
    sets::interface,
    table::{NftTable, Ownership, probe},
    wire::{Messages, NftMessage, attribute, attributes, messages, text},
};

#[test]
fn batch_has_begin_and_end_and_one_ack_request() {
    let batch = Messages::batch(6, |batch| {
        batch.message(NftMessage::DeleteTable, 0, |_| ());
        batch.message(NftMessage::NewTable, 0x400, |message| message.u32(2, 0));
    });
    let shown: Vec<_> =
        messages(batch.bytes()).map(|message| (message.kind, message.flags, message.sequence)).collect();
    assert_eq!(shown, [(0x10, 1, 7), (0xa02, 1, 8), (0xa00, 0x405, 9), (0x11, 1, 10)]);
    assert_eq!((batch.sequence(), batch.count()), (10, 4));
    let bodies: Vec<_> = messages(batch.bytes()).map(|message| message.body).collect();
    // No family; the subsystem as resource id, in network byte order.
    assert_eq!(bodies[0], [0, 0, 0, 10]);
    assert_eq!(bodies[1][..4], [1, 0, 0, 0]);
    assert_eq!(text(attribute(&bodies[2][4..], 1).unwrap()), "vpnhub");
    assert_eq!(attribute(&bodies[2][4..], 2), Some(&[0; 4][..]));
}

#[test]
fn owned_table_has_owner_and_persist_flags() {
    for (ownership, flags) in [(Ownership::Owned, 6), (Ownership::Plain, 0)] {
        let mut written = Messages::default();
        NftTable::create(&mut written, ownership);
        let message = messages(written.bytes()).next().unwrap();
        assert_eq!((message.kind, message.flags), (0xa00, 0x401));
        assert_eq!(text(attribute(&message.body[4..], 1).unwrap()), "vpnhub");
        assert_eq!(attribute(&message.body[4..], 2), Some(&[0, 0, 0, flags][..]));
    }
}

#[test]
fn table_without_persist_flag_cannot_become_owned() {
    let (orphan, owned, plain, dormant, mortal) = ([0, 0, 0, 4], [0, 0, 0, 6], [0; 4], [0, 0, 0, 1], [0, 0, 0, 2]);
    for (flags, owner, can_be_owned, can_be_plain) in [
        (orphan, None, true, false),
        (owned, Some(0xffff_ee11), true, false),
        (plain, None, false, true),
        (dormant, None, false, true),
        (mortal, Some(4242), false, false),
    ] {
        let mut shown = Messages::default();
        shown.message(NftMessage::NewTable, 0, |message| {
            message.put(2, &flags);
            if let Some(owner) = owner {
                message.u32(7, owner);
            }
        });
        let table = NftTable::read(&messages(shown.bytes()).next().unwrap().body[4..]);
        assert_eq!(table.owner, owner);
        let can = [Ownership::Owned, Ownership::Plain].map(|ownership| table.can_become(ownership));
        assert_eq!(can, [can_be_owned, can_be_plain], "{flags:?}");
    }
}

#[test]
fn owner_probe_batch_always_fails() {
    let mut written = Messages::default();
    probe(&mut written);
    let shown: Vec<_> = messages(written.bytes()).map(|message| (message.kind, message.flags)).collect();
    // NEWTABLE, CREATE and EXCL; DELCHAIN of a chain that the new table cannot have.
    assert_eq!(shown, [(0xa00, 0x601), (0xa05, 1)]);
    for message in messages(written.bytes()) {
        assert_eq!(text(attribute(&message.body[4..], 1).unwrap()), "vpnhub-probe");
    }
}

#[test]
fn rule_expressions_are_nested_in_network_byte_order() {
    let mut written = Messages::default();
    written.bare(NftMessage::NewRule, 0, |message| {
        Expressions(message)
            .meta(Meta::IngressGroup, 0)
            .compare(0, Compare::Equal, &118_u32.to_ne_bytes())
            .verdict(NftVerdict::Goto("unmarked"));
    });
    let body = messages(written.bytes()).next().unwrap().body;
    let expressions: Vec<_> = attributes(&body[4..]).map(|(_, expression)| expression).collect();
    let names: Vec<_> = expressions.iter().map(|expression| text(attribute(expression, 1).unwrap())).collect();
    assert_eq!(names, ["meta", "cmp", "immediate"]);
    let data: Vec<_> = expressions.iter().map(|expression| attribute(expression, 2).unwrap()).collect();
    assert_eq!(attribute(data[0], 2), Some(&[0, 0, 0, 21][..]));
    assert_eq!(attribute(attribute(data[1], 3).unwrap(), 1), Some(&118_u32.to_ne_bytes()[..]));
    let verdict = attribute(attribute(data[2], 2).unwrap(), 2).unwrap();
    assert_eq!(attribute(verdict, 1), Some(&[0xff, 0xff, 0xff, 0xfc][..]));
    assert_eq!(attribute(verdict, 2), Some(&b"unmarked\0"[..]));
}

#[test]
fn truncated_message_is_skipped() {
    let mut written = Messages::default();
    written.message(NftMessage::NewTable, 0, |message| message.u32(2, 0));
    let whole = written.bytes();
    for length in 0..whole.len() {
        assert_eq!(messages(&whole[..length]).count(), 0, "{length}");
        assert!(attributes(&whole[20..length.max(20)]).count() <= 2);
    }
    // Lengths shorter than the header.
    assert_eq!(messages(&[0; 32]).count(), 0);
    assert_eq!(attributes(&[0; 8]).count(), 0);
}

#[test]
fn interface_name_over_15_bytes_is_rejected() {
    assert_eq!(interface("tun0"), Some(*b"tun0\0\0\0\0\0\0\0\0\0\0\0\0"));
    assert_eq!(interface("fifteen-bytes-x"), Some(*b"fifteen-bytes-x\0"));
    assert_eq!((interface("sixteen-bytes-xx"), interface("")), (None, None));
}
