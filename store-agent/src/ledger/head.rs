//! Where the ledger and both links stand, and the next entry of the ledger.

use protocol::hash::Digest;
use protocol::ids::{OperationId, StoreId};
use protocol::link::{Commands, Cursor, Entry, Epoch};
use protocol::time::Millis;
use protocol::wire::{Event, Fact};
use runtime::sqlite::{DigestColumn, HashColumn, cursor_at, number_at, parsed};
use rusqlite::{Connection, params};

/// Where the ledger stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The last entry.
    pub cursor: Cursor,
    /// Digest of the stock after it.
    pub digest: Digest,
    /// Number of items in it.
    pub items: u64,
}

/// Where the ledger stands.
pub fn head(connection: &Connection) -> rusqlite::Result<Head> {
    connection.prepare_cached("select epoch, seq, hash, digest, items from meta")?.query_row([], |row| {
        Ok(Head { cursor: cursor_at(row, 0)?, digest: row.get::<_, DigestColumn>(3)?.0, items: row.get(4)? })
    })
}

/// The last entry, also of a copy that an older version has written.
pub fn cursor(connection: &Connection) -> rusqlite::Result<Cursor> {
    connection.prepare_cached("select epoch, seq, hash from meta")?.query_row([], |row| cursor_at(row, 0))
}

/// Whose ledger it is.
pub fn store_id(connection: &Connection) -> rusqlite::Result<StoreId> {
    connection.prepare_cached("select store_id from meta")?.query_row([], |row| parsed(row, 0))
}

/// How far the commands have been executed, and for which event epoch their epoch was opened.
pub fn command_cursor(connection: &Connection) -> rusqlite::Result<(Cursor<Commands>, Epoch)> {
    connection
        .prepare_cached("select command_epoch, command_seq, command_hash, command_for from meta")?
        .query_row([], |row| Ok((cursor_at(row, 0)?, number_at(row, 3)?)))
}

/// The commands up to here have been executed; `opened_for`: the event epoch that their epoch was opened for.
pub(crate) fn save_command_cursor(
    connection: &Connection,
    cursor: &Cursor<Commands>,
    opened_for: Epoch,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("update meta set command_epoch = ?1, command_seq = ?2, command_hash = ?3, command_for = ?4")?
        .execute(params![cursor.epoch.get(), cursor.seq.get(), HashColumn(cursor.hash), opened_for.get()])?;
    Ok(())
}

/// Appends an event whose effect on the stock, if any, is in the database already, and `digest` with it.
pub fn append(
    connection: &Connection,
    head: &mut Head,
    operation: &OperationId,
    event: &Event,
    now: Millis,
) -> rusqlite::Result<Entry> {
    let entry = Entry::follow(&head.cursor, event.kind(), operation.as_str(), event.encode(), Some(head.digest));
    let fact = match event {
        Event::Fact(fact) => Some(fact),
        Event::OutcomeRepeated(_)
        | Event::Opened { .. }
        | Event::SnapshotPage(_)
        | Event::SnapshotEnd(_)
        | Event::Ready { .. } => None,
    };
    connection
        .prepare_cached(
            "insert into ledger (epoch, seq, type, operation_id, body, digest, hash, product_id, delta, reference, \
             actor, recorded_at) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            entry.id.epoch.get(),
            entry.id.seq.get(),
            entry.kind,
            entry.operation,
            entry.body,
            DigestColumn(head.digest),
            HashColumn(entry.hash),
            fact.map(|fact| fact.filed_under().to_string()),
            fact.map_or(0, Fact::filed_delta),
            fact.and_then(|fact| fact.about.reference.as_deref()),
            fact.and_then(|fact| fact.about.actor.as_deref()),
            now.0,
        ])?;
    for after in fact.map_or(&[][..], |fact| fact.what.items()).iter().skip(1) {
        connection
            .prepare_cached("insert into ledger_item (product_id, epoch, seq, delta) values (?1, ?2, ?3, ?4)")?
            .execute(params![after.product_id.as_str(), entry.id.epoch.get(), entry.id.seq.get(), after.delta])?;
    }
    head.cursor = entry.cursor();
    Ok(entry)
}

/// Writes the head back, at the end of a transaction's appends.
pub fn save_head(connection: &Connection, head: &Head) -> rusqlite::Result<()> {
    connection.prepare_cached("update meta set epoch = ?1, seq = ?2, hash = ?3, digest = ?4, items = ?5")?.execute(
        params![
            head.cursor.epoch.get(),
            head.cursor.seq.get(),
            HashColumn(head.cursor.hash),
            DigestColumn(head.digest),
            head.items
        ],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::testing::tamper;
    use crate::testing::store;

    #[test]
    fn the_number_of_items_is_kept_and_not_counted() {
        let connection = store(&[("tea", 1), ("milk", 0)]);
        tamper(&connection, "delete from item");
        assert_eq!(head(&connection).expect("reads").items, 2);
    }
}
