//! Stocks: states of a store's items. One is shown; a whole state that arrives (L7) is staged beside it, page by page,
//! takes its place at once, and the old one is removed in steps.
//!
//! **Guarantees.** An arriving state takes effect as a whole or not at all, however many transactions it took to arrive,
//! and the transaction in which it does is as short for a large store as for a small one.

use protocol::domain::Item;
use protocol::domain::reservation::Reservation;
use protocol::domain::transfer::Transfer;
use protocol::hash::Digest;
use protocol::ids::{ProductId, StoreId};
use protocol::link::EntryId;
use protocol::stock::Arrival;
use protocol::wire::{Outcome, SnapshotEnd, SnapshotPage};
use runtime::sqlite::{DigestColumn, id_at, labels};
use rusqlite::{Connection, OptionalExtension, params};

use crate::storage::store::Store;
use crate::storage::totals;
use crate::storage::{items, operations, outcomes};
use crate::storage::{reservations, transfers};

/// The stock of a store that has just become known: empty, and counted.
pub fn first(connection: &Connection, store: &StoreId) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("insert into stock (store_id, state, counted_to) values (?1, 'current', ?2)")?
        .execute([store.as_str(), totals::END])?;
    Ok(connection.last_insert_rowid())
}

/// How many more units an item has than before.
fn more(before: Option<&Item>, after: &Item) -> i64 {
    after.quantity - before.map_or(0, |before| before.quantity)
}

struct Staged {
    digest: Digest,
    units: i64,
    arrival: Arrival,
    outcomes: u64,
    reservations: u64,
    transfers: u64,
    first: EntryId,
}

fn staged(connection: &Connection, store: &mut Store, at: EntryId) -> rusqlite::Result<Staged> {
    if store.staged == 0 {
        connection
            .prepare_cached(
                "insert into stock (store_id, state, first_epoch, first_seq) values (?1, 'staged', ?2, ?3)",
            )?
            .execute(params![store.id.as_str(), at.epoch.get(), at.seq.get()])?;
        store.staged = connection.last_insert_rowid();
    }
    connection
        .prepare_cached(
            "select digest, pages, items, outcomes, first_epoch, first_seq, reservations, units, transfers from stock \
             where stock = ?1",
        )?
        .query_row([store.staged], |row| {
            Ok(Staged {
                digest: row.get::<_, DigestColumn>(0)?.0,
                units: row.get(7)?,
                arrival: Arrival { pages: row.get(1)?, items: row.get(2)? },
                outcomes: row.get(3)?,
                reservations: row.get(6)?,
                transfers: row.get(8)?,
                first: id_at(row, 4)?,
            })
        })
}

/// A page of a state that arrives; it stands at `at` in the ledger. Says how many rows that was.
pub fn stage(connection: &Connection, store: &mut Store, at: EntryId, page: &SnapshotPage) -> rusqlite::Result<u64> {
    let mut staged = staged(connection, store, at)?;
    let mut names = 0;
    for named in &page.items {
        let before = items::of(connection, store.staged, &named.product_id)?;
        staged.digest = staged.digest.replace(&named.product_id, before.as_ref(), Some(&named.item));
        staged.units += more(before.as_ref(), &named.item);
        items::write(connection, &store.id, store.staged, &named.product_id, &named.item)?;
        if before.as_ref().is_none_or(|before| before.name != named.item.name) {
            names += labels::add(connection, named.product_id.as_str(), &named.item.name)?;
            // It was renamed while its store told the state.
            if let Some(before) = before {
                items::forget_name(connection, &named.product_id, &before.name)?;
            }
        }
    }
    for outcome in &page.outcomes {
        staged.outcomes += 1;
        connection.prepare_cached("insert into staged_outcome (stock, number, body) values (?1, ?2, ?3)")?.execute(
            params![store.staged, staged.outcomes, serde_json::to_string(outcome).expect("an outcome serialises")],
        )?;
    }
    for reservation in &page.reservations {
        staged.reservations += 1;
        let body = serde_json::to_string(reservation).expect("a reservation serialises");
        connection
            .prepare_cached("insert into staged_reservation (stock, number, body) values (?1, ?2, ?3)")?
            .execute(params![store.staged, staged.reservations, body])?;
    }
    for transfer in &page.transfers {
        staged.transfers += 1;
        let body = serde_json::to_string(transfer).expect("a transfer serialises");
        connection
            .prepare_cached("insert into staged_transfer (stock, number, body) values (?1, ?2, ?3)")?
            .execute(params![store.staged, staged.transfers, body])?;
    }
    staged.arrival.add(page);
    let Arrival { pages, items } = staged.arrival;
    connection
        .prepare_cached(
            "update stock set digest = ?2, pages = ?3, items = ?4, outcomes = ?5, reservations = ?6, units = ?7, \
             transfers = ?8 where stock = ?1",
        )?
        .execute(params![
            store.staged,
            DigestColumn(staged.digest),
            pages,
            items,
            staged.outcomes,
            staged.reservations,
            staged.units,
            staged.transfers,
        ])?;
    Ok((page.items.len() + names + page.records()) as u64)
}

