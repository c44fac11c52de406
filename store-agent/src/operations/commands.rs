//! Executing what central asks (rules L2, L8, L11, B2, B5).
//!
//! **Guarantees.** Effect or refusal, its outcome by the command's id, the event that answers, and the command cursor
//! are one transaction, but for a resync, which is answered once the state is told ([`super::resync`]). A command seen
//! again has no effect: its outcome is said again. Commands of an epoch that was not opened for the ledger's present epoch
//! are never executed.

use protocol::domain::reservation::Reservation;
use protocol::domain::transfer::Transfer;
use protocol::domain::{Change, Line, Rejection, decide_purchase, decide_return, decide_sold};
use protocol::ids::{OperationId, ProductId};
use protocol::link::{Commands, Cursor, Entry, EntryId, Epoch, Receipt, receive as judge};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{
    About, BATCH, Became, Command, Event, Fact, Happened, ItemAfter, NotUnderstood, Outcome, PurchaseRef, RESERVATION,
    RESERVE, RESYNC, Results, Subject,
};
use runtime::redis::Received;
use runtime::sqlite::{Connection, JobResult, Weight, in_savepoint, is_fatal};

use super::batch::{self, Batch};
use super::effect::{self, Append, Cause, Effect, Items, PurchaseChange, answered, record};
use super::reservations::{self, Asking};
use super::till::{self, Decided, Request, decide_request};
use super::{allotment, transfers};
use crate::ledger::state::Asked;
use crate::ledger::{self, Head, Moved, idempotency};

/// What became of what was read.
#[derive(Debug)]
pub struct Executed {
    /// Commands executed up to here: what central is to be told.
    pub cursor: Cursor<Commands>,
    /// Entries of the batch that were new.
    pub commands: u64,
    /// Why the rest of the batch was not looked at.
    pub stuck: Option<String>,
}

/// Products that the commands of one transaction are about, at most, and those of its last command besides: tills wait for
/// the writer.
const PRODUCTS: usize = 200;

/// How long [`receive`] takes for what was read.
pub fn weight(read: &[Received<Commands>]) -> Weight {
    match read.first() {
        Some(Ok(entry)) if entry.kind == BATCH => Weight::Background,
        Some(_) | None => Weight::Light,
    }
}

/// Whether the end of a reservation may be another one once this is executed.
pub fn moves_an_end(read: &[Received<Commands>]) -> bool {
    has_kind(read, |kind| [RESERVE, RESERVATION].contains(&kind))
}

/// Whether the whole state is asked for.
pub fn asks_for_state(read: &[Received<Commands>]) -> bool {
    has_kind(read, |kind| kind == RESYNC)
}

fn has_kind(read: &[Received<Commands>], is_one: impl Fn(&str) -> bool) -> bool {
    read.iter().flatten().any(|entry| is_one(&entry.kind))
}

/// Executes a batch of the command stream, in the caller's transaction. `redis_now`: Redis's clock, read behind the
/// batch; deadlines are in that clock. If the database refuses the batch it is executed again one by one, and what the
/// database refuses is parked (L11). The rest of a batch that asks for much is left to be read again: `batch` among its
/// commands has a transaction of its own. `moved`: sums for what is [`counted`].
pub fn receive(
    connection: &Connection,
    batch: &[Received<Commands>],
    moved: &Moved,
    redis_now: Millis,
    now: Millis,
) -> JobResult<Executed> {
    in_savepoint(connection, || receive_batch(connection, batch, moved, redis_now, now, false)).or_else(|error| {
        if is_fatal(&error) {
            return Err(error);
        }
        receive_batch(connection, batch, moved, redis_now, now, true)
    })
}

/// The items and positions of the counts that were true at one, as far as commands are executed in one go: what the items
/// have moved since is added up before.
pub fn counted(batch: &[Received<Commands>]) -> Vec<(ProductId, EntryId)> {
    let mut counts = Vec::new();
    for entry in batch.iter().flatten() {
        match Command::decode(&entry.kind, &entry.body) {
            Ok(Command::Operate { product_id, operation, .. }) => counts.extend(till::counted(&product_id, &operation)),
            Ok(Command::Batch { lines, .. }) => {
                counts.extend(lines.iter().filter_map(|line| till::counted(&line.product_id, &line.operation)));
                break;
            }
            Ok(
                Command::Purchase { .. }
                | Command::Cancel { .. }
                | Command::Reserve { .. }
                | Command::Reservation { .. }
                | Command::Ship { .. }
                | Command::Announce { .. }
                | Command::ReceiveTransfer { .. }
                | Command::Release { .. }
                | Command::Resync
                | Command::Opened { .. },
            )
            | Err(_) => {}
        }
    }
    counts
}

