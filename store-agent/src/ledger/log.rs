//! The ledger as the link's sender sees it: entries, hashes, what is not acknowledged.

use std::cell::Cell;

use rusqlite::{Connection, OptionalExtension, params};
use shared::hash::Hash;
use shared::link::{Cursor, Entry, EntryId};
use shared::sqlite::{DigestColumn, HashColumn};
use shared::time::Millis;

/// How long an entry and a command's answer are kept beyond their acknowledgement, ms: thirty days (L1).
const RETENTION_MS: i64 = 30 * 24 * 60 * 60 * 1_000;
/// How long a caller's key is remembered, ms: seven days.
const KEYS_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// The present epoch of the ledger.
pub struct Log<'a> {
    /// Where it is.
    pub connection: &'a Connection,
    /// Its head, read once: what is committed later is for the next step.
    pub head: Cursor,
    /// The first read that failed: an entry that cannot be read must not pass for one that is gone.
    pub failed: Cell<Option<rusqlite::Error>>,
}

impl<'a> Log<'a> {
    /// The log as it is now.
    pub fn new(connection: &'a Connection) -> rusqlite::Result<Self> {
        Ok(Self { connection, head: super::head(connection)?.cursor, failed: Cell::default() })
    }
}

impl shared::link::Log for Log<'_> {
    fn head(&self) -> Cursor {
        self.head
    }

    fn hash_at(&self, seq: u64) -> Option<Hash> {
        if seq == 0 {
            return Some(Hash::ZERO);
        }
        if seq >= self.head.seq {
            return (seq == self.head.seq).then_some(self.head.hash);
        }
        let found = self.connection.prepare_cached("select hash from ledger where epoch = ?1 and seq = ?2").and_then(
            |mut statement| {
                statement.query_row(params![self.head.epoch, seq], |row| row.get::<_, HashColumn>(0)).optional()
            },
        );
        match found {
            Ok(hash) => hash.map(|hash| hash.0),
            Err(error) => {
                self.failed.set(Some(error));
                None
            }
        }
    }
}

/// Entries `from` to `to` of an epoch.
pub fn entries(connection: &Connection, epoch: u64, from: u64, to: u64) -> rusqlite::Result<Vec<Entry>> {
    connection
        .prepare_cached(
            "select seq, type, operation_id, body, digest, hash from ledger \
             where epoch = ?1 and seq between ?2 and ?3 order by seq",
        )?
        .query_map(params![epoch, from, to], |row| {
            Ok(Entry {
                id: EntryId { epoch, seq: row.get(0)? },
                kind: row.get(1)?,
                operation: row.get(2)?,
                body: row.get(3)?,
                digest: Some(row.get::<_, DigestColumn>(4)?.0),
                hash: row.get::<_, HashColumn>(5)?.0,
            })
        })?
        .collect()
}

/// What central has not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// How many entries.
    pub entries: u64,
    /// When the oldest of them was recorded.
    pub oldest: Option<Millis>,
}

/// What central has not acknowledged of the present epoch.
pub fn backlog(connection: &Connection) -> rusqlite::Result<Backlog> {
    let (epoch, seq, acked): (u64, u64, u64) = connection
        .prepare_cached("select epoch, seq, acked from meta")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let oldest = connection
        .prepare_cached("select recorded_at from ledger where epoch = ?1 and seq = ?2")?
        .query_row(params![epoch, acked + 1], |row| row.get(0))
        .optional()?;
    Ok(Backlog { entries: seq.saturating_sub(acked), oldest: oldest.map(Millis) })
}

/// Remembers how far central has acknowledged: what lies below may be pruned in time.
pub fn store_acked(connection: &Connection, epoch: u64, seq: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("update meta set acked = ?2 where epoch = ?1")?.execute(params![epoch, seq])?;
    Ok(())
}

/// Forgets what may be forgotten (L1): entries below the acknowledged one and older than the retention, answers to
/// commands as old, and callers' keys after a week.
pub fn prune(connection: &Connection, now: Millis) -> rusqlite::Result<()> {
    prune_entries(connection, Millis(now.0 - RETENTION_MS))?;
    // An answer that central may not have heard yet is kept, and so is that of a purchase whose units still wait.
    connection.execute(
        "delete from outcome where at < ?1 \
         and at < (select coalesce(min(ledger.recorded_at), ?1) from ledger join meta using (epoch) where ledger.seq > meta.acked) \
         and not exists (select 1 from purchase where purchase.attempt = outcome.command_id \
           and purchase.status = 'confirmed' and purchase.picked_at is null)",
        [now.0 - RETENTION_MS],
    )?;
    connection.execute("delete from idempotency where at < ?1", [now.0 - KEYS_MS])?;
    Ok(())
}

/// Forgets entries recorded before a time that lie below the acknowledged one, which always stays.
pub fn prune_entries(connection: &Connection, before: Millis) -> rusqlite::Result<()> {
    connection.execute(
        "delete from ledger where recorded_at < ?1 and exists (select 1 from meta \
         where ledger.epoch < meta.epoch or (ledger.epoch = meta.epoch and ledger.seq < meta.acked))",
        [before.0],
    )?;
    Ok(())
}
