//! The smallest chain from a store to central: a transaction, `XADD`, `XREAD`, a transaction, on a plain thread for each
//! side. No HTTP, no acknowledgement, no hashes, nothing that heals: what is left is what any such system pays.

use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use redis::Value;
use tempfile::TempDir;

use crate::database::{Database, Entry, Event};
use crate::paced::{Latencies, paced};
use crate::setup::{Setup, product};

/// Events of a transaction when there are many.
const BATCH: i64 = 500;
/// Longest wait for an entry: the other side has failed then, and says why.
const BLOCK_MS: u64 = 10_000;
const EVENTS: &str = "limit:events";

/// One side: its database and its connection to Redis.
pub(crate) struct End {
    /// What it keeps.
    pub(crate) database: Database,
    redis: redis::Connection,
}

impl End {
    /// A side whose database has so many items.
    pub(crate) fn create(setup: &Setup, items: u64, dir: &TempDir, name: &str) -> anyhow::Result<Self> {
        let products = (0..items).map(|number| format!("product-{number:06}"));
        let database = Database::create(&dir.path().join(format!("{name}.db")), products)?;
        Ok(Self { database, redis: redis::Client::open(setup.redis_url())?.get_connection()? })
    }

    /// Adds entries to a stream, in one pipeline.
    pub(crate) fn publish(&mut self, stream: &str, entries: &[Entry]) -> anyhow::Result<()> {
        let mut pipe = redis::pipe();
        for Entry { event, body } in entries {
            pipe.cmd("XADD").arg(stream).arg(format!("1-{}", event.seq)).arg("b").arg(body).ignore();
        }
        Ok(pipe.exec(&mut self.redis)?)
    }

    /// The entries behind a number; waits for the first.
    pub(crate) fn read(&mut self, stream: &str, after: i64) -> anyhow::Result<Vec<Entry>> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(BATCH).arg("BLOCK").arg(BLOCK_MS).arg("STREAMS").arg(stream).arg(format!("1-{after}"));
        let answer: Value = command.query(&mut self.redis)?;
        let Value::Array(streams) = answer else { bail!("nothing in {stream} for {BLOCK_MS} ms: {answer:?}") };
        let [Value::Array(named)] = streams.as_slice() else { bail!("not one stream: {streams:?}") };
        let [_, Value::Array(entries)] = named.as_slice() else { bail!("not a stream: {named:?}") };
        entries.iter().map(entry).collect()
    }

    /// Empties a stream.
    pub(crate) fn clear(&mut self, stream: &str) -> anyhow::Result<()> {
        Ok(redis::cmd("DEL").arg(stream).exec(&mut self.redis)?)
    }
}

fn entry(value: &Value) -> anyhow::Result<Entry> {
    if let Value::Array(parts) = value
        && let [_, Value::Array(fields)] = parts.as_slice()
        && let [_, Value::BulkString(body)] = fields.as_slice()
    {
        return Entry::read(body);
    }
    bail!("not an entry: {value:?}")
}

/// Both sides.
pub(crate) struct Chain {
    store: End,
    central: End,
    items: u64,
    /// Of the last event.
    seq: i64,
    /// The databases lie in it.
    _dir: TempDir,
}

impl Chain {
    /// A chain on the disk and the Redis of the setup.
    pub(crate) fn start(setup: &Setup, items: u64) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("limit-").tempdir_in(setup.dir())?;
        let (store, central) = (End::create(setup, items, &dir, "store")?, End::create(setup, items, &dir, "central")?);
        let mut chain = Self { store, central, items, seq: 0, _dir: dir };
        // Statements, caches and connections are new.
        chain.bulk(2 * BATCH)?;
        Ok(chain)
    }

    /// So many events as fast as they go; events a second.
    pub(crate) fn bulk(&mut self, events: i64) -> anyhow::Result<f64> {
        let (from, last, items) = (self.seq, self.seq + events, self.items);
        let (store, central) = (&mut self.store, &mut self.central);
        let begin = Instant::now();
        both(
            move || {
                for first in (from + 1..=last).step_by(BATCH as usize) {
                    let batch: Vec<Entry> =
                        (first..=last.min(first + BATCH - 1)).map(|seq| sold(seq, items)).collect::<Result<_, _>>()?;
                    store.database.record(&batch)?;
                    store.publish(EVENTS, &batch)?;
                }
                Ok(())
            },
            move || receive(central, from, last, || Ok(())),
        )?;
        let seconds = begin.elapsed().as_secs_f64();
        self.done(last)?;
        Ok(events as f64 / seconds)
    }

    /// So many events one at a time: from the start of the store's transaction to the end of central's.
    pub(crate) fn single(&mut self, events: u64) -> anyhow::Result<Latencies> {
        let (from, last, items) = (self.seq, self.seq + i64::try_from(events)?, self.items);
        let (store, central) = (&mut self.store, &mut self.central);
        let (tell, told) = mpsc::channel();
        let latencies = both(
            move || {
                paced(events, |number| {
                    let batch = [sold(from + 1 + i64::try_from(number)?, items)?];
                    store.database.record(&batch)?;
                    store.publish(EVENTS, &batch)?;
                    told.recv().context("central's side has ended")
                })
            },
            move || receive(central, from, last, || Ok(tell.send(())?)),
        )?;
        self.done(last)?;
        Ok(latencies)
    }

    /// Both sides must have everything, or the limit was measured wrongly.
    fn done(&mut self, last: i64) -> anyhow::Result<()> {
        self.seq = last;
        self.store.clear(EVENTS)?;
        for end in [&self.store, &self.central] {
            let sums = end.database.sums()?;
            ensure!(sums == (-last, last), "{last} units were sold in the smallest chain, not {sums:?}");
        }
        Ok(())
    }
}

fn sold(seq: i64, items: u64) -> anyhow::Result<Entry> {
    Entry::of(Event::sold(seq, product(seq.unsigned_abs(), items)))
}

fn receive(
    central: &mut End,
    mut at: i64,
    last: i64,
    mut committed: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    while at < last {
        let batch = central.read(EVENTS, at)?;
        central.database.record(&batch)?;
        at = batch.last().context("an answer without entries")?.event.seq;
        committed()?;
    }
    Ok(())
}

/// Runs the two sides, the second one on a thread of its own.
pub(crate) fn both<T>(
    one: impl FnOnce() -> anyhow::Result<T>,
    other: impl FnOnce() -> anyhow::Result<()> + Send,
) -> anyhow::Result<T> {
    thread::scope(|scope| {
        let running = scope.spawn(other);
        let value = one();
        let Ok(ended) = running.join() else { bail!("the other side panicked") };
        match (value, ended) {
            (Ok(value), Ok(())) => Ok(value),
            (Err(one), Err(other)) => bail!("{one:#}; the other side: {other:#}"),
            (Err(error), Ok(())) | (Ok(_), Err(error)) => Err(error),
        }
    })
}
