//! Central: the production view, settlement, purchases and command log over SQLite in memory, with its loops taken
//! apart into single steps.

use std::cell::Cell;
use std::collections::BTreeMap;

use central::projection::steps;
use central::projection::view;
use central::projection::view::Budget;
use central::storage::commands;
use central::storage::stores;
use central::storage::totals;
use protocol::ids::StoreId;
use protocol::link::{Ack, Cursor, Entry, EntryId};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use runtime::redis::{Channel, Keys, Received};
use rusqlite::Connection;

use super::redis::{Call, Redis};
use super::sending::{Progress, Sending};
use super::{EVENT_BATCH, WINDOW};

/// Where the consumer stands with one store.
enum Consuming {
    /// It looks at the store, or says its ack again.
    Idle,
    /// It applies what it read.
    Apply(Vec<Entry>),
    /// It tells how far it has come.
    Tell(Ack),
}

/// One process with its database file.
pub(super) struct Central {
    /// The file.
    pub(super) file: Connection,
    /// Whether the process runs.
    pub(super) runs: bool,
    /// Whether its network does.
    pub(super) network: bool,
    /// Its clock's error, ms.
    pub(super) skew: i64,
    /// Rows that it writes in one transaction, about.
    budget: u64,
    keys: Keys,
    consuming: BTreeMap<StoreId, Consuming>,
    sending: BTreeMap<StoreId, Sending>,
}

impl Central {
    /// A process over a file.
    pub(super) fn start(file: Connection, keys: &Keys, budget: u64) -> Self {
        Self {
            file,
            runs: true,
            network: true,
            skew: 0,
            budget,
            keys: keys.clone(),
            consuming: BTreeMap::new(),
            sending: BTreeMap::new(),
        }
    }

    /// Its clock.
    pub(super) fn clock(&self, now: i64) -> Millis {
        Millis(now + self.skew)
    }

    /// SIGKILL.
    pub(super) fn crash(&mut self, late: bool, redis: &mut Redis) {
        self.disconnect(late, redis);
        self.runs = false;
        self.sending.clear();
    }

    /// Its connections break.
    pub(super) fn disconnect(&mut self, late: bool, redis: &mut Redis) -> bool {
        for (store, consuming) in std::mem::take(&mut self.consuming) {
            if let (Consuming::Tell(ack), true) = (consuming, late) {
                self.assert_committed(&store, ack);
                redis.late.push_back(Call::SetAck(self.keys.events_ack(&store), ack));
            }
        }
        let mut any = false;
        for sending in self.sending.values_mut() {
            any |= sending.disconnect(late, redis);
        }
        any
    }

    /// One step of the consumer with one store. `says_again`: a sweep, which tells the ack unconditionally. `again`: so
    /// many entries are delivered a second time. `commit` runs the transaction, and says whether the process outlived it.
    pub(super) fn consume(
        &mut self,
        store: &StoreId,
        redis: &mut Redis,
        now: i64,
        says_again: bool,
        again: u64,
        commit: impl FnOnce(&Connection, &mut dyn FnMut(&Connection) -> rusqlite::Result<()>) -> bool,
    ) -> bool {
        let clock = self.clock(now);
        let at = self.consuming.entry(store.clone()).or_insert(Consuming::Idle);
        match std::mem::replace(at, Consuming::Idle) {
            Consuming::Idle if says_again => {
                let looks_after = now % 2 == 0;
                if now % 16 == 0 {
                    let Some(stock) = view::unsound(&self.file, store).expect("the view can be read") else {
                        return false;
                    };
                    commit(&self.file, &mut |connection| view::distrust(connection, store, stock, clock).map(|_| ()));
                    return true;
                }
                let ack = match stores::find(&self.file, store).expect("the view can be read") {
                    Some(known) if known.wants_resync() && looks_after => {
                        commit(&self.file, &mut |connection| view::look_after(connection, store, clock).map(|_| ()));
                        return true;
                    }
                    Some(known) => known.ack(),
                    None if redis.stores.contains(store) => {
                        commit(&self.file, &mut |connection| stores::discover(connection, store, clock));
                        return true;
                    }
                    None => return false,
                };
                *at = Consuming::Tell(ack);
            }
            Consuming::Idle => {
                let known = stores::find(&self.file, store).expect("the view can be read");
                let cursor = known.map_or(Cursor::default(), |store| store.cursor);
                let batch = redis.range(&self.keys.events(store), before(cursor.id(), again), EVENT_BATCH);
                if batch.is_empty() {
                    return false;
                }
                *at = Consuming::Apply(batch);
            }
            Consuming::Apply(batch) => {
                let batch: Vec<Received> = batch.into_iter().map(Ok).collect();
                let mut ack = None;
                let mut budget = Budget::new(self.budget);
                let end = batch.iter().flatten().next_back().map(protocol::link::Entry::cursor);
                let outlived = commit(&self.file, &mut |connection| {
                    ack = Some(view::receive(connection, store, &batch, clock, &mut budget)?.ack);
                    Ok(())
                });
                if let (Some(ack), true) = (ack, outlived || planted(Bug::AckBeforeCommit)) {
                    *at = Consuming::Tell(ack);
                }
                let known = stores::find(&self.file, store).expect("the view can be read");
                if let (Some(mut known), Some(end), false) = (known, end, outlived)
                    && planted(Bug::CursorOutsideTransaction)
                {
                    known.cursor = end;
                    known.save(&self.file).expect("the view can be written");
                }
            }
            Consuming::Tell(ack) => {
                self.assert_committed(store, ack);
                redis.call(&Call::SetAck(self.keys.events_ack(store), ack), now);
            }
        }
        true
    }

