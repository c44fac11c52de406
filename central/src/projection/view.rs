//! Applying a store's events: rules L2, L7, L11 and L12.
//!
//! **Guarantees.** Each entry of a ledger is applied once and in order, with the cursor, the totals and what it settles
//! in one transaction; entries that follow one another are loaded, folded and saved together. An entry that does not fit is
//! never applied. An opening state takes effect as a whole or not at
//! all. After each batch the view's digest has been compared with the store's. A transaction does no more than its
//! [`Budget`] allows, however much a store has to say.

use protocol::hash::Digest;
use protocol::ids::{OperationId, StoreId};
use protocol::link::{Ack, Entry, Epoch, Receipt, Seq, accepts_epoch, receive as judge};
use protocol::number::CommandEpoch;
use protocol::planted::{Bug, planted};
use protocol::stock::{self, Effect};
use protocol::time::Millis;
use protocol::wire::{Command, Event, Fact, NotUnderstood};
use runtime::redis::Received;
use runtime::sqlite::{in_savepoint, is_fatal};

use crate::projection::install::{ROWS_AN_OUTCOME, install};
use crate::projection::settle::Settling;
use crate::projection::touched::{Needs, Saved, Touched};
use crate::promises::commands::open_epoch;
use crate::storage::commands;
use crate::storage::items;
use crate::storage::ledger;
use crate::storage::operations;
use crate::storage::stocks;
use crate::storage::stores::{self, DigestState, Store};
use crate::storage::{Connection, JobError, JobResult};

/// A resync is asked for at most this often for one store.
const RESYNC_EVERY_MS: i64 = 60_000;

/// How many rows one transaction may still write, about; shared by all stores whose entries are applied in it. An entry is
/// begun as long as anything is left.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    rows: u64,
}

impl Budget {
    /// Of a transaction for which nobody waits longer than some tens of milliseconds.
    pub const FULL: u64 = 1_000;
    /// An entry's own row, its item, total and cursor; as many for each further item.
    const ENTRY: u64 = 2;

    /// So many rows.
    pub fn new(rows: u64) -> Self {
        Self { rows }
    }

    /// Whether nothing is left.
    pub fn is_spent(&self) -> bool {
        self.rows == 0
    }

    /// Whether so little is left that another store is better served by the next transaction.
    pub fn is_low(&self) -> bool {
        self.rows < Self::FULL / 4
    }

    fn spend(&mut self, rows: u64) {
        self.rows = self.rows.saturating_sub(rows);
    }
}

/// What became of a batch.
#[derive(Debug)]
pub struct Applied {
    /// What the store is to be told.
    pub ack: Ack,
    pub entries: u64,
    /// What was settled, and which other stores were asked for something.
    pub saved: Saved,
    /// Why the rest of the batch was not applied.
    pub stuck: Option<String>,
    /// Whether commands were appended, which are to be sent.
    pub has_commands: bool,
    /// The budget was spent before the batch was: the rest is to be handed over again.
    pub more: bool,
    /// The store has something left to do in [steps](crate::projection::steps).
    pub has_steps: bool,
}

/// Applies a batch of one store's stream, in the caller's transaction. A store that is not known yet gets a row. If the
/// database refuses it, it is applied again entry by entry, and those that it refuses are parked (L11).
pub fn receive(
    connection: &Connection,
    id: &StoreId,
    batch: &[Received],
    now: Millis,
    budget: &mut Budget,
) -> JobResult<Applied> {
    let full = *budget;
    in_savepoint(connection, || receive_batch(connection, id, batch, now, budget, false)).or_else(|error| {
        if is_fatal(&error) {
            return Err(error);
        }
        *budget = full;
        receive_batch(connection, id, batch, now, budget, true)
    })
}

