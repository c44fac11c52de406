//! The ledger of all stores: what happened in the chain, and what a store that is restored is told of its own.

use protocol::ids::{ProductId, StoreId};
use protocol::link::{EntryId, Epoch, Seq};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::restore::{KnownEntry, Span};
use protocol::wire::{About, Event, Position};
use runtime::sqlite::{HashColumn, NumberColumn, id_at, number_at, parsed};
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use serde::Deserialize;

use super::Select;
use crate::storage::operations;
use crate::storage::stores::Store;

/// Entries that one list looks at, at most: one whose filter finds little does not hold a connection for long, and says
/// how far it has come.
const LOOK: usize = 100_000;
/// How much earlier than it was recorded an entry is received, ms, at most: a store's clock may be ahead.
const CLOCKS_MS: i64 = 24 * 60 * 60 * 1_000;

/// Which events; what is not given is not compared.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this store.
    pub store: Option<String>,
    /// Of this product.
    pub product: Option<String>,
    /// Of this type, as it is sent.
    pub kind: Option<String>,
    /// With this reference.
    pub reference: Option<String>,
    /// By this till or person.
    pub actor: Option<String>,
    /// Recorded at this time or later.
    pub since: Option<Millis>,
    /// Recorded before this time.
    pub until: Option<Millis>,
}

/// Where a list begins, and in which direction it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the newest, towards older ones.
    End,
    /// Before this place in the chain, towards older ones.
    Before(i64),
    /// Behind this place in the chain, towards newer ones. 0 is the beginning.
    Behind(i64),
}

/// A part of a list.
#[derive(Debug, Clone)]
pub struct Part {
    pub events: Vec<Recorded>,
    /// Where the list goes on: before this place or behind it, as it began. `None`: towards older ones there are no more.
    pub next: Option<i64>,
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

/// At most so many, and no more than some that are looked at. All of it is read from one state of the database.
pub fn list(connection: &Connection, filter: &Filter, start: Start, size: usize) -> rusqlite::Result<Part> {
    let earliest = filter.since.map(|since| since.plus(-CLOCKS_MS));
    let (from, older) = match start {
        Start::End => (i64::MAX, true),
        Start::Before(place) => (place, true),
        Start::Behind(place) => match earliest {
            Some(earliest) => (place.max(place_at(connection, earliest)? - 1), false),
            None => (place, false),
        },
    };
    let end = if older { None } else { Some(last_place(connection)?.max(from)) };
    let Select { sql, values } = select(filter, from, older);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let mut events: Vec<Recorded> = Vec::new();
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        if older && earliest.is_some_and(|earliest| row.get(8).is_ok_and(|received_at| Millis(received_at) < earliest))
        {
            break;
        }
        if filter.finds(row)? {
            // Towards older ones one more tells whether there are any.
            if older && events.len() == size {
                return Ok(Part { next: events.last().map(|last| last.chain_seq), events });
            }
            events.push(read(row)?);
        }
        looked_at += 1;
        if looked_at == LOOK || (!older && events.len() == size) {
            let over = i64::from(planted(Bug::EventPassedOver)) - i64::from(planted(Bug::EventToldAgain));
            return Ok(Part { events, next: Some(row.get::<_, i64>(0)? + over) });
        }
    }
    Ok(Part { events, next: end })
}

impl Filter {
    /// Whether it finds an entry.
    fn finds(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        for (column, wanted) in [(1, &self.store), (4, &self.kind), (10, &self.reference)] {
            if wanted.is_some() && row.get_ref(column)?.as_str_or_null()? != wanted.as_deref() {
                return Ok(false);
            }
        }
        if let Some(wanted) = &self.product
            && row.get_ref(6)?.as_str_or_null()? != Some(wanted)
            && !is_also_about(row, wanted)?
        {
            return Ok(false);
        }
        if self.actor.is_none() && self.since.is_none() && self.until.is_none() {
            return Ok(true);
        }
        // What is no fact about a product says neither when nor by whom: it counts as recorded when it was received.
        let fact: FilteredFields = serde_json::from_str(row.get_ref(9)?.as_str()?).unwrap_or_default();
        let at = fact.recorded_at.unwrap_or(Millis(row.get(8)?));
        Ok(self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
            && (self.actor.is_none() || self.actor == fact.about.actor))
    }
}

/// Whether an entry is about this product beside the one that it is filed under.
fn is_also_about(row: &Row<'_>, product: &str) -> rusqlite::Result<bool> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Also {
        product_id: String,
    }
    #[derive(Default, Deserialize)]
    struct Body {
        #[serde(default)]
        more: Vec<Also>,
    }
    let body: Body = serde_json::from_str(row.get_ref(9)?.as_str()?).unwrap_or_default();
    Ok(body.more.iter().any(|also| also.product_id == product))
}

