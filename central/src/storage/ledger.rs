//! The entries that central has applied, for ever: the backup of the stores' ledgers. Beside them the dead letters.

use protocol::hash::Digest;
use protocol::ids::StoreId;
use protocol::link::{Entry, EntryId, Seq};
use protocol::time::Millis;
use protocol::wire::Fact;
use runtime::sqlite::{DigestColumn, HashColumn, number_at};
use rusqlite::{Connection, params};

use crate::storage::stores::Store;

/// Keeps an applied entry. `fact`: what it says, if it is one and was understood.
pub fn append(
    connection: &Connection,
    store: &StoreId,
    entry: &Entry,
    fact: Option<&Fact>,
    now: Millis,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert into event (store_id, epoch, seq, type, operation_id, body, digest, hash, product_id, delta, \
             reference, received_at) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            store.as_str(),
            entry.id.epoch.get(),
            entry.id.seq.get(),
            entry.kind,
            entry.operation,
            entry.body,
            entry.digest.map(DigestColumn),
            HashColumn(entry.hash),
            fact.map(|fact| fact.filed_under().to_string()),
            fact.map_or(0, Fact::filed_delta),
            fact.and_then(|fact| fact.about.reference.as_deref()),
            now.0,
        ])?;
    let chain_seq = connection.last_insert_rowid();
    for after in fact.map_or(&[][..], |fact| fact.what.items()).iter().skip(1) {
        connection
            .prepare_cached("insert into event_item (product_id, chain_seq, delta) values (?1, ?2, ?3)")?
            .execute(params![after.product_id.as_str(), chain_seq, after.delta])?;
    }
    Ok(())
}

/// L11: parks what was not understood, or what the database refuses.
pub fn park(
    connection: &Connection,
    store: &StoreId,
    entry: &Entry,
    reason: &str,
    now: Millis,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert into dead_letter (store_id, entry_id, type, operation_id, body, reason, received_at) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            store.as_str(),
            entry.id.to_string(),
            entry.kind,
            entry.operation,
            entry.body,
            reason,
            now.0
        ])?;
    Ok(())
}

/// What the store itself said of its stock at an entry.
pub fn digest_at(connection: &Connection, store: &StoreId, at: EntryId) -> rusqlite::Result<Option<Digest>> {
    let mut statement =
        connection.prepare_cached("select digest from event where store_id = ?1 and epoch = ?2 and seq = ?3")?;
    let mut rows = statement.query(params![store.as_str(), at.epoch.get(), at.seq.get()])?;
    Ok(rows.next()?.map(|row| row.get::<_, Option<DigestColumn>>(0)).transpose()?.flatten().map(|digest| digest.0))
}

/// Reads type, body and operation of each entry from the state that was installed last up to the state's cursor, in order.
pub fn since_base(
    connection: &Connection,
    store: &Store,
    mut read: impl FnMut(&str, &str, &str),
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "select type, body, operation_id from event where store_id = ?1 and epoch = ?2 and seq between ?3 and ?4 order by seq",
    )?;
    let mut rows = statement.query(params![
        store.id.as_str(),
        store.state.epoch.get(),
        store.base.seq.get(),
        store.state.seq.get()
    ])?;
    while let Some(row) = rows.next()? {
        read(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?);
    }
    Ok(())
}

/// Reads place, type and body of each entry of the state's epoch that comes behind one, up to the state's cursor and as
/// long as `read` wants more.
pub fn behind(
    connection: &Connection,
    store: &Store,
    seq: Seq,
    mut read: impl FnMut(Seq, &str, &str) -> rusqlite::Result<bool>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "select seq, type, body from event where store_id = ?1 and epoch = ?2 and seq > ?3 and seq <= ?4 order by seq",
    )?;
    let mut rows =
        statement.query(params![store.id.as_str(), store.state.epoch.get(), seq.get(), store.state.seq.get()])?;
    while let Some(row) = rows.next()? {
        if !read(number_at(row, 0)?, row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?)? {
            break;
        }
    }
    Ok(())
}

pub(crate) const PAGES: &str = "select chain_seq from event indexed by event_page where store_id = ?1 \
     and type = 'snapshot_page' and body <> '' and (epoch, seq) < (?2, ?3) limit ?4";

/// Pages before those of the state that was installed last prove nothing any more: their places and hashes stay. Says
/// whether there were any.
pub fn forget_pages(connection: &Connection, store: &Store, pages: usize) -> rusqlite::Result<bool> {
    let forgotten = connection
        .prepare_cached(&format!("update event set body = '' where chain_seq in ({PAGES})"))?
        .execute(params![store.id.as_str(), store.base.epoch.get(), store.base.seq.get(), pages])?;
    Ok(forgotten > 0)
}
