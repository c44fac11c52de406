//! The whole state as entries (L7, L9): behind `opened` in the transaction that opens the epoch; in answer to a resync some of
//! it at a time, while the tills go on.
//!
//! **Guarantees.** What the pages up to a `snapshot_end` name is the state there: what has changed since the first of them is
//! named once more. How far it is told is in the database, so that after a crash it goes on from there.

use std::collections::BTreeSet;

use protocol::domain::Item;
use protocol::ids::{OperationId, ProductId};
use protocol::link::{Commands, EntryId, Seq};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{Event, Named, SnapshotEnd, SnapshotPage};
use runtime::sqlite::{number_at, parsed};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::head::{Head, append};
use super::items::{ItemFilter, find_item, items_in_order};
use super::{idempotency, outcomes, reservations, transfers};

/// Items or outcomes on one page, at most.
const PAGE: usize = 200;
/// Names of operations on one page, at most.
const NAMES: usize = 500;
/// Their JSON on one page, bytes, at most: an entry is the least that a round can carry.
const PAGE_BYTES: usize = 32 << 10;
/// Items that are read in one go.
pub const STEP: usize = 2_000;

const CHANGED: &str =
    "select product_id from ledger where epoch = ?1 and seq > ?2 and seq <= ?3 and product_id is not null";
/// What an entry is about beside the product that it stands under.
const CHANGED_BESIDE: &str = "select product_id from ledger_item where epoch = ?1 and seq > ?2 and seq <= ?3";
/// Where there are more of these than so many.
const TOO_MANY: &str =
    "select seq from ledger_item where epoch = ?1 and seq > ?2 and seq <= ?3 order by seq limit 1 offset ?4";

/// A command that asks for the whole state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its id.
    pub command: OperationId,
    /// Where it stands.
    pub entry: EntryId<Commands>,
}

/// How far a state is told.
#[derive(Debug)]
struct Telling {
    pages: u64,
    /// Items that these name; one that is named again counts again.
    items: u64,
    /// Items up to this product are told; none: all of them.
    after: Option<String>,
    /// Names of operations up to this one are told; none: all of them. There come no new ones while an epoch lasts.
    named: Option<String>,
    /// What the entries behind this one have changed is to be told again.
    changed: Seq,
}

/// Behind `opened`: all of it in the caller's transaction. What was asked for in an earlier epoch is told with it.
pub(super) fn tell_all(connection: &Connection, head: &mut Head, now: Millis) -> rusqlite::Result<()> {
    connection.prepare_cached("delete from state_asked")?.execute([])?;
    connection.prepare_cached("delete from state_told")?.execute([])?;
    let all = || Some(String::new());
    let mut telling = Telling { pages: 0, items: 0, after: all(), named: all(), changed: head.cursor.seq };
    while telling.after.is_some() && !planted(Bug::OpeningWithoutState) {
        telling.tell_items(connection, head, STEP, now)?;
    }
    while telling.named.is_some() {
        telling.tell_names(connection, head, STEP, now)?;
    }
    telling.tell_rest(connection, head, now)
}

/// A command asks for it. Another one that is being told when this comes answers it, too.
pub(crate) fn ask(connection: &Connection, head: &Head, asked: &Asked) -> rusqlite::Result<()> {
    if !is_asked(connection)? {
        begin(connection, head)?;
    }
    connection
        .prepare_cached("insert or ignore into state_asked (command_id, entry_id) values (?1, ?2)")?
        .execute([asked.command.as_str(), &asked.entry.to_string()])?;
    Ok(())
}

/// From its first item on. What has been told of one that was refused belongs to it, since the receiver has those pages: it goes on
/// from there, as long as the log says what has changed since.
fn begin(connection: &Connection, head: &Head) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert into state_told (id, pages, items, after, named, changed) values (1, 0, 0, '', '', ?2) \
             on conflict (id) do update set after = excluded.after, named = excluded.named, changed = excluded.changed \
             where not exists (select 1 from ledger where epoch = ?1 and seq = state_told.changed)",
        )?
        .execute(params![head.cursor.epoch.get(), head.cursor.seq.get()])?;
    Ok(())
}

