//! Central: the production view, settlement, purchases and command log over SQLite in memory, with its loops taken
//! apart into single steps.

use std::collections::{BTreeMap, VecDeque};

use central::links::consumer::{Batch, Judged, Observation, apply_some};
use central::links::publisher;
use central::projection::steps;
use central::projection::view;
use central::projection::view::Budget;
use central::promises::allotments::release_forgotten;
use central::storage::allotments::unreleased_stores;
use central::storage::stores;
use central::storage::totals;
use protocol::ids::{PurchaseId, StoreId};
use protocol::link::{
    Ack, Bounds, Commands, Cursor, EntryId, Fetch, FetchReply, FetchStep, Link, Publishers, Reply, Sized, Step, Taken,
};
use protocol::time::Millis;
use runtime::redis::{Channel, Keys, Received};
use rusqlite::Connection;

use super::reconciling::Correction;
use super::redis::{self, Call, Redis};
use super::sending::Flight;
use super::servers::OfCentral;
use super::traffic::Seek;
use super::{EVENT_BATCH, PACE};
use crate::judge::BoundKeys;

/// How much of the streams is read at once: little, so that each bound is reached now and then.
const BOUNDS: Bounds = Bounds {
    bytes: 2_500,
    bytes_a_stream: 4_000,
    entries: 2 * EVENT_BATCH,
    entries_least: 1,
    entries_most: EVENT_BATCH,
};

/// What one step of the consumer has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consumed {
    Moved,
    /// It begins to read a stream alone that is too large for a round with others.
    Apart,
    /// One transaction for several stores.
    Together,
    /// Too much else waits to be written.
    Busy,
}

