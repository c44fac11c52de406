//! Central: events of two stores, purchases and their cancellations, acknowledgements.

use std::collections::BTreeMap;

use central::operators::verify;
use central::projection::steps;
use central::projection::view;
use central::projection::view::Budget;
use central::promises::purchases::{Cancelled, PurchaseRequest, begin, cancel};
use central::storage::commands;
use central::storage::database;
use central::storage::idempotency::{self, Effect, Key};
use central::storage::items;
use central::storage::purchases;
use central::storage::stores;
use central::storage::totals;
use protocol::domain::{Guard, Line, Lines, Rejection};
use protocol::ids::{OperationId, PurchaseId, StoreId};
use protocol::link::{Commands, Entry, EntryId, Seq};
use protocol::time::Millis;
use protocol::wire::About;
use runtime::redis::Received;
use runtime::sqlite::{Abort, Schema, memory};
use rusqlite::Connection;
use store_agent::ledger::{self, Moved};
use store_agent::operations::till;

use crate::Dice;
use crate::agent::{act, line, product};
use crate::machine::Daemon;

/// The time at which every run begins.
const BEGIN: i64 = 1_700_000_000_000;
/// Entries of a store's ledger that are read at once.
const BATCH: u64 = 30;
/// Rows that are written in one transaction, about, and in one step: few, so that a state takes many.
const BUDGET: u64 = 20;
const STEP: usize = 2;

/// What central is asked.
#[derive(Debug, Clone)]
pub enum Operation {
    /// By a store: to apply its events.
    Events {
        store: StoreId,
        /// What was read of its stream.
        batch: Vec<Entry>,
        now: Millis,
    },
    /// By the shop, under a key: to buy.
    Buy { store: StoreId, ask: PurchaseRequest, key: String, now: Millis },
    /// By the shop, under a key: to cancel.
    Cancel {
        id: PurchaseId,
        /// The name of the command.
        command: OperationId,
        key: String,
        now: Millis,
    },
    /// To do what is left for a store, or for the chain's totals.
    Step { store: StoreId, now: Millis },
    /// To remember how far a store has come with its commands.
    Acked {
        store: StoreId,
        /// The last command.
        at: EntryId<Commands>,
    },
}

/// A store whose own machine never fails.
struct Source {
    id: StoreId,
    file: Connection,
}

/// Central, and the stores and shop that ask it.
pub struct Central {
    now: i64,
    sources: Vec<Source>,
}

impl Central {
    /// A central that has just got its machine, and two stores.
    pub fn new() -> Self {
        let source = |name| {
            let id = StoreId::parse(name).expect("an id");
            let file = memory(ledger::SCHEMA).expect("a database in memory");
            ledger::initialise(&file, &id, Millis(BEGIN)).expect("a database in memory");
            Source { id, file }
        };
        Self { now: BEGIN, sources: ["store-1", "store-2"].map(source).into() }
    }

    fn tick(&mut self, dice: &mut Dice) -> Millis {
        self.now += dice.between(1, 50);
        Millis(self.now)
    }

    fn store(&self, dice: &mut Dice) -> StoreId {
        self.sources[dice.below(self.sources.len() as u64) as usize].id.clone()
    }

    fn buy(&mut self, known: &Connection, dice: &mut Dice) -> Operation {
        let store = self.store(dice);
        let stock = items::of_store(known, &store).expect("a database in memory");
        let product = match stock.len() as u64 {
            0 => product(dice),
            items => stock[dice.below(items) as usize].0.clone(),
        };
        let now = self.tick(dice);
        let other = dice.chance(300).then(|| line(dice));
        let ask = PurchaseRequest {
            id: PurchaseId::new(dice.uuid()),
            lines: Lines::new([Line { product_id: product, quantity: dice.units(1, 3) }].into_iter().chain(other))
                .expect("are lines"),
            customer: Some(format!("customer-{}", dice.below(50))),
            about: About { reference: Some(format!("order-{}", dice.below(1_000))), ..About::default() },
            ttl_ms: 60_000,
            redis_now: now,
            policy: None,
        };
        Operation::Buy { store, ask, key: dice.uuid().to_string(), now }
    }

