//! A store's agent: sales and other work at the till, commands of central, picking, acknowledgements.

use std::collections::BTreeMap;

use protocol::domain::{Guard, Line, Lines, Operation as Act, Reason};
use protocol::hash::Hash;
use protocol::ids::{OperationId, ProductId, PurchaseId, StoreId};
use protocol::link::{Commands, Cursor, Entry, Epoch, Seq};
use protocol::number::CommandEpoch;
use protocol::time::Millis;
use protocol::wire::{About, Command, PurchaseRef};
use runtime::redis::Received;
use runtime::sqlite::{Abort, Schema};
use rusqlite::{Connection, OptionalExtension};
use store_agent::ledger::idempotency::{self, Key};
use store_agent::ledger::{self, Moved, state};
use store_agent::operations::commands;
use store_agent::operations::purchases;
use store_agent::operations::resync;
use store_agent::operations::till::{Request, perform};
use store_agent::operators::verify;

use crate::Dice;
use crate::machine::Daemon;

/// The time at which every run begins.
const BEGIN: i64 = 1_700_000_000_000;
/// Products that are asked for.
const PRODUCTS: u64 = 24;
/// Items of the whole state that are told at once.
const TOLD_AT_ONCE: usize = 8;

/// What an agent is asked.
#[derive(Debug, Clone)]
pub enum Operation {
    /// By a till or by staff, under a key.
    Till {
        /// What the handler makes of it.
        request: Box<Request>,
        key: String,
        /// The agent's clock.
        now: Millis,
    },
    /// That a purchase is picked, under a key.
    Pick {
        id: PurchaseId,
        key: String,
        /// The agent's clock.
        now: Millis,
    },
    Commands {
        /// What was read of the stream.
        batch: Vec<Entry<Commands>>,
        /// The agent's clock and Redis's.
        now: Millis,
    },
    /// To tell the next of the whole state that central has asked for.
    Tell {
        /// The agent's clock.
        now: Millis,
    },
    /// To remember how far central has come.
    Acked {
        epoch: Epoch,
        /// The last entry.
        seq: Seq,
    },
}

/// One store and those who ask it.
pub struct Agent {
    store: StoreId,
    now: i64,
    /// Central's command log.
    log: Vec<Entry<Commands>>,
    asked: Vec<PurchaseRef>,
}

impl Agent {
    /// A store that has just got its machine.
    pub fn new() -> Self {
        let store = StoreId::parse("store-1").expect("an id");
        Self { store, now: BEGIN, log: Vec::new(), asked: Vec::new() }
    }

    fn tick(&mut self, dice: &mut Dice) -> Millis {
        self.now += dice.between(1, 50);
        Millis(self.now)
    }

    fn till(&mut self, known: &Connection, dice: &mut Dice) -> Operation {
        let key = dice.uuid().to_string();
        let product = product(dice);
        let request = Request {
            operation_id: OperationId::from_key("", &key),
            operation: act(known, &product, dice),
            product,
            guard: Guard::default(),
            about: About { reference: Some(format!("receipt-{}", dice.below(1_000))), ..About::default() },
            command: None,
        };
        Operation::Till { request: Box::new(request), key, now: self.tick(dice) }
    }

