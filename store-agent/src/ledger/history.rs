//! The whole log, for those who compare it with another or add it up again: restore and verify.

use protocol::hash::{Digest, Hash};
use protocol::ids::ProductId;
use protocol::link::{Entry, EntryId};
use protocol::wire::restore::Span;
use runtime::sqlite::{DigestColumn, HashColumn, id_at, labels, number_at};
use rusqlite::{Connection, params};

use super::head::Head;

/// An entry as it was recorded, with what the table says of it beside its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// As it travels.
    pub entry: Entry,
    /// Digest of the stock after it.
    pub digest: Digest,
    /// The product that it is filed under.
    pub product: Option<ProductId>,
    /// The change that it is filed with.
    pub delta: i64,
}

/// Which entries the log has.
pub fn spans(connection: &Connection) -> rusqlite::Result<Vec<Span>> {
    connection
        .prepare_cached("select epoch, min(seq), max(seq) from ledger group by epoch order by epoch")?
        .query_map([], |row| {
            Ok(Span { epoch: number_at(row, 0)?, first: number_at(row, 1)?, last: number_at(row, 2)? })
        })?
        .collect()
}

/// How many entries the log has.
pub fn count(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("select count(*) from ledger", [], |row| row.get(0))
}

/// Where each entry is, and its hash, in order.
pub fn hashes(connection: &Connection) -> rusqlite::Result<Vec<(EntryId, Hash)>> {
    connection
        .prepare("select epoch, seq, hash from ledger order by epoch, seq")?
        .query_map([], |row| Ok((id_at(row, 0)?, row.get::<_, HashColumn>(2)?.0)))?
        .collect()
}

/// Shows each entry behind a place, in order.
pub fn walk(connection: &Connection, place: EntryId, mut see: impl FnMut(Kept)) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(
        "select epoch, seq, type, operation_id, body, digest, hash, product_id, delta from ledger \
         where (epoch, seq) > (?1, ?2) order by epoch, seq",
    )?;
    let mut rows = statement.query(params![place.epoch.get(), place.seq.get()])?;
    while let Some(row) = rows.next()? {
        let digest = row.get::<_, DigestColumn>(5)?.0;
        let product: Option<String> = row.get(7)?;
        see(Kept {
            entry: Entry {
                id: id_at(row, 0)?,
                kind: row.get(2)?,
                operation: row.get(3)?,
                body: row.get(4)?,
                digest: Some(digest),
                hash: row.get::<_, HashColumn>(6)?.0,
            },
            digest,
            product: product.and_then(|text| ProductId::parse(&text).ok()),
            delta: row.get(8)?,
        });
    }
    Ok(())
}

/// An entry leaves the log: a restore has found that it is not what happened here, or records it again.
pub(crate) fn drop_entry(connection: &Connection, id: EntryId) -> rusqlite::Result<()> {
    connection
        .prepare_cached("delete from ledger where epoch = ?1 and seq = ?2")?
        .execute(params![id.epoch.get(), id.seq.get()])?;
    connection
        .prepare_cached("delete from ledger_item where epoch = ?1 and seq = ?2")?
        .execute(params![id.epoch.get(), id.seq.get()])?;
    Ok(())
}

/// Stock, outcomes, purchases, reservations and transfers are no more: another state takes their place. The head's digest and
/// number of items go with them.
pub(crate) fn drop_state(connection: &Connection, head: &mut Head) -> rusqlite::Result<()> {
    for table in ["item", "outcome", "purchase", "hold", "reservation", "transfer"] {
        connection.execute(&format!("delete from {table}"), [])?;
    }
    labels::clear(connection)?;
    head.digest = Digest::default();
    head.items = 0;
    Ok(())
}

/// What SQLite says of the file; `None`: it is whole.
pub fn damage(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let report: String = connection.pragma_query_value(None, "integrity_check", |row| row.get(0))?;
    Ok((report != "ok").then_some(report))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_log_without_holes_has_as_many_entries_as_it_spans() {
        let connection = testing::ledger(4);
        let spans = spans(&connection).expect("reads");
        let [span] = spans[..] else { panic!("one epoch: {spans:?}") };
        assert_eq!(count(&connection).expect("reads"), span.last - span.first + 1);
    }
}
