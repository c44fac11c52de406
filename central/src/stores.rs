//! What central knows of a store: where its two links stand, and what operators decided.

use rusqlite::{Connection, OptionalExtension, Row, params};
use shared::hash::Digest;
use shared::ids::StoreId;
use shared::link::{Ack, Cursor, Known};
use shared::time::Millis;

use shared::sqlite::{DigestColumn, HashColumn, cursor_at, parsed};

/// What the last comparison of digests said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestState {
    /// Not compared in this epoch yet.
    Unknown,
    /// View and store are the same.
    Equal,
    /// They differ; a resync was asked for.
    Different,
}

impl DigestState {
    /// Stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Equal => "equal",
            Self::Different => "different",
        }
    }
}

/// A row of `store`.
#[derive(Debug, Clone)]
pub struct Store {
    /// Whose.
    pub id: StoreId,
    /// When central first heard of it.
    pub first_seen_at: Millis,
    /// Events applied up to here.
    pub cursor: Cursor,
    /// An epoch that was refused; 0: none.
    pub fenced: u64,
    /// An epoch that an operator said to adopt.
    pub adopt: Option<u64>,
    /// The view's own digest.
    pub digest: Digest,
    /// What the last comparison said.
    pub digest_state: DigestState,
    /// An epoch's opening state is arriving.
    pub opening: bool,
    /// Some opening has arrived in full.
    pub complete: bool,
    /// Where the view stands.
    pub state: Cursor,
    /// Central's time of the last look after which everything known was applied.
    pub as_of: Millis,
    /// Head of the command log.
    pub command_head: Cursor,
    /// Commands acknowledged by the store, of the present command epoch.
    pub command_acked: u64,
    /// The command epoch that the store is ready for.
    pub ready_epoch: u64,
    /// Something in it was not as it should be; a resync clears it.
    pub suspect: bool,
    /// When a resync was last asked for.
    pub resync_at: Option<Millis>,
    /// Whether it may sell online at all.
    pub online_sale: bool,
    /// Taken out of the chain.
    pub retired: bool,
}

const COLUMNS: &str = "store_id, first_seen_at, epoch, seq, hash, fenced, adopt, digest, digest_state, opening, complete, \
     state_epoch, state_seq, state_hash, as_of, command_epoch, command_seq, command_hash, command_acked, ready_epoch, \
     suspect, resync_at, online_sale, retired";

impl Store {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let digest_state = match row.get_ref(8)?.as_str()? {
            "equal" => DigestState::Equal,
            "different" => DigestState::Different,
            _ => DigestState::Unknown,
        };
        Ok(Self {
            id: parsed(row, 0)?,
            first_seen_at: Millis(row.get(1)?),
            cursor: cursor_at(row, 2)?,
            fenced: row.get(5)?,
            adopt: row.get(6)?,
            digest: row.get::<_, DigestColumn>(7)?.0,
            digest_state,
            opening: row.get(9)?,
            complete: row.get(10)?,
            state: cursor_at(row, 11)?,
            as_of: Millis(row.get(14)?),
            command_head: cursor_at(row, 15)?,
            command_acked: row.get(18)?,
            ready_epoch: row.get(19)?,
            suspect: row.get(20)?,
            resync_at: row.get::<_, Option<i64>>(21)?.map(Millis),
            online_sale: row.get(22)?,
            retired: row.get(23)?,
        })
    }

    /// What the store is told of its events (L2).
    pub fn ack(&self) -> Ack {
        Ack { cursor: self.cursor, fenced: self.fenced }
    }

    /// Whether it still has to say that it is ready for the present command epoch (L8).
    pub fn is_settling(&self) -> bool {
        self.opening || !self.complete || self.cursor.seq == 0 || self.ready_epoch != self.command_head.epoch
    }

    /// Writes back everything that applying events and appending commands changes.
    pub fn save(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "update store set epoch = ?2, seq = ?3, hash = ?4, fenced = ?5, adopt = ?6, digest = ?7, \
                 digest_state = ?8, opening = ?9, complete = ?10, state_epoch = ?11, state_seq = ?12, \
                 state_hash = ?13, as_of = ?14, command_epoch = ?15, command_seq = ?16, command_hash = ?17, \
                 ready_epoch = ?18, suspect = ?19, resync_at = ?20, online_sale = ?21, retired = ?22 \
                 where store_id = ?1",
            )?
            .execute(params![
                self.id.as_str(),
                self.cursor.epoch,
                self.cursor.seq,
                HashColumn(self.cursor.hash),
                self.fenced,
                self.adopt,
                DigestColumn(self.digest),
                self.digest_state.as_str(),
                self.opening,
                self.complete,
                self.state.epoch,
                self.state.seq,
                HashColumn(self.state.hash),
                self.as_of.0,
                self.command_head.epoch,
                self.command_head.seq,
                HashColumn(self.command_head.hash),
                self.ready_epoch,
                self.suspect,
                self.resync_at.map(|at| at.0),
                self.online_sale,
                self.retired,
            ])?;
        Ok(())
    }
}