/// One process with its database file.
pub(super) struct Central {
    pub(super) file: Connection,
    /// Whether the process runs.
    pub(super) runs: bool,
    /// Whether its network does.
    pub(super) network: bool,
    /// Its clock's error, ms.
    pub(super) skew: i64,
    /// Rows that it writes in one transaction, about.
    pub(super) budget: u64,
    keys: Keys,
    /// The production loop of a round.
    fetch: Option<Fetch<StoreId>>,
    /// What it has read.
    batches: BTreeMap<StoreId, Batch>,
    /// Acks on their way.
    writer: VecDeque<(StoreId, Ack)>,
    /// Stores to be read apart.
    apart: VecDeque<StoreId>,
    /// The production loop of the publisher.
    logs: Publishers<StoreId>,
    flight: Option<Flight<StoreId, Commands>>,
    /// The next store that a purchase is about to ask.
    pub(super) seek: Option<Seek>,
    /// Since when it has known of purchases that they seek a store.
    pub(super) seeking: BTreeMap<PurchaseId, i64>,
    /// Lists that it has compared, and is about to have corrected.
    pub(super) corrections: Vec<Correction>,
    /// Its HTTP server, once somebody has asked it for something.
    pub(super) http: Option<OfCentral>,
    /// What clients' keys stand for in its file.
    pub(super) bound: BoundKeys,
    /// Heads of the command logs as they were when their publishers were woken last.
    heads: BTreeMap<StoreId, Cursor<Commands>>,
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
            fetch: None,
            batches: BTreeMap::new(),
            writer: VecDeque::new(),
            apart: VecDeque::new(),
            logs: Publishers::new(PACE),
            flight: None,
            seek: None,
            seeking: BTreeMap::new(),
            corrections: Vec::new(),
            http: None,
            bound: BoundKeys::default(),
            heads: BTreeMap::new(),
        }
    }

    pub(super) fn clock(&self, now: i64) -> Millis {
        Millis(now + self.skew)
    }

    pub(super) fn crash(&mut self, late: bool, redis: &mut Redis) {
        self.disconnect(late, redis);
        self.runs = false;
        self.http = None;
        self.logs = Publishers::new(PACE);
        self.seek = None;
        self.seeking.clear();
        self.corrections.clear();
        self.heads.clear();
    }

    /// Its connections break.
    pub(super) fn disconnect(&mut self, late: bool, redis: &mut Redis) -> bool {
        self.fetch = None;
        self.batches.clear();
        for (store, ack) in std::mem::take(&mut self.writer) {
            self.assert_committed(&store, ack);
            if late {
                redis.late.push_back(Call::SetAck(self.keys.events_ack(&store), redis::ack(ack)));
            }
        }
        self.logs.lost();
        self.flight.take().map(|flight| flight.cut(late, redis)).is_some()
    }

    /// Tells who waits that these have ended, and that is on disk.
    pub(super) fn settled(&self, settled: &[String]) {
        if let Some(http) = &self.http {
            http.waiting.settled(settled);
            http.waiting.applied();
        }
    }

    /// One step of a sweep with one store, if no round is on its way. `commit` runs a transaction, and says whether the
    /// process outlived it.
    pub(super) fn sweep(
        &mut self,
        store: &StoreId,
        redis: &Redis,
        now: i64,
        commit: impl FnOnce(&Connection, &mut dyn FnMut(&Connection) -> rusqlite::Result<()>) -> bool,
    ) {
        let clock = self.clock(now);
        if self.fetch.is_some() || !self.writer.is_empty() {
            return;
        }
        if now % 16 == 0 {
            if let Some(stock) = view::unsound(&self.file, store).expect("the view can be read") {
                commit(&self.file, &mut |connection| view::distrust(connection, store, stock, clock).map(|_| ()));
            }
            return;
        }
        let looks_after = now % 2 == 0;
        match stores::find(&self.file, store).expect("the view can be read") {
            Some(known) if known.wants_resync() && looks_after => {
                commit(&self.file, &mut |connection| view::repeat_resync(connection, store, clock).map(|_| ()));
            }
            Some(_) if looks_after && self.is_lowered(store) => {
                let lowered = [store.clone()];
                commit(&self.file, &mut |connection| release_forgotten(connection, &lowered, clock).map(|_| ()));
            }
            Some(known) => self.writer.push_back((store.clone(), known.ack())),
            None if redis.stores.contains(store) => {
                commit(&self.file, &mut |connection| stores::discover(connection, store, clock));
            }
            None => {}
        }
    }

    /// Whether more of something is set aside at a store than is wanted, and not released.
    fn is_lowered(&self, store: &StoreId) -> bool {
        unreleased_stores(&self.file).expect("the view can be read").contains(store)
    }

    /// One step of the consumer; a new round is over `due`. `again`: so many entries are delivered a second time; `busy`:
    /// nothing can be written now. `commit` as in [`Self::sweep`].
    pub(super) fn consume(
        &mut self,
        due: Vec<StoreId>,
        redis: &mut Redis,
        now: i64,
        again: u64,
        busy: bool,
        commit: impl FnOnce(&Connection, &mut dyn FnMut(&Connection) -> rusqlite::Result<()>) -> bool,
    ) -> Consumed {
        if let Some((store, ack)) = self.writer.pop_front() {
            self.assert_committed(&store, ack);
            redis.call(&Call::SetAck(self.keys.events_ack(&store), redis::ack(ack)), now);
            if let (true, Some(fetch)) = (self.writer.is_empty(), &mut self.fetch) {
                fetch.reply(FetchReply::Acknowledged);
            }
            return Consumed::Moved;
        }
        let clock = self.clock(now);
        let Some(fetch) = &mut self.fetch else {
            // As the slow lane does with a stream that is too large for a round.
            let (fetch, consumed) = match self.apart.pop_front() {
                Some(store) => (Fetch::reading(store, 2, BOUNDS), Consumed::Apart),
                None => (Fetch::of(due, BOUNDS), Consumed::Moved),
            };
            self.fetch = Some(fetch);
            return consumed;
        };
        let cursor_of = |file: &Connection, store: &StoreId| {
            stores::find(file, store).expect("the view can be read").map(|known| known.cursor)
        };
        let reply = match fetch.next() {
            FetchStep::Done => {
                self.apart.extend(fetch.apart().iter().cloned());
                self.fetch = None;
                return Consumed::Moved;
            }
            FetchStep::Size(stores) => {
                let known = stores.into_iter().filter(|store| cursor_of(&self.file, store).is_some());
                let sized = |store: StoreId| {
                    let bytes = redis.bytes(&self.keys.events(&store));
                    (store, if bytes == 0 { Sized::Nothing } else { Sized::Bytes(bytes) })
                };
                FetchReply::Sizes(known.map(sized).collect())
            }
            FetchStep::Read(wanted) => {
                for (store, count) in wanted {
                    let Some(cursor) = cursor_of(&self.file, &store) else { continue };
                    let entries = redis.range(&self.keys.events(&store), before(cursor.id(), again), count);
                    let seen = Observation { full: entries.len() == count, ..Observation::default() };
                    let entries: Vec<Received> = entries.into_iter().map(Ok).collect();
                    if !entries.is_empty() {
                        self.batches.insert(store.clone(), (store, entries, seen));
                    }
                }
                FetchReply::Read(self.batches.keys().cloned().collect())
            }
            FetchStep::Apply(_) if busy => {
                self.batches.clear();
                fetch.reply(FetchReply::Busy);
                return Consumed::Busy;
            }
            FetchStep::Apply(ids) => {
                let (mut results, mut budget) = (Vec::new(), Budget::new(self.budget));
                let outlived = commit(&self.file, &mut |connection| {
                    let left = ids.iter().filter_map(|id| self.batches.get(id));
                    results = apply_some(connection, left, clock, &mut budget)?;
                    for (store, _, result) in &results {
                        // The entry is sound and nothing is wrong with the disk: who asked wrongly was central.
                        assert!(result.is_ok(), "what {store} said cannot be applied: {result:?}");
                    }
                    Ok(())
                });
                if !outlived {
                    return Consumed::Moved;
                }
                for (store, _, result) in &results {
                    self.batches.remove(store);
                    if let (Ok(applied), Some(http)) = (result, &self.http) {
                        http.waiting.settled(&applied.saved.settled);
                        http.waiting.applied();
                    }
                }
                let several = results.len() > 1;
                fetch.reply(FetchReply::Applied(results.into_iter().map(taken).collect()));
                return if several { Consumed::Together } else { Consumed::Moved };
            }
            FetchStep::Acknowledge(acks) => {
                self.writer = acks.into();
                return Consumed::Moved;
            }
        };
        fetch.reply(reply);
        Consumed::Moved
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
        let mut settled = Vec::new();
        let outlived = commit(&self.file, &mut |connection| {
            if is_due {
                settled = steps::step(connection, store, rows, clock)?.saved.settled;
                Ok(())
            } else {
                totals::recount_step(connection, rows).map(|_| ())
            }
        });
        if outlived {
            self.settled(&settled);
        }
        true
    }

    /// Nothing is acknowledged that is not in the file (P2).
    fn assert_committed(&self, store: &StoreId, ack: Ack) {
        let known = stores::find(&self.file, store).expect("the view can be read").map(|known| known.cursor);
        let known = known.unwrap_or_default();
        assert!(ack.cursor.id() <= known.id(), "P2: {} is acknowledged, {} is applied", ack.cursor.id(), known.id());
    }

    /// One step of the publisher of all stores. `most`: stores in one batch. `commit` runs a transaction, and says whether
    /// the process outlived it. Says how many stores' steps have begun.
    pub(super) fn publish(
        &mut self,
        redis: &mut Redis,
        now: i64,
        most: usize,
        commit: impl FnOnce(&Connection, &mut dyn FnMut(&Connection) -> rusqlite::Result<()>) -> bool,
    ) -> usize {
        if let Some(flight) = &mut self.flight {
            if let Some(replies) = flight.advance(redis, now) {
                self.flight = None;
                for (store, reply) in replies {
                    self.logs.reply(now, &store, reply, 0);
                }
            }
            return 0;
        }
        for store in stores::all(&self.file).expect("the view can be read") {
            // As each commit to the log does.
            if self.heads.insert(store.id.clone(), store.command_head) != Some(store.command_head) {
                self.logs.wake(&store.id);
            }
        }
        let (mut to_store, mut flight, mut begun) = (Vec::new(), Flight::new(), 0);
        for (store, needs) in self.logs.take(now, most) {
            let log = publisher::excerpt(&self.file, &store, &needs).expect("the command log has a head");
            let step = self.logs.next(now, &store, &log);
            begun += usize::from(!matches!(step, Step::Wait(_)));
            let mut entries = Vec::new();
            match step {
                Step::Wait(_) => continue,
                Step::OpenEpoch { .. } | Step::StoreAcked(_) => {
                    to_store.push((store, step));
                    continue;
                }
                Step::ReadAck | Step::Clear => {}
                Step::Publish(round) => {
                    entries = publisher::entries(&self.file, &store, &round, PACE.bytes_most).expect("can be read");
                }
            }
            let acked = self.logs.of(&store).and_then(|publisher| publisher.acked());
            flight.add(store.clone(), &Channel::commands(&self.keys, &store), step, acked, entries, None);
        }
        self.flight = (!flight.is_empty()).then_some(flight);
        if !to_store.is_empty() {
            let clock = self.clock(now);
            let mut replies: Vec<Reply<Commands>> = Vec::new();
            let outlived = commit(&self.file, &mut |connection| {
                for (store, step) in &to_store {
                    replies.push(publisher::store_step(connection, store, step, clock)?);
                }
                Ok(())
            });
            if outlived {
                for ((store, _), reply) in to_store.iter().zip(replies) {
                    self.logs.reply(now, store, reply, 0);
                }
            }
        }
        begun
    }

    /// Whether the sender of a store's commands has stopped itself.
    pub(super) fn is_stopped(&self, store: &StoreId) -> bool {
        self.logs.of(store).is_some_and(|publisher| publisher.stopped().is_some())
    }
}

fn taken((store, _, result): Judged) -> (StoreId, Taken) {
    let taken = match result {
        Ok(applied) => Taken::Committed { ack: applied.ack, more: applied.more },
        Err(_) => Taken::Refused,
    };
    (store, taken)
}

/// A place so many entries earlier in its epoch.
pub(super) fn before<L: Link>(at: EntryId<L>, entries: u64) -> EntryId<L> {
    EntryId { seq: at.seq - entries, ..at }
}
