//! The outcomes that came with a state (L7): settled after it is shown, in steps, before any entry behind it is applied.

use protocol::domain::transfer::Transfer;
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{Outcome, Position};
use runtime::sqlite::{in_savepoint, is_fatal};

use crate::projection::settle::Settling;
use crate::projection::touched::{Needs, Saved, Touched};
use crate::promises::{purchases, reservations as promises, transfers};
use crate::storage::reservations::{self, Status};
use crate::storage::stores::Store;
use crate::storage::{Connection, JobResult};
use crate::storage::{outcomes, stocks};

/// How many rows settling one outcome is worth.
pub(super) const ROWS_AN_OUTCOME: u64 = 5;

/// Settles the next outcomes that came with the state that is shown since it has arrived, where its `snapshot_end`
/// stands, then forgets those that it does not name (L7). Says how many rows that was worth. Only after the switch: what they took is out of its items already, so that for
/// a moment too little is on offer, and never too much.
pub(super) fn install(
    connection: &Connection,
    store: &mut Store,
    outcomes: u64,
    now: Millis,
    news: &mut Saved,
) -> JobResult<u64> {
    let next = stocks::outcomes(connection, store.stock, outcomes)?;
    if next.is_empty() {
        return match forget_unnamed(connection, store, outcomes, now)? {
            0 => hold(connection, store, outcomes, now, news),
            forgotten => Ok(forgotten * ROWS_AN_OUTCOME),
        };
    }
    let said: Vec<&Outcome> = next.iter().filter_map(|(_, said)| said.as_ref()).collect();
    match settle(connection, store, &said, now) {
        Ok(saved) => news.append(saved),
        Err(error) if is_fatal(&error) => return Err(error),
        // One that the database refuses must not hold up the others (L11); it comes again with the next state.
        Err(_) => {
            for one in said {
                match settle(connection, store, &[one], now) {
                    Ok(saved) => news.append(saved),
                    Err(error) if is_fatal(&error) => return Err(error),
                    Err(error) => {
                        tracing::error!(store = %store.id, command = %one.command, %error, "an outcome is left out");
                        store.want_state();
                    }
                }
            }
        }
    }
    for (number, _) in &next {
        stocks::forget_outcome(connection, store.stock, *number)?;
    }
    store.installing = !planted(Bug::OutcomesHalfSettled);
    Ok(next.len() as u64 * ROWS_AN_OUTCOME)
}

/// Forgets the next outcomes that the state does not name, and asks the store to take what buyers were promised by them. Says
/// how many it has forgotten. What the database refuses of that stays until the next state, which is asked for (L11).
fn forget_unnamed(connection: &Connection, store: &mut Store, rows: u64, now: Millis) -> JobResult<u64> {
    let mut forgotten = 0;
    for (command, said) in outcomes::unnamed(connection, &store.id, store.generation, rows as usize)? {
        let mut after = store.clone();
        let saved = in_savepoint(connection, || {
            if let Some(said) = said {
                purchases::ask_again(connection, &mut after, &said, now)?;
            }
            outcomes::forget(connection, &after.id, &command)
        });
        match saved {
            Ok(()) => {
                *store = after;
                forgotten += 1;
            }
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => {
                tracing::error!(store = %store.id, %command, %error, "a purchase is not asked for again");
                store.want_state();
            }
        }
    }
    Ok(forgotten)
}

/// Takes in the next reservations that came with the state; once there are no more, those that it does not name are over.
fn hold(connection: &Connection, store: &mut Store, rows: u64, now: Millis, news: &mut Saved) -> JobResult<u64> {
    let next = stocks::reservations(connection, store.stock, rows)?;
    let position = Position { store: store.id.clone(), at: store.cursor.id() };
    for (number, said) in &next {
        if let Some(said) = said {
            let saved = in_savepoint(connection, || {
                let before = reservations::find(connection, said.id)?;
                let after = promises::reported(before.as_ref(), &store.id, said, &position, store.generation, now);
                reservations::save(connection, &after)
            });
            match saved {
                Ok(()) => {}
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => {
                    tracing::error!(store = %store.id, reservation = %said.id, %error, "a reservation is left out");
                    store.want_state();
                }
            }
        }
        stocks::forget_reservation(connection, store.stock, *number)?;
    }
    if !next.is_empty() {
        return Ok(next.len() as u64);
    }
    let gone = reservations::open_of_older_stock(connection, &store.id, store.generation, rows as usize)?;
    for before in &gone {
        reservations::save(connection, &promises::voided(before, Status::Expired, "reservation_expired", now))?;
    }
    if !gone.is_empty() {
        return Ok(gone.len() as u64);
    }
    expect(connection, store, rows, now, news)
}

/// Takes in the next transfers that came with the state; once there are no more, those on their way to the store that it
/// does not name are announced again.
fn expect(connection: &Connection, store: &mut Store, rows: u64, now: Millis, news: &mut Saved) -> JobResult<u64> {
    let next = stocks::transfers(connection, store.stock, rows)?;
    let mut spent = 0;
    for (number, said) in &next {
        if spent >= rows {
            break;
        }
        spent += said.as_ref().map_or(1, |said| said.lines.iter().len() as u64);
        if let Some(said) = said {
            match take_in(connection, store, said, now) {
                Ok(saved) => news.append(saved),
                Err(error) if is_fatal(&error) => return Err(error),
                Err(error) => {
                    tracing::error!(store = %store.id, transfer = %said.id, %error, "a transfer is left out");
                    store.want_state();
                }
            }
        }
        stocks::forget_transfer(connection, store.stock, *number)?;
    }
    if !next.is_empty() {
        return Ok(spent);
    }
    let unnamed = transfers::announce_unnamed(connection, store, rows as usize, now)?;
    store.installing = unnamed > 0;
    Ok(unnamed as u64)
}

fn take_in(connection: &Connection, store: &mut Store, said: &Transfer, now: Millis) -> JobResult<Saved> {
    if transfers::is_long_over(connection, &store.id, said, now)? {
        return Ok(Saved::default());
    }
    let mut after = store.clone();
    let saved = in_savepoint(connection, || {
        let mut needs = Needs::default();
        needs.add_transfer(said.id);
        let mut touched = Touched::load(connection, &after, needs)?;
        Settling::at(&mut touched, &store.id, store.cursor.id(), now).transfer(said);
        touched.save(connection, &mut after, now)
    })?;
    *store = after;
    Ok(saved)
}

/// All of these, or none.
fn settle(connection: &Connection, store: &mut Store, said: &[&Outcome], now: Millis) -> JobResult<Saved> {
    let mut after = store.clone();
    let settled = in_savepoint(connection, || {
        let mut needs = Needs::default();
        said.iter().for_each(|outcome| needs.add_outcome(outcome));
        let mut touched = Touched::load(connection, &after, needs)?;
        for outcome in said {
            Settling::at(&mut touched, &store.id, store.cursor.id(), now).outcome(outcome, None);
        }
        touched.save(connection, &mut after, now)
    })?;
    *store = after;
    Ok(settled)
}