fn receive_batch(
    connection: &Connection,
    batch: &[Received<Commands>],
    moved: &Moved,
    redis_now: Millis,
    now: Millis,
    careful: bool,
) -> JobResult<Executed> {
    let (cursor, mut opened_for) = ledger::command_cursor(connection)?;
    let mut head = ledger::head(connection)?;
    let before = head.cursor;
    let mut executed = Executed { cursor, commands: 0, stuck: None };
    let mut products = 0;
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
            Receipt::Next if entry.kind == BATCH && executed.commands > 0 => break,
            Receipt::Next if careful && opened_for == head.cursor.epoch => {
                let mut after = head;
                match in_savepoint(connection, || execute(connection, &mut after, entry, moved, redis_now, now)) {
                    Ok(more) => {
                        head = after;
                        products += more;
                    }
                    Err(error) if is_fatal(&error) => return Err(error),
                    Err(error) => {
                        park(connection, &mut head, entry, &format!("it cannot be executed: {error}"), now)?;
                    }
                }
            }
            Receipt::Next if opened_for == head.cursor.epoch => {
                products += execute(connection, &mut head, entry, moved, redis_now, now)?;
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
                if !planted(Bug::ReadyNotSaid) {
                    ledger::append(connection, &mut head, &operation_id(entry), &ready, now)?;
                }
            }
            Receipt::Unfit => {
                executed.stuck = Some(format!("entry {} does not follow {}", entry.id, executed.cursor.id()));
                break;
            }
        }
        executed.cursor = entry.cursor();
        executed.commands += 1;
        if entry.kind == BATCH || products >= PRODUCTS {
            break;
        }
    }
    if executed.commands > 0 && !planted(Bug::CommandCursorNotMoved) {
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

/// Loads what a command depends on, decides, and records. Says how many products it is about.
fn execute(
    connection: &Connection,
    head: &mut Head,
    entry: &Entry<Commands>,
    moved: &Moved,
    redis_now: Millis,
    now: Millis,
) -> JobResult<usize> {
    let id = operation_id(entry);
    let command = Command::decode(&entry.kind, &entry.body);
    expire_due(connection, head, &command, now)?;
    let mut known = load(connection, head, &id, entry, &command, moved)?;
    if let Ok(Command::Batch { lines, atomic, about }) = &command
        && (known.outcome.is_none() || planted(Bug::NoDedupeByCommand))
    {
        let about = About { is_line: true, ..about.clone() };
        let batch = Batch { id: &id, lines, atomic: *atomic, about: &about, moved };
        known.results = do_lines(connection, head, &batch, now)?;
    }
    let products = known.till.items.len();
    let effect = on_command(&id, entry, command, &known, redis_now, now);
    record(connection, head, &id, &mut known.till.items, effect, now)?;
    Ok(products)
}

/// Does the lines of a batch that can be done. Each is an operation as one of a till's is, and an entry of its own.
fn do_lines(connection: &Connection, head: &mut Head, batch: &Batch<'_>, now: Millis) -> JobResult<Results> {
    ledger::save_head(connection, head)?;
    let is_known = |line| {
        let line = OperationId::line(batch.id, line);
        Ok(idempotency::is_operation_known(connection, &line)? && !planted(Bug::BatchLineRepeated))
    };
    let judged = batch::perform(connection, batch, is_known, now)?;
    *head = ledger::head(connection)?;
    Ok(judged.results(batch.lines))
}

/// Holds whose time is over block nothing that a command is about.
fn expire_due(
    connection: &Connection,
    head: &mut Head,
    command: &Result<Command, NotUnderstood>,
    now: Millis,
) -> JobResult<bool> {
    match command {
        Ok(Command::Purchase { purchase, .. } | Command::Cancel { purchase, .. }) => {
            reservations::expire_due(connection, head, purchase.lines.iter().map(|line| &line.product_id), now)
        }
        Ok(Command::Operate { product_id, .. } | Command::Release { product_id, .. }) => {
            reservations::expire_due(connection, head, [product_id], now)
        }
        Ok(Command::Reserve { lines, .. }) => {
            reservations::expire_due(connection, head, lines.iter().map(|line| &line.product_id), now)
        }
        Ok(Command::Ship { transfer, .. } | Command::Announce { transfer }) => {
            reservations::expire_due(connection, head, transfer.lines.iter().map(|line| &line.product_id), now)
        }
        Ok(Command::ReceiveTransfer { transfer_id, .. }) => {
            let known = ledger::transfers::find_incoming(connection, *transfer_id)?;
            let lines = known.iter().flat_map(|transfer| transfer.lines.iter());
            reservations::expire_due(connection, head, lines.map(|line| &line.product_id), now)
        }
        // Each line of a batch sees to its own product.
        Ok(Command::Batch { .. } | Command::Reservation { .. } | Command::Resync | Command::Opened { .. }) | Err(_) => {
            Ok(false)
        }
    }
}

/// L11: in its place, but not possible here: it is answered, parked, and the link goes on.
fn park(connection: &Connection, head: &mut Head, entry: &Entry<Commands>, reason: &str, now: Millis) -> JobResult<()> {
    let id = operation_id(entry);
    let mut items = loaded(connection, &subject(entry))?;
    let effect = parked(&id, entry, reason, &items, now);
    record(connection, head, &id, &mut items, effect, now)?;
    Ok(())
}

/// What a decision about a command depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The outcome of the same command, executed before.
    pub outcome: Option<Outcome>,
    /// For a cancel: the outcome of the attempt that it cancels.
    pub attempt: Option<Outcome>,
    /// The reservation that it is about.
    pub reservation: Option<Reservation>,
    /// The transfer that it is about, if it is on its way or has come; or the one that it asks for, if it was shipped.
    pub transfer: Option<Transfer>,
    /// For a reservation to be made: a product of which too many are open.
    pub full: Option<ProductId>,
    /// The item that it is about.
    pub till: till::Known,
    /// What became of the lines of a batch, which are done one by one before the whole is answered.
    pub results: Results,
}

fn load(
    connection: &Connection,
    head: &Head,
    id: &OperationId,
    entry: &Entry<Commands>,
    command: &Result<Command, NotUnderstood>,
    moved: &Moved,
) -> JobResult<Known> {
    let outcome = ledger::outcomes::find(connection, id)?;
    if outcome.is_some() && !planted(Bug::NoDedupeByCommand) {
        return Ok(Known { outcome, ..Known::default() });
    }
    let with_items =
        |items| till::Known { epoch: head.cursor.epoch, items, moved_since_count: Some(0), ..Default::default() };
    let (mut reservation, mut transfer, mut full) = (None, None, None);
    let (attempt, till) = match command {
        Ok(Command::Purchase { purchase, deadline, .. }) => {
            let mut known = with_items(reservations::loaded(connection, &purchase.lines)?);
            if deadline.is_none() {
                known.holds = allotment::load_holds(connection, purchase, &mut known.items)?;
            }
            known.rule = ledger::allotment::rule(connection)?;
            (None, known)
        }
        Ok(Command::Cancel { purchase, .. }) => {
            let attempt = ledger::outcomes::find(connection, &purchase.attempt)?;
            (attempt, with_items(reservations::loaded(connection, &purchase.lines)?))
        }
        Ok(Command::Operate { product_id, operation, .. }) => {
            (None, till::load(connection, head, product_id, operation, moved)?)
        }
        Ok(Command::Reserve { reservation_id, lines, .. }) => {
            reservation = ledger::reservations::find(connection, *reservation_id)?;
            let items = reservations::loaded(connection, lines)?;
            full = reservations::find_full(connection, lines, &items)?;
            (None, with_items(items))
        }
        Ok(Command::Reservation { reservation_id, .. }) => {
            reservation = ledger::reservations::find(connection, *reservation_id)?;
            let items = match &reservation {
                Some(reservation) => reservations::loaded(connection, &reservation.lines)?,
                None => Items::new(),
            };
            (None, with_items(items))
        }
        Ok(Command::Ship { transfer: asked, .. } | Command::Announce { transfer: asked }) => {
            transfer = ledger::transfers::find(connection, asked.id)?;
            (None, with_items(reservations::loaded(connection, &asked.lines)?))
        }
        Ok(Command::ReceiveTransfer { transfer_id, .. }) => {
            transfer = ledger::transfers::find_incoming(connection, *transfer_id)?;
            let items = match &transfer {
                Some(transfer) => reservations::loaded(connection, &transfer.lines)?,
                None => Items::new(),
            };
            (None, with_items(items))
        }
        Ok(Command::Release { product_id, .. }) => {
            (None, with_items(loaded(connection, &Subject::Product(product_id.clone()))?))
        }
        Ok(Command::Batch { .. } | Command::Resync) => (None, till::Known::default()),
        Ok(Command::Opened { .. }) | Err(_) => (None, with_items(loaded(connection, &subject(entry))?)),
    };
    Ok(Known { outcome, attempt, reservation, transfer, full, till, results: Results::default() })
}

