//! Applying a store's events: rules L2, L7, L11 and L12.
//!
//! **Guarantees.** Each entry of a ledger is applied once and in order, with the cursor, the totals and what it settles
//! in one transaction. An entry that does not fit is never applied. An opening state takes effect as a whole or not at
//! all. After each batch the view's digest has been compared with the store's.

use rusqlite::{Connection, params};
use shared::domain::Item;
use shared::hash::Digest;
use shared::ids::{OperationId, ProductId, StoreId};
use shared::link::{Ack, Entry, Receipt, accepts_epoch, receive as judge};
use shared::planted::{Bug, planted};
use shared::redis::Received;
use shared::time::Millis;
use shared::wire::{Command, Event, Position, SnapshotEnd, SnapshotPage};

use crate::settle::{self, Settled};
use crate::stores::{self, DigestState, Store};
use crate::{commands, items};
use shared::sqlite::{DigestColumn, HashColumn, in_savepoint, is_fatal};

/// A resync is asked for at most this often for one store.
const RESYNC_EVERY_MS: i64 = 60_000;

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
}

/// Applies a batch of one store's stream, in the caller's transaction. A store that is not known yet gets a row. If the
/// database refuses it, it is applied again entry by entry, and those that it refuses are parked (L11).
pub fn receive(connection: &Connection, id: &StoreId, batch: &[Received], now: Millis) -> rusqlite::Result<Applied> {
    in_savepoint(connection, || receive_batch(connection, id, batch, now, false)).or_else(|error| {
        if is_fatal(&error) {
            return Err(error);
        }
        receive_batch(connection, id, batch, now, true)
    })
}