    /// A purchase that waits to be picked.
    fn pick(&mut self, known: &Connection, dice: &mut Dice) -> Option<Operation> {
        let waiting: Vec<String> = known
            .prepare_cached("select purchase_id from purchase where status = 'confirmed' and picked_at is null")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0))?.collect())
            .expect("a database in memory");
        if waiting.is_empty() {
            return None;
        }
        let id = waiting[dice.below(waiting.len() as u64) as usize].parse().expect("an id");
        Some(Operation::Pick { id, key: dice.uuid().to_string(), now: self.tick(dice) })
    }

    /// Central asks for more; the agent reads from where it stands, and now and then from a little before.
    fn commands(&mut self, known: &Connection, dice: &mut Dice) -> Operation {
        let now = self.tick(dice);
        for _ in 0..dice.between(1, 4) {
            let command = if self.log.is_empty() {
                let for_epoch = ledger::head(known).expect("a database in memory").cursor.epoch;
                Command::Opened { for_epoch }
            } else {
                self.command(now, dice)
            };
            let id = match &command {
                Command::Purchase { purchase, .. } => purchase.attempt.to_string(),
                _ => format!("command:{}", self.log.len()),
            };
            let epoch = CommandEpoch::NONE.next(Millis(BEGIN + 1));
            let first = Cursor { epoch, seq: Seq::ZERO, hash: Hash::ZERO };
            let head = self.log.last().map_or(first, Entry::cursor);
            self.log.push(Entry::follow(&head, command.kind(), &id, command.encode(), None));
        }
        let done = ledger::command_cursor(known).expect("a database in memory").0.seq;
        let from = (done.get() as usize).saturating_sub(dice.below(3) as usize);
        Operation::Commands { batch: self.log.iter().skip(from).take(20).cloned().collect(), now }
    }

    fn command(&mut self, now: Millis, dice: &mut Dice) -> Command {
        let about = About::default();
        match dice.below(20) {
            0 => Command::Resync,
            1..=4 if !self.asked.is_empty() => {
                let which = dice.below(self.asked.len() as u64) as usize;
                Command::Cancel { purchase: self.asked[which].clone(), forced: dice.chance(300), about }
            }
            5..=8 => {
                let operation = Act::Receive { quantity: dice.units(1, 20) };
                Command::Operate { product_id: product(dice), operation, guard: Guard::default(), about }
            }
            _ => {
                let purchase_id = PurchaseId::new(dice.uuid());
                let purchase = PurchaseRef {
                    from_allotment: None,
                    purchase_id,
                    attempt: OperationId::attempt(&purchase_id, 1),
                    lines: Lines::new([line(dice)].into_iter().chain(dice.chance(300).then(|| line(dice))))
                        .expect("are lines"),
                    reference: None,
                    created_at: now,
                    expires_at: now.plus(60_000),
                };
                self.asked.push(purchase.clone());
                let deadline = if dice.chance(100) { now.plus(-1) } else { now.plus(60_000) };
                Command::Purchase { purchase, deadline: Some(deadline), about }
            }
        }
    }
}

impl Default for Agent {
    fn default() -> Self {
        Self::new()
    }
}

impl Daemon for Agent {
    type Operation = Operation;
    const SCHEMA: Schema = ledger::SCHEMA;

    fn start(&self, connection: &Connection) -> Result<(), String> {
        ledger::initialise(connection, &self.store, Millis(BEGIN)).map(drop).map_err(|error| error.to_string())
    }

    fn plan(&mut self, known: &Connection, size: u64, dice: &mut Dice) -> Vec<Operation> {
        let mut group = Vec::new();
        let mut has_commands = false;
        for _ in 0..size {
            group.push(match dice.below(20) {
                // One loop reads the commands, and waits for its answer.
                0..=2 if !has_commands => {
                    has_commands = true;
                    self.commands(known, dice)
                }
                3 | 4 => self.pick(known, dice).unwrap_or_else(|| self.till(known, dice)),
                6 if state::is_asked(known).expect("a database in memory") => Operation::Tell { now: self.tick(dice) },
                5 => {
                    let head = ledger::head(known).expect("a database in memory").cursor;
                    Operation::Acked { epoch: head.epoch, seq: Seq::ZERO + dice.below(head.seq.next().get()) }
                }
                _ => self.till(known, dice),
            });
        }
        group
    }

