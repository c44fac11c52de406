//! Executing what central asks (rules L2, L8, L11, B2, B5).
//!
//! **Guarantees.** Effect or refusal, its outcome by the command's id, the event that answers, and the command cursor
//! are one transaction. A command seen again has no effect: its outcome is said again. Commands of an epoch that was
//! not opened for the ledger's present epoch are never executed.

use protocol::domain::{Guard, Item, Operation, Rejection};
use protocol::ids::{OperationId, ProductId};
use protocol::link::{Cursor, Entry, Receipt, receive as judge};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{About, Command, Event, Fact, Kind, Outcome, PurchaseRef};
use runtime::redis::Received;
use runtime::sqlite::{Abort, HashColumn, in_savepoint, is_fatal};
use rusqlite::{Connection, OptionalExtension, params};

use crate::ledger::{self, Head};
use crate::operations::purchases;
use crate::operations::till::{Request, perform_at};

/// What became of a batch.
#[derive(Debug)]
pub struct Executed {
    /// Commands executed up to here: what central is to be told.
    pub cursor: Cursor,
    /// Entries of the batch that were new.
    pub commands: u64,
    /// Why the rest of the batch was not looked at.
    pub stuck: Option<String>,
}

/// Executes a batch of the command stream, in the caller's transaction. `redis_now`: Redis's clock, read behind the
/// batch; deadlines are in that clock. If the database refuses the batch it is executed again one by one, and what the
/// database refuses is parked (L11).
pub fn receive(
    connection: &Connection,
    batch: &[Received],
    redis_now: Millis,
    now: Millis,
) -> rusqlite::Result<Executed> {
    in_savepoint(connection, || receive_batch(connection, batch, redis_now, now, false)).or_else(|error| {
        if is_fatal(&error) {
            return Err(error);
        }
        receive_batch(connection, batch, redis_now, now, true)
    })
}

fn receive_batch(
    connection: &Connection,
    batch: &[Received],
    redis_now: Millis,
    now: Millis,
    careful: bool,
) -> rusqlite::Result<Executed> {
    let (cursor, opened_for) = ledger::command_cursor(connection)?;
    let mut head = ledger::head(connection)?;
    let before = head.cursor;
    let mut executed = Executed { cursor, commands: 0, stuck: None };
    let mut opened_for = opened_for;
    for received in batch {
        let entry = match received {
            Ok(entry) => entry,
            Err(garbage) => {
                executed.stuck = Some(format!("entry {}: {}", garbage.id, garbage.why));
                break;
            }
        };
        match judge(&executed.cursor, entry) {
            Receipt::Known => continue,
            Receipt::Next if careful && opened_for == head.cursor.epoch => {
                let mut after = head;
                match in_savepoint(connection, || execute(connection, &mut after, entry, redis_now, now)) {
                    Ok(()) => head = after,
                    Err(error) if is_fatal(&error) => return Err(error),
                    Err(error) => {
                        let reason = format!("it cannot be executed: {error}");
                        park(connection, &mut head, &operation_id(entry), entry, &reason, now)?;
                    }
                }
            }
            Receipt::Next if opened_for == head.cursor.epoch => {
                execute(connection, &mut head, entry, redis_now, now)?;
            }
            Receipt::Next => {
                executed.stuck = Some("the commands' epoch belongs to an earlier epoch of the ledger".into());
                break;
            }
            Receipt::Opens => {
                let for_epoch = match Command::decode(&entry.kind, &entry.body) {
                    Ok(Command::Opened { for_epoch }) => for_epoch,
                    _ => 0,
                };
                if for_epoch != head.cursor.epoch && !planted(Bug::CommandEpochNameIgnored) {
                    executed.stuck = Some(format!("command epoch {} is for ledger epoch {for_epoch}", entry.id.epoch));
                    break;
                }
                opened_for = if planted(Bug::CommandEpochNameIgnored) { head.cursor.epoch } else { for_epoch };
                let ready = Event::Ready { command_epoch: entry.id.epoch };
                ledger::append(connection, &mut head, &operation_id(entry), &ready, now)?;
            }
            Receipt::Unfit => {
                executed.stuck = Some(format!("entry {} does not follow {}", entry.id, executed.cursor.id()));
                break;
            }
        }
        executed.cursor = entry.cursor();
        executed.commands += 1;
    }
    if executed.commands > 0 {
        connection
            .prepare_cached(
                "update meta set command_epoch = ?1, command_seq = ?2, command_hash = ?3, command_for = ?4",
            )?
            .execute(params![
                executed.cursor.epoch,
                executed.cursor.seq,
                HashColumn(executed.cursor.hash),
                opened_for
            ])?;
    }
    if head.cursor != before {
        ledger::save_head(connection, &head)?;
    }
    Ok(executed)
}

