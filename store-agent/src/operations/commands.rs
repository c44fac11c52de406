//! Executing what central asks (rules L2, L8, L11, B2, B5).
//!
//! **Guarantees.** Effect or refusal, its outcome by the command's id, the event that answers, and the command cursor
//! are one transaction. A command seen again has no effect: its outcome is said again. Commands of an epoch that was
//! not opened for the ledger's present epoch are never executed.

use protocol::domain::{Guard, Item, Operation, Rejection};
use protocol::ids::{OperationId, ProductId};
use protocol::link::{Commands, Cursor, Entry, Epoch, Receipt, receive as judge};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{About, Command, Event, Fact, Kind, NotUnderstood, Outcome, PurchaseRef, Subject};
use runtime::redis::Received;
use runtime::sqlite::{Connection, JobResult, in_savepoint, is_fatal};

use super::effect::{Effect, PurchaseChange, Told, record};
use super::till::{self, Decided, Request, decide_request};
use crate::ledger::{self, Head};

/// What became of a batch.
#[derive(Debug)]
pub struct Executed {
    /// Commands executed up to here: what central is to be told.
    pub cursor: Cursor<Commands>,
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
    batch: &[Received<Commands>],
    redis_now: Millis,
    now: Millis,
) -> JobResult<Executed> {
    in_savepoint(connection, || receive_batch(connection, batch, redis_now, now, false)).or_else(|error| {
        if is_fatal(&error) {
            return Err(error);
        }
        receive_batch(connection, batch, redis_now, now, true)
    })
}

fn receive_batch(
    connection: &Connection,
    batch: &[Received<Commands>],
    redis_now: Millis,
    now: Millis,
    careful: bool,
) -> JobResult<Executed> {
    let (cursor, mut opened_for) = ledger::command_cursor(connection)?;
    let mut head = ledger::head(connection)?;
    let before = head.cursor;
    let mut executed = Executed { cursor, commands: 0, stuck: None };
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
                        park(connection, &mut head, entry, &format!("it cannot be executed: {error}"), now)?;
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
                    _ => Epoch::NONE,
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
        ledger::save_command_cursor(connection, &executed.cursor, opened_for)?;
    }
    if head.cursor != before {
        ledger::save_head(connection, &head)?;
    }
    Ok(executed)
}

/// The entry's id as an operation's; a text that is none cannot have been written by central.
fn operation_id(entry: &Entry<Commands>) -> OperationId {
    OperationId::parse(&entry.operation)
        .or_else(|_| OperationId::parse(&format!("entry:{}", entry.id)))
        .expect("an entry's place is visible ASCII")
}

/// Loads what a command depends on, decides, and records.
fn execute(
    connection: &Connection,
    head: &mut Head,
    entry: &Entry<Commands>,
    redis_now: Millis,
    now: Millis,
) -> JobResult<()> {
    let id = operation_id(entry);
    let command = Command::decode(&entry.kind, &entry.body);
    let known = load(connection, head, &id, entry, &command)?;
    let effect = on_command(&id, entry, command, &known, redis_now, now);
    record(connection, head, &id, known.till.item.as_ref(), &effect, now)?;
    Ok(())
}

/// L11: in its place, but not possible here: it is answered, laid aside, and the link goes on.
fn park(connection: &Connection, head: &mut Head, entry: &Entry<Commands>, reason: &str, now: Millis) -> JobResult<()> {
    let id = operation_id(entry);
    let readable = Readable::of(entry);
    let item = readable.item(connection)?;
    let effect = parked(&id, entry, readable, reason, item.clone(), now);
    record(connection, head, &id, item.as_ref(), &effect, now)?;
    Ok(())
}

/// What a decision about a command depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The outcome of the same command, executed before.
    pub outcome: Option<Outcome>,
    /// For a cancel: the outcome of the attempt that it cancels.
    pub attempt: Option<Outcome>,
    /// The item that it is about.
    pub till: till::Known,
}

fn load(
    connection: &Connection,
    head: &Head,
    id: &OperationId,
    entry: &Entry<Commands>,
    command: &Result<Command, NotUnderstood>,
) -> JobResult<Known> {
    let outcome = ledger::outcomes::find(connection, id)?;
    if outcome.is_some() && !planted(Bug::NoDedupeByCommand) {
        return Ok(Known { outcome, ..Known::default() });
    }
    let with = |item| till::Known { epoch: head.cursor.epoch, item, moved_since_count: Some(0) };
    let item_only = |product: &ProductId| ledger::find_item(connection, product).map(with);
    let (attempt, till) = match command {
        Ok(Command::Purchase { purchase, .. }) => (None, item_only(&purchase.product_id)?),
        Ok(Command::Cancel { purchase, .. }) => {
            (ledger::outcomes::find(connection, &purchase.attempt)?, item_only(&purchase.product_id)?)
        }
        Ok(Command::Operate { product_id, operation, .. }) => {
            (None, till::load(connection, head, product_id, operation)?)
        }
        Ok(Command::Resync) => (None, till::Known::default()),
        Ok(Command::Opened { .. }) | Err(_) => (None, with(Readable::of(entry).item(connection)?)),
    };
    Ok(Known { outcome, attempt, till })
}