/// `snapshot_end`, at `at`: the state that has arrived is shown from now on. `false`: pages of it are missing, and it is
/// given up.
pub fn switch(connection: &Connection, store: &mut Store, at: EntryId, end: &SnapshotEnd) -> rusqlite::Result<bool> {
    let arrived = staged(connection, store, at)?;
    if !arrived.arrival.is_whole(end) {
        give_up(connection, store)?;
        return Ok(false);
    }
    let built = Store { stock: store.staged, digest: arrived.digest, units: arrived.units, ..store.clone() };
    show(connection, store, &built)?;
    (store.generation, store.named_since, store.staged) = (store.stock, end.named_since, 0);
    store.base = arrived.first;
    store.installing = arrived.outcomes > 0
        || arrived.reservations > 0
        || arrived.transfers > 0
        || outcomes::has_older(connection, &store.id, store.generation)?
        || !reservations::open_of_older_stock(connection, &store.id, store.generation, 1)?.is_empty()
        || !transfers::unnamed(connection, &store.id, store.generation, 1)?.is_empty();
    Ok(true)
}

/// What has arrived of a state will never be complete.
pub fn give_up(connection: &Connection, store: &mut Store) -> rusqlite::Result<()> {
    if store.staged != 0 {
        connection.prepare_cached("update stock set state = 'discarded' where stock = ?1")?.execute([store.staged])?;
        store.staged = 0;
        store.steps = true;
    }
    Ok(())
}

/// An empty stock beside the one that is shown.
pub fn aside(connection: &Connection, store: &StoreId) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("insert into stock (store_id, state) values (?1, 'staged')")?
        .execute([store.as_str()])?;
    Ok(connection.last_insert_rowid())
}

/// A stock that was built aside stays there, whatever was installed in it.
pub fn hide(connection: &Connection, stock: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("update stock set state = 'staged' where stock = ?1")?.execute([stock])?;
    Ok(())
}

/// A stock of this digest is to be removed.
pub fn discard(connection: &Connection, stock: i64, digest: Digest) -> rusqlite::Result<()> {
    connection
        .prepare_cached("update stock set state = 'discarded', digest = ?2 where stock = ?1")?
        .execute(params![stock, DigestColumn(digest)])?;
    Ok(())
}

/// What was built aside is shown from now on.
pub fn show(connection: &Connection, store: &mut Store, built: &Store) -> rusqlite::Result<()> {
    discard(connection, store.stock, store.digest)?;
    connection.prepare_cached("update stock set state = 'current' where stock = ?1")?.execute([built.stock])?;
    (store.stock, store.digest, store.units) = (built.stock, built.digest, built.units);
    store.steps = true;
    Ok(())
}

/// The next outcomes that came with the stock that is shown, in order; what cannot be read any more is left out.
pub fn outcomes(connection: &Connection, stock: i64, rows: u64) -> rusqlite::Result<Vec<(i64, Option<Outcome>)>> {
    connection
        .prepare_cached("select number, body from staged_outcome where stock = ?1 order by number limit ?2")?
        .query_map(params![stock, rows], |row| Ok((row.get(0)?, serde_json::from_str(row.get_ref(1)?.as_str()?).ok())))?
        .collect()
}

/// One of [`outcomes()`] is settled.
pub fn forget_outcome(connection: &Connection, stock: i64, number: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("delete from staged_outcome where stock = ?1 and number = ?2")?
        .execute([stock, number])?;
    Ok(())
}

/// The next reservations that came with the stock that is shown, in order; what cannot be read any more is left out.
pub fn reservations(
    connection: &Connection,
    stock: i64,
    rows: u64,
) -> rusqlite::Result<Vec<(i64, Option<Reservation>)>> {
    connection
        .prepare_cached("select number, body from staged_reservation where stock = ?1 order by number limit ?2")?
        .query_map(params![stock, rows], |row| Ok((row.get(0)?, serde_json::from_str(row.get_ref(1)?.as_str()?).ok())))?
        .collect()
}

/// One of [`reservations()`] is taken in.
pub fn forget_reservation(connection: &Connection, stock: i64, number: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("delete from staged_reservation where stock = ?1 and number = ?2")?
        .execute([stock, number])?;
    Ok(())
}