/// The entry's id as an operation's; a text that is none cannot have been written by central.
fn operation_id(entry: &Entry) -> OperationId {
    OperationId::parse(&entry.operation)
        .or_else(|_| OperationId::parse(&format!("entry:{}", entry.id)))
        .expect("an entry's place is visible ASCII")
}

fn execute(
    connection: &Connection,
    head: &mut Head,
    entry: &Entry,
    redis_now: Millis,
    now: Millis,
) -> rusqlite::Result<()> {
    let id = operation_id(entry);
    if let Some(outcome) = find_outcome(connection, &id)?
        && !planted(Bug::NoDedupeByCommand)
    {
        return repeat(connection, head, &id, outcome, now);
    }
    match Command::decode(&entry.kind, &entry.body) {
        Ok(Command::Purchase { purchase, deadline, about }) => {
            buy(connection, head, &id, purchase, redis_now > deadline && !planted(Bug::DeadlineIgnored), about, now)
        }
        Ok(Command::Cancel { purchase, forced, about }) => cancel(connection, head, &id, purchase, forced, about, now),
        Ok(Command::Operate { product_id, operation, guard, about }) => {
            operate(connection, head, &id, product_id, operation, guard, about, now)
        }
        Ok(Command::Resync) => {
            ledger::write_pages(connection, head, now)?;
            resynced(connection, head, &id, now)
        }
        Ok(Command::Opened { .. }) => park(connection, head, &id, entry, "an epoch opens at its first entry only", now),
        Err(reason) => park(connection, head, &id, entry, &reason.to_string(), now),
    }
}

/// Stands for "no product" where an event must name one.
fn nothing() -> ProductId {
    ProductId::parse("unknown").expect("a valid id")
}

fn buy(
    connection: &Connection,
    head: &mut Head,
    id: &OperationId,
    purchase: PurchaseRef,
    too_late: bool,
    about: About,
    now: Millis,
) -> rusqlite::Result<()> {
    let request = Request {
        operation_id: id.clone(),
        product: purchase.product_id.clone(),
        operation: Operation::Purchase { quantity: purchase.quantity },
        guard: Guard::default(),
        about,
        command: Some(id.clone()),
        purchase: Some(purchase.clone()),
    };
    let refused = if too_late {
        Some((Kind::PurchaseExpired, Rejection::PurchaseExpired))
    } else {
        match perform_at(connection, head, &request, now) {
            Ok(performed) => {
                purchases::confirm(connection, &purchase, now)?;
                keep(connection, &answered(&request, Kind::PurchaseConfirmed, None, Some(performed.item), now))?;
                None
            }
            Err(Abort::Refused(rejection)) => Some((Kind::PurchaseRejected, rejection)),
            Err(Abort::Database(error)) => return Err(error),
        }
    };
    match refused {
        None => Ok(()),
        Some((kind, rejection)) => refuse(connection, head, &request, kind, rejection, now),
    }
}

/// Records a refusal: its outcome and the event that says so.
fn refuse(
    connection: &Connection,
    head: &mut Head,
    request: &Request,
    kind: Kind,
    rejection: Rejection,
    now: Millis,
) -> rusqlite::Result<()> {
    let item = ledger::find_item(connection, &request.product)?;
    say(connection, head, request, kind, Some(rejection), item, now)
}

/// Records an answer that changes no stock.
fn say(
    connection: &Connection,
    head: &mut Head,
    request: &Request,
    kind: Kind,
    rejection: Option<Rejection>,
    item: Option<Item>,
    now: Millis,
) -> rusqlite::Result<()> {
    keep(connection, &answered(request, kind, rejection.clone(), item.clone(), now))?;
    let mut fact = Fact::new(request.product.clone(), now);
    fact.item = item;
    fact.about = request.about.clone();
    fact.command.clone_from(&request.command);
    fact.purchase.clone_from(&request.purchase);
    fact.rejection = rejection;
    ledger::append(connection, head, &request.operation_id, &Event::Fact(kind, fact), now).map(|_| ())
}

fn answered(request: &Request, kind: Kind, rejection: Option<Rejection>, item: Option<Item>, now: Millis) -> Outcome {
    Outcome {
        command: request.operation_id.clone(),
        kind,
        at: now,
        product_id: request.product.clone(),
        purchase: request.purchase.clone(),
        rejection,
        item,
        picked: false,
    }
}