    /// One step of what is left to be done for a store, or of summing totals anew. Says whether there was something.
    pub(super) fn step(
        &mut self,
        store: &StoreId,
        now: i64,
        commit: impl FnOnce(&Connection, &mut dyn FnMut(&Connection) -> rusqlite::Result<()>) -> bool,
    ) -> bool {
        let clock = self.clock(now);
        let is_due = stores::find(&self.file, store).expect("the view can be read").is_some_and(|known| known.steps);
        if !is_due && !totals::is_recounting(&self.file).expect("the view can be read") {
            return false;
        }
        let rows = (self.budget / 2) as usize;
        commit(&self.file, &mut |connection| {
            if is_due {
                steps::step(connection, store, rows, clock).map(|_| ())
            } else {
                totals::recount_step(connection, rows).map(|_| ())
            }
        });
        true
    }

    /// Nothing is acknowledged that is not in the file (P2).
    fn assert_committed(&self, store: &StoreId, ack: Ack) {
        let known = stores::find(&self.file, store).expect("the view can be read").map(|known| known.cursor);
        let known = known.unwrap_or_default();
        assert!(ack.cursor.id() <= known.id(), "P2: {} is acknowledged, {} is applied", ack.cursor.id(), known.id());
    }

    /// One step of a store's command sender.
    pub(super) fn publish(&mut self, store: &StoreId, redis: &mut Redis, now: i64) -> Progress {
        let head = commands::head(&self.file, store).expect("the command log has a head");
        if head.epoch == 0 {
            return Progress::Idle;
        }
        let channel = Channel::commands(&self.keys, store);
        let sending = self.sending.entry(store.clone()).or_insert_with(|| Sending::new(channel, WINDOW));
        let log = commands::Log { connection: &self.file, store, head, failed: Cell::default() };
        let file = &self.file;
        let entries = |from, to| commands::entries(file, store, head.epoch, from, to).expect("entries can be read");
        sending.advance(redis, &log, entries, None, now)
    }

    /// An epoch was opened in a store's command log.
    pub(super) fn epoch_opened(&mut self, store: &StoreId) {
        if let Some(sending) = self.sending.get_mut(store) {
            sending.sender.epoch_opened();
        }
    }

    /// Whether the sender of a store's commands has stopped itself.
    pub(super) fn is_stopped(&self, store: &StoreId) -> bool {
        self.sending.get(store).is_some_and(|sending| sending.sender.stopped().is_some())
    }
}

/// A place so many entries earlier in its epoch.
pub(super) fn before(at: EntryId, entries: u64) -> EntryId {
    EntryId { seq: at.seq.saturating_sub(entries), ..at }
}
