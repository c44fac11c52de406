//! Epochs of the ledger (L9): each opens with the whole state, and nothing of an older one is published any more.

use rusqlite::{Connection, OptionalExtension, params};
use shared::hash::{Digest, Hash};
use shared::ids::{OperationId, StoreId};
use shared::link::Cursor;
use shared::sqlite::{DigestColumn, HashColumn, cursor_at};
use shared::time::Millis;
use shared::wire::{Event, Named, Outcome, SnapshotEnd, SnapshotPage};

use super::{Head, all_items, append, head, save_head};

/// Items or outcomes on one page.
const PAGE: usize = 200;

/// Why a database is not this agent's.
#[derive(Debug, thiserror::Error)]
pub enum InitialiseError {
    /// It belongs to another store.
    #[error("the database belongs to store {found}, not to {wanted}: check STORE_ID and DATABASE_PATH")]
    OtherStore {
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: StoreId,
    },
    /// SQLite.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Opens the first epoch of a new database; checks that an existing one is this store's.
pub fn initialise(connection: &Connection, store: &StoreId, now: Millis) -> Result<(), InitialiseError> {
    let found: Option<String> = connection.query_row("select store_id from meta", [], |row| row.get(0)).optional()?;
    match found {
        Some(found) if found == store.as_str() => return Ok(()),
        Some(found) => return Err(InitialiseError::OtherStore { found, wanted: store.clone() }),
        None => {}
    }
    let transaction = connection.unchecked_transaction()?;
    transaction.execute(
        "insert into meta (id, store_id, epoch, seq, hash, digest) values (1, ?1, 0, 0, ?2, ?3)",
        params![store.as_str(), HashColumn(Hash::ZERO), DigestColumn(Digest::default())],
    )?;
    open_epoch(&transaction, now, 0, None)?;
    transaction.commit()?;
    Ok(())
}

/// Opens an epoch: later than the own one and than `beyond` (the ack's), or the number that central gave out. The
/// command cursor is closed until a command epoch names this one.
pub fn open_epoch(connection: &Connection, now: Millis, beyond: u64, given: Option<u64>) -> rusqlite::Result<Cursor> {
    let mut head = head(connection)?;
    if head.cursor.epoch > 0 {
        connection
            .prepare_cached("insert or replace into lineage (epoch, seq, hash) values (?1, ?2, ?3)")?
            .execute(params![head.cursor.epoch, head.cursor.seq, HashColumn(head.cursor.hash)])?;
    }
    let wall = u64::try_from(now.0).unwrap_or(1);
    let epoch = given.unwrap_or_else(|| wall.max(head.cursor.epoch + 1).max(beyond.saturating_add(1)));
    head.cursor = Cursor { epoch, seq: 0, hash: Hash::ZERO };
    connection.prepare_cached("update meta set acked = 0")?.execute([])?;
    let opened = Event::Opened { lineage: lineage(connection)? };
    append(connection, &mut head, &named(&format!("opened:{epoch}")), &opened, now)?;
    write_pages(connection, &mut head, now)?;
    save_head(connection, &head)?;
    Ok(head.cursor)
}

/// The last cursor of each earlier epoch.
pub fn lineage(connection: &Connection) -> rusqlite::Result<Vec<Cursor>> {
    connection
        .prepare_cached("select epoch, seq, hash from lineage order by epoch")?
        .query_map([], |row| cursor_at(row, 0))?
        .collect()
}

/// The whole state as pages: behind `opened`, and in answer to a resync. The caller saves the head.
pub fn write_pages(connection: &Connection, head: &mut Head, now: Millis) -> rusqlite::Result<()> {
    let items = all_items(connection)?;
    let outcomes: Vec<Outcome> = connection
        .prepare_cached("select body from outcome order by command_id")?
        .query_map([], |row| row.get::<_, String>(0))?
        .map(|body| {
            serde_json::from_str(&body?).map_err(|error| {
                rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
            })
        })
        .collect::<rusqlite::Result<_>>()?;
    let count = items.len() as u64;
    let mut pages = 0;
    for chunk in items.chunks(PAGE) {
        let items = chunk.iter().map(|(product_id, item)| Named { product_id: product_id.clone(), item: item.clone() });
        let page = SnapshotPage { items: items.collect(), outcomes: Vec::new() };
        write_page(connection, head, &mut pages, page, now)?;
    }
    for chunk in outcomes.chunks(PAGE) {
        let page = SnapshotPage { items: Vec::new(), outcomes: chunk.to_vec() };
        write_page(connection, head, &mut pages, page, now)?;
    }
    let end = Event::SnapshotEnd(SnapshotEnd { pages, count });
    append(connection, head, &named("snapshot"), &end, now)?;
    Ok(())
}

fn write_page(
    connection: &Connection,
    head: &mut Head,
    pages: &mut u64,
    page: SnapshotPage,
    now: Millis,
) -> rusqlite::Result<()> {
    *pages += 1;
    append(connection, head, &named("snapshot"), &Event::SnapshotPage(page), now)?;
    Ok(())
}

fn named(text: &str) -> OperationId {
    OperationId::parse(text).expect("a short text of visible ASCII")
}
