//! The ledger of all stores: what happened in the chain, and what a store that is restored is told of its own.

use protocol::ids::StoreId;
use protocol::link::{EntryId, Epoch, Seq};
use protocol::time::Millis;
use protocol::wire::Position;
use protocol::wire::restore::{KnownEntry, Span};
use runtime::sqlite::{HashColumn, NumberColumn, id_at, number_at, parsed};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::Select;

/// Which events; what is not given is not compared.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Forward from behind this place in the chain; without it the newest first.
    pub after: Option<i64>,
    /// Of this store.
    pub store: Option<String>,
    /// Of this product.
    pub product: Option<String>,
    /// Of this type, as it is sent.
    pub kind: Option<String>,
    /// With this reference.
    pub reference: Option<String>,
    /// Received at this time or later.
    pub since: Option<Millis>,
    /// Received before this time.
    pub until: Option<Millis>,
}

/// An entry of a store's log, as it was received.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Its place in the chain.
    pub chain_seq: i64,
    pub store: String,
    /// Its place in the store's log.
    pub at: EntryId,
    /// Its type, as it was sent.
    pub kind: String,
    pub operation: String,
    /// The product it is about.
    pub product: Option<String>,
    /// Units that came or went.
    pub delta: i64,
    /// When central received it.
    pub received_at: Millis,
    /// What it says; of a page of a state, which may be long, `{}`.
    pub body: String,
}

