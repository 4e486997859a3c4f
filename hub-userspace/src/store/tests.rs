use serde_json::{Value, json};

use super::*;
use crate::config::Role;

fn put(number: u64, destination: &str, next_hop: &str) -> Op {
    let id = ObjectId::Route((destination.parse().expect(destination), next_hop.to_owned()));
    Op::Put(id, Stored { number, value: Body::Route(RouteKeys { weight: 7, publish: true }) })
}

fn connection(number: u64, name: &str) -> Op {
    let Value::Object(keys) = json!({"interface": "tun-a", "ipsec": {"psk_file": "/psk"}}) else { panic!("a table") };
    Op::Put(ObjectId::Connection(name.to_owned()), Stored { number, value: Body::Table(keys) })
}

fn entry(object: &str) -> audit::AuditEntry {
    let object = object.to_owned();
    audit::AuditEntry {
        time: 1.5,
        uid: Some(0),
        action: "route add".into(),
        object,
        before: Value::Null,
        after: json!({}),
    }
}

fn batch(ops: Vec<Op>) -> Batch {
    Batch { ops, audit: Some(entry("a")), ..Batch::default() }
}

fn open(folder: &Path) -> Opened {
    Store::open(folder, "default").expect("a good store")
}

fn all_of(ops: &[Op]) -> Objects {
    let mut objects = Objects::default();
    for op in ops {
        objects.apply(op);
    }
    objects
}

#[test]
fn commits_survive_reopening() {
    let folder = tempfile::tempdir().expect("a folder");
    let ops =
        [put(0, "10.0.0.0/8", "a"), put(1, "fd00::/8", "b"), connection(2, "a"), Op::Admin("a".into(), Some(false))];
    let Opened { mut store, objects, unconfirmed } = open(folder.path());
    assert!(objects.is_empty() && unconfirmed.is_none());
    for (index, op) in ops.iter().enumerate() {
        store.commit(&batch(vec![op.clone()]), index as u64 + 1).expect("written");
    }
    let role = StoredRole { role: Role::Withdrawn, boot: Some("b1".into()) };
    store.commit(&batch(vec![Op::Role(role.clone())]), 4).expect("written");
    let text = |text: &str| vec![SourceText { path: "/etc/a".into(), text: text.into() }];
    let reload = Unconfirmed { before: text("old"), after: text("new") };
    store.commit(&Batch { unconfirmed: Some(Some(reload.clone())), ..Batch::default() }, 9).expect("written");
    drop(store);
    let Opened { mut store, objects, unconfirmed } = open(folder.path());
    assert_eq!(objects, Objects { next_number: 9, role: Some(role.clone()), ..all_of(&ops) });
    assert_eq!(unconfirmed, Some(reload));
    assert_eq!(store.audit(9).expect("read").len(), 5);

    let gone = [Op::Delete(ObjectId::Connection("a".into())), Op::Admin("a".into(), None)];
    store.commit(&Batch { ops: gone.to_vec(), unconfirmed: Some(None), ..Batch::default() }, 9).expect("written");
    drop(store);
    let Opened { objects, unconfirmed, .. } = open(folder.path());
    assert_eq!(objects, Objects { next_number: 9, role: Some(role), ..all_of(&ops[..2]) });
    assert_eq!(unconfirmed, None);
}

#[test]
fn audit_log_over_limit_keeps_newest_entries() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = open(folder.path()).store;
    let database = match &store.access {
        Access::Writable(Some(database)) => database,
        other => panic!("{other:?}"),
    };
    for number in 0..audit::MOST_ENTRIES + 20 {
        // No sync to disk here: only the last commit matters.
        let mut write = database.begin_write().expect("begun");
        write.set_durability(redb::Durability::None).expect("allowed");
        schema::fill(&write, &Batch { audit: Some(entry(&number.to_string())), ..Batch::default() }, 0, 0)
            .expect("filled");
        write.commit().expect("committed");
    }
    store.commit(&Batch { audit: Some(entry("last")), ..Batch::default() }, 0).expect("written");
    let all = store.audit(usize::MAX).expect("read");
    assert_eq!(all.len() as u64, audit::MOST_ENTRIES);
    assert_eq!((all[0].object.as_str(), all[all.len() - 1].object.as_str()), ("21", "last"));
}

#[test]
fn instances_have_separate_locked_stores() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut first = open(folder.path()).store;
    let error = Store::open(folder.path(), "default").expect_err("locked");
    assert!(matches!(error, StoreError::InUse(_)) && error.to_string().contains("another agent"), "{error}");
    first.commit(&batch(vec![put(0, "10.0.0.0/8", "a")]), 1).expect("written");
    assert!(Store::open(folder.path(), "other").expect("another one").objects.is_empty());
    let mode = |path: &Path| fs::metadata(path).expect("there").mode() & 0o7777;
    assert_eq!((mode(&folder.path().join("default")), mode(first.file())), (0o700, 0o600));
}

