//! Tables of the database, and the encoding of objects in them.
//!
//! Objects of all kinds share one table: (kind, name) and JSON. A new kind of object therefore needs no new table. It
//! needs a new schema version, though, because older versions would drop such objects.

use redb::{
    ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition, TableError,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};

use super::{
    audit,
    error::Cause,
    object::{Body, ObjectId, Objects, Op, Stored},
    unconfirmed::Unconfirmed,
};

/// Version of this program. A store with a higher version is rejected.
pub(super) const VERSION: u64 = 1;

/// `version`, `revision` (counts the commits), `next_number`.
const META: TableDefinition<'static, &str, u64> = TableDefinition::new("meta");
/// By kind and name: JSON of a [`StoreRow`].
const OBJECTS: TableDefinition<'static, (&str, &str), &[u8]> = TableDefinition::new("objects");
/// By connection: `true` is up.
const ADMIN: TableDefinition<'static, &str, bool> = TableDefinition::new("admin");
/// By number, ascending: JSON of an [`audit::AuditEntry`].
const AUDIT: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("audit");
/// At most one row, `reload`: JSON of an [`Unconfirmed`].
const UNCONFIRMED: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("unconfirmed");
const RELOAD: &str = "reload";
/// At most one row, `role`: JSON of a [`StoredRole`](super::StoredRole). Absent in stores of earlier versions, which
/// ignore it.
const ROLE: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("role");
const HUB: &str = "role";

#[derive(Serialize, Deserialize)]
struct StoreRow {
    number: u64,
    keys: Body,
}

/// Contents of a store, without the audit log.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub version: u64,
    pub revision: u64,
    pub objects: Objects,
    pub unconfirmed: Option<Unconfirmed>,
}

fn damaged(what: impl std::fmt::Display) -> Cause {
    Cause::Damaged(what.to_string())
}

/// Makes the tables of an empty database.
pub(super) fn initialize(database: &redb::Database) -> Result<(), Cause> {
    let transaction = database.begin_write().map_err(redb::Error::from)?;
    {
        let mut meta = transaction.open_table(META).map_err(redb::Error::from)?;
        meta.insert("version", VERSION).map_err(redb::Error::from)?;
        meta.insert("revision", 0).map_err(redb::Error::from)?;
        meta.insert("next_number", 0).map_err(redb::Error::from)?;
        transaction.open_table(OBJECTS).map_err(redb::Error::from)?;
        transaction.open_table(ADMIN).map_err(redb::Error::from)?;
        transaction.open_table(AUDIT).map_err(redb::Error::from)?;
        transaction.open_table(UNCONFIRMED).map_err(redb::Error::from)?;
        transaction.open_table(ROLE).map_err(redb::Error::from)?;
    }
    transaction.commit().map_err(redb::Error::from)?;
    Ok(())
}