fn receive_batch(
    connection: &Connection,
    id: &StoreId,
    batch: &[Received],
    now: Millis,
    budget: &mut Budget,
    careful: bool,
) -> JobResult<Applied> {
    let mut store = match stores::find(connection, id)? {
        Some(store) => store,
        None => {
            stores::discover(connection, id, now)?;
            stores::find(connection, id)?.ok_or(JobError::QueryReturnedNoRows)?
        }
    };
    let (commands_before, fenced_before) = (store.command_head, store.fenced);
    let mut applied = Applied {
        ack: store.ack(),
        entries: 0,
        saved: Saved::default(),
        stuck: None,
        has_commands: false,
        more: false,
        has_steps: false,
    };
    let was_installing = store.installing;
    if was_installing {
        let outcomes = (budget.rows / ROWS_AN_OUTCOME).max(1);
        budget.spend(install(connection, &mut store, outcomes, now, &mut applied.saved)?);
    }
    let (mut last_digest, mut last_parked) = (None, false);
    let mut left = batch;
    while let [received, behind @ ..] = left {
        if store.installing && !planted(Bug::EntriesOvertakeOutcomes) || budget.is_spent() {
            applied.more = true;
            break;
        }
        let entry = match received {
            Ok(entry) => entry,
            Err(garbage) => {
                applied.stuck = Some(format!("entry {}: {}", garbage.id, garbage.why));
                break;
            }
        };
        let mut taken = 1;
        match judge(&store.cursor, entry) {
            Receipt::Known => {
                left = behind;
                continue;
            }
            Receipt::Next => {
                let run = run(entry, behind, if careful { 1 } else { budget.rows });
                let done = if careful {
                    apply_or_park(connection, &mut store, &run, now, &mut applied.saved)?
                } else {
                    apply(connection, &mut store, &run, now, &mut applied.saved)?
                };
                taken = run.len();
                budget.spend(run.iter().map(rows).sum::<u64>() + done.staged);
                last_parked = done.parked;
            }
            Receipt::Opens => {
                if let Some(refused) = open(connection, &mut store, entry, now)? {
                    applied.stuck = Some(refused);
                    break;
                }
            }
            Receipt::Unfit => {
                applied.stuck = Some(format!("entry {} does not follow {}", entry.id, store.cursor.id()));
                break;
            }
        }
        applied.entries += taken as u64;
        last_digest = left[taken - 1].as_ref().map_or(None, |entry| entry.digest);
        left = &left[taken..];
    }
    if applied.entries > 0 && !store.opening {
        store.state = store.cursor;
        compare(connection, &mut store, last_digest, last_parked, now)?;
    }
    if applied.entries > 0 || was_installing || store.fenced != fenced_before {
        store.save_events(connection)?;
    }
    applied.ack = store.ack();
    applied.has_commands = store.command_head != commands_before;
    applied.has_steps = store.steps;
    Ok(applied)
}

/// An entry, and what it says as far as it is understood.
type Read<'a> = (&'a Entry, Result<Event, NotUnderstood>);

fn read(entry: &Entry) -> Read<'_> {
    (entry, Event::decode(&entry.kind, &entry.body))
}

/// Whether an event may touch more than can be named beforehand: then it is applied alone.
fn is_alone(event: &Result<Event, NotUnderstood>) -> bool {
    match event {
        Ok(Event::SnapshotPage(_) | Event::SnapshotEnd(_) | Event::Ready { .. }) => true,
        Ok(Event::Fact(..) | Event::OutcomeRepeated(_) | Event::Opened { .. }) | Err(_) => false,
    }
}

/// How many rows an entry is worth, besides those that it stages.
fn rows((_, event): &Read<'_>) -> u64 {
    let lines = match event {
        Ok(Event::Fact(Fact { what, .. })) => {
            // What is pending of a purchase has as many rows as it has lines, also if their items stay as they are.
            let bought = what.purchase().map_or(1, |purchase| purchase.lines.iter().len());
            what.items().len().max(bought)
        }
        Ok(_) | Err(_) => 1,
    };
    Budget::ENTRY * lines.max(1) as u64
}

/// The entries that are applied together: `first`, which comes next, and those that follow it. An entry is among them as
/// long as those before it are not worth so many rows.
fn run<'a>(first: &'a Entry, behind: &'a [Received], most: u64) -> Vec<Read<'a>> {
    let mut run = vec![read(first)];
    let mut spent = rows(&run[0]);
    let mut cursor = first.cursor();
    for entry in behind.iter().map_while(|received| received.as_ref().ok()) {
        if is_alone(&run[0].1) || spent >= most || judge(&cursor, entry) != Receipt::Next {
            break;
        }
        let next = read(entry);
        if is_alone(&next.1) {
            break;
        }
        cursor = entry.cursor();
        spent += rows(&next);
        run.push(next);
    }
    run
}

/// What applying a run did.
#[derive(Debug, Default)]
struct Done {
    /// Rows that it staged.
    staged: u64,
    /// Its last entry was not understood.
    parked: bool,
}