#[test]
fn store_writable_by_others_is_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(open(folder.path()));
    let inner = folder.path().join("default");
    let mode = |mode| fs::set_permissions(&inner, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("ours");
    mode(0o770);
    let error = Store::open(folder.path(), "default").expect_err("refused").to_string();
    assert!(error.contains("chmod go-w"), "{error}");
    mode(0o700);
    open(folder.path());
}

#[test]
fn store_with_newer_schema_is_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path()).store;
    let Access::Writable(Some(database)) = &store.access else { panic!("{store:?}") };
    let write = database.begin_write().expect("begun");
    write
        .open_table(redb::TableDefinition::<&str, u64>::new("meta"))
        .expect("there")
        .insert("version", schema::VERSION + 1)
        .expect("written");
    write.commit().expect("committed");
    drop(store);
    let error = Store::open(folder.path(), "default").expect_err("newer").to_string();
    for part in
        ["version 2", "to downgrade", "`vpnhub store backup`", "loses the objects", "copy the older version's backup"]
    {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(error.lines().count(), 1);
}

#[test]
fn backup_restores_objects_and_audit_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let ops = vec![put(0, "10.0.0.0/8", "a"), connection(1, "a")];
    let mut store = open(folder.path()).store;
    store.commit(&batch(ops.clone()), 2).expect("written");
    let bytes = store.backup().expect("copied");
    store.commit(&batch(vec![put(2, "11.0.0.0/8", "a")]), 3).expect("written");
    drop(store);
    fs::write(folder.path().join("default").join(FILE), bytes).expect("put in its place");
    let Opened { store, objects, .. } = open(folder.path());
    assert_eq!(objects, all_of(&ops));
    assert_eq!(store.audit(9).expect("read"), [entry("a")]);
}

#[test]
fn store_of_version_without_role_is_read_and_copied() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = open(folder.path()).store;
    store.commit(&batch(vec![connection(0, "a")]), 1).expect("written");
    let Access::Writable(Some(database)) = &store.access else { panic!("{store:?}") };
    let write = database.begin_write().expect("begun");
    assert!(write.delete_table(redb::TableDefinition::<&str, &[u8]>::new("role")).expect("there"));
    write.commit().expect("committed");
    let bytes = store.backup().expect("copied");
    drop(store);
    assert_eq!(open(folder.path()).objects.role, None);
    fs::write(folder.path().join("default").join(FILE), bytes).expect("put in its place");
    let Opened { mut store, objects, .. } = open(folder.path());
    assert_eq!(objects, all_of(&[connection(0, "a")]));
    let role = StoredRole { role: Role::Standby, boot: None };
    store.commit(&batch(vec![Op::Role(role.clone())]), 1).expect("written");
    drop(store);
    assert_eq!(open(folder.path()).objects.role, Some(role));
}

/// xorshift64: the same bytes on every machine.
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 16).expect("64 bits")
}

/// With any byte changed, the store is unchanged or an error: never empty or different.
#[test]
fn damaged_store_is_error_or_intact() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = open(folder.path()).store;
    let ops: Vec<Op> = (0..200_u64).map(|n| put(n, &format!("10.{n}.0.0/16"), "a")).collect();
    store.commit(&batch(ops), 200).expect("written");
    drop(store);
    let file = folder.path().join("default").join(FILE);
    let good = fs::read(&file).expect("there");
    let expected = open(folder.path()).objects;
    let used = good.iter().rposition(|byte| *byte != 0).expect("not all zeros") + 1;
    let (mut state, mut refused) = (0x5eed, 0);
    for round in 0..150 {
        let mut bytes = good.clone();
        match round % 3 {
            0 => bytes.truncate(next(&mut state) % bytes.len()),
            1 => bytes[next(&mut state) % 512] ^= 1 << (next(&mut state) % 8),
            _ => {
                let at = next(&mut state) % used;
                let end = (at + 64).min(bytes.len());
                bytes[at..end].fill(0xa5);
            }
        }
        fs::write(&file, &bytes).expect("ours");
        match Store::open(folder.path(), "default") {
            Ok(Opened { objects, .. }) => assert_eq!(objects, expected, "round {round}"),
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                assert!(matches!(error, StoreError::Damaged { .. }), "round {round}: {text}");
                assert!(text.contains("copy a backup over it") && text.lines().count() == 1, "{text}");
            }
        }
    }
    assert!(refused > 50, "only {refused} of 150 were refused");
}