    fn perform(operation: &Operation, connection: &Connection) -> Result<Vec<String>, Abort<String>> {
        match operation {
            Operation::Till { request, key, now } => {
                let names = vec![format!("ledger {}", request.operation_id), format!("key {key}")];
                if idempotency::find(connection, key)?.is_some() {
                    return Ok(names);
                }
                let performed = perform(connection, request, &Moved::default(), *now).map_err(refused)?;
                bind(connection, key, &performed.position.to_string(), *now)?;
                Ok(names)
            }
            Operation::Pick { id, key, now } => {
                let mut names = vec![format!("picked {id}"), format!("key {key}")];
                if idempotency::find(connection, key)?.is_some() {
                    return Ok(names);
                }
                let operation = OperationId::from_key("", key);
                let picked = purchases::pick(connection, *id, &operation, &About::default(), *now).map_err(refused)?;
                let picked = picked.ok_or_else(|| Abort::Refused("unknown_id".into()))?;
                if picked.position.is_some() {
                    names.push(format!("ledger {operation}"));
                }
                bind(connection, key, "", *now)?;
                Ok(names)
            }
            Operation::Commands { batch, now } => {
                let received: Vec<Received<Commands>> = batch.iter().cloned().map(Ok).collect();
                let executed = commands::receive(connection, &received, &Moved::default(), *now, *now)?;
                if let Some(why) = executed.stuck {
                    return Err(Abort::Refused(why));
                }
                // What asks for the whole state is answered once that is told.
                let done = || batch.iter().filter(|entry| entry.kind != Command::Resync.kind());
                let answers = done().filter(|entry| entry.id.seq > Seq::FIRST);
                let answers = answers.map(|entry| format!("outcome {}", entry.operation));
                Ok(done().map(|entry| format!("ledger {}", entry.operation)).chain(answers).collect())
            }
            Operation::Tell { now } => {
                resync::step(connection, TOLD_AT_ONCE, *now)?;
                Ok(Vec::new())
            }
            Operation::Acked { epoch, seq } => {
                ledger::store_acked(connection, *epoch, *seq)?;
                Ok(Vec::new())
            }
        }
    }

    fn present(connection: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
        // A change that makes an item low is recorded as two events of one operation.
        connection
            .prepare(
                "select 'ledger ' || operation_id, count(*) from ledger where type <> 'low_stock' group by operation_id \
                 union all select 'key ' || key, 1 from idempotency \
                 union all select 'outcome ' || command_id, 1 from outcome \
                 union all select 'picked ' || purchase_id, 1 from purchase where picked_at is not null",
            )?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    }

    fn audit(connection: &Connection) -> rusqlite::Result<Vec<String>> {
        // Without a first start there is nothing to audit.
        let is_started = connection.query_row("select 1 from meta", [], |_| Ok(())).optional()?.is_some();
        if is_started { Ok(verify::verify(connection)?.differences) } else { Ok(Vec::new()) }
    }
}

fn refused(abort: Abort<protocol::domain::Rejection>) -> Abort<String> {
    match abort {
        Abort::Refused(rejection) => Abort::Refused(rejection.code().into()),
        Abort::Database(error) => Abort::Database(error),
    }
}

fn bind(connection: &Connection, key: &str, position: &str, now: Millis) -> rusqlite::Result<()> {
    let key = Key { key: key.into(), fingerprint: [0; 16], route: "POST /".into() };
    idempotency::bind(connection, &key, 200, "{}", position, now)
}

/// Of a purchase.
pub(crate) fn line(dice: &mut Dice) -> Line {
    Line { product_id: product(dice), quantity: dice.units(1, 3) }
}

pub(crate) fn product(dice: &mut Dice) -> ProductId {
    ProductId::parse(&format!("product-{}", dice.below(PRODUCTS))).expect("an id")
}

/// What a till or staff does with a product.
pub(crate) fn act(known: &Connection, product: &ProductId, dice: &mut Dice) -> Act {
    let is_new = ledger::find_item(known, product).expect("a database in memory").is_none();
    match dice.below(20) {
        _ if is_new => Act::Create { name: "a thing".into(), quantity: dice.between(0, 200), low_at: Some(10) },
        0..=4 => Act::Receive { quantity: dice.units(1, 50) },
        5 => Act::Adjust { delta: dice.between(-5, 5), reason: Reason::Damage, note: None },
        6 => Act::Count { quantity: dice.between(0, 100), counted_at: None, count_ref: None },
        7 => Act::Change { name: Some(format!("thing {}", dice.below(9))), discontinued: None, low_at: None },
        _ => Act::Sell { quantity: dice.units(1, 4) },
    }
}