/// The items that something is about.
fn loaded(connection: &Connection, subject: &Subject) -> JobResult<Items> {
    let mut items = Items::new();
    for product in subject.products() {
        items.extend(ledger::find_item(connection, product)?.map(|item| (product.clone(), item)));
    }
    Ok(items)
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
        return Effect { appends: vec![Append::Repeated(outcome.clone())], ..Effect::default() };
    }
    let items = &known.till.items;
    match command {
        Ok(Command::Purchase { purchase, deadline: Some(deadline), about }) => {
            let is_late = redis_now > deadline && !planted(Bug::DeadlineIgnored);
            on_purchase(&Answer { id, about, items, now }, purchase, is_late, &known.till)
        }
        Ok(Command::Purchase { purchase, deadline: None, about }) if planted(Bug::SoldIsRefused) => {
            on_purchase(&Answer { id, about, items, now }, purchase, false, &known.till)
        }
        Ok(Command::Purchase { purchase, deadline: None, about }) => {
            on_sold(&Answer { id, about, items, now }, purchase, &known.till)
        }
        Ok(Command::Cancel { purchase, forced, about }) => {
            on_cancel(&Answer { id, about, items, now }, purchase, forced, known.attempt.as_ref())
        }
        Ok(Command::Operate { product_id, operation, guard, about }) => {
            let request = Request {
                operation_id: id.clone(),
                product: product_id,
                operation,
                guard,
                about,
                command: Some(id.clone()),
            };
            match decide_request(&known.till, &request, now) {
                Ok(Decided { effect, .. }) => effect,
                Err(rejection) => {
                    let Request { product, about, .. } = request;
                    Answer { id, about, items, now }.refuse(Subject::Product(product), rejection)
                }
            }
        }
        Ok(Command::Batch { .. }) => {
            let mut effect = answered(id, Became::Batch(known.results.clone()), now);
            effect.outcomes.retain(|_| !planted(Bug::BatchOutcomeNotKept));
            effect
        }
        Ok(Command::Reserve { reservation_id, lines, ttl_ms, deadline, about }) => {
            let asking = Asking { operation: id.clone(), about: about.clone(), command: Some(id.clone()) };
            let held = if let Some(reservation) = &known.reservation {
                // The command's outcome is gone, what it held is not.
                Ok(as_it_is(id, reservation, now))
            } else if redis_now > deadline && !planted(Bug::HoldDeadlineIgnored) {
                Err(Rejection::ReservationExpired)
            } else {
                reservations::decide_reserve(reservation_id, &lines, ttl_ms, items, known.full.clone(), &asking, now)
            };
            held.unwrap_or_else(|rejection| {
                Answer { id, about, items, now }.refuse(Subject::Reservation(reservation_id), rejection)
            })
        }
        Ok(Command::Reservation { reservation_id, act, about }) => {
            let asking = Asking { operation: id.clone(), about: about.clone(), command: Some(id.clone()) };
            let decided = match &known.reservation {
                None => Err(Rejection::UnknownReservation),
                Some(reservation) => reservations::decide_act(reservation, &act, items, &asking, now)
                    .map(|effect| effect.unwrap_or_else(|| as_it_is(id, reservation, now))),
            };
            decided.unwrap_or_else(|rejection| {
                Answer { id, about, items, now }.refuse(Subject::Reservation(reservation_id), rejection)
            })
        }
        Ok(Command::Ship { transfer, deadline, about }) => {
            let asking = Asking { operation: id.clone(), about: about.clone(), command: Some(id.clone()) };
            let shipped = if let Some(shipped) = &known.transfer {
                // The command's outcome is gone, the units have left.
                Ok(answered(id, Became::Transfer(shipped.clone()), now))
            } else if redis_now > deadline && !planted(Bug::ShipDeadlineIgnored) {
                Err(Rejection::TransferClosed { state: "expired".to_owned() })
            } else {
                transfers::decide_ship(&transfer, items, &asking, now)
            };
            shipped.unwrap_or_else(|rejection| {
                Answer { id, about, items, now }.refuse(Subject::Transfer(transfer.id), rejection)
            })
        }
        Ok(Command::Announce { transfer }) => {
            let asking = Asking { operation: id.clone(), about: About::default(), command: Some(id.clone()) };
            transfers::decide_announce(transfer, known.transfer.as_ref(), items, &asking, now).unwrap_or_else(|known| {
                Effect { transfer: Some((*known).clone()), ..answered(id, Became::Transfer(*known), now) }
            })
        }
        Ok(Command::ReceiveTransfer { transfer_id, lines, about }) => {
            let asking = Asking { operation: id.clone(), about: about.clone(), command: Some(id.clone()) };
            let received = known.transfer.as_ref().ok_or(Rejection::UnknownTransfer);
            let received =
                received.and_then(|transfer| transfers::decide_receive(transfer, lines.as_ref(), items, &asking, now));
            received.unwrap_or_else(|rejection| {
                Answer { id, about, items, now }.refuse(Subject::Transfer(transfer_id), rejection)
            })
        }
        Ok(Command::Release { product_id, units }) => allotment::decide_release(&product_id, units, items, id, now)
            .unwrap_or_else(|| {
                let answer = Answer { id, about: About::default(), items, now };
                answer.refuse(Subject::Product(product_id), Rejection::UnknownProduct)
            }),
        // It is answered once all of it is told ([`super::resync`]).
        Ok(Command::Resync) => {
            Effect { asks: Some(Asked { command: id.clone(), entry: entry.id }), ..Effect::default() }
        }
        Ok(Command::Opened { .. }) => parked(id, entry, "an epoch opens at its first entry only", items, now),
        Err(reason) => parked(id, entry, &reason.to_string(), items, now),
    }
}

fn on_purchase(answer: &Answer<'_>, purchase: PurchaseRef, is_late: bool, known: &till::Known) -> Effect {
    let unchanged = answer.unchanged(purchase.lines.iter().map(|line| &line.product_id));
    if is_late {
        return answer.tell(Happened::PurchaseExpired { purchase, items: unchanged });
    }
    let take = |line: &Line| {
        let from_allotment = purchase.from_allotment(&line.product_id);
        let change = decide_purchase(answer.items.get(&line.product_id), line.quantity, from_allotment)?;
        Ok((line.product_id.clone(), change))
    };
    match purchase.lines.each(take) {
        Ok(mut changes) => {
            if planted(Bug::OneLineTaken) {
                changes.iter_mut().skip(1).for_each(|(_, change)| *change = Change::Moved(0));
            }
            taken(answer, purchase, changes, known)
        }
        Err(rejection) if planted(Bug::RejectedInPart) => {
            let items = answer.changed(purchase.lines.iter().filter_map(|line| take(line).ok()));
            answer.tell(Happened::PurchaseRejected { purchase, rejection, items })
        }
        Err(rejection) => answer.tell(Happened::PurchaseRejected { purchase, rejection, items: unchanged }),
    }
}