/// The next transfers that came with the stock that is shown, in order; what cannot be read any more is left out.
pub fn transfers(connection: &Connection, stock: i64, rows: u64) -> rusqlite::Result<Vec<(i64, Option<Transfer>)>> {
    connection
        .prepare_cached("select number, body from staged_transfer where stock = ?1 order by number limit ?2")?
        .query_map(params![stock, rows], |row| Ok((row.get(0)?, serde_json::from_str(row.get_ref(1)?.as_str()?).ok())))?
        .collect()
}

/// One of [`transfers()`] is taken in.
pub fn forget_transfer(connection: &Connection, stock: i64, number: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("delete from staged_transfer where stock = ?1 and number = ?2")?
        .execute([stock, number])?;
    Ok(())
}

/// One step of removing what is no longer shown, at most so many rows. What of it is still counted, because the store
/// was retired, leaves the totals with it. Says whether there was something to do.
pub fn remove_step(connection: &Connection, store: &StoreId, rows: usize) -> rusqlite::Result<bool> {
    let oldest: Option<(i64, Digest, String, String)> = connection
        .prepare_cached(
            "select stock, digest, counted_after, counted_to from stock indexed by stock_discarded \
             where store_id = ?1 and state = 'discarded' limit 1",
        )?
        .query_row([store.as_str()], |row| {
            Ok((row.get(0)?, row.get::<_, DigestColumn>(1)?.0, row.get(2)?, row.get(3)?))
        })
        .optional()?;
    let Some((stock, mut digest, counted_after, counted_to)) = oldest else { return Ok(false) };
    let next = items::between(connection, stock, "", totals::END, rows)?;
    for (product, item) in &next {
        digest = digest.replace(product, Some(item), None);
        if (counted_after.as_str()..=counted_to.as_str()).contains(&product.as_str())
            && product.as_str() != counted_after
        {
            totals::count(connection, product, Some(item), None)?;
        }
        connection
            .prepare_cached("delete from item where stock = ?1 and product_id = ?2")?
            .execute(params![stock, product.as_str()])?;
        items::forget_name(connection, product, &item.name)?;
    }
    connection
        .prepare_cached("update stock set digest = ?2 where stock = ?1")?
        .execute(params![stock, DigestColumn(digest)])?;
    if !next.is_empty() {
        return Ok(true);
    }
    for table in ["staged_outcome", "staged_reservation", "staged_transfer"] {
        let sql = format!(
            "delete from {table} where stock = ?1 and number in \
             (select number from {table} where stock = ?1 order by number limit ?2)"
        );
        if connection.prepare_cached(&sql)?.execute(params![stock, rows])? > 0 {
            return Ok(true);
        }
    }
    if operations::forget_step(connection, store, stock, rows)? {
        return Ok(true);
    }
    connection.prepare_cached("delete from stock where stock = ?1")?.execute([stock])?;
    if digest != Digest::default() {
        // A row had changed by itself: what it was counted with is not what was taken out.
        tracing::warn!(%store, "rows were not what had been applied: the chain's totals are summed anew");
        totals::begin_recount(connection)?;
    }
    Ok(true)
}

/// Makes an item of the view what the store says it is.
pub fn put(connection: &Connection, store: &mut Store, product: &ProductId, after: &Item) -> rusqlite::Result<()> {
    let before = items::of(connection, store.stock, product)?;
    let is_renamed = before.as_ref().is_none_or(|before| before.name != after.name);
    let counted = totals::Interval::of(connection, store.stock)?;
    replace(connection, store, &counted, product, before.as_ref(), after, is_renamed)
}

/// As [`put`], for an item that was read before. `counted`: of the stock. `is_renamed`: it was given a name since, be it
/// the one that it had.
pub fn replace(
    connection: &Connection,
    store: &mut Store,
    counted: &totals::Interval,
    product: &ProductId,
    before: Option<&Item>,
    after: &Item,
    is_renamed: bool,
) -> rusqlite::Result<()> {
    store.digest = store.digest.replace(product, before, Some(after));
    store.units += more(before, after);
    if counted.has(product) {
        let name = is_renamed.then_some(after.name.as_str());
        totals::count_as(connection, product, name, before, Some(after))?;
    }
    match before {
        Some(before) if after.differs_in_units_alone(before) => {
            items::move_units(connection, store.stock, product, after)?;
        }
        _ => items::write(connection, &store.id, store.stock, product, after)?,
    }
    if before.is_none_or(|before| before.name != after.name) {
        labels::add(connection, product.as_str(), &after.name)?;
        if let Some(before) = before {
            items::forget_name(connection, product, &before.name)?;
        }
    }
    Ok(())
}