    fn cancel(&mut self, known: &Connection, dice: &mut Dice) -> Option<Operation> {
        let open: Vec<String> = known
            .prepare_cached("select purchase_id from purchase where status in ('pending', 'confirmed') order by number")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .expect("a database in memory");
        if open.is_empty() {
            return None;
        }
        let id = open[dice.below(open.len() as u64) as usize].parse().expect("an id");
        let (command, key) = (OperationId::from_uuid(dice.uuid()), dice.uuid().to_string());
        Some(Operation::Cancel { id, command, key, now: self.tick(dice) })
    }

    fn acked(&mut self, known: &Connection, dice: &mut Dice) -> Operation {
        let store = self.store(dice);
        let head = commands::head(known, &store).expect("a database in memory");
        let seq = Seq::ZERO + dice.below(head.seq.next().get());
        Operation::Acked { store, at: EntryId { seq, ..head.id() } }
    }
}

impl Default for Central {
    fn default() -> Self {
        Self::new()
    }
}

impl Source {
    /// The store does what it was asked, sells a little, and publishes.
    fn events(&self, known: &Connection, now: Millis, dice: &mut Dice) -> rusqlite::Result<Vec<Entry>> {
        let asked = commands::head(known, &self.id)?;
        let done = ledger::command_cursor(&self.file)?.0;
        let from = if done.epoch == asked.epoch { done.seq.next() } else { Seq::FIRST };
        let batch = commands::entries(known, &self.id, asked.epoch, from, asked.seq)?;
        let batch: Vec<Received<Commands>> = batch.into_iter().map(Ok).collect();
        store_agent::operations::commands::receive(&self.file, &batch, &Moved::default(), now, now)?;
        for _ in 0..dice.between(0, 6) {
            let product = product(dice);
            let request = till::Request {
                operation_id: OperationId::from_uuid(dice.uuid()),
                operation: act(&self.file, &product, dice),
                product,
                guard: Guard::default(),
                about: About::default(),
                command: None,
            };
            match till::perform(&self.file, &request, &Moved::default(), now) {
                Ok(_) | Err(Abort::Refused(_)) => {}
                Err(Abort::Database(error)) => return Err(error),
            }
        }
        // Somebody has restored the store's disk, for instance.
        if dice.chance(10) {
            ledger::open_epoch(&self.file, None, now)?;
        }
        let head = ledger::head(&self.file)?.cursor;
        let applied = stores::find(known, &self.id)?.map(|store| store.cursor).unwrap_or_default();
        let next = if applied.epoch == head.epoch { applied.seq.next() } else { Seq::FIRST };
        let from = (next - dice.below(3)).max(Seq::FIRST);
        ledger::entries(&self.file, head.epoch, from, from + BATCH)
    }
}

impl Daemon for Central {
    type Operation = Operation;
    const SCHEMA: Schema = database::SCHEMA;

    fn start(&self, _: &Connection) -> Result<(), String> {
        Ok(())
    }

    fn plan(&mut self, known: &Connection, size: u64, dice: &mut Dice) -> Vec<Operation> {
        let mut group = Vec::new();
        // One loop a store reads its events, and waits for its answer.
        let mut idle: Vec<usize> = (0..self.sources.len()).collect();
        for _ in 0..size {
            group.push(match dice.below(20) {
                0..=9 if !idle.is_empty() => {
                    let now = self.tick(dice);
                    let source = &self.sources[idle.swap_remove(dice.below(idle.len() as u64) as usize)];
                    let batch = source.events(known, now, dice).expect("databases in memory");
                    Operation::Events { store: source.id.clone(), batch, now }
                }
                10..=12 => self.cancel(known, dice).unwrap_or_else(|| self.buy(known, dice)),
                13 => self.acked(known, dice),
                14 | 15 => Operation::Step { store: self.store(dice), now: self.tick(dice) },
                _ => self.buy(known, dice),
            });
        }
        group
    }