/// B11: central has confirmed it out of the allotment, so its units are taken whatever has become of that.
fn on_sold(answer: &Answer<'_>, purchase: PurchaseRef, known: &till::Known) -> Effect {
    let mut items = answer.items.clone();
    let cause = Cause { operation: answer.id, epoch: known.epoch };
    let before = allotment::make_room(&purchase, &known.holds, &mut items, cause, answer.now);
    let sold = |line: &Line| {
        let item = items.get(&line.product_id)?;
        let change = decide_sold(item, line.quantity, purchase.from_allotment(&line.product_id));
        Some((line.product_id.clone(), change))
    };
    let changes = purchase.lines.iter().filter_map(sold).collect();
    let answer = Answer { items: &items, about: answer.about.clone(), ..*answer };
    Effect { before, ..taken(&answer, purchase, changes, known) }
}

/// The units of a purchase leave the shelf; the store's rule may set others aside.
fn taken(answer: &Answer<'_>, purchase: PurchaseRef, changes: Vec<(ProductId, Change)>, known: &till::Known) -> Effect {
    let cause = Cause { operation: answer.id, epoch: known.epoch };
    let items = answer.changed(changes);
    let mut after = answer.items.clone();
    after.extend(items.iter().map(|after| (after.product_id.clone(), after.item.clone())));
    let raised = |line: &Line| allotment::raise_behind(&known.rule, &line.product_id, &mut after, cause, answer.now);
    let behind = purchase.lines.iter().filter_map(raised).collect();
    Effect {
        purchase: Some(PurchaseChange::Confirmed(purchase.clone(), answer.now)),
        behind,
        ..answer.tell(Happened::PurchaseConfirmed { purchase, items })
    }
}

/// B5: in order behind the purchase's own command, which it ends in any case. `attempt`: what became of that.
fn on_cancel(answer: &Answer<'_>, purchase: PurchaseRef, forced: bool, attempt: Option<&Outcome>) -> Effect {
    let unchanged = answer.unchanged(purchase.lines.iter().map(|line| &line.product_id));
    let ended = |items| {
        let mut effect = answer.tell(Happened::PurchaseCancelled { purchase: purchase.clone(), items });
        let own = effect.outcomes.first().cloned();
        let own = own.filter(|_| !planted(Bug::CancelNotRemembered) && !planted(Bug::CancelledStaysConfirmed));
        effect.outcomes.extend(own.map(|outcome| Outcome { command: purchase.attempt.clone(), ..outcome }));
        effect
    };
    let Some(attempt) = attempt else {
        // Never executed: from now on it never can be.
        return ended(unchanged);
    };
    match attempt.became {
        Became::Confirmed { picked: true, .. }
            if (!forced || planted(Bug::ForcedCancelRefused)) && !planted(Bug::PickedIsCancelled) =>
        {
            answer.refuse(Subject::Purchase(purchase), Rejection::AlreadyPicked)
        }
        Became::Confirmed { .. } => {
            let give_back = |line: &Line| {
                let change = decide_return(answer.items.get(&line.product_id), line.quantity)?;
                Ok((line.product_id.clone(), change))
            };
            match purchase.lines.each(give_back) {
                Ok(mut changes) => {
                    if planted(Bug::OneLineGivenBack) {
                        changes.iter_mut().skip(1).for_each(|(_, change)| *change = Change::Moved(0));
                    }
                    let change = PurchaseChange::Cancelled(purchase.purchase_id, answer.now);
                    Effect { purchase: Some(change), ..ended(answer.changed(changes)) }
                }
                Err(rejection) => answer.refuse(Subject::Purchase(purchase), rejection),
            }
        }
        // Refused, expired or cancelled before: said again, under the cancel's own id, too.
        Became::Rejected { .. }
        | Became::Expired { .. }
        | Became::Cancelled { .. }
        | Became::Refused { .. }
        | Became::Done { .. }
        | Became::Reservation(_)
        | Became::Transfer(_)
        | Became::Batch(_)
        | Became::Resynced => Effect {
            appends: vec![Append::Repeated(attempt.clone())],
            outcomes: vec![Outcome { command: answer.id.clone(), ..attempt.clone() }],
            ..Effect::default()
        },
    }
}

/// What was asked of a reservation had been done before.
fn as_it_is(id: &OperationId, reservation: &Reservation, now: Millis) -> Effect {
    answered(id, Became::Reservation(reservation.clone()), now)
}

/// What can be read of a command that is not understood: it tells central which product or purchase it was about.
fn subject(entry: &Entry<Commands>) -> Subject {
    let body: serde_json::Value = serde_json::from_str(&entry.body).unwrap_or_default();
    if let Ok(purchase) = serde_json::from_value(body["purchase"].clone()) {
        return Subject::Purchase(purchase);
    }
    if let Ok(reservation) = serde_json::from_value(body["reservationId"].clone()) {
        return Subject::Reservation(reservation);
    }
    let transfer = if body["transferId"].is_null() { &body["transfer"]["id"] } else { &body["transferId"] };
    if let Ok(transfer) = serde_json::from_value(transfer.clone()) {
        return Subject::Transfer(transfer);
    }
    let named = body["productId"].as_str().and_then(|text| ProductId::parse(text).ok());
    named.map_or(Subject::Store, Subject::Product)
}

fn parked(id: &OperationId, entry: &Entry<Commands>, reason: &str, items: &Items, now: Millis) -> Effect {
    let answer = Answer { id, about: About::default(), items, now };
    let rejection = Rejection::UnsupportedByStore { entry: entry.id.to_string() };
    let effect = match subject(entry) {
        Subject::Purchase(purchase) if entry.kind == "purchase" => {
            let items = answer.unchanged(purchase.lines.iter().map(|line| &line.product_id));
            answer.tell(Happened::PurchaseRejected { purchase, rejection, items })
        }
        subject @ (Subject::Purchase(_)
        | Subject::Product(_)
        | Subject::Reservation(_)
        | Subject::Transfer(_)
        | Subject::Store) => answer.refuse(subject, rejection),
    };
    Effect { parked: Some((entry.clone(), reason.to_owned())), ..effect }
}

/// What every answer to one command has in common.
struct Answer<'a> {
    id: &'a OperationId,
    about: About,
    /// What it is about, as it was loaded.
    items: &'a Items,
    now: Millis,
}

impl Answer<'_> {
    /// The items as they are, as far as the store has them.
    fn unchanged<'b>(&self, products: impl Iterator<Item = &'b ProductId>) -> Vec<ItemAfter> {
        let item = |product: &ProductId| {
            self.items.get(product).map(|item| ItemAfter::unchanged(product.clone(), item.clone()))
        };
        products.filter_map(item).collect()
    }

    /// The items after these changes.
    fn changed(&self, changes: impl IntoIterator<Item = (ProductId, Change)>) -> Vec<ItemAfter> {
        effect::changed(changes, self.items, self.now)
    }

    fn tell(&self, what: Happened) -> Effect {
        let fact = Fact { about: self.about.clone(), command: Some(self.id.clone()), ..Fact::new(what, self.now) };
        Effect::of(fact, self.items)
    }

    fn refuse(&self, subject: Subject, rejection: Rejection) -> Effect {
        let items = self.unchanged(subject.products());
        let mut effect = self.tell(Happened::CommandRefused { subject, rejection, items });
        effect.outcomes.retain(|_| !planted(Bug::RefusalNotKept));
        effect
    }
}