/// Whether some of it is to be told.
pub fn is_asked(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare_cached("select exists (select 1 from state_asked)")?.query_row([], |row| row.get(0))
}

/// The commands that wait for it, and wait no more.
pub(crate) fn take_asked(connection: &Connection) -> rusqlite::Result<Vec<Asked>> {
    connection
        .prepare_cached("delete from state_asked returning command_id, entry_id")?
        .query_map([], |row| Ok(Asked { command: parsed(row, 0)?, entry: parsed(row, 1)? }))?
        .collect()
}

/// Tells the next of it: so many items, then as many names, then what as many entries have changed; with the last of that all
/// the rest. Says whether it is whole. The caller saves the head.
pub(crate) fn tell(connection: &Connection, head: &mut Head, most: usize, now: Millis) -> rusqlite::Result<bool> {
    let mut telling = Telling::load(connection)?;
    if telling.after.is_some() {
        telling.tell_items(connection, head, most, now)?;
    } else if telling.named.is_some() {
        telling.tell_names(connection, head, most, now)?;
    } else if telling.tell_changed(connection, head, most, now)? {
        telling.tell_rest(connection, head, now)?;
        connection.prepare_cached("delete from state_told")?.execute([])?;
        return Ok(true);
    }
    telling.save(connection)?;
    Ok(false)
}

impl Telling {
    fn load(connection: &Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("select pages, items, after, named, changed from state_told")?.query_row([], |row| {
            let (pages, items) = (row.get(0)?, row.get(1)?);
            Ok(Self { pages, items, after: row.get(2)?, named: row.get(3)?, changed: number_at(row, 4)? })
        })
    }

    fn save(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection
            .prepare_cached("update state_told set pages = ?1, items = ?2, after = ?3, named = ?4, changed = ?5")?
            .execute(params![self.pages, self.items, self.after, self.named, self.changed.get()])?;
        Ok(())
    }

    /// The next items, by product.
    fn tell_items(
        &mut self,
        connection: &Connection,
        head: &mut Head,
        most: usize,
        now: Millis,
    ) -> rusqlite::Result<()> {
        let filter =
            ItemFilter { with_discontinued: true, after: self.after.take(), limit: most, ..ItemFilter::default() };
        let items = items_in_order(connection, &filter)?;
        if items.len() == most {
            self.after = items.last().map(|(product, _)| product.to_string());
        }
        self.tell_pages(connection, head, items, now)
    }

    /// The next names of operations of earlier epochs: central may have no entry of these (L9).
    fn tell_names(
        &mut self,
        connection: &Connection,
        head: &mut Head,
        most: usize,
        now: Millis,
    ) -> rusqlite::Result<()> {
        let behind = self.named.take().unwrap_or_default();
        let (operations, last) = idempotency::known_behind(connection, &behind, most, now)?;
        self.named = last;
        for operations in cut(NAMES, operations.into_iter().filter(|_| !planted(Bug::OperationsNotNamed))) {
            self.append(connection, head, SnapshotPage { operations, ..SnapshotPage::default() }, now)?;
        }
        Ok(())
    }

    /// What the next entries have changed, as it is now. Says whether they were the last.
    fn tell_changed(
        &mut self,
        connection: &Connection,
        head: &mut Head,
        most: usize,
        now: Millis,
    ) -> rusqlite::Result<bool> {
        let mut upto = head.cursor.seq.min(self.changed + most as u64);
        let beyond: Option<Seq> = connection
            .prepare_cached(TOO_MANY)?
            .query_row(params![head.cursor.epoch.get(), self.changed.get(), upto.get(), most], |row| number_at(row, 0))
            .optional()?;
        if let Some(beyond) = beyond {
            // The entry that has one too many waits, unless it is the first.
            upto = (beyond - 1).max(self.changed.next());
        }
        let is_last = upto == head.cursor.seq;
        let range = params![head.cursor.epoch.get(), self.changed.get(), upto.get()];
        let mut changed: BTreeSet<ProductId> = BTreeSet::new();
        for sql in [CHANGED, CHANGED_BESIDE] {
            let mut statement = connection.prepare_cached(sql)?;
            let products = statement.query_map(range, |row| parsed(row, 0))?;
            changed.extend(products.collect::<rusqlite::Result<Vec<ProductId>>>()?);
        }
        self.changed = upto;
        let mut items = Vec::with_capacity(changed.len());
        for product in changed.into_iter().filter(|_| !planted(Bug::ChangedNotToldAgain)) {
            let item = find_item(connection, &product)?;
            items.extend(item.map(|item| (product, item)));
        }
        self.tell_pages(connection, head, items, now)?;
        Ok(is_last)
    }