/// At most so many.
pub fn list(connection: &Connection, filter: &Filter, size: usize) -> rusqlite::Result<Vec<Recorded>> {
    let place = |at: Option<Millis>| at.map(|at| place_at(connection, at)).transpose();
    select(filter, place(filter.since)?, place(filter.until)?, size).rows(connection, read)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Recorded> {
    Ok(Recorded {
        chain_seq: row.get(0)?,
        store: row.get(1)?,
        at: id_at(row, 2)?,
        kind: row.get(4)?,
        operation: row.get(5)?,
        product: row.get(6)?,
        delta: row.get(7)?,
        received_at: Millis(row.get(8)?),
        body: row.get(9)?,
    })
}

/// The place in the chain of the first entry that was received at this time or later: entries are received in the
/// chain's order, but for a clock that was set back.
fn place_at(connection: &Connection, at: Millis) -> rusqlite::Result<i64> {
    let mut low = 1;
    let mut high: i64 = connection
        .prepare_cached("select coalesce(max(chain_seq), 0) + 1 from event")?
        .query_row([], |row| row.get(0))?;
    let mut received =
        connection.prepare_cached("select received_at from event where chain_seq >= ?1 order by chain_seq limit 1")?;
    while low < high {
        let middle = low + (high - low) / 2;
        if received.query_row([middle], |row| row.get::<_, i64>(0))? >= at.0 {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(low)
}

/// `from`, `to`: places in the chain, `to` not included.
fn select(filter: &Filter, from: Option<i64>, to: Option<i64>, size: usize) -> Select {
    let mut select = Select::new(
        "select chain_seq, store_id, epoch, seq, type, operation_id, product_id, delta, received_at, \
         case when type = 'snapshot_page' then '{}' else body end from event where true",
    );
    if let Some(after) = filter.after {
        select.and("chain_seq > ?", [after.into()]);
    }
    select.and_equal("store_id", filter.store.as_deref());
    select.and_equal("product_id", filter.product.as_deref());
    select.and_equal("type", filter.kind.as_deref());
    select.and_equal("reference", filter.reference.as_deref());
    if let Some(place) = from {
        select.and("chain_seq >= ?", [place.into()]);
    }
    if let Some(place) = to {
        select.and("chain_seq < ?", [place.into()]);
    }
    let order = if filter.after.is_some() { "asc" } else { "desc" };
    select.sql.push_str(&format!(" order by chain_seq {order} limit {size}"));
    select
}

/// Units that came or went by one entry.
pub fn delta(connection: &Connection, at: &Position) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("select delta from event where store_id = ?1 and epoch = ?2 and seq = ?3")?
        .query_row(params![at.store.as_str(), at.at.epoch.get(), at.at.seq.get()], |row| row.get(0))
        .optional()
}

/// What the first entry of an epoch says.
pub fn opening(connection: &Connection, store: &StoreId, epoch: Epoch) -> rusqlite::Result<String> {
    connection
        .prepare_cached("select body from event where store_id = ?1 and epoch = ?2 and seq = 1")?
        .query_row(params![store.as_str(), epoch.get()], |row| row.get(0))
}

const LAST: &str = "select max(seq) from event where store_id = ?1 and epoch = ?2";
const RECEIVED: &str = "select received_at from event where store_id = ?1 and epoch = ?2 and seq = ?3";
const ENTRIES: &str = "select seq, hash, operation_id, product_id from event \
     where store_id = ?1 and epoch = ?2 and seq between ?3 and ?4 order by seq limit ?5";

/// The last entry of an epoch; `None`: there is none.
pub fn last(connection: &Connection, store: &StoreId, epoch: Epoch) -> rusqlite::Result<Option<Seq>> {
    connection.prepare_cached(LAST)?.query_row(params![store.as_str(), epoch.get()], |row| {
        Ok(row.get::<_, Option<NumberColumn<Seq>>>(0)?.map(|seq| seq.0))
    })
}

/// The first entry of an epoch, out of 1 to `last`, that was received at this time or later; `last + 1`: none was. Each
/// epoch begins at 1 and has no gap, in the order in which it was received.
pub fn first_since(
    connection: &Connection,
    store: &StoreId,
    epoch: Epoch,
    last: Seq,
    since: Millis,
) -> rusqlite::Result<Seq> {
    let mut received = connection.prepare_cached(RECEIVED)?;
    let (mut first, mut end) = (Seq::FIRST, last.next());
    while first < end {
        let middle = first + (end - first) / 2;
        let at: i64 = received.query_row(params![store.as_str(), epoch.get(), middle.get()], |row| row.get(0))?;
        if at >= since.0 { end = middle } else { first = middle.next() }
    }
    Ok(first)
}

/// The next entries of a span, at most so many.
pub fn known(connection: &Connection, store: &StoreId, span: &Span, rows: usize) -> rusqlite::Result<Vec<KnownEntry>> {
    connection
        .prepare_cached(ENTRIES)?
        .query_map(params![store.as_str(), span.epoch.get(), span.first.get(), span.last.get(), rows], |row| {
            Ok(KnownEntry {
                epoch: span.epoch,
                seq: number_at(row, 0)?,
                hash: row.get::<_, HashColumn>(1)?.0,
                operation: row.get(2)?,
                product_id: if row.get_ref(3)?.as_str_or_null()?.is_some() { Some(parsed(row, 3)?) } else { None },
            })
        })?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, NOW, database, plan};

    #[test]
    fn a_time_is_found_in_the_chain_without_reading_all_of_it() {
        let connection = database();
        assert_eq!(place_at(&connection, NOW).expect("reads"), 1, "nothing yet");
        let mut agent = Agent::settled("s1", &connection);
        for _ in 0..5 {
            let sale = agent.sale();
            agent.tell(&connection, &[sale]);
        }
        connection.execute("update event set received_at = chain_seq * 10", []).expect("writes");
        let last: i64 = connection.query_row("select max(chain_seq) from event", [], |row| row.get(0)).expect("reads");
        for (at, place) in [(0, 0), (30, 3), (31, 4), (last * 10, last), (last * 10 + 1, last + 1)] {
            let found = place_at(&connection, Millis(at)).expect("reads");
            assert_eq!(found.max(1), place.max(1), "{at}");
        }
    }

    #[test]
    fn no_list_of_one_store_product_or_time_reads_all_events() {
        let connection = database();
        let text = || Some("x".to_owned());
        let filters = [
            (Filter { store: text(), ..Filter::default() }, None),
            (Filter { store: text(), ..Filter::default() }, Some(5)),
            (Filter { product: text(), after: Some(3), ..Filter::default() }, None),
            (Filter { reference: text(), ..Filter::default() }, None),
            (Filter::default(), Some(5)),
        ];
        for (filter, from) in filters {
            let sql = select(&filter, from, from, 50).sql;
            let plan = plan(&connection, &sql);
            assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
        }
    }

    #[test]
    fn a_restore_reads_no_more_of_the_ledger_than_it_tells() {
        let connection = database();
        for sql in [LAST, RECEIVED, ENTRIES] {
            let plan = plan(&connection, sql);
            assert!(plan.starts_with("SEARCH event") && !plan.contains("TEMP"), "{sql}: {plan}");
        }
    }
}