/// One store, if central has heard of it.
pub fn find(connection: &Connection, id: &StoreId) -> rusqlite::Result<Option<Store>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from store where store_id = ?1"))?
        .query_row([id.as_str()], Store::read)
        .optional()
}

/// All stores, by id.
pub fn all(connection: &Connection) -> rusqlite::Result<Vec<Store>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from store order by store_id"))?
        .query_map([], Store::read)?
        .collect()
}

/// Makes a store known: from now on it gets an ack, and its events are read.
pub fn discover(connection: &Connection, id: &StoreId, now: Millis) -> rusqlite::Result<()> {
    connection
        .prepare_cached("insert or ignore into store (store_id, first_seen_at) values (?1, ?2)")?
        .execute(params![id.as_str(), now.0])?;
    Ok(())
}

/// A known store whose id differs in case only.
pub fn other_case(connection: &Connection, id: &StoreId) -> rusqlite::Result<Option<StoreId>> {
    connection
        .prepare_cached("select store_id from store where lower(store_id) = lower(?1) and store_id <> ?1 limit 1")?
        .query_row([id.as_str()], |row| parsed(row, 0))
        .optional()
}

/// What L7 needs to judge an opening.
pub fn known(connection: &Connection, store: &Store) -> rusqlite::Result<Known> {
    let mut epochs: Vec<u64> = connection
        .prepare_cached(
            "select epoch from lineage where store_id = ?1 union select distinct epoch from event where store_id = ?1",
        )?
        .query_map([store.id.as_str()], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    epochs.push(store.cursor.epoch);
    Ok(Known { cursor: store.cursor, epochs, adopt: store.adopt })
}

/// The last cursor of each earlier epoch.
pub fn lineage(connection: &Connection, id: &StoreId) -> rusqlite::Result<Vec<Cursor>> {
    connection
        .prepare_cached("select epoch, seq, hash from lineage where store_id = ?1 order by epoch")?
        .query_map([id.as_str()], |row| cursor_at(row, 0))?
        .collect()
}

/// A cursor at which an epoch was left.
pub fn add_to_lineage(connection: &Connection, id: &StoreId, past: &Cursor) -> rusqlite::Result<()> {
    connection
        .prepare_cached("insert or replace into lineage (store_id, epoch, seq, hash) values (?1, ?2, ?3, ?4)")?
        .execute(params![id.as_str(), past.epoch, past.seq, HashColumn(past.hash)])?;
    Ok(())
}

/// Replaces the lineage by that of an accepted opening.
pub fn set_lineage(connection: &Connection, id: &StoreId, lineage: &[Cursor]) -> rusqlite::Result<()> {
    connection.prepare_cached("delete from lineage where store_id = ?1")?.execute([id.as_str()])?;
    lineage.iter().try_for_each(|past| add_to_lineage(connection, id, past))
}

/// Remembers how far the store has acknowledged its commands: what lies below may be pruned in time.
pub fn store_command_acked(connection: &Connection, id: &StoreId, epoch: u64, seq: u64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("update store set command_acked = ?3 where store_id = ?1 and command_epoch = ?2")?
        .execute(params![id.as_str(), epoch, seq])?;
    Ok(())
}