/// A run of one entry, which the database may refuse (L11).
fn apply_or_park(
    connection: &Connection,
    store: &mut Store,
    run: &[Read<'_>],
    now: Millis,
    saved: &mut Saved,
) -> JobResult<Done> {
    let mut after = store.clone();
    let mut news = Saved::default();
    match in_savepoint(connection, || apply(connection, &mut after, run, now, &mut news)) {
        Ok(done) => {
            *store = after;
            saved.append(news);
            Ok(done)
        }
        Err(error) if is_fatal(&error) => Err(error),
        Err(error) => {
            for (entry, event) in run {
                store.cursor = entry.cursor();
                ledger::park(connection, &store.id, entry, &format!("it cannot be applied: {error}"), now)?;
                let fact = fact_of(event).filter(|_| !planted(Bug::RefusedFactForgotten));
                ledger::append(connection, &store.id, entry, fact, now)?;
            }
            // It may have been an answer, or what was to complete the state: that comes again with a whole state alone.
            store.want_state();
            Ok(Done { staged: 0, parked: true })
        }
    }
}

fn fact_of(event: &Result<Event, NotUnderstood>) -> Option<&Fact> {
    match event {
        Ok(Event::Fact(fact)) => Some(fact),
        Ok(_) | Err(_) => None,
    }
}

/// Applies the next entries of the epoch: loads what they touch, folds them, saves it.
fn apply(
    connection: &Connection,
    store: &mut Store,
    run: &[Read<'_>],
    now: Millis,
    saved: &mut Saved,
) -> JobResult<Done> {
    if let [(entry, Ok(event))] = run
        && is_alone(&run[0].1)
    {
        return apply_state(connection, store, entry, event, now);
    }
    let mut needs = Needs::default();
    for (entry, event) in run {
        if let Ok(event) = event {
            needs.add(event, &entry.operation);
        }
    }
    let mut touched = Touched::load(connection, store, needs)?;
    let parked: Vec<Option<String>> =
        run.iter().map(|(entry, event)| fold_one(&mut touched, &store.id, entry, event, now)).collect();
    saved.append(touched.save(connection, store, now)?);
    for ((entry, event), reason) in run.iter().zip(&parked) {
        if let Some(reason) = reason {
            ledger::park(connection, &store.id, entry, reason, now)?;
            store.suspect = true;
        }
        ledger::append(connection, &store.id, entry, fact_of(event), now)?;
        store.cursor = entry.cursor();
    }
    Ok(Done { staged: 0, parked: parked.last().is_some_and(Option::is_some) })
}

/// One entry of a run, in memory. L11: if it is not understood, why.
fn fold_one(
    touched: &mut Touched,
    store: &StoreId,
    entry: &Entry,
    event: &Result<Event, NotUnderstood>,
    now: Millis,
) -> Option<String> {
    let event = match event {
        Ok(event) => event,
        Err(reason) => return Some(reason.to_string()),
    };
    if let Effect::Put(items) = stock::effect(event) {
        items.iter().for_each(|after| touched.put(after));
    }
    let mut settling = Settling::at(touched, store, entry.id, now);
    match event {
        Event::Fact(fact) if !planted(Bug::CursorWithoutEffect) => settling.fact(fact),
        Event::Fact(..) => {}
        Event::OutcomeRepeated(outcome) => {
            settling.outcome(outcome, OperationId::parse(&entry.operation).ok().as_ref())
        }
        Event::Opened { .. } => return Some("an epoch opens at its first entry only".to_owned()),
        // These are applied alone.
        Event::SnapshotPage(_) | Event::SnapshotEnd(_) | Event::Ready { .. } => {}
    }
    None
}

/// A part of a whole state, or the word that the store is ready for a command epoch.
fn apply_state(
    connection: &Connection,
    store: &mut Store,
    entry: &Entry,
    event: &Event,
    now: Millis,
) -> JobResult<Done> {
    let mut done = Done::default();
    store.cursor = entry.cursor();
    match stock::effect(event) {
        Effect::Stage(page) => {
            done.staged = stocks::stage(connection, store, entry.id, page)?;
            operations::name(connection, store.staged, &page.operations, now)?;
        }
        Effect::Install(end) if stocks::switch(connection, store, entry.id, end)? => {
            store.opening = false;
            store.complete = true;
            store.suspect = false;
            store.digest_state = DigestState::Unknown;
        }
        Effect::Install(_) => {
            ledger::park(connection, &store.id, entry, "pages of the state are missing", now)?;
            store.suspect = true;
            done.parked = true;
            if store.opening {
                // There is nothing to compare with until it has come in full.
                store.digest_state = DigestState::Different;
            }
        }
        Effect::Put(_) | Effect::None => {}
    }
    if let Event::Ready { command_epoch } = event {
        store.ready_epoch = *command_epoch;
        if *command_epoch > store.command_head.epoch && !store.retired {
            // This database was set back, and nobody could tell then how far the store had come.
            open_epoch(connection, store, entry.id.epoch, *command_epoch, now)?;
        }
    }
    ledger::append(connection, &store.id, entry, None, now)?;
    Ok(done)
}

/// L7: an epoch opens, or is refused; then the reason is returned.
fn open(connection: &Connection, store: &mut Store, entry: &Entry, now: Millis) -> JobResult<Option<String>> {
    let Ok(Event::Opened { lineage }) = Event::decode(&entry.kind, &entry.body) else {
        return Ok(Some(format!("entry {}: its lineage cannot be read", entry.id)));
    };
    if store.retired && store.adopt != Some(entry.id.epoch) && !planted(Bug::RetiredOpens) {
        store.fenced = entry.id.epoch;
        return Ok(Some(format!("epoch {} opens, but the store is retired", entry.id.epoch)));
    }
    let known = stores::known(connection, store)?;
    if !accepts_epoch(&known, entry.id.epoch, &lineage) {
        store.fenced = if planted(Bug::FenceNotSaid) { store.fenced } else { entry.id.epoch };
        return Ok(Some(format!("epoch {} does not continue what is known of this store", entry.id.epoch)));
    }
    stores::readmit(connection, store)?;
    if !store.opening && store.cursor.seq > Seq::ZERO {
        // The view stands there until the pages take effect.
        store.state = store.cursor;
    }
    store.cursor = entry.cursor();
    store.fenced = Epoch::NONE;
    store.opening = true;
    store.digest_state = DigestState::Unknown;
    stores::set_lineage(connection, &store.id, &lineage)?;
    stocks::give_up(connection, store)?;
    let beyond = store.ready_epoch;
    if !planted(Bug::OpenedWithoutCommands) {
        open_epoch(connection, store, entry.id.epoch, beyond, now)?;
    }
    ledger::append(connection, &store.id, entry, None, now)?;
    Ok(None)
}

/// L12. Only a difference asks for the whole state, and nothing else ends it: what is missing may be no item, which a digest
/// would show, but an answer. An entry that was not understood makes the store suspect until a later one, whose digest is
/// equal, shows that it has changed no stock.
fn compare(
    connection: &Connection,
    store: &mut Store,
    said: Option<Digest>,
    parked: bool,
    now: Millis,
) -> JobResult<()> {
    let is_equal = said == Some(store.digest)
        && (store.digest_state != DigestState::Different || planted(Bug::DifferenceEndsByItself));
    if is_equal || planted(Bug::DigestNotCompared) {
        store.digest_state = DigestState::Equal;
        store.suspect &= parked;
        return Ok(());
    }
    store.want_state();
    ask_resync(connection, store, now)
}

/// On a sweep: a store that still differs is asked again. Its last resync may have been asked for within the minute in
/// which something else went wrong, and an idle store sends nothing that would bring it up. Says whether it was asked.
pub fn repeat_resync(connection: &Connection, id: &StoreId, now: Millis) -> JobResult<bool> {
    let Some(mut store) =
        stores::find(connection, id)?.filter(|store| store.wants_resync() && !planted(Bug::DifferingNotAskedAgain))
    else {
        return Ok(false);
    };
    let before = store.command_head;
    ask_resync(connection, &mut store, now)?;
    Ok(store.command_head != before)
}

/// What the store itself said of its stock at the state's cursor: the hash chain vouches for it.
pub fn reported_digest(connection: &Connection, store: &Store) -> JobResult<Option<Digest>> {
    if planted(Bug::DigestNotCompared) {
        return Ok(None);
    }
    ledger::digest_at(connection, &store.id, store.state.id())
}

/// The stock that a store's view shows, if its rows are not what its running digest and, as long as nothing was amiss, the
/// store itself say. A row that changed by itself, and that no event has touched since, shows nowhere else. Reads all of
/// them: not for the writer.
pub fn unsound(connection: &Connection, id: &StoreId) -> JobResult<Option<i64>> {
    let Some(store) = stores::find(connection, id)? else { return Ok(None) };
    let rows = items::digest(connection, store.stock)?;
    let agreed = store.digest_state == DigestState::Equal && !store.suspect;
    let sound =
        rows == store.digest && (!agreed || reported_digest(connection, &store)?.is_none_or(|said| said == rows));
    Ok((!sound).then_some(store.stock))
}

/// The rows of this stock were found not to be what they should: if it is still shown, the store is asked for its whole
/// state. Says whether it was.
pub fn distrust(connection: &Connection, id: &StoreId, stock: i64, now: Millis) -> JobResult<bool> {
    let is_shown = |store: &Store| store.stock == stock && !store.retired;
    let Some(mut store) = stores::find(connection, id)?.filter(is_shown) else { return Ok(false) };
    stores::mark_different(connection, &mut store)?;
    let before = store.command_head;
    ask_resync(connection, &mut store, now)?;
    Ok(store.command_head != before)
}

/// Asks a store for its whole state, at most once a minute, and not while it has yet to answer.
pub fn ask_resync(connection: &Connection, store: &mut Store, now: Millis) -> JobResult<()> {
    // A time in the future is a clock that was set back: it must not hold up the resync.
    if store.resync_at.is_some_and(|at| at <= now && now.since(at) < RESYNC_EVERY_MS)
        || store.command_head.epoch == CommandEpoch::NONE
        || commands::is_resync_asked(connection, &store.id)?
    {
        return Ok(());
    }
    stores::set_resync_at(connection, store, Some(now))?;
    let place = store.command_head.id();
    let id = OperationId::parse(&format!("resync:{}:{place}", store.id)).expect("two ids and digits are visible ASCII");
    commands::append(connection, store, &id, &Command::Resync, now)
}

#[cfg(test)]
mod tests {
    use protocol::domain::{Item, Line, Lines, Quantity, Rejection};
    use protocol::ids::ReservationId;
    use protocol::promise::purchase::Status;
    use protocol::wire::{
        About, Fact, Happened, ItemAfter, Outcome, Position, PurchaseRef, SnapshotEnd, SnapshotPage, Subject,
    };

    use super::*;
    use crate::promises::reservations::ReservationRequest;
    use crate::promises::{self, purchases::cancel, stores::retire};
    use crate::storage::{purchases, reservations};
    use crate::testing::{Agent, NOW, database, held, product, purchase_id};

    struct Dice(u64);

    impl Dice {
        fn below(&mut self, sides: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % sides
        }
    }

    /// A store with purchases that are pending, or whose cancel is asked for, or that retiring the store has ended.
    fn world(seed: u64) -> (Connection, Agent) {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        (1..=4).for_each(|number| drop(agent.buy(&connection, number)));
        let mut store = agent.store(&connection);
        for number in [2, 3] {
            let purchase = purchases::find(&connection, purchase_id(number)).expect("reads").expect("is there");
            let id = OperationId::parse(&format!("cancel-{number}")).expect("valid");
            cancel(&connection, &mut store, &purchase, id, &About::default(), NOW).expect("asks");
        }
        if seed.is_multiple_of(3) {
            retire(&connection, &mut store, NOW).expect("retires");
        }
        (connection, agent)
    }

    fn replied(dice: &mut Dice) -> Happened {
        let kind = dice.below(6);
        // Central does not know the last two, nor any second attempt.
        let id = purchase_id(u128::from(1 + dice.below(6)));
        let attempt = OperationId::attempt(&id, if dice.below(8) == 0 { 2 } else { 1 });
        let purchase = PurchaseRef {
            from_allotment: None,
            purchase_id: id,
            attempt,
            lines: Lines::one(product("tea"), Quantity::ONE),
            reference: None,
            created_at: NOW,
            expires_at: NOW.plus(60_000),
        };
        match kind {
            0 | 1 => Happened::PurchaseConfirmed { purchase, items: vec![tea("Tea", 3)] },
            2 => Happened::PurchaseRejected { purchase, rejection: Rejection::Discontinued, items: Vec::new() },
            3 => Happened::PurchaseExpired { purchase, items: Vec::new() },
            4 => Happened::PurchaseCancelled { purchase, items: Vec::new() },
            _ => Happened::PurchasePicked { purchase, items: Vec::new() },
        }
    }

    fn tea(name: &str, quantity: i64) -> ItemAfter {
        let item = Item { name: name.to_owned(), quantity, version: 3, ..Item::default() };
        ItemAfter::unchanged(product("tea"), item)
    }

    fn next(agent: &mut Agent, dice: &mut Dice, command_epoch: CommandEpoch) -> Vec<Received> {
        let some_command = |dice: &mut Dice| {
            let number = 1 + dice.below(5);
            if dice.below(2) == 0 {
                OperationId::parse(&format!("cancel-{number}")).expect("valid")
            } else {
                OperationId::attempt(&purchase_id(number.into()), 1)
            }
        };
        let one = match dice.below(12) {
            0 => agent.sale(),
            1 => {
                let name = ["Tea", "Green tea", "Black tea"][dice.below(3) as usize];
                let changed = Happened::ItemChanged(tea(name, dice.below(9) as i64));
                agent.entry(&Event::Fact(Fact::new(changed, NOW)))
            }
            2..=5 => {
                let what = replied(dice);
                let command = match dice.below(3) {
                    0 => None,
                    1 => what.purchase().map(|purchase| purchase.attempt.clone()),
                    _ => Some(some_command(dice)),
                };
                agent.entry(&Event::Fact(Fact { command, ..Fact::new(what, NOW) }))
            }
            6 | 7 => {
                let what = replied(dice);
                let Some((purchase, became)) = what.purchase().zip(what.answer()) else { return vec![agent.sale()] };
                let said = Outcome { command: purchase.attempt.clone(), at: NOW, became };
                let said = if dice.below(2) == 0 { said.picked() } else { said };
                let event = Event::OutcomeRepeated(said);
                let by = some_command(dice);
                let entry = Entry::follow(&agent.head, event.kind(), by.as_str(), event.encode(), None);
                agent.head = entry.cursor();
                Ok(entry)
            }
            8 => {
                let subject = Subject::Product(product("tea"));
                let what = Happened::CommandRefused { subject, rejection: Rejection::AlreadyPicked, items: Vec::new() };
                agent.entry(&Event::Fact(Fact { command: Some(some_command(dice)), ..Fact::new(what, NOW) }))
            }
            9 => agent.unknown(),
            10 => agent.entry(&Event::Ready { command_epoch }),
            _ => return agent.state(Vec::new()),
        };
        vec![one]
    }

    #[test]
    fn an_older_agent_refuses_a_reservation_without_naming_it() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let id = ReservationId::new(uuid::Uuid::from_u128(7));
        let lines = Lines::one(product("tea"), Quantity::ONE);
        let ask = ReservationRequest { id, lines, ttl_ms: 60_000, about: About::default(), redis_now: NOW };
        let asked = promises::reservations::begin(&connection, &mut agent.store(&connection), &ask, NOW);
        asked.expect("the view has as much");
        let rejection = Rejection::UnsupportedByStore { entry: "7-1".into() };
        let what = Happened::CommandRefused { subject: Subject::Store, rejection, items: Vec::new() };
        let refused = agent.entry(&Event::Fact(Fact { command: Some(ask.command()), ..Fact::new(what, NOW) }));
        agent.tell(&connection, &[refused]);
        let found = reservations::find(&connection, id).expect("reads").expect("is there");
        assert_eq!((found.status.as_str(), found.code.as_deref()), ("rejected", Some("unsupported_by_store")));
    }

    #[test]
    fn a_full_disk_ends_the_transaction_and_leaves_no_reservation_of_a_state_out() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let mut state = agent.state(Vec::new());
        state.pop();
        agent.head = state.last().expect("a page").as_ref().expect("an entry").cursor();
        let page = SnapshotPage { reservations: vec![held().0], ..SnapshotPage::default() };
        state.push(agent.entry(&Event::SnapshotPage(page)));
        state.push(agent.entry(&Event::SnapshotEnd(SnapshotEnd { pages: 2, count: 1, named_since: None })));
        agent.tell(&connection, &state);
        let full = "create table much (bytes blob); pragma max_page_count = 1;
             create temp trigger full before insert on main.reservation begin
               insert into much values (zeroblob(1000000));
             end";
        connection.execute_batch(full).expect("is valid");
        let taken_in = receive(&connection, &agent.id, &[], NOW, &mut Budget::new(u64::MAX));
        assert!(taken_in.is_err_and(|error| is_fatal(&error)));
    }

    #[test]
    fn while_an_opening_arrives_the_view_stands_where_the_last_epoch_left_it() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let sale = agent.sale();
        let last = agent.head;
        let mut batch = vec![sale];
        batch.extend(agent.open(9, &[last]).into_iter().take(1));
        let applied = agent.tell(&connection, &batch);
        let store = agent.store(&connection);
        assert_eq!((applied.entries, store.opening, store.state), (2, true, last));
    }

    #[test]
    fn what_is_picked_is_kept_with_the_outcome_of_its_attempt() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let attempt = agent.buy(&connection, 1);
        let purchase = purchases::find(&connection, purchase_id(1)).expect("reads").expect("is there").attempt_ref();
        let confirmed = Happened::PurchaseConfirmed { purchase: purchase.clone(), items: vec![agent.take_one()] };
        let confirmed = Fact { command: Some(attempt), ..Fact::new(confirmed, NOW) };
        let picked = Fact::new(Happened::PurchasePicked { purchase, items: Vec::new() }, NOW);
        for fact in [confirmed, picked] {
            let told = agent.entry(&Event::Fact(fact));
            agent.tell(&connection, &[told]);
        }
        let kept: String = connection.query_row("select body from outcome", [], |row| row.get(0)).expect("one is kept");
        assert!(kept.contains(r#""picked":true"#), "{kept}");
    }

    #[test]
    fn a_request_keeps_its_first_answer() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let attempt = agent.buy(&connection, 1);
        let purchase = purchases::find(&connection, purchase_id(1)).expect("reads").expect("is there").attempt_ref();
        let confirmed = Happened::PurchaseConfirmed { purchase, items: vec![agent.take_one()] };
        let (subject, rejection) = (Subject::Store, Rejection::UnknownProduct);
        for what in [confirmed, Happened::CommandRefused { subject, rejection, items: Vec::new() }] {
            let told = agent.entry(&Event::Fact(Fact { command: Some(attempt.clone()), ..Fact::new(what, NOW) }));
            agent.tell(&connection, &[told]);
            let sql = "select status from request where command_id = ?1";
            let status: String = connection.query_row(sql, [attempt.as_str()], |row| row.get(0)).expect("reads");
            assert_eq!(status, "done");
        }
    }

    #[test]
    fn a_view_is_sound_if_its_rows_are_what_its_digest_and_the_store_say() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let sale = agent.sale();
        agent.tell(&connection, &[sale]);
        let mut store = agent.store(&connection);
        let unsound = || unsound(&connection, &agent.id).expect("reads");
        assert_eq!(unsound(), None);
        agent.damage(&connection, "tea");
        assert_eq!(unsound(), Some(store.stock));
        store.digest = items::digest(&connection, store.stock).expect("reads");
        store.save_events(&connection).expect("writes");
        assert_eq!(unsound(), Some(store.stock), "the store has said something else");
        stores::mark_different(&connection, &mut store).expect("writes");
        assert_eq!(unsound(), None, "that is known, and its state was asked for");
    }

    #[test]
    fn an_epoch_that_is_refused_is_fenced_though_nothing_was_applied() {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        let mut stranger = Agent::new("s1");
        let opening = stranger.open(9, &[]);
        let applied = stranger.tell(&connection, &opening);
        assert_eq!((applied.entries, applied.stuck.is_some()), (0, true));
        assert_eq!(agent.store(&connection).fenced, Epoch::from(9));
    }

    #[test]
    fn entries_are_paid_out_of_the_budget_which_is_low_below_a_quarter() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let batch: Vec<Received> = (0..3).map(|_| agent.sale()).collect();
        let mut budget = Budget::new(Budget::FULL / 4 + 5);
        receive(&connection, &agent.id, &batch[..2], NOW, &mut budget).expect("applies");
        assert!(!budget.is_low());
        receive(&connection, &agent.id, &batch[2..], NOW, &mut budget).expect("applies");
        assert!(budget.is_low());
        assert!(!Budget::new(Budget::FULL / 4).is_low());
    }

    #[test]
    fn an_entry_is_paid_by_the_items_that_it_is_about() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let mut of_many = |number: u128| {
            let id = purchase_id(number);
            let item = Item { name: "Thing".into(), quantity: 3, version: 1, ..Item::default() };
            let items = (0..200).map(|at| agent.becomes(product(&format!("p-{at}")), item.clone())).collect();
            let lines = (0..200).map(|at| Line { product_id: product(&format!("p-{at}")), quantity: Quantity::ONE });
            let lines = Lines::new(lines).expect("are lines");
            let attempt = OperationId::attempt(&id, 1);
            let (created_at, expires_at) = (NOW, NOW.plus(60_000));
            let (from_allotment, reference) = (None, None);
            let purchase =
                PurchaseRef { purchase_id: id, attempt, lines, from_allotment, reference, created_at, expires_at };
            agent.entry(&Event::Fact(Fact::new(Happened::PurchaseConfirmed { purchase, items }, NOW)))
        };
        let batch: Vec<Received> = (1..=5).map(&mut of_many).collect();
        let mut applied = Vec::new();
        let mut left = &batch[..];
        while !left.is_empty() {
            let mut budget = Budget::new(Budget::FULL);
            let done = receive(&connection, &agent.id, left, NOW, &mut budget).expect("applies");
            assert_eq!((done.more, budget.is_spent()), (done.entries < left.len() as u64, done.more));
            applied.push(done.entries);
            left = &left[done.entries as usize..];
        }
        assert_eq!(applied, [3, 2], "the third one is begun with a fifth of it left");
        assert!(agent.store(&connection).is_trusted());
    }

    /// Every row of every table, as text.
    fn rows(connection: &Connection) -> Vec<String> {
        let mut rows = Vec::new();
        for table in
            ["store", "stock", "item", "product", "event", "request", "outcome", "command", "purchase", "dead_letter"]
        {
            let mut statement = connection.prepare(&format!("select * from {table}")).expect("is valid");
            let columns = statement.column_count();
            let mut found = statement.query([]).expect("reads");
            while let Some(row) = found.next().expect("reads") {
                let values: Vec<String> =
                    (0..columns).map(|column| format!("{:?}", row.get_ref(column).expect("reads"))).collect();
                rows.push(format!("{table} {}", values.join(" ")));
            }
        }
        rows
    }

    #[test]
    fn an_answer_that_the_database_refuses_stays_in_the_ledger_and_comes_again_with_a_state() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let attempt = agent.buy(&connection, 1);
        let find = || purchases::find(&connection, purchase_id(1)).expect("reads").expect("is there");
        stores::set_resync_at(&connection, &mut agent.store(&connection), Some(NOW)).expect("writes");
        let refuse = |table: &str| {
            let refusal = format!(
                "create temp trigger refusal before update on main.{table} begin select raise(abort, 'refused'); end"
            );
            connection.execute_batch(&refusal).expect("a trigger is created");
        };
        let allow = || connection.execute_batch("drop trigger temp.refusal").expect("a trigger is dropped");
        refuse("purchase");
        let what = Happened::PurchaseConfirmed { purchase: find().attempt_ref(), items: vec![agent.take_one()] };
        let outcome = Outcome { command: attempt.clone(), at: NOW, became: what.answer().expect("is one") };
        let confirmed = agent.entry(&Event::Fact(Fact { command: Some(attempt), ..Fact::new(what, NOW) }));
        let at = Position { store: agent.id.clone(), at: agent.head.id() };
        let sale = agent.sale();
        let applied = agent.tell(&connection, &[confirmed, sale]);
        assert_eq!((applied.entries, applied.stuck), (2, None), "the rest flows on");
        let letters = crate::storage::queries::dead_letters::list(&connection, None).expect("reads");
        assert!(matches!(letters.as_slice(), [letter] if letter.reason.contains("refused")), "{letters:?}");
        let delta = crate::storage::queries::events::delta(&connection, &at).expect("reads");
        assert_eq!(delta, Some(-1), "what it says is not lost");
        let is_asked = || commands::is_resync_asked(&connection, &agent.id).expect("reads");
        let store = agent.store(&connection);
        assert!(store.wants_resync() && !is_asked(), "the minute is not over");
        assert_eq!(reported_digest(&connection, &store).expect("reads"), Some(store.digest), "no digest shows it");
        assert!(repeat_resync(&connection, &agent.id, NOW.plus(RESYNC_EVERY_MS)).expect("asks") && is_asked());
        let mut resync = || {
            let state = agent.state(vec![outcome.clone()]);
            agent.tell(&connection, &state);
            agent.settle_in(&connection);
            let sale = agent.sale();
            agent.tell(&connection, &[sale]);
            agent.store(&connection)
        };
        assert!(resync().wants_resync(), "an outcome that came with it was left out");
        allow();
        refuse("stock");
        assert!(resync().wants_resync(), "its pages were refused");
        assert_eq!(find().status, Status::Pending);
        allow();
        let store = resync();
        assert!(store.digest_state == DigestState::Equal && !store.suspect);
        assert_eq!(find().status, Status::Confirmed);
    }

    #[test]
    fn entries_applied_together_leave_what_they_leave_one_by_one() {
        let (mut given_back, mut recreated) = (0, 0);
        for seed in 0..60 {
            let (together, mut agent) = world(seed);
            let (apart, _) = world(seed);
            assert_eq!(rows(&together), rows(&apart));
            let mut dice = Dice(seed);
            let command_epoch = agent.store(&together).command_head.epoch;
            let mut batch = Vec::new();
            for _ in 0..30 {
                batch.extend(next(&mut agent, &mut dice, command_epoch));
            }
            let receive = |connection: &Connection, careful| {
                let (mut left, mut settled, mut has_commands) = (&batch[..], Vec::new(), false);
                // Behind a state the rest waits until its outcomes are settled.
                for _ in 0..100 {
                    let mut budget = Budget::new(u64::MAX);
                    let applied =
                        receive_batch(connection, &agent.id, left, NOW, &mut budget, careful).expect("applies");
                    assert_eq!(applied.stuck, None);
                    settled.extend(applied.saved.settled);
                    has_commands |= applied.has_commands;
                    left = &left[applied.entries as usize..];
                }
                assert!(left.is_empty());
                (settled, has_commands)
            };
            let (mut all, mut each) = (receive(&together, false), receive(&apart, true));
            all.0.sort_unstable();
            each.0.sort_unstable();
            assert_eq!(all, each, "seed {seed}");
            for (together, apart) in rows(&together).iter().zip(&rows(&apart)) {
                assert_eq!(together, apart, "seed {seed}");
            }
            assert_eq!(rows(&together).len(), rows(&apart).len(), "seed {seed}");
            let asked_back = "select count(*) from request where command_id like '%:back:%'";
            given_back += together.query_row(asked_back, [], |row| row.get::<_, i64>(0)).expect("reads");
            recreated += usize::from(purchases::find(&together, purchase_id(5)).expect("reads").is_some());
        }
        assert!(given_back > 20 && recreated > 20, "{given_back} {recreated}");
    }
}
