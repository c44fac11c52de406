//! The smallest database that keeps what a daemon must: the item as it is now, the event, and how far it got. With the
//! daemons' settings, so that a commit is as durable as theirs.

use std::path::Path;

use anyhow::{Context, ensure};
use rusqlite::{Connection, OpenFlags, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

/// What happened to an item, about as long as a real event is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    /// Its number, without gaps.
    pub(crate) seq: i64,
    product_id: String,
    delta: i64,
    name: String,
    reserved: i64,
    allotted: i64,
    discontinued: bool,
    low: bool,
    recorded_at: String,
    reference: String,
}

impl Event {
    /// A unit of a product is sold.
    pub(crate) fn sold(seq: i64, product_id: String) -> Self {
        Self {
            seq,
            name: format!("Name of {product_id}"),
            product_id,
            delta: -1,
            reserved: 0,
            allotted: 0,
            discontinued: false,
            low: false,
            recorded_at: "2026-11-21T07:16:17.418Z".to_owned(),
            reference: "receipt-77".to_owned(),
        }
    }

    /// The same under the next number.
    pub(crate) fn next(self) -> Self {
        Self { seq: self.seq + 1, ..self }
    }
}

/// An event and its JSON.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The event.
    pub(crate) event: Event,
    /// As it is kept and sent.
    pub(crate) body: String,
}

impl Entry {
    /// Writes the JSON.
    pub(crate) fn of(event: Event) -> anyhow::Result<Self> {
        Ok(Self { body: serde_json::to_string(&event)?, event })
    }

    /// Reads the JSON.
    pub(crate) fn read(body: &[u8]) -> anyhow::Result<Self> {
        Ok(Self { event: serde_json::from_slice(body)?, body: String::from_utf8(body.to_vec())? })
    }
}

/// Reads items beside whoever writes.
pub(crate) struct Reader(Connection);

impl Reader {
    /// Opens a file that is there.
    pub(crate) fn open(file: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file, flags)?;
        connection.pragma_update(None, "mmap_size", 256 << 20)?;
        Ok(Self(connection))
    }

    /// Units and version of an item.
    pub(crate) fn item(&self, product: &str) -> rusqlite::Result<(i64, i64)> {
        let mut statement = self.0.prepare_cached("select quantity, version from item where product_id = ?1")?;
        statement.query_row([product], |row| Ok((row.get(0)?, row.get(1)?)))
    }
}

/// Items, events and a cursor.
pub(crate) struct Database(Connection);

impl Database {
    /// Makes a file with these items.
    pub(crate) fn create(file: &Path, products: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        ensure!(!file.exists(), "{} is there already", file.display());
        let mut connection = Connection::open(file).with_context(|| file.display().to_string())?;
        connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "wal_autocheckpoint", 4_000)?;
        connection.pragma_update(None, "cache_size", -(16 << 10))?;
        let transaction = connection.transaction()?;
        transaction.execute_batch(
            "create table item (product_id text primary key, quantity integer not null, version integer not null) \
                 strict, without rowid;
             create table event (seq integer primary key, product_id text not null, body text not null) strict;
             create table cursor (seq integer not null) strict;
             insert into cursor values (0);",
        )?;
        for product in products {
            transaction.prepare_cached("insert into item values (?1, 0, 1)")?.execute([product])?;
        }
        transaction.commit()?;
        Ok(Self(connection))
    }

    /// Applies and keeps entries, in one commit.
    pub(crate) fn record(&mut self, entries: &[Entry]) -> anyhow::Result<()> {
        let Some(last) = entries.last() else { return Ok(()) };
        let transaction = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut item = transaction.prepare_cached(
                "update item set quantity = quantity + ?2, version = version + 1 where product_id = ?1",
            )?;
            let mut kept =
                transaction.prepare_cached("insert into event (seq, product_id, body) values (?1, ?2, ?3)")?;
            for Entry { event, body } in entries {
                ensure!(item.execute(params![event.product_id, event.delta])? == 1, "no item {}", event.product_id);
                kept.execute(params![event.seq, event.product_id, body])?;
            }
            transaction.prepare_cached("update cursor set seq = ?1")?.execute([last.event.seq])?;
        }
        Ok(transaction.commit()?)
    }

    /// Units of all items, and the number of events.
    pub(crate) fn sums(&self) -> anyhow::Result<(i64, i64)> {
        let sql = "select (select sum(quantity) from item), (select count(*) from event)";
        Ok(self.0.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }
}
