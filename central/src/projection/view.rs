//! Applying a store's events: rules L2, L7, L11 and L12.
//!
//! **Guarantees.** Each entry of a ledger is applied once and in order, with the cursor, the totals and what it settles
//! in one transaction. An entry that does not fit is never applied. An opening state takes effect as a whole or not at
//! all. After each batch the view's digest has been compared with the store's. A transaction does no more than its
//! [`Budget`] allows, however much a store has to say.

use protocol::hash::Digest;
use protocol::ids::{OperationId, StoreId};
use protocol::link::{Ack, Entry, Receipt, accepts_epoch, receive as judge};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{Command, Event, Position};
use runtime::redis::Received;
use rusqlite::{Connection, params};

use crate::projection::settle::{self, Settled};
use crate::projection::steps::ROWS_AN_OUTCOME;
use crate::promises::commands;
use crate::storage::items;
use crate::storage::stocks;
use crate::storage::stores::{self, DigestState, Store};
use runtime::sqlite::{DigestColumn, HashColumn, in_savepoint, is_fatal};

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
    /// An entry's own row, its item, total and cursor.
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
    /// Entries applied.
    pub entries: u64,
    /// Purchases and requests that were settled.
    pub settled: Settled,
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
) -> rusqlite::Result<Applied> {
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
) -> rusqlite::Result<Applied> {
    let mut store = match stores::find(connection, id)? {
        Some(store) => store,
        None => {
            stores::discover(connection, id, now)?;
            stores::find(connection, id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?
        }
    };
    let (commands_before, fenced_before) = (store.command_head, store.fenced);
    let mut applied = Applied {
        ack: store.ack(),
        entries: 0,
        settled: Vec::new(),
        stuck: None,
        has_commands: false,
        more: false,
        has_steps: false,
    };
    let was_installing = store.installing;
    if was_installing {
        let outcomes = (budget.rows / ROWS_AN_OUTCOME).max(1);
        budget.spend(settle::install(connection, &mut store, outcomes, now, &mut applied.settled)?);
    }
    let (mut last_digest, mut last_parked) = (None, false);
    for received in batch {
        if store.installing || budget.is_spent() {
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
        match judge(&store.cursor, entry) {
            Receipt::Known => continue,
            Receipt::Next => {
                let done = if careful {
                    apply_or_park(connection, &mut store, entry, now, &mut applied.settled)?
                } else {
                    apply(connection, &mut store, entry, now, &mut applied.settled)?
                };
                budget.spend(Budget::ENTRY + done.staged);
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
        applied.entries += 1;
        last_digest = entry.digest;
    }
    if applied.entries > 0 && !store.opening {
        store.state = store.cursor;
        compare(connection, &mut store, last_digest, last_parked, now)?;
    }
    if applied.entries > 0 || was_installing || store.fenced != fenced_before {
        store.save(connection)?;
    }
    applied.ack = store.ack();
    applied.has_commands = store.command_head != commands_before;
    applied.has_steps = store.steps;
    Ok(applied)
}

/// What applying an entry did.
#[derive(Debug, Default)]
struct Done {
    /// Rows that it laid aside.
    staged: u64,
    /// It was not understood.
    parked: bool,
}

/// The next entry of the epoch, which the database may refuse.
fn apply_or_park(
    connection: &Connection,
    store: &mut Store,
    entry: &Entry,
    now: Millis,
    settled: &mut Settled,
) -> rusqlite::Result<Done> {
    let mut after = store.clone();
    let mut news = Settled::new();
    match in_savepoint(connection, || apply(connection, &mut after, entry, now, &mut news)) {
        Ok(done) => {
            *store = after;
            settled.append(&mut news);
            Ok(done)
        }
        Err(error) if is_fatal(&error) => Err(error),
        Err(error) => {
            store.cursor = entry.cursor();
            park(connection, store, entry, &format!("it cannot be applied: {error}"), now)?;
            if store.opening {
                // It may have been what was to complete the state.
                store.digest_state = DigestState::Different;
            }
            keep(connection, store, entry, None, now)?;
            Ok(Done { staged: 0, parked: true })
        }
    }
}

/// The next entry of the epoch.
fn apply(
    connection: &Connection,
    store: &mut Store,
    entry: &Entry,
    now: Millis,
    settled: &mut Settled,
) -> rusqlite::Result<Done> {
    let position = Position { store: store.id.clone(), at: entry.id };
    let mut done = Done::default();
    store.cursor = entry.cursor();
    let event = match Event::decode(&entry.kind, &entry.body) {
        Ok(event) => event,
        Err(reason) => {
            park(connection, store, entry, &reason.to_string(), now)?;
            keep(connection, store, entry, None, now)?;
            return Ok(Done { parked: true, ..done });
        }
    };
    match &event {
        Event::Fact(kind, fact) => {
            if let Some(item) = &fact.item {
                items::put(connection, store, &fact.product_id, item)?;
            }
            settle::fact(connection, store, *kind, fact, &position, now, settled)?;
        }
        Event::OutcomeRepeated(outcome) => {
            let also = Some(entry.operation.as_str());
            settle::outcome(connection, store, outcome, also, &position, now, settled)?;
        }
        Event::Opened { .. } => {
            park(connection, store, entry, "an epoch opens at its first entry only", now)?;
            done.parked = true;
        }
        Event::SnapshotPage(page) => done.staged = stocks::stage(connection, store, entry.id, page)?,
        Event::SnapshotEnd(end) => {
            if stocks::switch(connection, store, entry.id, end)? {
                store.opening = false;
                store.complete = true;
                store.suspect = false;
            } else {
                park(connection, store, entry, "pages of the state are missing", now)?;
                done.parked = true;
                if store.opening {
                    // There is nothing to compare with until it has come in full.
                    store.digest_state = DigestState::Different;
                }
            }
        }
        Event::Ready { command_epoch } => {
            store.ready_epoch = *command_epoch;
            if *command_epoch > store.command_head.epoch && !store.retired {
                // This database was set back, and nobody could tell then how far the store had come.
                commands::open_epoch(connection, store, entry.id.epoch, *command_epoch, now)?;
            }
        }
    }
    keep(connection, store, entry, Some(&event), now)?;
    Ok(done)
}

/// L7: an epoch opens, or is refused; then the reason is returned.
fn open(connection: &Connection, store: &mut Store, entry: &Entry, now: Millis) -> rusqlite::Result<Option<String>> {
    let Ok(Event::Opened { lineage }) = Event::decode(&entry.kind, &entry.body) else {
        return Ok(Some(format!("entry {}: its lineage cannot be read", entry.id)));
    };
    if store.retired && store.adopt != Some(entry.id.epoch) {
        store.fenced = entry.id.epoch;
        return Ok(Some(format!("epoch {} opens, but the store is retired", entry.id.epoch)));
    }
    let known = stores::known(connection, store)?;
    if !accepts_epoch(&known, entry.id.epoch, &lineage) {
        store.fenced = entry.id.epoch;
        return Ok(Some(format!("epoch {} does not continue what is known of this store", entry.id.epoch)));
    }
    store.take_back();
    if !store.opening && store.cursor.seq > 0 {
        // The view stands there until the pages take effect.
        store.state = store.cursor;
    }
    store.cursor = entry.cursor();
    store.fenced = 0;
    store.adopt = None;
    store.opening = true;
    store.digest_state = DigestState::Unknown;
    stores::set_lineage(connection, &store.id, &lineage)?;
    stocks::give_up(connection, store)?;
    commands::open_epoch(connection, store, entry.id.epoch, store.ready_epoch, now)?;
    keep(connection, store, entry, None, now)?;
    Ok(None)
}

/// L12. Only a difference asks for the whole state. An entry that was not understood makes the store suspect until a later
/// one, whose digest is equal, shows that it has changed no stock.
fn compare(
    connection: &Connection,
    store: &mut Store,
    said: Option<Digest>,
    parked: bool,
    now: Millis,
) -> rusqlite::Result<()> {
    if said == Some(store.digest) || planted(Bug::DigestNotCompared) {
        store.digest_state = DigestState::Equal;
        store.suspect &= parked;
        return Ok(());
    }
    store.digest_state = DigestState::Different;
    store.suspect = true;
    ask_resync(connection, store, now)
}

/// On a sweep: a store that still differs is asked again. Its last resync may have been asked for within the minute in
/// which something else went wrong, and an idle store sends nothing that would bring it up. Says whether it was asked.
pub fn look_after(connection: &Connection, id: &StoreId, now: Millis) -> rusqlite::Result<bool> {
    let Some(mut store) = stores::find(connection, id)?.filter(Store::wants_resync) else {
        return Ok(false);
    };
    let before = store.command_head;
    ask_resync(connection, &mut store, now)?;
    store.save(connection)?;
    Ok(store.command_head != before)
}

/// What the store itself said of its stock at the state's cursor: the hash chain vouches for it.
pub fn said(connection: &Connection, store: &Store) -> rusqlite::Result<Option<Digest>> {
    if planted(Bug::DigestNotCompared) {
        return Ok(None);
    }
    let mut statement =
        connection.prepare_cached("select digest from event where store_id = ?1 and epoch = ?2 and seq = ?3")?;
    let mut rows = statement.query(params![store.id.as_str(), store.state.epoch, store.state.seq])?;
    Ok(rows.next()?.map(|row| row.get::<_, Option<DigestColumn>>(0)).transpose()?.flatten().map(|digest| digest.0))
}

/// The stock that a store's view shows, if its rows are not what its running digest and, as long as nothing was amiss, the
/// store itself say. A row that changed by itself, and that no event has touched since, shows nowhere else. Reads all of
/// them: not for the writer.
pub fn unsound(connection: &Connection, id: &StoreId) -> rusqlite::Result<Option<i64>> {
    let Some(store) = stores::find(connection, id)? else { return Ok(None) };
    let rows = items::digest(connection, store.stock)?;
    let agreed = store.digest_state == DigestState::Equal && !store.suspect;
    let sound = rows == store.digest && (!agreed || said(connection, &store)?.is_none_or(|said| said == rows));
    Ok((!sound).then_some(store.stock))
}

/// The rows of this stock were found not to be what they should: if it is still shown, the store is asked for its whole
/// state. Says whether it was.
pub fn distrust(connection: &Connection, id: &StoreId, stock: i64, now: Millis) -> rusqlite::Result<bool> {
    let is_shown = |store: &Store| store.stock == stock && !store.retired;
    let Some(mut store) = stores::find(connection, id)?.filter(is_shown) else { return Ok(false) };
    store.digest_state = DigestState::Different;
    store.suspect = true;
    // The next entry's digest may well be equal to the running one: it is asked now or not at all.
    store.resync_at = None;
    let before = store.command_head;
    ask_resync(connection, &mut store, now)?;
    store.save(connection)?;
    Ok(store.command_head != before)
}

/// Asks a store for its whole state, at most once a minute, and not while it has yet to answer.
pub fn ask_resync(connection: &Connection, store: &mut Store, now: Millis) -> rusqlite::Result<()> {
    // A time in the future is a clock that was set back: it must not hold up the resync.
    if store.resync_at.is_some_and(|at| at <= now && now.since(at) < RESYNC_EVERY_MS)
        || store.command_head.epoch == 0
        || commands::is_resync_asked(connection, &store.id)?
    {
        return Ok(());
    }
    store.resync_at = Some(now);
    let place = store.command_head.id();
    let id = OperationId::parse(&format!("resync:{}:{place}", store.id)).expect("two ids and digits are visible ASCII");
    commands::append(connection, store, &id, &Command::Resync, now)
}

/// L11: not understood, but in its place: the link goes on, the entry waits for someone who understands it.
fn park(connection: &Connection, store: &mut Store, entry: &Entry, reason: &str, now: Millis) -> rusqlite::Result<()> {
    store.suspect = true;
    connection
        .prepare_cached(
            "insert into dead_letter (store_id, entry_id, type, operation_id, body, reason, received_at) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            store.id.as_str(),
            entry.id.to_string(),
            entry.kind,
            entry.operation,
            entry.body,
            reason,
            now.0
        ])?;
    Ok(())
}

/// The entry itself, for ever: central's ledger is the store's backup.
fn keep(
    connection: &Connection,
    store: &Store,
    entry: &Entry,
    event: Option<&Event>,
    now: Millis,
) -> rusqlite::Result<()> {
    let fact = match event {
        Some(Event::Fact(_, fact)) => Some(fact),
        _ => None,
    };
    connection
        .prepare_cached(
            "insert into event (store_id, epoch, seq, type, operation_id, body, digest, hash, product_id, delta, \
             reference, received_at) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            store.id.as_str(),
            entry.id.epoch,
            entry.id.seq,
            entry.kind,
            entry.operation,
            entry.body,
            entry.digest.map(DigestColumn),
            HashColumn(entry.hash),
            fact.map(|fact| fact.product_id.as_str()),
            fact.map_or(0, |fact| fact.delta),
            fact.and_then(|fact| fact.about.reference.as_deref()),
            now.0,
        ])?;
    Ok(())
}