/// What a filter reads of an entry's body.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FilteredFields {
    recorded_at: Option<Millis>,
    about: About,
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

/// The place in the chain of the last entry; 0: there is none.
pub fn last_place(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("select coalesce(max(chain_seq), 0) from event")?.query_row([], |row| row.get(0))
}

/// Types of the entries behind a place in the chain, so many at most, and the place up to which they are.
pub fn types_behind(connection: &Connection, place: i64, most: usize) -> rusqlite::Result<(i64, Vec<String>)> {
    let mut statement = connection
        .prepare_cached("select chain_seq, type from event where chain_seq > ?1 order by chain_seq limit ?2")?;
    let mut rows = statement.query(params![place, most])?;
    let (mut last, mut types) = (place, Vec::new());
    while let Some(row) = rows.next()? {
        last = row.get(0)?;
        types.push(row.get(1)?);
    }
    Ok((last, types))
}

const UP_TO: &str = "select chain_seq, epoch, seq from event where store_id = ?1 and (epoch, seq) <= (?2, ?3) \
     order by epoch desc, seq desc limit 1";
const BEYOND: &str = "select exists (select 1 from event where store_id = ?1 and (epoch, seq) > (?2, ?3))";

/// The place in the chain behind which a store's entries behind this position stand. `None`: central has not come so far.
pub fn place_of(connection: &Connection, position: &Position) -> rusqlite::Result<Option<i64>> {
    let Position { store, at } = position;
    let up_to = connection
        .prepare_cached(UP_TO)?
        .query_row(params![store.as_str(), at.epoch.get(), at.seq.get()], |row| {
            Ok((row.get::<_, i64>(0)?, id_at(row, 1)?))
        })
        .optional()?;
    let reached = match up_to {
        Some((_, last)) if last == *at => true,
        _ => connection
            .prepare_cached(BEYOND)?
            .query_row(params![store.as_str(), at.epoch.get(), at.seq.get()], |row| row.get::<_, bool>(0))?,
    };
    Ok(reached.then(|| up_to.map_or(0, |(place, _)| place)))
}

