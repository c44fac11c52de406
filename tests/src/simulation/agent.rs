//! A store's agent: the production ledger, operations and command execution over SQLite in memory, with its two loops
//! taken apart into single steps.

use std::cell::RefCell;
use std::collections::BTreeMap;

use protocol::ids::StoreId;
use protocol::link::{
    Commands, Cursor, Entry, EntryId, Events, FollowStep, Followed, Follower, Reply, Step, Stopped, Uplink,
    UplinkReply, UplinkStep,
};
use protocol::retry::Backoff;
use protocol::time::Millis;
use runtime::redis::{Channel, Keys, Received};
use runtime::sqlite::Schema;
use rusqlite::Connection;
use store_agent::ledger::{self, Moved};
use store_agent::links::publisher;
use store_agent::operations::commands;

use super::central::before;
use super::redis::{self, Call, Redis};
use super::sending::Flight;
use super::servers::Server;
use super::{COMMAND_BATCH, PACE};
use crate::judge::{BoundKeys, Place};

/// Between two heartbeats, ms.
const HEARTBEAT_EVERY_MS: i64 = 10_000;

/// What one step of a publisher has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There was nothing to do.
    Idle,
    /// A command was carried out, or a step begun.
    Moved,
    /// The stream was not what had been published: it starts over.
    StartedOver,
    /// A round that has more to say than fits into its bytes.
    Full,
    /// It stores how far central has acknowledged.
    Stored(EntryId),
    /// It opens an epoch.
    Opened(Option<Cursor>),
}

/// One process with its database file.
pub(super) struct Agent {
    pub(super) store: StoreId,
    pub(super) file: Connection,
    /// Whether the process runs.
    pub(super) runs: bool,
    /// Whether its network does.
    pub(super) network: bool,
    /// Its clock's error, ms.
    pub(super) skew: i64,
    /// Number of the process.
    pub(super) process: u64,
    /// Up to where the judge has looked at the file's log.
    pub(super) noted: Place,
    /// The file's log was cut, so that an epoch may have to be opened.
    pub(super) pruned: bool,
    /// When Redis's clock was last asked, by that clock.
    pub(super) time_asked: i64,
    /// Its HTTP server, once somebody has asked it for something.
    pub(super) http: Option<Server>,
    /// What clients' keys stand for in its file.
    pub(super) bound: BoundKeys,
    /// The production loop of the publisher.
    pub(super) uplink: Uplink,
    flight: Option<Flight<(), Events>>,
    /// The last answer was that to a round.
    has_published: bool,
    /// The production loop of the receiver.
    follower: Follower,
    /// What it has read.
    batch: Vec<Entry<Commands>>,
    events: Channel<Events>,
    commands: Channel<Commands>,
}

thread_local! {
    static MIGRATED: RefCell<BTreeMap<i32, Connection>> = const { RefCell::new(BTreeMap::new()) };
}

/// A new database: a copy of one, since the migrations would take longer than most of what happens in a world.
pub(super) fn new_file(schema: Schema) -> Connection {
    let new = || runtime::sqlite::memory(schema).expect("a database in memory");
    MIGRATED.with_borrow_mut(|migrated| copy(migrated.entry(schema.application_id).or_insert_with(new)))
}