    fn perform(operation: &Operation, connection: &Connection) -> Result<Vec<String>, Abort<String>> {
        match operation {
            Operation::Events { store, batch, now } => {
                let received: Vec<Received> = batch.iter().cloned().map(Ok).collect();
                let applied = view::receive(connection, store, &received, *now, &mut Budget::new(BUDGET))?;
                if let Some(why) = applied.stuck {
                    return Err(Abort::Refused(why));
                }
                let is_applied = |entry: &&Entry| entry.id <= applied.ack.cursor.id();
                Ok(batch.iter().filter(is_applied).map(|entry| format!("event {store} {}", entry.id)).collect())
            }
            Operation::Step { store, now } => {
                steps::step(connection, store, STEP, *now)?;
                totals::recount_step(connection, STEP)?;
                Ok(Vec::new())
            }
            Operation::Buy { store, ask, key, now } => {
                let attempt = OperationId::attempt(&ask.id, 1);
                let names = vec![format!("purchase {}", ask.id), format!("request {attempt}"), format!("key {key}")];
                if idempotency::find(connection, key)?.is_some() {
                    return Ok(names);
                }
                let mut store = known(connection, store)?;
                if store.is_settling() {
                    return Err(Abort::Refused("store_unavailable".into()));
                }
                begin(connection, &mut store, ask, false, *now).map_err(refused)?;
                bind(connection, key, Effect::Purchase, ask.id, *now)?;
                Ok(names)
            }
            Operation::Cancel { id, command, key, now } => {
                let is_bound = idempotency::find(connection, key)?.is_some();
                let found = purchases::find(connection, *id)?;
                let purchase = found.ok_or_else(|| Abort::Refused("unknown_id".into()))?;
                let mut store = known(connection, &purchase.store)?;
                let about = About::default();
                let cancelled = cancel(connection, &mut store, &purchase, command.clone(), &about, *now);
                let cancelled = cancelled.map_err(refused)?;
                if !is_bound {
                    bind(connection, key, Effect::Cancel, *id, *now)?;
                }
                let key = format!("key {key}");
                Ok(match cancelled {
                    Cancelled::Asked(command) => vec![format!("request {command}"), key],
                    Cancelled::Ended => vec![key],
                })
            }
            Operation::Acked { store, at } => {
                stores::store_command_acked(connection, store, *at)?;
                Ok(Vec::new())
            }
        }
    }

    fn present(connection: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
        connection
            .prepare(
                "select 'event ' || store_id || ' ' || epoch || '-' || seq, count(*) from event \
                 group by store_id, epoch, seq \
                 union all select 'purchase ' || purchase_id, count(*) from purchase group by purchase_id \
                 union all select 'request ' || command_id, count(*) from request group by command_id \
                 union all select 'key ' || key, 1 from idempotency",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    }

    fn audit(connection: &Connection) -> rusqlite::Result<Vec<String>> {
        Ok(verify::verify(connection)?.differences)
    }
}

fn known(connection: &Connection, id: &StoreId) -> Result<stores::Store, Abort<String>> {
    stores::find(connection, id)?.ok_or_else(|| Abort::Refused("unknown_store".into()))
}

fn refused(abort: Abort<Rejection>) -> Abort<String> {
    match abort {
        Abort::Refused(rejection) => Abort::Refused(rejection.code().into()),
        Abort::Database(error) => Abort::Database(error),
    }
}

fn bind(connection: &Connection, key: &str, effect: Effect, id: PurchaseId, now: Millis) -> rusqlite::Result<()> {
    let key = Key { key: key.into(), fingerprint: [0; 16], route: "POST /".into() };
    idempotency::bind(connection, &key, effect, &id.to_string(), now)
}
