//! Epochs of the ledger (L9): each opens with the whole state, and nothing of an older one is published any more.

use protocol::hash::{Digest, Hash};
use protocol::ids::{OperationId, StoreId};
use protocol::link::{Cursor, Epoch, Past, Seq};
use protocol::time::Millis;
use protocol::wire::Event;
use runtime::sqlite::{DigestColumn, HashColumn, cursor_at, number_at};
use rusqlite::{Connection, OptionalExtension, params};

use super::head::{Head, append, head, save_head};
use super::{idempotency, state};

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
    /// A new database that was to take over from central's state and has not got it.
    #[error("a restore of this database was begun and not finished: run `store-agent restore` again")]
    Unfinished,
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

/// Opens the first epoch of a new database; checks that an existing one is this store's. Says whether it was new.
pub fn initialise(connection: &Connection, store: &StoreId, now: Millis) -> Result<bool, InitialiseError> {
    let transaction = connection.unchecked_transaction()?;
    let is_new = claim(&transaction, store)?;
    if is_new {
        open_epoch(&transaction, None, now)?;
    } else if head(&transaction)?.cursor.epoch == Epoch::NONE {
        return Err(InitialiseError::Unfinished);
    }
    transaction.commit()?;
    Ok(is_new)
}

/// Makes a new database this store's, with nothing in it and no epoch; checks that an existing one is. Says whether it
/// was new.
pub fn claim(connection: &Connection, store: &StoreId) -> Result<bool, InitialiseError> {
    let is_new = is_new(connection, store)?;
    if is_new {
        connection.execute(
            "insert into meta (id, store_id, epoch, seq, hash, digest) values (1, ?1, 0, 0, ?2, ?3)",
            params![store.as_str(), HashColumn(Hash::ZERO), DigestColumn(Digest::default())],
        )?;
    }
    Ok(is_new)
}

/// Whether a database is nobody's yet; checks that one which is somebody's is this store's.
pub fn is_new(connection: &Connection, store: &StoreId) -> Result<bool, InitialiseError> {
    let found: Option<String> = connection.query_row("select store_id from meta", [], |row| row.get(0)).optional()?;
    match found {
        Some(found) if found == store.as_str() => Ok(false),
        Some(found) => Err(InitialiseError::OtherStore { found, wanted: store.clone() }),
        None => Ok(true),
    }
}

/// Opens an epoch later than the own one, which ends here. `proven`: where central was when it refused the own one, if
/// the log [continues](protocol::link::Log::continues) that.
pub fn open_epoch(connection: &Connection, proven: Option<Cursor>, now: Millis) -> rusqlite::Result<Cursor> {
    let mut head = head(connection)?;
    let mut past = lineage(connection)?;
    if head.cursor.epoch != Epoch::NONE {
        past.push(Past { end: head.cursor, kept: first_kept(connection, head.cursor.epoch)?, proven: None });
    }
    for past in past.iter_mut().filter(|past| proven.is_some_and(|proven| proven.epoch == past.end.epoch)) {
        past.proven = proven;
    }
    let epoch = head.cursor.epoch.next(now);
    idempotency::remember_ended(connection, head.cursor.epoch, now)?;
    begin_epoch(connection, &mut head, epoch, &past, now)?;
    save_head(connection, &head)?;
    Ok(head.cursor)
}

/// The first entries of an epoch: `opened` with its lineage, then the whole state. The command cursor is closed until
/// a command epoch names this one. The caller saves the head.
pub(crate) fn begin_epoch(
    connection: &Connection,
    head: &mut Head,
    epoch: Epoch,
    past: &[Past],
    now: Millis,
) -> rusqlite::Result<()> {
    connection.prepare_cached("delete from lineage")?.execute([])?;
    let mut insert =
        connection.prepare_cached("insert into lineage (epoch, seq, hash, kept) values (?1, ?2, ?3, ?4)")?;
    for Past { end, kept, .. } in past {
        insert.execute(params![end.epoch.get(), end.seq.get(), HashColumn(end.hash), kept.get()])?;
    }
    head.cursor = Cursor { epoch, seq: Seq::ZERO, hash: Hash::ZERO };
    connection.prepare_cached("update meta set acked = 0")?.execute([])?;
    let opened = Event::Opened { lineage: past.to_vec() };
    append(connection, head, &named(&format!("opened:{epoch}")), &opened, now)?;
    state::tell_all(connection, head, now)
}

/// Each earlier epoch.
pub fn lineage(connection: &Connection) -> rusqlite::Result<Vec<Past>> {
    connection
        .prepare_cached("select epoch, seq, hash, kept from lineage order by epoch")?
        .query_map([], |row| Ok(Past { end: cursor_at(row, 0)?, kept: number_at(row, 3)?, proven: None }))?
        .collect()
}

/// Whether the log contains where central is, in an earlier epoch that ended because an ack could not be proven, and the
/// opening of the present epoch does not say so. After a restore nothing is proven like this: what it recorded again is to
/// reach central as entries, and it does if it is repeated (L10).
pub(super) fn continues(connection: &Connection, epoch: Epoch, receiver: &Cursor) -> rusqlite::Result<bool> {
    let in_log = connection
        .prepare_cached(
            "select 1 from lineage join ledger using (epoch) \
             where lineage.epoch = ?1 and kept < lineage.seq and ledger.seq = ?2 and ledger.hash = ?3",
        )?
        .exists(params![receiver.epoch.get(), receiver.seq.get(), HashColumn(receiver.hash)])?;
    if !in_log {
        return Ok(false);
    }
    let said: Option<String> = connection
        .prepare_cached("select body from ledger where epoch = ?1 and seq = 1")?
        .query_row([epoch.get()], |row| row.get(0))
        .optional()?;
    let said = said.and_then(|body| Event::decode(protocol::link::OPENED, &body).ok());
    Ok(match said {
        Some(Event::Opened { lineage }) => lineage.iter().all(|past| past.proven != Some(*receiver)),
        _ => false,
    })
}

fn first_kept(connection: &Connection, epoch: Epoch) -> rusqlite::Result<Seq> {
    connection
        .prepare_cached("select coalesce(min(seq), 0) from ledger where epoch = ?1")?
        .query_row([epoch.get()], |row| number_at(row, 0))
}

fn named(text: &str) -> OperationId {
    OperationId::parse(text).expect("a short text of visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_database_that_is_only_claimed_is_not_served() {
        let store = StoreId::parse("s1").expect("valid");
        let claimed = runtime::sqlite::memory(crate::ledger::SCHEMA).expect("opens");
        assert!(claim(&claimed, &store).expect("is nobody's"));
        assert!(matches!(initialise(&claimed, &store, testing::NOW), Err(InitialiseError::Unfinished)));
        assert!(!initialise(&testing::store(&[]), &store, testing::NOW).expect("has an epoch"), "it is not new");
    }
}