    /// What is neither item nor name, and the end.
    fn tell_rest(mut self, connection: &Connection, head: &mut Head, now: Millis) -> rusqlite::Result<()> {
        let outcomes = if planted(Bug::OutcomesLeftOut) { Vec::new() } else { outcomes::all(connection)? };
        for outcomes in cut(PAGE, outcomes) {
            self.append(connection, head, SnapshotPage { outcomes, ..SnapshotPage::default() }, now)?;
        }
        let reservations = if planted(Bug::HoldsLeftOut) { Vec::new() } else { reservations::all(connection)? };
        for reservations in cut(PAGE, reservations) {
            self.append(connection, head, SnapshotPage { reservations, ..SnapshotPage::default() }, now)?;
        }
        let transfers = if planted(Bug::TransfersLeftOut) { Vec::new() } else { transfers::all(connection)? };
        for transfers in cut(PAGE, transfers) {
            self.append(connection, head, SnapshotPage { transfers, ..SnapshotPage::default() }, now)?;
        }
        let named_since = Some(idempotency::named_since(connection, now)?);
        let end = SnapshotEnd { pages: self.pages, count: self.items, named_since };
        append(connection, head, &named_snapshot(), &Event::SnapshotEnd(end), now)?;
        Ok(())
    }

    fn tell_pages(
        &mut self,
        connection: &Connection,
        head: &mut Head,
        items: Vec<(ProductId, Item)>,
        now: Millis,
    ) -> rusqlite::Result<()> {
        for items in cut(PAGE, items.into_iter().map(|(product_id, item)| Named { product_id, item })) {
            self.append(connection, head, SnapshotPage { items, ..SnapshotPage::default() }, now)?;
        }
        Ok(())
    }

    fn append(
        &mut self,
        connection: &Connection,
        head: &mut Head,
        page: SnapshotPage,
        now: Millis,
    ) -> rusqlite::Result<()> {
        self.pages += 1;
        self.items += page.items.len() as u64;
        append(connection, head, &named_snapshot(), &Event::SnapshotPage(page), now)?;
        Ok(())
    }
}

fn named_snapshot() -> OperationId {
    OperationId::parse("snapshot").expect("a short text of visible ASCII")
}

/// Cuts a list into pages of so many members at most; each has one at least.
fn cut<T: Serialize>(most: usize, list: impl IntoIterator<Item = T>) -> Vec<Vec<T>> {
    let mut pages: Vec<Vec<T>> = Vec::new();
    let mut bytes = 0;
    for member in list {
        let size = serde_json::to_string(&member).expect("what goes on a page serialises").len();
        match pages.last_mut() {
            Some(page) if page.len() < most && bytes + size <= PAGE_BYTES => {
                page.push(member);
                bytes += size;
            }
            _ => {
                pages.push(vec![member]);
                bytes = size;
            }
        }
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_by_number_or_by_bytes() {
        let lengths = |list: Vec<String>| cut(PAGE, list).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(Vec::new()), [0; 0]);
        assert_eq!(lengths(vec!["x".into(); 401]), [200, 200, 1]);
        assert_eq!(lengths(vec!["x".repeat(10_000); 7]), [3, 3, 1]);
        assert_eq!(lengths(vec!["x".repeat(100_000); 2]), [1, 1], "one in any case");
    }

    #[test]
    fn what_has_changed_is_found_without_reading_the_ledger() {
        let connection = crate::testing::ledger(1);
        for sql in [CHANGED, CHANGED_BESIDE, TOO_MANY] {
            let plan = crate::ledger::testing::plan(&connection, sql);
            assert!(plan.contains("(epoch=? AND seq>? AND seq<?)") && !plan.contains("SCAN"), "{sql}: {plan}");
        }
    }
}