/// Decides what a command does. `redis_now`: see [`receive`].
pub fn on_command(
    id: &OperationId,
    entry: &Entry<Commands>,
    command: Result<Command, NotUnderstood>,
    known: &Known,
    redis_now: Millis,
    now: Millis,
) -> Effect {
    if let Some(outcome) = known.outcome.as_ref().filter(|_| !planted(Bug::NoDedupeByCommand)) {
        return Effect { told: vec![Told::Repeated(outcome.clone())], ..Effect::default() };
    }
    let item = || known.till.item.clone();
    let park = |reason: &str| parked(id, entry, Readable::of(entry), reason, item(), now);
    match command {
        Ok(Command::Purchase { purchase, deadline, about }) => {
            let is_late = redis_now > deadline && !planted(Bug::DeadlineIgnored);
            on_purchase(id, &purchase, is_late, about, &known.till, now)
        }
        Ok(Command::Cancel { purchase, forced, about }) => on_cancel(id, &purchase, forced, about, known, now),
        Ok(Command::Operate { product_id, operation, guard, about }) => {
            let answer = Answer { id, product: &product_id, purchase: None, about: &about, now };
            let request = Request { guard, ..request(&answer, operation) };
            match decide_request(&known.till, &request, now) {
                Ok(Decided { item, kind, effect, .. }) => {
                    Effect { outcomes: vec![answer.outcome(kind, None, Some(item))], ..effect }
                }
                Err(rejection) => answer.refuse(Kind::CommandRefused, rejection, item()),
            }
        }
        Ok(Command::Resync) => resynced(id, now),
        Ok(Command::Opened { .. }) => park("an epoch opens at its first entry only"),
        Err(reason) => park(&reason.to_string()),
    }
}

fn on_purchase(
    id: &OperationId,
    purchase: &PurchaseRef,
    is_late: bool,
    about: About,
    known: &till::Known,
    now: Millis,
) -> Effect {
    let answer = Answer { id, product: &purchase.product_id, purchase: Some(purchase), about: &about, now };
    if is_late {
        return answer.refuse(Kind::PurchaseExpired, Rejection::PurchaseExpired, known.item.clone());
    }
    match decide_request(known, &request(&answer, Operation::Purchase { quantity: purchase.quantity }), now) {
        Ok(Decided { item, effect, .. }) => Effect {
            purchase: Some(PurchaseChange::Confirmed(purchase.clone(), now)),
            outcomes: vec![answer.outcome(Kind::PurchaseConfirmed, None, Some(item))],
            ..effect
        },
        Err(rejection) => answer.refuse(Kind::PurchaseRejected, rejection, known.item.clone()),
    }
}

/// B5: in order behind the purchase's own command, which it ends in any case.
fn on_cancel(
    id: &OperationId,
    purchase: &PurchaseRef,
    forced: bool,
    about: About,
    known: &Known,
    now: Millis,
) -> Effect {
    let answer = Answer { id, product: &purchase.product_id, purchase: Some(purchase), about: &about, now };
    let item = known.till.item.clone();
    match &known.attempt {
        // Never executed: from now on it never can be.
        None => {
            let mut effect = answer.tell(Kind::PurchaseCancelled, None, item.clone());
            effect.outcomes.insert(0, cancelled(purchase, item, now));
            effect
        }
        Some(target) if target.kind == Kind::PurchaseConfirmed => {
            if target.picked && !forced {
                return answer.refuse(Kind::CommandRefused, Rejection::AlreadyPicked, item);
            }
            let request = request(&answer, Operation::GiveBack { quantity: purchase.quantity });
            match decide_request(&known.till, &request, now) {
                Ok(Decided { item, effect, .. }) => Effect {
                    purchase: Some(PurchaseChange::Cancelled(purchase.purchase_id, now)),
                    outcomes: vec![
                        cancelled(purchase, Some(item.clone()), now),
                        answer.outcome(Kind::PurchaseCancelled, None, Some(item)),
                    ],
                    ..effect
                },
                Err(rejection) => answer.refuse(Kind::CommandRefused, rejection, item),
            }
        }
        // Refused, expired or cancelled before: said again, under the cancel's own id, too.
        Some(target) => Effect {
            told: vec![Told::Repeated(target.clone())],
            outcomes: vec![Outcome { command: id.clone(), ..target.clone() }],
            ..Effect::default()
        },
    }
}