#[cfg(test)]
mod tests {
    use protocol::domain::reservation::Act;
    use protocol::domain::{Guard, Item, Lines, Operation};
    use protocol::ids::ReservationId;
    use protocol::wire::BatchLine;
    use runtime::sqlite::newest::Slice;

    use super::*;
    use crate::testing::quantity;

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
            };
            crate::operations::till::perform(&connection, &request, &Moved::default(), NOW).expect("creates");
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
            let executed = receive(&self.connection, &[Ok(entry)], &Moved::default(), NOW, NOW).expect("executes");
            assert_eq!((executed.commands, executed.stuck), (1, None));
            ledger::testing::last(&self.connection).0
        }

        fn units(&self) -> i64 {
            let ale = ProductId::parse("ale").expect("a valid id");
            ledger::find_item(&self.connection, &ale).expect("stock can be read").expect("an ale").quantity
        }
    }

    fn ale() -> ProductId {
        crate::testing::product("ale")
    }

    fn attempt() -> PurchaseRef {
        PurchaseRef {
            from_allotment: None,
            purchase_id: "00000000-0000-0000-0000-000000000001".parse().expect("an id"),
            attempt: OperationId::parse("attempt").expect("a valid id"),
            lines: Lines::one(ale(), quantity(2)),
            reference: None,
            created_at: NOW,
            expires_at: NOW.plus(60_000),
        }
    }

    fn purchase() -> Command {
        Command::Purchase { purchase: attempt(), deadline: Some(NOW.plus(60_000)), about: About::default() }
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

    /// With a few teas beside the ales.
    fn world_with_tea() -> World {
        let world = World::new();
        let create = Operation::Create { name: "Tea".into(), quantity: 3, low_at: None };
        crate::testing::act(&world.connection, "second", "tea", create, NOW);
        world
    }

    fn cart(of: &[(&str, i64)]) -> PurchaseRef {
        let line = |(name, units): &(&str, i64)| Line {
            product_id: crate::testing::product(name),
            quantity: quantity(*units),
        };
        PurchaseRef { lines: Lines::new(of.iter().map(line)).expect("are lines"), ..attempt() }
    }

    fn buy(purchase: PurchaseRef) -> Command {
        Command::Purchase { purchase, deadline: Some(NOW.plus(60_000)), about: About::default() }
    }

    fn units_of(world: &World) -> [i64; 2] {
        ["ale", "tea"].map(|name| {
            let item = ledger::find_item(&world.connection, &crate::testing::product(name)).expect("reads");
            item.expect("an item").quantity
        })
    }

    #[test]
    fn all_lines_of_a_purchase_are_taken_and_given_back_as_one_entry_each() {
        let mut world = world_with_tea();
        let head = |world: &World| ledger::head(&world.connection).expect("reads").cursor.seq;
        let (before, bought) = (head(&world), cart(&[("ale", 2), ("tea", 3)]));
        assert_eq!(world.send("attempt", &buy(bought.clone())), "purchase_confirmed");
        assert_eq!((units_of(&world), head(&world)), ([3, 0], before + 1));
        let listed = |product: &str| {
            let filter = ledger::purchases::Filter { product_id: Some(product.into()), ..Default::default() };
            let slice = Slice { after: None, offset: 0, limit: 9 };
            ledger::purchases::list(&world.connection, &filter, &slice).expect("reads").rows
        };
        let [found] = &listed("tea")[..] else { panic!("one has a line of it") };
        assert_eq!((&found.reference, listed("ale").len(), listed("bun").len()), (&bought, 1, 0));
        assert_eq!(world.send("attempt", &buy(bought.clone())), "outcome_repeated");
        let cancel = Command::Cancel { purchase: bought, forced: false, about: About::default() };
        assert_eq!(world.send("cancel", &cancel), "purchase_cancelled");
        assert_eq!((world.send("again", &cancel), units_of(&world)), ("outcome_repeated".into(), [5, 3]));
    }

    #[test]
    fn a_line_that_is_short_is_named_and_nothing_is_taken() {
        let mut world = world_with_tea();
        let refused = |world: &World| -> serde_json::Value {
            let (kind, body) = ledger::testing::last(&world.connection);
            assert_eq!((kind.as_str(), units_of(world)), ("purchase_rejected", [5, 3]));
            serde_json::from_str::<serde_json::Value>(&body).expect("JSON")["rejection"].clone()
        };
        for (number, of, short) in [
            (1, [("ale", 5), ("tea", 4)], &["tea"][..]),
            (2, [("ale", 6), ("tea", 3)], &["ale"]),
            (3, [("ale", 6), ("tea", 4)], &["ale", "tea"]),
        ] {
            let attempt = OperationId::parse(&format!("attempt-{number}")).expect("valid");
            world.send(attempt.as_str(), &buy(PurchaseRef { attempt: attempt.clone(), ..cart(&of) }));
            let rejection = refused(&world);
            let named: Vec<&str> = rejection["lines"]
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(|line| line["productId"].as_str())
                .collect();
            assert_eq!(named, short, "{rejection}");
        }
        world.send(
            "bun",
            &buy(PurchaseRef { attempt: crate::testing::operation("bun"), ..cart(&[("bun", 1), ("tea", 1)]) }),
        );
        assert_eq!(refused(&world)["code"], "unknown_product");
        let late = Command::Purchase {
            purchase: cart(&[("ale", 1), ("tea", 1)]),
            deadline: Some(NOW.plus(-1)),
            about: About::default(),
        };
        assert_eq!((world.send("attempt", &late), units_of(&world)), ("purchase_expired".into(), [5, 3]));
    }

    #[test]
    fn due_holds_of_all_products_block_no_purchase() {
        let mut world = world_with_tea();
        for (number, name, units) in [(1, "ale", 5), (2, "tea", 3)] {
            let line = Line { product_id: crate::testing::product(name), quantity: quantity(units) };
            let reserve = Command::Reserve {
                reservation_id: ReservationId::new(uuid::Uuid::from_u128(number)),
                lines: Lines::new([line]).expect("are lines"),
                ttl_ms: 1,
                deadline: NOW.plus(60_000),
                about: About::default(),
            };
            world.send(&format!("hold-{number}"), &reserve);
        }
        let command = buy(cart(&[("ale", 5), ("tea", 3)]));
        let entry = Entry::follow(&world.sent, command.kind(), "attempt", command.encode(), None);
        receive(&world.connection, &[Ok(entry)], &Moved::default(), NOW, NOW.plus(1)).expect("executes");
        assert_eq!(
            (ledger::testing::last(&world.connection).0.as_str(), units_of(&world)),
            ("purchase_confirmed", [0, 0])
        );
    }

    /// As version 0.1.0 reads an attempt.
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[allow(dead_code, reason = "what it reads is not looked at")]
    struct AttemptOfOld {
        product_id: ProductId,
        quantity: protocol::domain::Quantity,
    }

    #[test]
    fn an_earlier_version_understands_one_line_and_executes_no_part_of_several() {
        let read = |purchase: PurchaseRef| {
            let body: serde_json::Value = serde_json::from_str(&buy(purchase).encode()).expect("JSON");
            serde_json::from_value::<AttemptOfOld>(body["purchase"].clone()).is_ok()
        };
        assert!(read(cart(&[("ale", 2)])) && !read(cart(&[("ale", 2), ("tea", 1)])));
    }

    #[test]
    fn a_line_with_a_member_that_is_not_known_is_refused_as_a_whole() {
        let mut world = world_with_tea();
        let body = buy(cart(&[("ale", 2), ("tea", 1)])).encode();
        let later = body.replacen(r#""quantity":2"#, r#""quantity":2,"fromElsewhere":1"#, 1);
        assert_ne!(later, body);
        let entry = Entry::follow(&world.sent, "purchase", "attempt", later, None);
        world.sent = entry.cursor();
        receive(&world.connection, &[Ok(entry)], &Moved::default(), NOW, NOW).expect("executes");
        let (kind, body) = ledger::testing::last(&world.connection);
        assert_eq!((kind.as_str(), units_of(&world)), ("command_refused", [5, 3]));
        assert!(body.contains("unsupported_by_store"), "{body}");
    }

    /// Central has confirmed the purchase out of what is set aside.
    fn sold() -> Command {
        let purchase = PurchaseRef { from_allotment: Some(attempt().lines), ..attempt() };
        Command::Purchase { purchase, deadline: None, about: About::default() }
    }

    #[test]
    fn what_central_has_sold_is_taken_whatever_has_become_of_the_allotment() {
        let at = |allotted, available| {
            let mut world = World::new();
            let act = |id: &str, does| crate::testing::act(&world.connection, id, "ale", does, NOW);
            act("count", Operation::Count { quantity: allotted + available, counted_at: None, count_ref: None });
            act("allot", Operation::Allot { quantity: allotted });
            let told = world.send("attempt", &sold());
            let item = ledger::find_item(&world.connection, &ale()).expect("reads").expect("an ale");
            let recorded = ledger::testing::recorded(&world.connection, "ale").into_iter();
            let short: Vec<i64> = recorded.filter(|(kind, _)| kind == "shortage").map(|(_, delta)| delta).collect();
            (told, (item.quantity, item.allotted, item.available()), short)
        };
        let taken = |figures, short: &[i64]| ("purchase_confirmed".to_owned(), figures, short.to_vec());
        assert_eq!(at(3, 4), taken((5, 1, 4), &[]));
        assert_eq!(at(1, 4), taken((3, 0, 3), &[]));
        assert_eq!(at(0, 1), taken((0, 0, 0), &[1]));
        assert_eq!(at(0, 0), taken((0, 0, 0), &[2]));
    }

    #[test]
    fn a_hold_of_two_products_ends_once_for_what_central_has_sold_of_both() {
        let mut world = world_with_tea();
        let hold = Command::Reserve {
            reservation_id: ReservationId::new(uuid::Uuid::from_u128(1)),
            lines: cart(&[("ale", 5), ("tea", 3)]).lines,
            ttl_ms: 60_000,
            deadline: NOW.plus(60_000),
            about: About::default(),
        };
        assert_eq!(world.send("hold", &hold), "reserved");
        let head = |world: &World| ledger::head(&world.connection).expect("reads").cursor.seq;
        let before = head(&world);
        let purchase = cart(&[("ale", 2), ("tea", 3)]);
        let sold = Command::Purchase { purchase, deadline: None, about: About::default() };
        assert_eq!(world.send("attempt", &sold), "purchase_confirmed");
        assert_eq!((units_of(&world), head(&world) - before), ([3, 0], 3), "it ends, goes without, and they are taken");
    }

    #[test]
    fn what_is_set_aside_is_taken_first_and_the_rest_like_a_till_would() {
        for (asked, told, units) in [(3, "purchase_confirmed", (2, 0, 2)), (4, "purchase_rejected", (5, 3, 2))] {
            let mut world = World::new();
            crate::testing::act(&world.connection, "allot", "ale", Operation::Allot { quantity: 3 }, NOW);
            let lines = |units| Some(Lines::one(ale(), quantity(units)));
            let lines = (lines(asked + (asked - 3) * 2), lines(3));
            let purchase = PurchaseRef { lines: lines.0.expect("are lines"), from_allotment: lines.1, ..attempt() };
            let command = Command::Purchase { purchase, deadline: Some(NOW.plus(60_000)), about: About::default() };
            assert_eq!(world.send("attempt", &command), told);
            let item = ledger::find_item(&world.connection, &ale()).expect("reads").expect("an ale");
            assert_eq!((item.quantity, item.allotted, item.available()), units);
        }
    }

    /// So many units of each are sold, one line after the other.
    fn sales(atomic: bool, of: &[(&str, i64)]) -> Command {
        let sale = |(product, units): &(&str, i64)| BatchLine {
            product_id: ProductId::parse(product).expect("a valid id"),
            operation: Operation::Sell { quantity: quantity(*units) },
            expected_version: None,
            reference: None,
            occurred_at: None,
        };
        Command::Batch { lines: of.iter().map(sale).collect(), atomic, about: About::default() }
    }

    /// What the ledger's last entry says of a batch: lines done, and those refused.
    fn results(connection: &Connection) -> (usize, Vec<usize>) {
        let (kind, body) = ledger::testing::last(connection);
        let Ok(Event::OutcomeRepeated(outcome)) = Event::decode(&kind, &body) else { panic!("{kind} {body}") };
        let results = outcome.became.results().expect("of a batch").clone();
        assert!(results.refused.iter().all(|line| line.product_id.is_some()), "{body}");
        (results.applied(), results.refused.iter().map(|line| line.index).collect())
    }

    #[test]
    fn a_batch_is_carried_out_once_and_each_line_is_an_entry() {
        let mut world = World::new();
        let batch = sales(false, &[("ale", 2), ("ale", 4), ("bun", 1), ("ale", 3)]);
        for _ in 0..2 {
            assert_eq!(world.send("b", &batch), "outcome_repeated");
            assert_eq!((results(&world.connection), world.units()), ((2, vec![1, 2]), 0));
        }
        let recorded = ledger::testing::recorded(&world.connection, "ale");
        assert_eq!(recorded[1..], [("sold".into(), -2), ("sold".into(), -3)]);
        let named = "select type, body from ledger where operation_id in ('b/0', 'b/3')";
        let mut lines = world.connection.prepare(named).expect("reads");
        let lines = lines.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)));
        let lines: Vec<_> = lines.expect("reads").map(|line| line.expect("reads")).collect();
        assert_eq!(lines.len(), 2);
        for (kind, body) in lines {
            let Ok(Event::Fact(fact)) = Event::decode(&kind, &body) else { panic!("{kind} {body}") };
            assert!(fact.is_asked_by_central() && fact.outcome().is_none(), "{body}");
        }
    }

    #[test]
    fn what_counts_have_to_add_up_is_known_before_they_are_executed() {
        let mut world = World::new();
        let head = ledger::head(&world.connection).expect("reads").cursor.id();
        let at = protocol::wire::Position { store: ledger::store_id(&world.connection).expect("reads"), at: head };
        for number in 0..500 {
            let receive = Operation::Receive { quantity: quantity(1) };
            crate::testing::act(&world.connection, &format!("o{number}"), "ale", receive, NOW);
        }
        let count = |quantity| Operation::Count { quantity, counted_at: Some(at.clone()), count_ref: None };
        let line = BatchLine {
            product_id: ale(),
            operation: count(3),
            expected_version: None,
            reference: None,
            occurred_at: None,
        };
        let batch = Command::Batch { lines: vec![line], atomic: true, about: About::default() };
        let operate = |quantity| Command::Operate {
            product_id: ale(),
            operation: count(quantity),
            guard: Guard::default(),
            about: About::default(),
        };
        let mut entry = |id: &str, command: &Command| {
            let entry = Entry::follow(&world.sent, command.kind(), id, command.encode(), None);
            world.sent = entry.cursor();
            Ok(entry)
        };
        let read = [entry("a", &operate(4)), entry("b", &Command::Resync), entry("c", &batch), entry("d", &operate(9))];
        // Behind the batch nothing is executed.
        let counts = counted(&read);
        assert_eq!(counts, [(ale(), head), (ale(), head)]);
        let moved = Moved::since_positions(&world.connection, counts).expect("reads");
        for executed in [2, 1] {
            assert_eq!(receive(&world.connection, &read, &moved, NOW, NOW).expect("executes").commands, executed);
        }
        assert_eq!(world.units(), 503);
        let steps = ledger::testing::steps_for_counts(&world.connection);
        assert!((1..400).contains(&steps), "{steps} steps for two counts");
    }

    #[test]
    fn of_an_atomic_batch_all_is_done_or_nothing() {
        let mut world = World::new();
        world.send("b", &sales(true, &[("ale", 2), ("ale", 4)]));
        assert_eq!((results(&world.connection), world.units()), ((0, vec![1]), 5));
        world.send("c", &sales(true, &[("ale", 2), ("ale", 3)]));
        assert_eq!((results(&world.connection), world.units()), ((2, vec![]), 0));
    }

    #[test]
    fn what_the_database_refuses_of_a_batch_leaves_nothing_of_it() {
        let mut world = World::new();
        ledger::testing::tamper(
            &world.connection,
            "create temp trigger broken before update on main.item when new.quantity = 1 \
             begin select raise(abort, 'refused'); end",
        );
        assert_eq!(world.send("b", &sales(false, &[("ale", 2), ("ale", 2)])), "command_refused");
        assert_eq!(world.units(), 5);
        assert_eq!(world.send("c", &sales(false, &[("ale", 2), ("ale", 3)])), "outcome_repeated");
        assert_eq!(world.units(), 0);
    }

    #[test]
    fn the_lines_that_a_restore_brought_back_are_not_done_again() {
        let mut world = World::new();
        idempotency::remember_known(&world.connection, ["b/0"], NOW).expect("writes");
        world.send("b", &sales(true, &[("ale", 2), ("ale", 3)]));
        assert_eq!((results(&world.connection), world.units()), ((2, vec![]), 2));
        // All of it was to be done, and a part was: what is left is done as far as it can be.
        idempotency::remember_known(&world.connection, ["c/0"], NOW).expect("writes");
        world.send("c", &sales(true, &[("ale", 2), ("ale", 3), ("ale", 1)]));
        assert_eq!((results(&world.connection), world.units()), ((2, vec![1]), 1));
    }

    #[test]
    fn a_batch_has_a_transaction_of_its_own() {
        let mut world = World::new();
        let mut entry = |id: &str, command: &Command| {
            let entry = Entry::follow(&world.sent, command.kind(), id, command.encode(), None);
            world.sent = entry.cursor();
            Ok(entry)
        };
        let batch = sales(true, &[("ale", 1)]);
        let read = [entry("a", &Command::Resync), entry("b", &batch), entry("c", &batch), entry("d", &batch)];
        assert_eq!((weight(&read), weight(&read[1..])), (Weight::Light, Weight::Background));
        for executed in [1, 1, 1, 1, 0] {
            let done = receive(&world.connection, &read, &Moved::default(), NOW, NOW).expect("executes");
            assert_eq!(done.commands, executed);
        }
        assert_eq!(world.units(), 2);
    }

    #[test]
    fn a_transaction_ends_with_the_command_that_makes_it_long() {
        let mut world = World::new();
        let names: Vec<String> = (0..PRODUCTS / 2).map(|number| format!("p{number}")).collect();
        for name in &names {
            let create = Operation::Create { quantity: 5, name: name.clone(), low_at: None };
            crate::testing::act(&world.connection, name, name, create, NOW);
        }
        let lines: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let read: Vec<Received<Commands>> = (0..5)
            .map(|number| {
                let id = format!("attempt-{number}");
                let command = buy(PurchaseRef { attempt: crate::testing::operation(&id), ..cart(&lines) });
                let entry = Entry::follow(&world.sent, command.kind(), &id, command.encode(), None);
                world.sent = entry.cursor();
                Ok(entry)
            })
            .collect();
        for executed in [2, 2, 1, 0] {
            let done = receive(&world.connection, &read, &Moved::default(), NOW, NOW).expect("executes");
            assert_eq!(done.commands, executed);
        }
    }

    #[test]
    fn units_are_held_once_even_if_the_outcome_is_lost() {
        let mut world = World::new();
        let line = Line { product_id: ale(), quantity: quantity(2) };
        let reserve = Command::Reserve {
            reservation_id: ReservationId::new(uuid::Uuid::from_u128(1)),
            lines: Lines::new([line]).expect("are lines"),
            ttl_ms: 60_000,
            deadline: NOW.plus(60_000),
            about: About::default(),
        };
        assert_eq!(world.send("hold", &reserve), "reserved");
        ledger::testing::tamper(&world.connection, "delete from outcome");
        assert_eq!(world.send("hold", &reserve), "outcome_repeated");
        let ale = ledger::find_item(&world.connection, &ale()).expect("reads").expect("an ale");
        assert_eq!((ale.quantity, ale.reserved), (5, 2));
    }

    fn given(id: &str, command: Command, known: &Known, redis_now: Millis) -> Effect {
        let at = Cursor { epoch: 7.into(), seq: 1.into(), ..Cursor::default() };
        let entry = Entry::follow(&at, command.kind(), id, command.encode(), None);
        on_command(&operation_id(&entry), &entry, Ok(command), known, redis_now, NOW)
    }

    fn ales(quantity: i64) -> Known {
        let item = Item { quantity, version: 1, ..Item::default() };
        let items = [(ale(), item)].into();
        Known {
            till: till::Known { epoch: 9.into(), items, moved_since_count: Some(0), ..Default::default() },
            ..Known::default()
        }
    }

    /// The names of facts told and their differences, and whose outcomes are kept.
    type Said<'a> = (Vec<(&'a str, i64)>, Vec<&'a str>);

    fn said(effect: &Effect) -> Said<'_> {
        let facts = effect.appends.iter().filter_map(|told| match told {
            Append::Fact(fact) => Some((fact.what.name(), fact.filed_delta())),
            Append::Repeated(_) => None,
        });
        (facts.collect(), effect.outcomes.iter().map(|kept| kept.command.as_str()).collect())
    }

    /// What the facts told answer is what is kept.
    fn agrees(effect: &Effect) -> bool {
        let told = effect.appends.iter().find_map(|told| match told {
            Append::Fact(fact) => fact.what.answer(),
            Append::Repeated(_) => None,
        });
        effect.outcomes.iter().all(|kept| Some(&kept.became) == told.as_ref())
    }

    #[test]
    fn a_purchase_is_confirmed_rejected_or_expired() {
        let (deadline, late) = (NOW.plus(60_000), NOW.plus(60_001));
        for (units, at, name, delta) in [
            (2, NOW, "purchase_confirmed", -2),
            (2, deadline, "purchase_confirmed", -2),
            (1, NOW, "purchase_rejected", 0),
            (2, late, "purchase_expired", 0),
        ] {
            let effect = given("attempt", purchase(), &ales(units), at);
            assert_eq!(said(&effect), (vec![(name, delta)], vec!["attempt"]));
            assert!(agrees(&effect));
            let taken = PurchaseChange::Confirmed(attempt(), NOW);
            assert_eq!(effect.purchase, (delta < 0).then_some(taken));
        }
    }

    #[test]
    fn a_cancel_ends_the_attempt_whatever_became_of_it() {
        let outcome = |became| Outcome { command: attempt().attempt, at: NOW, became };
        let given = |attempt: Option<Outcome>, forced| {
            let command = Command::Cancel { purchase: self::attempt(), forced, about: About::default() };
            given("cancel", command, &Known { attempt, ..ales(3) }, NOW)
        };
        let ended = |delta| (vec![("purchase_cancelled", delta)], vec!["cancel", "attempt"]);
        assert_eq!(said(&given(None, false)), ended(0));
        assert!(agrees(&given(None, false)));
        let confirmed = Became::Confirmed { purchase: attempt(), item: Some(Item::default()), picked: false };
        let confirmed = outcome(confirmed);
        assert_eq!(said(&given(Some(confirmed.clone()), false)), ended(2));
        assert!(agrees(&given(Some(confirmed.clone()), false)));
        let refused = (vec![("command_refused", 0)], vec!["cancel"]);
        assert_eq!(said(&given(Some(confirmed.clone().picked()), false)), refused);
        assert_eq!(said(&given(Some(confirmed.picked()), true)), ended(2));
        let expired = outcome(Became::Expired { purchase: attempt(), item: None });
        let again = given(Some(expired.clone()), true);
        assert_eq!(again.appends, [Append::Repeated(expired.clone())]);
        assert_eq!(again.outcomes, [Outcome { command: OperationId::parse("cancel").expect("valid"), ..expired }]);
    }

    #[test]
    fn a_command_that_has_an_outcome_does_nothing_more() {
        let became = Became::Cancelled { purchase: attempt(), item: None };
        let outcome = Outcome { command: attempt().attempt, at: NOW, became };
        let known = Known { outcome: Some(outcome.clone()), ..ales(9) };
        for command in [purchase(), cancel(), Command::Resync] {
            let again = Effect { appends: vec![Append::Repeated(outcome.clone())], ..Effect::default() };
            assert_eq!(given("attempt", command, &known, NOW), again);
        }
    }

    #[test]
    fn who_ends_reservations_and_who_tells_the_state_hear_of_what_concerns_them() {
        let (reservation_id, lines) = (ReservationId::new(uuid::Uuid::nil()), Lines::one(ale(), quantity(1)));
        let (ttl_ms, deadline, about) = (60_000, NOW, About::default());
        let reserve = Command::Reserve { reservation_id, lines, ttl_ms, deadline, about: about.clone() };
        let longer = Command::Reservation { reservation_id, act: Act::Extend { ttl_ms }, about };
        let cases = [(purchase(), [false, false]), (reserve, [true, false]), (longer, [true, false])];
        for (command, concerned) in cases.into_iter().chain([(Command::Resync, [false, true])]) {
            let read = [purchase(), command]
                .map(|command| Ok(Entry::follow(&Cursor::default(), command.kind(), "c", command.encode(), None)));
            assert_eq!([moves_an_end(&read), asks_for_state(&read)], concerned, "{read:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_answered_and_parked() {
        let at = Cursor { epoch: 7.into(), seq: 1.into(), ..Cursor::default() };
        let entry = Entry::follow(&at, "teleport", "t", r#"{"productId":"ale"}"#.into(), None);
        let command = Command::decode(&entry.kind, &entry.body);
        let effect = on_command(&operation_id(&entry), &entry, command, &ales(9), NOW, NOW);
        assert_eq!(said(&effect), (vec![("command_refused", 0)], vec!["t"]));
        let Became::Refused { subject, .. } = &effect.outcomes[0].became else { panic!("{effect:?}") };
        assert_eq!(*subject, Subject::Product(ale()));
        assert_eq!(effect.parked.map(|(parked, _)| parked), Some(entry));
    }

    #[test]
    fn a_purchase_that_is_not_understood_is_rejected_and_its_cancel_refused() {
        for (command, told) in [(purchase(), "purchase_rejected"), (cancel(), "command_refused")] {
            let at = Cursor { epoch: 7.into(), seq: 1.into(), ..Cursor::default() };
            let entry = Entry::follow(&at, command.kind(), "t", command.encode(), None);
            let later = Err(NotUnderstood("it says more".into()));
            let effect = on_command(&operation_id(&entry), &entry, later, &ales(9), NOW, NOW);
            assert_eq!(said(&effect), (vec![(told, 0)], vec!["t"]));
        }
    }

    #[test]
    fn a_batch_with_a_line_that_is_not_understood_is_not_done_in_part() {
        let mut world = World::new();
        let batch = sales(false, &[("ale", 1), ("ale", 1)]).encode();
        let later = batch.replacen("\"op\":\"sell\"", "\"op\":\"teleport\"", 1);
        let entry = Entry::follow(&world.sent, BATCH, "b", later, None);
        world.sent = entry.cursor();
        receive(&world.connection, &[Ok(entry)], &Moved::default(), NOW, NOW).expect("executes");
        let (kind, body) = ledger::testing::last(&world.connection);
        assert_eq!((kind.as_str(), world.units()), ("command_refused", 5));
        assert!(body.contains("unsupported_by_store"), "{body}");
        let parked = ledger::dead_letters::newest(&world.connection).expect("reads");
        assert_eq!(parked.iter().map(|letter| letter.operation.as_str()).collect::<Vec<_>>(), ["b"]);
    }
}
