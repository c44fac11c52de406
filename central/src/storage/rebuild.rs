//! How far the rebuild of the view has come, and which stores it left as they were.

use protocol::hash::Digest;
use protocol::ids::StoreId;
use protocol::link::{EntryId, Seq};
use protocol::time::Millis;
use runtime::sqlite::{DigestColumn, id_at, number_at, parsed};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Why a store was left as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// What the ledger adds up to is not what the store said there: not all of its entries are understood.
    DigestDiffers,
    /// Entries since its last whole state, or pages of it, are missing.
    LedgerIncomplete,
    /// Its agent is being restored: what is shown is told to it.
    Restoring,
}

impl Reason {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DigestDiffers => "digest_differs",
            Self::LedgerIncomplete => "ledger_incomplete",
            Self::Restoring => "restoring",
        }
    }
}

/// The store at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AtWork {
    pub store: StoreId,
    /// What is built.
    pub stock: i64,
    /// A state that arrives in it; 0: none.
    pub staged: i64,
    pub digest: Digest,
    pub units: i64,
    /// Where the ledger is read from.
    pub base: EntryId,
    /// Up to where it was.
    pub seq: Seq,
}

/// A rebuild that runs, or the one that ended last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuild {
    pub started_at: Millis,
    /// `None`: it runs.
    pub finished_at: Option<Millis>,
    /// Entries to apply, as far as they were known when it began.
    pub total: u64,
    pub applied: u64,
    /// Stores up to this one are done.
    pub done_to: String,
    pub at_work: Option<AtWork>,
}

/// The rebuild that runs, or the one that ended last.
pub fn find(connection: &Connection) -> rusqlite::Result<Option<Rebuild>> {
    let at_work = |row: &Row<'_>| -> rusqlite::Result<AtWork> {
        Ok(AtWork {
            store: parsed(row, 5)?,
            stock: row.get(6)?,
            staged: row.get(7)?,
            digest: row.get::<_, DigestColumn>(8)?.0,
            base: id_at(row, 9)?,
            seq: number_at(row, 11)?,
            units: row.get(12)?,
        })
    };
    connection
        .prepare_cached(
            "select started_at, finished_at, total, applied, done_to, store_id, stock, staged, digest, base_epoch, \
             base_seq, seq, units from rebuild",
        )?
        .query_row([], |row| {
            let is_at_work = row.get_ref(5)?.as_str_or_null()?.is_some();
            Ok(Rebuild {
                started_at: Millis(row.get(0)?),
                finished_at: row.get::<_, Option<i64>>(1)?.map(Millis),
                total: row.get(2)?,
                applied: row.get(3)?,
                done_to: row.get(4)?,
                at_work: is_at_work.then(|| at_work(row)).transpose()?,
            })
        })
        .optional()
}

/// Whether one runs.
pub fn is_running(connection: &Connection) -> rusqlite::Result<bool> {
    connection
        .prepare_cached("select exists (select 1 from rebuild where finished_at is null)")?
        .query_row([], |row| row.get(0))
}

/// Begins one in the place of the one before.
pub fn begin(connection: &Connection, now: Millis) -> rusqlite::Result<()> {
    connection.prepare_cached("delete from rebuild_left_out")?.execute([])?;
    connection.prepare_cached("delete from rebuild")?.execute([])?;
    connection
        .prepare_cached(
            "insert into rebuild (started_at, total) \
             select ?1, coalesce(sum(state_seq - base_seq + 1), 0) from store where base_seq > 0",
        )?
        .execute([now.0])?;
    Ok(())
}

/// Writes it back.
pub fn save(connection: &Connection, rebuild: &Rebuild) -> rusqlite::Result<()> {
    let at_work = rebuild.at_work.as_ref();
    connection
        .prepare_cached(
            "update rebuild set finished_at = ?1, applied = ?2, done_to = ?3, store_id = ?4, stock = ?5, staged = ?6, \
             digest = ?7, base_epoch = ?8, base_seq = ?9, seq = ?10, units = ?11",
        )?
        .execute(params![
            rebuild.finished_at.map(|at| at.0),
            rebuild.applied,
            rebuild.done_to,
            at_work.map(|at_work| at_work.store.as_str()),
            at_work.map_or(0, |at_work| at_work.stock),
            at_work.map_or(0, |at_work| at_work.staged),
            DigestColumn(at_work.map_or(Digest::default(), |at_work| at_work.digest)),
            at_work.map_or(0, |at_work| at_work.base.epoch.get()),
            at_work.map_or(0, |at_work| at_work.base.seq.get()),
            at_work.map_or(0, |at_work| at_work.seq.get()),
            at_work.map_or(0, |at_work| at_work.units),
        ])?;
    Ok(())
}

/// The store that comes behind this one, by id.
pub fn next_store(connection: &Connection, behind: &str) -> rusqlite::Result<Option<StoreId>> {
    connection
        .prepare_cached("select store_id from store where store_id > ?1 order by store_id limit 1")?
        .query_row([behind], |row| parsed(row, 0))
        .optional()
}

/// A store is left as it is.
pub fn leave_out(connection: &Connection, store: &StoreId, reason: Reason) -> rusqlite::Result<()> {
    connection
        .prepare_cached("insert or replace into rebuild_left_out (store_id, reason) values (?1, ?2)")?
        .execute([store.as_str(), reason.as_str()])?;
    Ok(())
}

/// Stores that were left as they were, and why, by id: the first so many; and how many there are.
pub fn left_out(connection: &Connection, most: usize) -> rusqlite::Result<(Vec<(String, String)>, usize)> {
    let first = connection
        .prepare_cached("select store_id, reason from rebuild_left_out order by store_id limit ?1")?
        .query_map([most], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let all = connection.prepare_cached("select count(*) from rebuild_left_out")?.query_row([], |row| row.get(0))?;
    Ok((first, all))
}

/// Digest of all that is shown, over all stores: the sum of theirs.
pub fn digest(connection: &Connection) -> rusqlite::Result<Digest> {
    let mut statement = connection.prepare_cached("select digest from store")?;
    let mut rows = statement.query([])?;
    let mut sum = Digest::default();
    while let Some(row) = rows.next()? {
        sum = Digest(sum.0.wrapping_add(row.get::<_, DigestColumn>(0)?.0.0));
    }
    Ok(sum)
}