/// B5: in order behind the purchase's own command, which it ends in any case.
fn cancel(
    connection: &Connection,
    head: &mut Head,
    id: &OperationId,
    purchase: PurchaseRef,
    forced: bool,
    about: About,
    now: Millis,
) -> rusqlite::Result<()> {
    let request = Request {
        operation_id: id.clone(),
        product: purchase.product_id.clone(),
        operation: Operation::GiveBack { quantity: purchase.quantity },
        guard: Guard::default(),
        about,
        command: Some(id.clone()),
        purchase: Some(purchase.clone()),
    };
    let target = find_outcome(connection, &purchase.attempt)?;
    match target {
        // Never executed: from now on it never can be.
        None => {
            let item = ledger::find_item(connection, &purchase.product_id)?;
            keep_cancelled(connection, &purchase, item.clone(), now)?;
            say(connection, head, &request, Kind::PurchaseCancelled, None, item, now)
        }
        Some(target) if target.kind == Kind::PurchaseConfirmed => {
            if target.picked && !forced {
                return refuse(connection, head, &request, Kind::CommandRefused, Rejection::AlreadyPicked, now);
            }
            match perform_at(connection, head, &request, now) {
                Ok(performed) => {
                    purchases::cancel(connection, purchase.purchase_id, now)?;
                    keep_cancelled(connection, &purchase, Some(performed.item.clone()), now)?;
                    let item = Some(performed.item);
                    keep(connection, &answered(&request, Kind::PurchaseCancelled, None, item, now))
                }
                Err(Abort::Refused(rejection)) => {
                    refuse(connection, head, &request, Kind::CommandRefused, rejection, now)
                }
                Err(Abort::Database(error)) => Err(error),
            }
        }
        // Refused, expired or cancelled before: said again, under the cancel's own id, too.
        Some(target) => {
            keep(connection, &Outcome { command: id.clone(), ..target.clone() })?;
            repeat(connection, head, id, target, now)
        }
    }
}

/// The attempt's own outcome becomes `cancelled`.
pub(crate) fn keep_cancelled(
    connection: &Connection,
    purchase: &PurchaseRef,
    item: Option<Item>,
    now: Millis,
) -> rusqlite::Result<()> {
    keep(
        connection,
        &Outcome {
            command: purchase.attempt.clone(),
            kind: Kind::PurchaseCancelled,
            at: now,
            product_id: purchase.product_id.clone(),
            purchase: Some(purchase.clone()),
            rejection: None,
            item,
            picked: false,
        },
    )
}

#[expect(clippy::too_many_arguments, reason = "the members of one command, and where it is executed")]
fn operate(
    connection: &Connection,
    head: &mut Head,
    id: &OperationId,
    product: ProductId,
    operation: Operation,
    guard: Guard,
    about: About,
    now: Millis,
) -> rusqlite::Result<()> {
    let request = Request {
        operation_id: id.clone(),
        product,
        operation,
        guard,
        about,
        command: Some(id.clone()),
        purchase: None,
    };
    match perform_at(connection, head, &request, now) {
        Ok(performed) => keep(connection, &answered(&request, performed.kind, None, Some(performed.item), now)),
        Err(Abort::Refused(rejection)) => refuse(connection, head, &request, Kind::CommandRefused, rejection, now),
        Err(Abort::Database(error)) => Err(error),
    }
}

/// L11: in its place, but not understood: it is answered, laid aside, and the link goes on.
fn park(
    connection: &Connection,
    head: &mut Head,
    id: &OperationId,
    entry: &Entry,
    reason: &str,
    now: Millis,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert into dead_letter (entry_id, type, operation_id, body, reason, received_at) \
             values (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![entry.id.to_string(), entry.kind, entry.operation, entry.body, reason, now.0])?;
    // Whatever of it can be read tells central which product and purchase it was about.
    let body: serde_json::Value = serde_json::from_str(&entry.body).unwrap_or_default();
    let purchase: Option<PurchaseRef> = serde_json::from_value(body["purchase"].clone()).ok();
    let named = body["productId"].as_str().and_then(|text| ProductId::parse(text).ok());
    let product = purchase.as_ref().map(|purchase| purchase.product_id.clone()).or(named).unwrap_or_else(nothing);
    let kind =
        if entry.kind == "purchase" && purchase.is_some() { Kind::PurchaseRejected } else { Kind::CommandRefused };
    let request = Request {
        operation_id: id.clone(),
        product,
        operation: Operation::GiveBack { quantity: 0 },
        guard: Guard::default(),
        about: About::default(),
        command: Some(id.clone()),
        purchase,
    };
    refuse(connection, head, &request, kind, Rejection::UnsupportedByStore { entry: entry.id.to_string() }, now)
}

fn repeat(
    connection: &Connection,
    head: &mut Head,
    id: &OperationId,
    outcome: Outcome,
    now: Millis,
) -> rusqlite::Result<()> {
    ledger::append(connection, head, id, &Event::OutcomeRepeated(outcome), now).map(|_| ())
}

/// The pages are the effect of a resync; this is its answer, which also keeps it from running again.
fn resynced(connection: &Connection, head: &mut Head, id: &OperationId, now: Millis) -> rusqlite::Result<()> {
    let outcome = Outcome {
        command: id.clone(),
        kind: Kind::ItemChanged,
        at: now,
        product_id: nothing(),
        purchase: None,
        rejection: None,
        item: None,
        picked: false,
    };
    keep(connection, &outcome)?;
    repeat(connection, head, id, outcome, now)
}

