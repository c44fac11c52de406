//! What the auditor reads: everything, one record after the other.

use protocol::hash::{Digest, Hash};
use protocol::ids::StoreId;
use protocol::link::{Commands, Cursor, EntryId, Epoch, Events};
use protocol::number::CommandEpoch;
use protocol::wire::Position;
use runtime::sqlite::{DigestColumn, HashColumn, cursor_at, id_at, number_at};
use rusqlite::{Connection, OptionalExtension, params};

/// An entry of a log, as it is kept.
#[derive(Debug, Clone)]
pub struct Kept<L = Events> {
    pub at: EntryId<L>,
    /// Its type, as it was sent.
    pub kind: String,
    /// Its operation, or command.
    pub operation: String,
    /// What it says; empty: a page of a state that is forgotten.
    pub body: String,
    /// The stock's digest after it, as far as it says one.
    pub digest: Option<Digest>,
    /// Hash of the chain up to it.
    pub hash: Hash,
}

/// Why the file cannot be trusted; `None`: it can.
pub fn damage(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let check: String = connection.pragma_query_value(None, "integrity_check", |row| row.get(0))?;
    Ok((check != "ok").then_some(check))
}

/// Each entry of a store's ledger, in order.
pub fn each_entry(
    connection: &Connection,
    store: &StoreId,
    mut look: impl FnMut(Kept) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "select epoch, seq, type, operation_id, body, digest, hash from event where store_id = ?1 \
         order by epoch, seq",
    )?;
    let mut rows = statement.query([store.as_str()])?;
    while let Some(row) = rows.next()? {
        look(Kept {
            at: id_at(row, 0)?,
            kind: row.get(2)?,
            operation: row.get(3)?,
            body: row.get(4)?,
            digest: row.get::<_, Option<DigestColumn>>(5)?.map(|digest| digest.0),
            hash: row.get::<_, HashColumn>(6)?.0,
        })?;
    }
    Ok(())
}

/// Where an epoch of a store's ledger ends.
pub fn end_of(connection: &Connection, store: &StoreId, epoch: Epoch) -> rusqlite::Result<Option<Cursor>> {
    connection
        .prepare_cached(
            "select epoch, seq, hash from event where store_id = ?1 and epoch = ?2 order by seq desc limit 1",
        )?
        .query_row(params![store.as_str(), epoch.get()], |row| cursor_at(row, 0))
        .optional()
}

/// Type and body of the first command of an epoch, while the log still tells.
pub fn first_command(
    connection: &Connection,
    store: &StoreId,
    epoch: CommandEpoch,
) -> rusqlite::Result<Option<(String, String)>> {
    connection
        .prepare_cached("select type, body from command where store_id = ?1 and epoch = ?2 and seq = 1")?
        .query_row(params![store.as_str(), epoch.get()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// Each command of an epoch of a store, in order.
pub fn each_command(
    connection: &Connection,
    store: &StoreId,
    epoch: CommandEpoch,
    mut look: impl FnMut(Kept<Commands>),
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "select seq, type, command_id, body, hash from command where store_id = ?1 and epoch = ?2 order by seq",
    )?;
    let mut rows = statement.query(params![store.as_str(), epoch.get()])?;
    while let Some(row) = rows.next()? {
        look(Kept {
            at: EntryId { epoch, seq: number_at(row, 0)? },
            kind: row.get(1)?,
            operation: row.get(2)?,
            body: row.get(3)?,
            digest: None,
            hash: row.get::<_, HashColumn>(4)?.0,
        });
    }
    Ok(())
}

/// Intervals of products that two stocks of one store count: the store, behind which product, and up to which.
pub fn counted_twice(connection: &Connection) -> rusqlite::Result<Vec<(String, String, String)>> {
    connection
        .prepare(
            "select one.store_id, one.counted_after, one.counted_to from stock as one join stock as other \
             on other.store_id = one.store_id and other.stock <> one.stock and other.counted_after < other.counted_to \
             and other.counted_after <= one.counted_after and one.counted_after < other.counted_to \
             where one.counted_after < one.counted_to",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}

pub fn count_purchases(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("select count(*) from purchase", [], |row| row.get(0))
}

/// A purchase that has ended, of which no entry of its store's ledger says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unproven {
    pub purchase: String,
    /// How it ended.
    pub status: String,
    /// Where the store is to have said so.
    pub position: Option<String>,
}

/// Purchases that ended without an entry at their position, but for those that retiring a store has ended, and those that
/// central has confirmed and the store has not answered.
pub fn unproven_purchases(connection: &Connection) -> rusqlite::Result<Vec<Unproven>> {
    let mut statement = connection.prepare(
        "select purchase_id, status, position from purchase where purchase.status <> 'pending' \
         and coalesce(purchase.code, '') <> 'store_retired' and not (purchase.status = 'confirmed' and purchase.position is null \
         and exists (select 1 from request where command_id = attempt and request.status = 'pending'))",
    )?;
    let mut entry = connection.prepare("select 1 from event where store_id = ?1 and epoch = ?2 and seq = ?3")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let ended = Unproven { purchase: row.get(0)?, status: row.get(1)?, position: row.get(2)? };
        let at: Option<Position> = ended.position.as_deref().and_then(|text| text.parse().ok());
        let is_proven = match &at {
            Some(at) => entry.exists(params![at.store.as_str(), at.at.epoch.get(), at.at.seq.get()])?,
            None => false,
        };
        if !is_proven {
            found.push(ended);
        }
    }
    Ok(found)
}