fn receive_batch(
    connection: &Connection,
    id: &StoreId,
    batch: &[Received],
    now: Millis,
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
    let mut applied = Applied { ack: store.ack(), entries: 0, settled: Vec::new(), stuck: None, has_commands: false };
    let mut last_digest = None;
    for received in batch {
        let entry = match received {
            Ok(entry) => entry,
            Err(garbage) => {
                applied.stuck = Some(format!("entry {}: {}", garbage.id, garbage.why));
                break;
            }
        };
        match judge(&store.cursor, entry) {
            Receipt::Known => continue,
            Receipt::Next if careful => {
                apply_or_park(connection, &mut store, entry, now, &mut applied.settled)?;
            }
            Receipt::Next => {
                apply(connection, &mut store, entry, now, &mut applied.settled)?;
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
        compare(connection, &mut store, last_digest, now)?;
    }
    if applied.entries > 0 || store.fenced != fenced_before {
        store.save(connection)?;
    }
    applied.ack = store.ack();
    applied.has_commands = store.command_head != commands_before;
    Ok(applied)
}

/// The next entry of the epoch, which the database may refuse.
fn apply_or_park(
    connection: &Connection,
    store: &mut Store,
    entry: &Entry,
    now: Millis,
    settled: &mut Settled,
) -> rusqlite::Result<()> {
    let mut after = store.clone();
    let mut news = Settled::new();
    match in_savepoint(connection, || apply(connection, &mut after, entry, now, &mut news)) {
        Ok(()) => {
            *store = after;
            settled.append(&mut news);
            Ok(())
        }
        Err(error) if is_fatal(&error) => Err(error),
        Err(error) => {
            store.cursor = entry.cursor();
            park(connection, store, entry, &format!("it cannot be applied: {error}"), now)?;
            keep(connection, store, entry, None, now)
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
) -> rusqlite::Result<()> {
    let position = Position { store: store.id.clone(), at: entry.id };
    store.cursor = entry.cursor();
    let event = match Event::decode(&entry.kind, &entry.body) {
        Ok(event) => event,
        Err(reason) => {
            park(connection, store, entry, &reason.to_string(), now)?;
            return keep(connection, store, entry, None, now);
        }
    };
    match &event {
        Event::Fact(kind, fact) => {
            if let Some(item) = &fact.item {
                items::put(connection, store, &fact.product_id, Some(item))?;
            }
            settle::fact(connection, store, *kind, fact, &position, now, settled)?;
        }
        Event::OutcomeRepeated(outcome) => {
            let also = Some(entry.operation.as_str());
            settle::outcome(connection, store, outcome, also, &position, now, settled)?;
        }
        Event::Opened { .. } => park(connection, store, entry, "an epoch opens at its first entry only", now)?,
        Event::SnapshotPage(_) => lay_aside(connection, store, entry)?,
        Event::SnapshotEnd(end) => take_effect(connection, store, entry, end, &position, now, settled)?,
        Event::Ready { command_epoch } => {
            store.ready_epoch = *command_epoch;
            if *command_epoch > store.command_head.epoch && !store.retired {
                // This database was set back, and nobody could tell then how far the store had come.
                commands::open_epoch(connection, store, entry.id.epoch, *command_epoch, now)?;
            }
        }
    }
    keep(connection, store, entry, Some(&event), now)
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
    store.take_back(connection)?;
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
    connection.prepare_cached("delete from page where store_id = ?1")?.execute([store.id.as_str()])?;
    commands::open_epoch(connection, store, entry.id.epoch, store.ready_epoch, now)?;
    keep(connection, store, entry, None, now)?;
    Ok(None)
}

fn lay_aside(connection: &Connection, store: &Store, entry: &Entry) -> rusqlite::Result<()> {
    connection
        .prepare_cached("insert or replace into page (store_id, epoch, seq, body) values (?1, ?2, ?3, ?4)")?
        .execute(params![store.id.as_str(), entry.id.epoch, entry.id.seq, entry.body])?;
    Ok(())
}

/// `snapshot_end`: the pages become the view, together.
fn take_effect(
    connection: &Connection,
    store: &mut Store,
    entry: &Entry,
    end: &SnapshotEnd,
    position: &Position,
    now: Millis,
    settled: &mut Settled,
) -> rusqlite::Result<()> {
    let bodies: Vec<String> = connection
        .prepare_cached("select body from page where store_id = ?1 and epoch = ?2 order by seq")?
        .query_map(params![store.id.as_str(), entry.id.epoch], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    connection.prepare_cached("delete from page where store_id = ?1")?.execute([store.id.as_str()])?;
    // Pages are checked as they are laid aside, so a body that cannot be read means a page that is missing.
    let pages: Vec<SnapshotPage> = bodies.iter().filter_map(|body| serde_json::from_str(body).ok()).collect();
    let named = pages.iter().map(|page| page.items.len() as u64).sum::<u64>();
    if pages.len() as u64 != end.pages || named != end.count {
        return park(connection, store, entry, "pages of the state are missing", now);
    }
    let mut gone: std::collections::BTreeSet<ProductId> =
        items::of_store(connection, &store.id)?.into_iter().map(|(product, _)| product).collect();
    for named in pages.iter().flat_map(|page| &page.items) {
        gone.remove(&named.product_id);
        items::put(connection, store, &named.product_id, Some(&named.item))?;
        items::sum_anew(connection, &named.product_id)?;
    }
    for product in if planted(Bug::UnnamedItemsStay) { Default::default() } else { gone } {
        items::put(connection, store, &product, None)?;
        items::sum_anew(connection, &product)?;
    }
    // All sums anew: whatever had crept into the running ones goes with this state.
    store.digest = digest(&items::of_store(connection, &store.id)?);
    store.opening = false;
    store.complete = true;
    store.suspect = false;
    for outcome in pages.iter().flat_map(|page| &page.outcomes) {
        settle::outcome(connection, store, outcome, None, position, now, settled)?;
    }
    Ok(())
}

/// Digest of a whole stock.
pub fn digest(stock: &[(ProductId, Item)]) -> Digest {
    stock.iter().fold(Digest::default(), |digest, (product, item)| digest.replace(product, None, Some(item)))
}

/// L12.
fn compare(connection: &Connection, store: &mut Store, said: Option<Digest>, now: Millis) -> rusqlite::Result<()> {
    if said == Some(store.digest) || planted(Bug::DigestNotCompared) {
        store.digest_state = DigestState::Equal;
        if !store.suspect {
            return Ok(());
        }
    } else {
        store.digest_state = DigestState::Different;
        store.suspect = true;
    }
    ask_resync(connection, store, now)
}

/// On a sweep: a store that is still suspect is asked again. Its last resync may have been asked for within the minute in
/// which something else went wrong, and an idle store sends nothing that would bring it up. Says whether it was asked.
pub fn look_after(connection: &Connection, id: &StoreId, now: Millis) -> rusqlite::Result<bool> {
    let due = |store: &Store| store.suspect && !store.retired && !planted(Bug::SuspectNotAskedAgain);
    let Some(mut store) = stores::find(connection, id)?.filter(due) else {
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

/// Whether the rows of a store's view are what its running digest and, as long as nothing was amiss, the store itself say.
/// A row that changed by itself, and that no event has touched since, shows nowhere else.
pub fn is_sound(connection: &Connection, id: &StoreId) -> rusqlite::Result<bool> {
    let Some(store) = stores::find(connection, id)? else { return Ok(true) };
    let rows = digest(&items::of_store(connection, id)?);
    let agreed = store.digest_state == DigestState::Equal && !store.suspect;
    Ok(rows == store.digest && (!agreed || said(connection, &store)?.is_none_or(|said| said == rows)))
}

/// The rows are not what they should be: the store is asked for its whole state. Says whether it was.
pub fn distrust(connection: &Connection, id: &StoreId, now: Millis) -> rusqlite::Result<bool> {
    let Some(mut store) = stores::find(connection, id)?.filter(|store| !store.retired) else { return Ok(false) };
    if is_sound(connection, id)? {
        return Ok(false);
    }
    store.digest_state = DigestState::Different;
    store.suspect = true;
    let before = store.command_head;
    ask_resync(connection, &mut store, now)?;
    store.save(connection)?;
    Ok(store.command_head != before)
}

/// Asks a suspect store for its whole state, at most once a minute, and not while it has yet to answer.
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