/// What an attempt's own outcome becomes when it is cancelled.
pub(crate) fn cancelled(purchase: &PurchaseRef, item: Option<Item>, now: Millis) -> Outcome {
    Outcome {
        command: purchase.attempt.clone(),
        kind: Kind::PurchaseCancelled,
        at: now,
        product_id: purchase.product_id.clone(),
        purchase: Some(purchase.clone()),
        rejection: None,
        item,
        picked: false,
    }
}

/// The pages are the effect of a resync; the outcome is its answer, which also keeps it from running again.
fn resynced(id: &OperationId, now: Millis) -> Effect {
    let outcome = Outcome::of_resync(id.clone(), now);
    Effect { told: vec![Told::State, Told::Repeated(outcome.clone())], outcomes: vec![outcome], ..Effect::default() }
}

/// What can be read of a command that is not understood: it tells central which product and purchase it was about.
struct Readable {
    subject: Subject,
    purchase: Option<PurchaseRef>,
}

impl Readable {
    fn of(entry: &Entry<Commands>) -> Self {
        let body: serde_json::Value = serde_json::from_str(&entry.body).unwrap_or_default();
        let purchase: Option<PurchaseRef> = serde_json::from_value(body["purchase"].clone()).ok();
        let named = body["productId"].as_str().and_then(|text| ProductId::parse(text).ok());
        let product = purchase.as_ref().map(|purchase| purchase.product_id.clone()).or(named);
        Self { subject: product.map_or(Subject::Nothing, Subject::Product), purchase }
    }

    fn item(&self, connection: &Connection) -> JobResult<Option<Item>> {
        match &self.subject {
            Subject::Product(product) => ledger::find_item(connection, product),
            Subject::Nothing => Ok(None),
        }
    }
}

fn parked(
    id: &OperationId,
    entry: &Entry<Commands>,
    Readable { subject, purchase }: Readable,
    reason: &str,
    item: Option<Item>,
    now: Millis,
) -> Effect {
    let is_purchase = entry.kind == "purchase" && purchase.is_some();
    let kind = if is_purchase { Kind::PurchaseRejected } else { Kind::CommandRefused };
    let about = About::default();
    let product = subject.product_id();
    let answer = Answer { id, product: &product, purchase: purchase.as_ref(), about: &about, now };
    let effect = answer.refuse(kind, Rejection::UnsupportedByStore { entry: entry.id.to_string() }, item);
    Effect { parked: Some((entry.clone(), reason.to_owned())), ..effect }
}

/// What every answer to one command has in common.
struct Answer<'a> {
    id: &'a OperationId,
    product: &'a ProductId,
    purchase: Option<&'a PurchaseRef>,
    about: &'a About,
    now: Millis,
}

impl Answer<'_> {
    fn outcome(&self, kind: Kind, rejection: Option<Rejection>, item: Option<Item>) -> Outcome {
        Outcome {
            command: self.id.clone(),
            kind,
            at: self.now,
            product_id: self.product.clone(),
            purchase: self.purchase.cloned(),
            rejection,
            item,
            picked: false,
        }
    }

    /// An answer that changes no stock.
    fn tell(&self, kind: Kind, rejection: Option<Rejection>, item: Option<Item>) -> Effect {
        let fact = Fact {
            item: item.clone(),
            about: self.about.clone(),
            command: Some(self.id.clone()),
            purchase: self.purchase.cloned(),
            rejection: rejection.clone(),
            ..Fact::new(self.product.clone(), self.now)
        };
        Effect { outcomes: vec![self.outcome(kind, rejection, item)], ..Effect::of([(kind, fact)]) }
    }

    fn refuse(&self, kind: Kind, rejection: Rejection, item: Option<Item>) -> Effect {
        self.tell(kind, Some(rejection), item)
    }
}

