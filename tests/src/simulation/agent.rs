//! A store's agent: the production ledger, operations and command execution over SQLite in memory, with its two loops
//! taken apart into single steps.

use protocol::ids::{OperationId, StoreId};
use protocol::link::{Ack, Entry};
use protocol::time::Millis;
use protocol::wire::{Command, Kind};
use runtime::redis::{BEAT_LIFE, Beat, Channel, Keys, Received};
use rusqlite::Connection;
use store_agent::ledger;
use store_agent::operations::commands;

use super::central::before;
use super::redis::{Call, Redis};
use super::sending::{Progress, Sending};
use super::{COMMAND_BATCH, WINDOW};

/// Where the command reader stands.
enum Reading {
    /// It tells how far it has come.
    Tell,
    /// It reads the stream.
    Read,
    /// It asks Redis's clock.
    Ask(Vec<Entry>),
    /// It executes.
    Execute(Vec<Entry>, Millis),
}

/// One process with its database file.
pub(super) struct Agent {
    /// Whose.
    pub(super) store: StoreId,
    /// The file.
    pub(super) file: Connection,
    /// Whether the process runs.
    pub(super) runs: bool,
    /// Whether its network does.
    pub(super) network: bool,
    /// Its clock's error, ms.
    pub(super) skew: i64,
    /// Number of the process.
    pub(super) process: u64,
    /// The event sender.
    pub(super) sending: Sending,
    reading: Reading,
    commands: Channel,
    beaten_at: i64,
}

/// A copy of a database.
pub(super) fn copy(from: &Connection) -> Connection {
    let mut to = Connection::open_in_memory().expect("a database in memory");
    let backup = rusqlite::backup::Backup::new(from, &mut to).expect("both are open");
    backup.run_to_completion(1_000, std::time::Duration::ZERO, None).expect("nobody writes");
    drop(backup);
    to.set_prepared_statement_cache_capacity(128);
    to
}

impl Agent {
    /// A process over a file.
    pub(super) fn start(store: &StoreId, file: Connection, keys: &Keys, process: u64) -> Self {
        Self {
            store: store.clone(),
            file,
            runs: true,
            network: true,
            skew: 0,
            process,
            sending: Sending::new(Channel::events(keys, store), WINDOW),
            reading: Reading::Tell,
            commands: Channel::commands(keys, store),
            beaten_at: i64::MIN / 2,
        }
    }

    /// Its clock.
    pub(super) fn clock(&self, now: i64) -> Millis {
        Millis(now + self.skew)
    }

    /// SIGKILL.
    pub(super) fn crash(&mut self, late: bool, redis: &mut Redis) {
        self.runs = false;
        self.reading = Reading::Tell;
        self.sending.forget(WINDOW, late, redis);
    }

    /// Both connections break.
    pub(super) fn disconnect(&mut self, late: bool, redis: &mut Redis) -> bool {
        self.reading = Reading::Tell;
        self.sending.disconnect(late, redis)
    }

    /// Purchases that this store has not heard of, and whose deadline has passed (B2).
    fn too_late(&self, batch: &[Entry], redis_now: Millis) -> Vec<OperationId> {
        let is_late = |entry: &&Entry| {
            matches!(Command::decode(&entry.kind, &entry.body),
                Ok(Command::Purchase { deadline, .. }) if redis_now > deadline)
        };
        let ids = batch.iter().filter(is_late).filter_map(|entry| OperationId::parse(&entry.operation).ok());
        ids.filter(|id| commands::find_outcome(&self.file, id).expect("outcomes can be read").is_none()).collect()
    }

    fn beat(&self) -> Call {
        let head = ledger::head(&self.file).expect("a ledger has a head");
        let backlog = ledger::backlog(&self.file, None).expect("a ledger has a backlog");
        let beat = Beat {
            process: self.process,
            epoch: head.cursor.epoch,
            head: head.cursor.seq,
            backlog: backlog.entries,
            oldest_unsent_ms: 0,
            version: String::new(),
            life_ms: BEAT_LIFE.as_millis() as i64,
        };
        Call::Beat(self.store.clone(), beat)
    }

    /// One step of the publisher. `Acked` is for the caller to store, `OpenEpoch` for the caller to do.
    pub(super) fn publish(&mut self, redis: &mut Redis, now: i64) -> Progress {
        redis.stores.insert(self.store.clone());
        let log = ledger::Log::new(&self.file).expect("a ledger has a head");
        let epoch = log.head.epoch;
        let beat = self.beat();
        let file = &self.file;
        let entries = |from, to| ledger::entries(file, epoch, from, to).expect("entries can be read");
        let progress = self.sending.advance(redis, &log, entries, Some(beat.clone()), now);
        if progress == Progress::Idle && self.sending.sender.is_live() && now - self.beaten_at >= 30_000 {
            self.beaten_at = now;
            redis.call(&beat, now);
            return Progress::Moved;
        }
        progress
    }

    /// One step of the command reader. `again`: so many entries are delivered a second time. `commit` runs the transaction, and says whether the process outlived it.
    pub(super) fn execute(
        &mut self,
        redis: &mut Redis,
        now: i64,
        again: u64,
        commit: impl FnOnce(&Connection, &mut dyn FnMut(&Connection) -> rusqlite::Result<()>) -> bool,
    ) -> bool {
        let cursor = ledger::command_cursor(&self.file).expect("a ledger has a command cursor").0;
        match std::mem::replace(&mut self.reading, Reading::Tell) {
            Reading::Tell if self.sending.sender.is_live() => {
                redis.call(&Call::SetAck(self.commands.ack.clone(), Ack { cursor, fenced: 0 }), now);
                self.reading = Reading::Read;
            }
            Reading::Tell => return false,
            Reading::Read => {
                let batch = redis.range(&self.commands.stream, before(cursor.id(), again), COMMAND_BATCH);
                self.reading = if batch.is_empty() { Reading::Tell } else { Reading::Ask(batch) };
                return !matches!(self.reading, Reading::Tell);
            }
            Reading::Ask(batch) => self.reading = Reading::Execute(batch, Millis(now)),
            Reading::Execute(batch, redis_now) => {
                let clock = self.clock(now);
                let late = self.too_late(&batch, redis_now);
                let batch: Vec<Received> = batch.into_iter().map(Ok).collect();
                commit(&self.file, &mut |connection| {
                    commands::receive(connection, &batch, redis_now, clock).map(|_| ())
                });
                for id in late {
                    let outcome = commands::find_outcome(&self.file, &id).expect("outcomes can be read");
                    let confirmed = outcome.is_some_and(|outcome| outcome.kind == Kind::PurchaseConfirmed);
                    assert!(!confirmed, "P5: {id} was confirmed after its deadline");
                }
            }
        }
        true
    }
}