/// Reads everything except the audit log. For a newer schema reads only the version.
pub(super) fn read(database: &redb::Database) -> Result<Contents, Cause> {
    let transaction = database.begin_read().map_err(redb::Error::from)?;
    let meta = transaction.open_table(META).map_err(redb::Error::from)?;
    let number = |key| -> Result<u64, Cause> {
        let found = meta.get(key).map_err(redb::Error::from)?;
        found.map(|found| found.value()).ok_or_else(|| damaged(format!("it has no {key}")))
    };
    let mut contents = Contents { version: number("version")?, ..Contents::default() };
    if contents.version > VERSION {
        return Ok(contents);
    }
    contents.revision = number("revision")?;
    let table = transaction.open_table(OBJECTS).map_err(redb::Error::from)?;
    for entry in table.iter().map_err(redb::Error::from)? {
        let (key, value) = entry.map_err(redb::Error::from)?;
        let (kind, name) = key.value();
        let id = ObjectId::of(kind, name).ok_or_else(|| damaged(format!("unknown object {kind} {name}")))?;
        let StoreRow { number, keys } =
            serde_json::from_slice(value.value()).map_err(|error| damaged(format!("{id}: {error}")))?;
        let is_of_kind = match (&id, &keys) {
            (ObjectId::Route(_), Body::Route(_)) | (ObjectId::PolicyRoute(_), Body::PolicyRoute(_)) => true,
            (ObjectId::Route(_) | ObjectId::PolicyRoute(_), _) | (_, Body::Route(_) | Body::PolicyRoute(_)) => false,
            (_, Body::Table(_)) => true,
        };
        if !is_of_kind {
            return Err(damaged(format!("{id} has the keys of another kind of object")));
        }
        contents.objects.apply(&Op::Put(id, Stored { number, value: keys }));
    }
    let table = transaction.open_table(ADMIN).map_err(redb::Error::from)?;
    for entry in table.iter().map_err(redb::Error::from)? {
        let (name, up) = entry.map_err(redb::Error::from)?;
        contents.objects.admin.insert(name.value().to_owned(), up.value());
    }
    contents.objects.next_number = contents.objects.next_number.max(number("next_number")?);
    let table = transaction.open_table(UNCONFIRMED).map_err(redb::Error::from)?;
    if let Some(found) = table.get(RELOAD).map_err(redb::Error::from)? {
        contents.unconfirmed = Some(serde_json::from_slice(found.value()).map_err(damaged)?);
    }
    match transaction.open_table(ROLE) {
        Ok(table) => {
            if let Some(found) = table.get(HUB).map_err(redb::Error::from)? {
                contents.objects.role = Some(serde_json::from_slice(found.value()).map_err(damaged)?);
            }
        }
        Err(TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(redb::Error::from(error).into()),
    }
    Ok(contents)
}

/// The newest `most` entries of the audit log, oldest first.
pub(super) fn audit(database: &redb::Database, most: usize) -> Result<Vec<audit::AuditEntry>, Cause> {
    let transaction = database.begin_read().map_err(redb::Error::from)?;
    let table = transaction.open_table(AUDIT).map_err(redb::Error::from)?;
    let mut entries = Vec::new();
    for entry in table.iter().map_err(redb::Error::from)?.rev().take(most) {
        let (_, value) = entry.map_err(redb::Error::from)?;
        entries.push(serde_json::from_slice(value.value()).map_err(damaged)?);
    }
    entries.reverse();
    Ok(entries)
}

/// The last committed revision.
pub(super) fn revision(database: &redb::Database) -> Result<u64, Cause> {
    let transaction = database.begin_read().map_err(redb::Error::from)?;
    let meta = transaction.open_table(META).map_err(redb::Error::from)?;
    let found = meta.get("revision").map_err(redb::Error::from)?;
    Ok(found.map_or(0, |found| found.value()))
}

/// A transaction of `write`.
#[derive(Debug, Default)]
pub struct Batch {
    pub ops: Vec<Op>,
    pub audit: Option<audit::AuditEntry>,
    /// `Some(None)` removes it.
    pub unconfirmed: Option<Option<Unconfirmed>>,
}

/// Writes a batch to disk atomically.
pub(super) fn write(database: &redb::Database, batch: &Batch, next_number: u64, revision: u64) -> Result<(), Cause> {
    let transaction = database.begin_write().map_err(redb::Error::from)?;
    fill(&transaction, batch, next_number, revision)?;
    transaction.commit().map_err(redb::Error::from)?;
    Ok(())
}

pub(super) fn fill(
    transaction: &WriteTransaction,
    batch: &Batch,
    next_number: u64,
    revision: u64,
) -> Result<(), Cause> {
    let mut meta = transaction.open_table(META).map_err(redb::Error::from)?;
    meta.insert("revision", revision).map_err(redb::Error::from)?;
    meta.insert("next_number", next_number).map_err(redb::Error::from)?;
    let mut objects = transaction.open_table(OBJECTS).map_err(redb::Error::from)?;
    let mut admin = transaction.open_table(ADMIN).map_err(redb::Error::from)?;
    for op in &batch.ops {
        match op {
            Op::Put(id, Stored { number, value }) => {
                let row = serde_json::to_vec(&StoreRow { number: *number, keys: value.clone() }).map_err(damaged)?;
                objects.insert((id.kind(), id.name().as_str()), row.as_slice()).map_err(redb::Error::from)?;
            }
            Op::Delete(id) => drop(objects.remove((id.kind(), id.name().as_str())).map_err(redb::Error::from)?),
            Op::Admin(name, Some(up)) => drop(admin.insert(name.as_str(), up).map_err(redb::Error::from)?),
            Op::Admin(name, None) => drop(admin.remove(name.as_str()).map_err(redb::Error::from)?),
            Op::Role(role) => {
                let row = serde_json::to_vec(role).map_err(damaged)?;
                let mut table = transaction.open_table(ROLE).map_err(redb::Error::from)?;
                drop(table.insert(HUB, row.as_slice()).map_err(redb::Error::from)?);
            }
        }
    }
    if let Some(entry) = &batch.audit {
        let mut table = transaction.open_table(AUDIT).map_err(redb::Error::from)?;
        let last = table.last().map_err(redb::Error::from)?.map_or(0, |(number, _)| number.value());
        let row = serde_json::to_vec(entry).map_err(damaged)?;
        table.insert(last + 1, row.as_slice()).map_err(redb::Error::from)?;
        while table.len().map_err(redb::Error::from)? > audit::MOST_ENTRIES {
            drop(table.pop_first().map_err(redb::Error::from)?);
        }
    }
    if let Some(unconfirmed) = &batch.unconfirmed {
        let mut table = transaction.open_table(UNCONFIRMED).map_err(redb::Error::from)?;
        match unconfirmed {
            Some(found) => {
                let row = serde_json::to_vec(found).map_err(damaged)?;
                drop(table.insert(RELOAD, row.as_slice()).map_err(redb::Error::from)?);
            }
            None => drop(table.remove(RELOAD).map_err(redb::Error::from)?),
        }
    }
    Ok(())
}

/// Copies all tables into an empty database.
pub(super) fn copy(from: &redb::Database, to: &redb::Database) -> Result<(), Cause> {
    let (read, write) = (from.begin_read().map_err(redb::Error::from)?, to.begin_write().map_err(redb::Error::from)?);
    macro_rules! copy {
        ($($table:expr),*) => {$({
            match read.open_table($table) {
                Ok(source) => {
                    let mut target = write.open_table($table).map_err(redb::Error::from)?;
                    for entry in source.iter().map_err(redb::Error::from)? {
                        let (key, value) = entry.map_err(redb::Error::from)?;
                        target.insert(key.value(), value.value()).map_err(redb::Error::from)?;
                    }
                }
                // Of an earlier version.
                Err(TableError::TableDoesNotExist(_)) => {}
                Err(error) => return Err(redb::Error::from(error).into()),
            }
        })*};
    }
    copy!(META, OBJECTS, ADMIN, AUDIT, UNCONFIRMED, ROLE);
    write.commit().map_err(redb::Error::from)?;
    Ok(())
}