/// The outcome kept for a command.
pub fn find_outcome(connection: &Connection, id: &OperationId) -> rusqlite::Result<Option<Outcome>> {
    let body: Option<String> = connection
        .prepare_cached("select body from outcome where command_id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    body.map(|body| {
        serde_json::from_str(&body)
            .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error)))
    })
    .transpose()
}

pub(crate) fn keep(connection: &Connection, outcome: &Outcome) -> rusqlite::Result<()> {
    let body = serde_json::to_string(outcome).expect("an outcome serialises");
    connection
        .prepare_cached("insert or replace into outcome (command_id, body, at) values (?1, ?2, ?3)")?
        .execute(params![outcome.command.as_str(), body, outcome.at.0])?;
    Ok(())
}

/// Staff has picked the purchase that this command confirmed.
pub(crate) fn mark_picked(connection: &Connection, attempt: &OperationId) -> rusqlite::Result<()> {
    if let Some(outcome) = find_outcome(connection, attempt)? {
        keep(connection, &Outcome { picked: true, ..outcome })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_000);

    /// A store with 5 ales, and the commands of one epoch of central's that it was sent.
    struct World {
        connection: Connection,
        sent: Cursor,
    }

    impl World {
        fn new() -> Self {
            let connection = runtime::sqlite::memory(ledger::SCHEMA).expect("a database in memory");
            ledger::initialise(&connection, &"s1".parse().expect("a valid id"), NOW).expect("initialises");
            let request = Request {
                operation_id: OperationId::parse("first").expect("a valid id"),
                product: ProductId::parse("ale").expect("a valid id"),
                operation: Operation::Create { name: "Ale".into(), quantity: 5, low_at: None },
                guard: Guard::default(),
                about: About::default(),
                command: None,
                purchase: None,
            };
            crate::operations::till::perform(&connection, &request, NOW).expect("creates");
            let for_epoch = ledger::head(&connection).expect("a head").cursor.epoch;
            let mut world = Self { connection, sent: Cursor { epoch: 7, ..Cursor::default() } };
            world.send("opened", &Command::Opened { for_epoch });
            world
        }

        /// Sends a command, and returns what the last entry of the ledger says.
        fn send(&mut self, id: &str, command: &Command) -> String {
            let (kind, body) = (command.kind(), command.encode());
            let entry = Entry::follow(&self.sent, kind, id, body, None);
            self.sent = entry.cursor();
            let executed = receive(&self.connection, &[Ok(entry)], NOW, NOW).expect("executes");
            assert_eq!((executed.commands, executed.stuck), (1, None));
            let sql = "select type from ledger order by epoch desc, seq desc limit 1";
            self.connection.query_row(sql, [], |row| row.get(0)).expect("an entry")
        }

        fn units(&self) -> i64 {
            let ale = ProductId::parse("ale").expect("a valid id");
            ledger::find_item(&self.connection, &ale).expect("stock can be read").expect("an ale").quantity
        }
    }

    fn attempt() -> PurchaseRef {
        PurchaseRef {
            purchase_id: "00000000-0000-0000-0000-000000000001".parse().expect("an id"),
            attempt: OperationId::parse("attempt").expect("a valid id"),
            product_id: ProductId::parse("ale").expect("a valid id"),
            quantity: 2,
            reference: None,
            created_at: NOW,
            expires_at: NOW.plus(60_000),
        }
    }

    fn purchase() -> Command {
        Command::Purchase { purchase: attempt(), deadline: NOW.plus(60_000), about: About::default() }
    }

    fn cancel() -> Command {
        Command::Cancel { purchase: attempt(), forced: true, about: About::default() }
    }

    #[test]
    fn a_purchase_never_runs_after_its_cancel() {
        let mut world = World::new();
        assert_eq!(world.send("cancel", &cancel()), "purchase_cancelled");
        assert_eq!(world.send("attempt", &purchase()), "outcome_repeated");
        assert_eq!(world.units(), 5);
    }

    #[test]
    fn units_are_taken_once_and_given_back_once() {
        let mut world = World::new();
        assert_eq!(world.send("attempt", &purchase()), "purchase_confirmed");
        assert_eq!(world.send("attempt", &purchase()), "outcome_repeated");
        assert_eq!(world.units(), 3);
        assert_eq!(world.send("cancel", &cancel()), "purchase_cancelled");
        assert_eq!(world.send("cancel", &cancel()), "outcome_repeated");
        assert_eq!(world.send("another-cancel", &cancel()), "outcome_repeated");
        assert_eq!(world.units(), 5);
    }
}