fn request(answer: &Answer<'_>, operation: Operation) -> Request {
    Request {
        operation_id: answer.id.clone(),
        product: answer.product.clone(),
        operation,
        guard: Guard::default(),
        about: answer.about.clone(),
        command: Some(answer.id.clone()),
        purchase: answer.purchase.cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_000);

    /// A store with 5 ales, and the commands of one epoch of central's that it was sent.
    struct World {
        connection: Connection,
        sent: Cursor<Commands>,
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
            let mut world = Self { connection, sent: Cursor { epoch: 7.into(), ..Cursor::default() } };
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
            ledger::testing::last(&self.connection).0
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

    fn given(id: &str, command: Command, known: &Known, redis_now: Millis) -> Effect {
        let at = Cursor { epoch: 7.into(), seq: 1.into(), ..Cursor::default() };
        let entry = Entry::follow(&at, command.kind(), id, command.encode(), None);
        on_command(&operation_id(&entry), &entry, Ok(command), known, redis_now, NOW)
    }

    fn ales(quantity: i64) -> Known {
        let item = Item { quantity, version: 1, ..Item::default() };
        Known {
            till: till::Known { epoch: 9.into(), item: Some(item), moved_since_count: Some(0) },
            ..Known::default()
        }
    }

    /// The kinds of facts told and their differences, and the outcomes kept.
    type Said<'a> = (Vec<(Kind, i64)>, Vec<(&'a str, Kind)>);

    fn said(effect: &Effect) -> Said<'_> {
        let facts = effect.told.iter().filter_map(|told| match told {
            Told::Fact(kind, fact) => Some((*kind, fact.delta)),
            Told::Repeated(_) | Told::State => None,
        });
        (facts.collect(), effect.outcomes.iter().map(|kept| (kept.command.as_str(), kept.kind)).collect())
    }

    #[test]
    fn a_purchase_is_confirmed_rejected_or_expired() {
        use Kind::{PurchaseConfirmed, PurchaseExpired, PurchaseRejected};
        let late = NOW.plus(60_001);
        for (units, at, kind, delta) in
            [(2, NOW, PurchaseConfirmed, -2), (1, NOW, PurchaseRejected, 0), (2, late, PurchaseExpired, 0)]
        {
            let effect = given("attempt", purchase(), &ales(units), at);
            assert_eq!(said(&effect), (vec![(kind, delta)], vec![("attempt", kind)]));
            let taken = PurchaseChange::Confirmed(attempt(), NOW);
            assert_eq!(effect.purchase, (kind == PurchaseConfirmed).then_some(taken));
        }
    }

    #[test]
    fn a_cancel_ends_the_attempt_whatever_became_of_it() {
        use Kind::{CommandRefused, PurchaseCancelled, PurchaseConfirmed, PurchaseExpired};
        let attempted = |kind, picked| Outcome { kind, picked, ..cancelled(&attempt(), None, NOW) };
        let given = |attempt: Option<Outcome>, forced| {
            let command = Command::Cancel { purchase: self::attempt(), forced, about: About::default() };
            given("cancel", command, &Known { attempt, ..ales(3) }, NOW)
        };
        let both = vec![("attempt", PurchaseCancelled), ("cancel", PurchaseCancelled)];
        assert_eq!(said(&given(None, false)), (vec![(PurchaseCancelled, 0)], both.clone()));
        let confirmed = attempted(PurchaseConfirmed, false);
        assert_eq!(said(&given(Some(confirmed), false)), (vec![(PurchaseCancelled, 2)], both.clone()));
        let picked = attempted(PurchaseConfirmed, true);
        let refused = (vec![(CommandRefused, 0)], vec![("cancel", CommandRefused)]);
        assert_eq!(said(&given(Some(picked.clone()), false)), refused);
        assert_eq!(said(&given(Some(picked), true)), (vec![(PurchaseCancelled, 2)], both));
        let expired = attempted(PurchaseExpired, false);
        let again = given(Some(expired.clone()), true);
        assert_eq!(said(&again).1, [("cancel", PurchaseExpired)]);
        assert_eq!(again.told, [Told::Repeated(expired)]);
    }

    #[test]
    fn a_command_that_has_an_outcome_does_nothing_more() {
        let outcome = cancelled(&attempt(), None, NOW);
        let known = Known { outcome: Some(outcome.clone()), ..ales(9) };
        for command in [purchase(), cancel(), Command::Resync] {
            let again = Effect { told: vec![Told::Repeated(outcome.clone())], ..Effect::default() };
            assert_eq!(given("attempt", command, &known, NOW), again);
        }
    }

    #[test]
    fn what_is_not_understood_is_answered_and_laid_aside() {
        let at = Cursor { epoch: 7.into(), seq: 1.into(), ..Cursor::default() };
        let entry = Entry::follow(&at, "teleport", "t", r#"{"productId":"ale"}"#.into(), None);
        let command = Command::decode(&entry.kind, &entry.body);
        let effect = on_command(&operation_id(&entry), &entry, command, &ales(9), NOW, NOW);
        assert_eq!(said(&effect), (vec![(Kind::CommandRefused, 0)], vec![("t", Kind::CommandRefused)]));
        assert_eq!(effect.outcomes[0].product_id.as_str(), "ale");
        assert_eq!(effect.parked.map(|(laid_aside, _)| laid_aside), Some(entry));
    }
}