/// The place in the chain of the first entry that was received at this time or later: entries are received in the
/// chain's order, but for a clock that was set back.
fn place_at(connection: &Connection, at: Millis) -> rusqlite::Result<i64> {
    let (mut low, mut high) = (1, last_place(connection)? + 1);
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

/// Along one index, the one that leaves the least; the other conditions are [`Filter::finds`]'s.
fn select(filter: &Filter, from: i64, older: bool) -> Select {
    let mut select = Select::new(
        "select chain_seq, store_id, epoch, seq, type, operation_id, product_id, delta, received_at, \
         case when type = 'snapshot_page' then '{}' else body end, reference from event where ",
    );
    let (comparison, order) = if older { ("<", "desc") } else { (">", "asc") };
    select.sql.push_str(&format!("chain_seq {comparison} ?"));
    select.values.push(from.into());
    let columns = [("reference", &filter.reference), ("product_id", &filter.product), ("store_id", &filter.store)];
    if let Some((column, wanted)) = columns.into_iter().find(|(_, wanted)| wanted.is_some()) {
        select.and_equal(column, wanted.as_deref());
    }
    if let (Some(product), None) = (&filter.product, &filter.reference) {
        // Entries that are about it beside another one: two lists in their order make one in its order.
        select.sql.push_str(&format!(
            " union all select chain_seq, store_id, epoch, seq, type, operation_id, event_item.product_id, \
             event_item.delta, received_at, body, reference from event_item cross join event using (chain_seq) \
             where chain_seq {comparison} ? and event_item.product_id = ?"
        ));
        select.values.extend([from.into(), product.clone().into()]);
    }
    select.sql.push_str(&format!(" order by chain_seq {order}"));
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
// An entry about items, by its kind, is about one.
const ENTRIES: &str = "select seq, hash, operation_id, product_id, type, \
     case when type in ('sold', 'received', 'adjusted', 'counted', 'item_created', 'item_changed') then '' else body end, \
     case when ?6 and json_valid(body) then coalesce(body ->> 'recordedAt', body ->> 'at') end from event \
     where store_id = ?1 and epoch = ?2 and seq between ?3 and ?4 order by seq limit ?5";

const IS_WHOLE: &str =
    "select 1 from event where store_id = ?1 and epoch = ?2 and type = 'snapshot_end' order by seq limit 1";

/// Whether the state that an epoch opens with has arrived in full.
pub fn is_whole(connection: &Connection, store: &StoreId, epoch: Epoch) -> rusqlite::Result<bool> {
    connection.prepare_cached(IS_WHOLE)?.exists(params![store.as_str(), epoch.get()])
}

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

/// The next entries of a span, at most so many. Of an epoch before the one that the store's state is in, those are given up
/// that the state would name and does not.
pub fn known(connection: &Connection, store: &Store, span: &Span, rows: usize) -> rusqlite::Result<Vec<KnownEntry>> {
    let named_since = store.named_since.filter(|_| span.epoch < store.state.epoch);
    let is_earlier = named_since.is_some();
    connection
        .prepare_cached(ENTRIES)?
        .query_map(
            params![store.id.as_str(), span.epoch.get(), span.first.get(), span.last.get(), rows, is_earlier],
            |row| {
                let recorded_at = row.get_ref(6)?.as_str_or_null()?.and_then(Millis::parse);
                let (operation, is_fact) = (row.get::<_, String>(2)?, row.get_ref(3)?.as_str_or_null()?.is_some());
                let would_be_named = named_since.is_some_and(|since| recorded_at >= Some(since));
                Ok(KnownEntry {
                    epoch: span.epoch,
                    seq: number_at(row, 0)?,
                    hash: row.get::<_, HashColumn>(1)?.0,
                    product_id: if is_fact { Some(parsed(row, 3)?) } else { None },
                    also: further(row.get_ref(4)?.as_str()?, row.get_ref(5)?.as_str()?),
                    given_up: would_be_named && !operations::is_named(connection, store.generation, &operation)?,
                    operation,
                })
            },
        )?
        .collect()
}

/// The products that an entry is about, but for the first.
fn further(kind: &str, body: &str) -> Vec<ProductId> {
    match Event::decode(kind, body) {
        Ok(Event::Fact(fact)) => fact.what.items().iter().skip(1).map(|after| after.product_id.clone()).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, NOW, database, held, plan, product};
    use protocol::domain::reservation::Reservation;
    use protocol::domain::{Item, Line, Lines, Quantity};
    use protocol::wire::{Fact, Happened, ReservationStep};

    #[test]
    fn a_restore_is_told_of_each_product_of_an_entry() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let bun = agent.becomes(product("bun"), Item { version: 1, ..Item::default() });
        let line = |name: &str| Line { product_id: product(name), quantity: Quantity::ONE };
        let lines = Lines::new(["tea", "bun"].map(line)).expect("are lines");
        let reservation = Reservation { lines, ..held().0 };
        let items = vec![agent.take_one(), bun];
        let reserved = Happened::Reservation { step: ReservationStep::Reserved, reservation, items };
        let reserved = agent.entry(&Event::Fact(Fact::new(reserved, NOW)));
        let sale = agent.sale();
        agent.tell(&connection, &[reserved, sale]);
        let span = Span { epoch: agent.head.epoch, first: 1.into(), last: agent.head.seq };
        let told = known(&connection, &agent.store(&connection), &span, 9).expect("reads");
        let also: Vec<_> = told.iter().rev().map(|entry| entry.also.clone()).take(2).collect();
        assert_eq!(also, [vec![], vec![product("bun")]]);
    }

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
    fn no_list_sorts_or_leaves_its_index() {
        let connection = database();
        let text = || Some("x".to_owned());
        let filters = [
            (Filter { store: text(), kind: text(), ..Filter::default() }, "event_by_store (store_id=? AND chain_seq"),
            (
                Filter { store: text(), product: text(), ..Filter::default() },
                "event_by_product (product_id=? AND chain_seq",
            ),
            (
                Filter { product: text(), reference: text(), ..Filter::default() },
                "event_by_reference (reference=? AND chain_seq",
            ),
            (Filter { kind: text(), ..Filter::default() }, "INTEGER PRIMARY KEY (rowid"),
        ];
        for (filter, index) in filters {
            for older in [true, false] {
                let sql = select(&filter, 5, older).sql;
                let plan = plan(&connection, &sql);
                assert!(plan.contains(index) && !plan.contains("SCAN") && !plan.contains("TEMP"), "{sql}: {plan}");
            }
        }
        for sql in [UP_TO, BEYOND] {
            let plan = plan(&connection, sql);
            assert!(plan.contains("SEARCH event") && !plan.contains("TEMP B-TREE"), "{sql}: {plan}");
        }
    }

    /// Two stores: each opens with three entries, then their sales alternate. Places 1 to 8, then 9 to 12.
    fn chain() -> (Connection, [Agent; 2]) {
        let connection = database();
        let mut agents = [Agent::settled("s1", &connection), Agent::settled("s2", &connection)];
        for _ in 0..2 {
            for agent in &mut agents {
                let sale = agent.sale();
                agent.tell(&connection, &[sale]);
            }
        }
        (connection, agents)
    }

    fn places(part: &Part) -> Vec<i64> {
        part.events.iter().map(|event| event.chain_seq).collect()
    }

    #[test]
    fn a_list_leads_from_the_newest_to_the_first_and_from_any_place_to_the_newest() {
        let (connection, _) = chain();
        let all = Filter::default();
        let last = last_place(&connection).expect("reads");
        let (mut from, mut seen) = (Start::End, Vec::new());
        loop {
            let part = list(&connection, &all, from, 3).expect("reads");
            seen.extend(places(&part));
            let Some(next) = part.next else { break };
            from = Start::Before(next);
        }
        assert_eq!(seen, (1..=last).rev().collect::<Vec<_>>());
        let (mut from, mut seen) = (0, Vec::new());
        loop {
            let part = list(&connection, &all, Start::Behind(from), 3).expect("reads");
            if part.events.is_empty() {
                assert_eq!(part.next, Some(last), "what comes next is read from there");
                break;
            }
            seen.extend(places(&part));
            from = part.next.expect("forward there is always a next");
        }
        assert_eq!(seen, (1..=last).collect::<Vec<_>>());
        assert_eq!(list(&connection, &all, Start::Behind(last + 5), 3).expect("reads").next, Some(last + 5));
    }

    #[test]
    fn a_filter_that_finds_nothing_new_moves_on_all_the_same() {
        let (connection, _) = chain();
        let last = last_place(&connection).expect("reads");
        let sold = Filter { kind: Some("sold".into()), store: Some("s1".into()), ..Filter::default() };
        let part = list(&connection, &sold, Start::Behind(0), 5).expect("reads");
        assert_eq!((places(&part), part.next), (vec![last - 3, last - 1], Some(last)));
        let none = Filter { product: Some("milk".into()), ..Filter::default() };
        assert_eq!(list(&connection, &none, Start::Behind(2), 5).expect("reads").next, Some(last));
        assert_eq!(list(&connection, &none, Start::End, 5).expect("reads").next, None);
    }

    #[test]
    fn times_are_compared_with_when_the_store_recorded_it() {
        let (connection, _) = chain();
        let last = last_place(&connection).expect("reads");
        // The store was offline: central heard two days later.
        let late = NOW.plus(2 * CLOCKS_MS);
        connection.execute("update event set received_at = ?1", [late.0]).expect("writes");
        let count = |since: Millis, until: Millis| {
            let filter =
                Filter { kind: Some("sold".into()), since: Some(since), until: Some(until), ..Filter::default() };
            let forward = list(&connection, &filter, Start::Behind(0), 50).expect("reads");
            let back = list(&connection, &filter, Start::End, 50).expect("reads");
            assert_eq!((forward.events.len(), back.next), (back.events.len(), None));
            back.events.len()
        };
        assert_eq!(count(NOW, NOW.plus(1)), 4);
        assert_eq!(count(NOW.plus(1), late), 0);
        assert_eq!(count(NOW.plus(-5), NOW), 0);
        // Long before that time nothing is looked at.
        connection
            .execute("update event set received_at = ?1 where chain_seq < ?2", [NOW.0 - 2 * CLOCKS_MS, last])
            .expect("writes");
        assert_eq!(count(NOW, NOW.plus(1)), 1);
    }

    #[test]
    fn a_stores_position_is_a_place_in_the_chain_once_central_has_come_so_far() {
        let (connection, [s1, _]) = chain();
        let last = last_place(&connection).expect("reads");
        let place = |epoch: u32, seq: Seq| {
            let at = EntryId { epoch: epoch.into(), seq };
            place_of(&connection, &Position { store: s1.id.clone(), at }).expect("reads")
        };
        let head = s1.head.seq;
        assert_eq!(place(7, head), Some(last - 1));
        assert_eq!(place(7, head - 1), Some(last - 3));
        assert_eq!(place(7, Seq::ZERO), Some(0));
        assert_eq!(place(7, head.next()), None);
        assert_eq!(place(8, Seq::ZERO), None);
        assert_eq!(place(6, head), Some(0), "an epoch that central never saw");
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