/// A copy of a database, opened as any is.
pub(super) fn copy(from: &Connection) -> Connection {
    let empty = Schema { application_id: 0, migrations: &[] };
    let mut to = runtime::sqlite::memory(empty).expect("a database in memory");
    let backup = rusqlite::backup::Backup::new(from, &mut to).expect("both are open");
    backup.run_to_completion(1_000, std::time::Duration::ZERO, None).expect("nobody writes");
    drop(backup);
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
            noted: Place::default(),
            pruned: false,
            time_asked: 0,
            http: None,
            bound: BoundKeys::default(),
            uplink: Uplink::new(PACE, HEARTBEAT_EVERY_MS),
            flight: None,
            has_published: false,
            follower: follower(),
            batch: Vec::new(),
            events: Channel::events(keys, store),
            commands: Channel::commands(keys, store),
        }
    }

    pub(super) fn clock(&self, now: i64) -> Millis {
        Millis(now + self.skew)
    }

    pub(super) fn crash(&mut self, late: bool, redis: &mut Redis) {
        self.runs = false;
        self.http = None;
        self.follower = follower();
        self.batch.clear();
        self.cut(late, redis);
        self.uplink = Uplink::new(PACE, HEARTBEAT_EVERY_MS);
    }

    /// Both connections break. Says whether a call was on its way.
    pub(super) fn disconnect(&mut self, now: i64, late: bool, redis: &mut Redis) -> bool {
        self.follower.reply(now, Followed::Lost, 0);
        self.batch.clear();
        let calls = self.cut(late, redis);
        self.uplink.reply(now, UplinkReply::Lost, 0);
        calls
    }

    fn cut(&mut self, late: bool, redis: &mut Redis) -> bool {
        self.has_published = false;
        self.flight.take().map(|flight| flight.cut(late, redis)).is_some()
    }

    /// Why it has stopped itself.
    pub(super) fn stopped(&self) -> Option<Stopped> {
        self.uplink.publisher().stopped()
    }

    fn heartbeat(&self, now: i64) -> Call {
        let heartbeat = publisher::heartbeat_of(&self.file, &self.uplink, self.process, self.clock(now));
        let heartbeat = heartbeat.expect("a ledger has a head");
        Call::Heartbeat(self.store.clone(), heartbeat)
    }

    /// One step of the publisher. `commit` runs a transaction, and says whether the process outlived it.
    pub(super) fn publish(
        &mut self,
        redis: &mut Redis,
        now: i64,
        commit: impl FnOnce(&Connection, &mut dyn FnMut(&Connection) -> rusqlite::Result<()>) -> bool,
    ) -> Progress {
        if let Some(flight) = &mut self.flight {
            if let Some(replies) = flight.advance(redis, now) {
                self.flight = None;
                for ((), reply) in replies {
                    // As the agent: an error of one key ends the connection, too.
                    let reply = if reply == Reply::Refused { Reply::Lost } else { reply };
                    self.has_published = matches!(reply, Reply::Round { .. });
                    self.uplink.reply(now, UplinkReply::Link(reply), 0);
                }
            }
            return Progress::Moved;
        }
        let log = publisher::excerpt(&self.file, &self.uplink.needs()).expect("a ledger has a head");
        let step = self.uplink.next(now, &log);
        let has_published = std::mem::take(&mut self.has_published);
        let told = match step {
            UplinkStep::Wait(_) => return Progress::Idle,
            UplinkStep::Connect => UplinkReply::Connected,
            UplinkStep::Announce => {
                redis.stores.insert(self.store.clone());
                UplinkReply::Announced
            }
            UplinkStep::CheckHeartbeat => UplinkReply::HeartbeatFound(redis.heartbeat(&self.store, now).is_some()),
            UplinkStep::Heartbeat => {
                redis.call(&self.heartbeat(now), now);
                UplinkReply::HeartbeatSet
            }
            UplinkStep::Claim { .. } => UplinkReply::Claimed,
            UplinkStep::Link(step) => return self.go_on(step, has_published, now, commit),
        };
        self.uplink.reply(now, told, 0);
        Progress::Moved
    }

    fn go_on(
        &mut self,
        step: Step,
        has_published: bool,
        now: i64,
        commit: impl FnOnce(&Connection, &mut dyn FnMut(&Connection) -> rusqlite::Result<()>) -> bool,
    ) -> Progress {
        let (mut entries, mut heartbeat) = (Vec::new(), None);
        let progress = match step {
            Step::OpenEpoch { .. } | Step::StoreAcked(_) => {
                let clock = self.clock(now);
                let mut reply = Reply::Lost;
                let outlived = commit(&self.file, &mut |connection| {
                    reply = publisher::store_step(connection, &step, clock)?;
                    Ok(())
                });
                if outlived {
                    self.uplink.reply(now, UplinkReply::Link(reply), 0);
                }
                return match step {
                    Step::OpenEpoch { proven, .. } => Progress::Opened(proven),
                    Step::StoreAcked(place) => Progress::Stored(place),
                    Step::ReadAck | Step::Clear | Step::Publish(_) | Step::Wait(_) => Progress::Moved,
                };
            }
            Step::ReadAck if has_published => Progress::StartedOver,
            Step::ReadAck | Step::Clear | Step::Wait(_) => Progress::Moved,
            Step::Publish(round) => {
                entries = publisher::entries(&self.file, &round).expect("entries can be read");
                heartbeat = Some(self.heartbeat(now));
                let full = entries.last().is_some_and(|last| last.id.seq < round.add_to);
                if full { Progress::Full } else { Progress::Moved }
            }
        };
        let mut flight = Flight::new();
        flight.add((), &self.events, step, self.uplink.publisher().acked(), entries, heartbeat);
        self.flight = Some(flight);
        progress
    }

    /// One step of the receiver. `again`: so many entries are delivered a second time; `busy`: nothing can be written now.
    /// `commit` runs the transaction, and says whether the process outlived it.
    pub(super) fn execute(
        &mut self,
        redis: &mut Redis,
        now: i64,
        again: u64,
        busy: bool,
        commit: impl FnOnce(&Connection, &mut dyn FnMut(&Connection) -> rusqlite::Result<()>) -> bool,
    ) -> bool {
        let cursor = ledger::command_cursor(&self.file).expect("a ledger has a command cursor").0;
        let step = self.follower.next(now, cursor);
        // A transaction that the writer has is not called back when the link goes down.
        if !self.uplink.publisher().is_live() && !matches!(step, FollowStep::Execute { .. }) {
            self.follower.disconnect();
            self.batch.clear();
            return false;
        }
        let reply = match step {
            FollowStep::Wait(_) => return false,
            FollowStep::Connect => Followed::Connected,
            FollowStep::Acknowledge(ack) => {
                redis.call(&Call::SetAck(self.commands.ack.clone(), redis::ack(ack)), now);
                Followed::Acknowledged
            }
            FollowStep::Read(cursor) => {
                self.batch = redis.range(&self.commands.stream, before(cursor.id(), again), COMMAND_BATCH);
                Followed::Read(self.batch.len())
            }
            FollowStep::AskTime => {
                self.time_asked = now;
                Followed::Time(Millis(now))
            }
            FollowStep::Execute { .. } if busy => Followed::Busy,
            FollowStep::Execute { redis_now } => {
                let batch = std::mem::take(&mut self.batch);
                let clock = self.clock(now);
                let batch: Vec<Received<Commands>> = batch.into_iter().map(Ok).collect();
                let counted = commands::counted(&batch);
                let moved = Moved::since_positions(&self.file, counted).expect("a ledger can be read");
                let mut new = 0;
                let outlived = commit(&self.file, &mut |connection| {
                    new = commands::receive(connection, &batch, &moved, redis_now, clock)?.commands;
                    Ok(())
                });
                if !outlived {
                    return true;
                }
                Followed::Executed { new }
            }
        };
        self.follower.reply(now, reply, 0);
        true
    }
}

fn follower() -> Follower {
    Follower::new(Backoff::new(PACE.retry_first, PACE.retry_most))
}
