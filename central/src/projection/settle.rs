//! What an event means for what central has promised: purchases and requests are settled in the transaction that
//! applies the event to the view, and by nothing else.

use protocol::ids::OperationId;
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{Fact, Kind, Outcome, Position};
use runtime::sqlite::{in_savepoint, is_fatal};
use rusqlite::Connection;

use crate::promises::commands::{self, Status};
use crate::promises::purchases::{self, Answer};
use crate::storage::outcomes;
use crate::storage::stocks;
use crate::storage::stores::Store;

/// Names of what has been settled, for whoever waits for it.
pub type Settled = Vec<String>;

/// A fact may answer a request, settle a purchase, or both.
pub fn fact(
    connection: &Connection,
    store: &mut Store,
    kind: Kind,
    fact: &Fact,
    position: &Position,
    now: Millis,
    settled: &mut Settled,
) -> rusqlite::Result<()> {
    if fact.command.is_none() && fact.purchase.is_none() {
        return Ok(());
    }
    let outcome = |command| Outcome {
        command,
        kind,
        at: fact.recorded_at,
        product_id: fact.product_id.clone(),
        purchase: fact.purchase.clone(),
        rejection: fact.rejection.clone(),
        item: fact.item.clone(),
        picked: kind == Kind::PurchasePicked,
    };
    if let Some(command) = &fact.command {
        // A change may be recorded as two events of one command; the first is its answer.
        if kind != Kind::LowStock {
            outcomes::keep(connection, &store.id, &outcome(command.clone()), now)?;
            answer(connection, &outcome(command.clone()), command.as_str(), position, now, settled)?;
        }
    }
    if kind == Kind::CommandRefused {
        if let Some(command) = &fact.command
            && let Some(purchase) =
                purchases::command_refused(connection, store, command, fact.rejection.as_ref(), position, now)?
        {
            settled.push(purchase.to_string());
        }
        return Ok(());
    }
    if let Some(purchase) = &fact.purchase {
        let outcome = outcome(purchase.attempt.clone());
        match kind {
            // The attempt's own outcome becomes that of its cancel.
            Kind::PurchaseCancelled => outcomes::keep(connection, &store.id, &outcome, now)?,
            Kind::PurchasePicked => outcomes::mark_picked(connection, &store.id, &purchase.attempt, now)?,
            _ => {}
        }
        purchase_outcome(connection, store, &outcome, position, now, settled)?;
    }
    Ok(())
}

/// An outcome that the store says again (B2), or keeps in its state. `also`: the command that made it say so.
pub fn outcome(
    connection: &Connection,
    store: &mut Store,
    outcome: &Outcome,
    also: Option<&str>,
    position: &Position,
    now: Millis,
    settled: &mut Settled,
) -> rusqlite::Result<()> {
    outcomes::keep(connection, &store.id, outcome, now)?;
    answer(connection, outcome, outcome.command.as_str(), position, now, settled)?;
    if let Some(also) = also {
        if let Ok(command) = OperationId::parse(also) {
            outcomes::keep(connection, &store.id, &Outcome { command, ..outcome.clone() }, now)?;
        }
        answer(connection, outcome, also, position, now, settled)?;
    }
    if outcome.kind == Kind::CommandRefused {
        let rejection = outcome.rejection.as_ref();
        let purchase = purchases::command_refused(connection, store, &outcome.command, rejection, position, now)?;
        settled.extend(purchase.map(|id| id.to_string()));
        return Ok(());
    }
    purchase_outcome(connection, store, outcome, position, now, settled)
}

/// Settles the next outcomes that came with the state that is shown since it has arrived (L7), where its `snapshot_end`
/// stands. Says how many rows that was worth. Only after the switch: what they took is out of its items already, so that for
/// a moment too little is on offer, and never too much.
pub fn install(
    connection: &Connection,
    store: &mut Store,
    outcomes: u64,
    now: Millis,
    settled: &mut Settled,
) -> rusqlite::Result<u64> {
    let position = Position { store: store.id.clone(), at: store.cursor.id() };
    let next = stocks::outcomes(connection, store.stock, outcomes)?;
    for (number, said) in &next {
        if let Some(said) = said {
            let mut after = store.clone();
            let mut news = Settled::new();
            match in_savepoint(connection, || outcome(connection, &mut after, said, None, &position, now, &mut news)) {
                Ok(()) => {
                    *store = after;
                    settled.append(&mut news);
                }
                Err(error) if is_fatal(&error) => return Err(error),
                // One that the database refuses must not hold up the others (L11).
                Err(error) => {
                    tracing::error!(store = %store.id, command = %said.command, %error, "an outcome is left out")
                }
            }
        }
        stocks::forget_outcome(connection, store.stock, *number)?;
    }
    store.installing = next.len() as u64 == outcomes && !planted(Bug::OutcomesHalfSettled);
    Ok(next.len() as u64 * crate::projection::steps::ROWS_AN_OUTCOME)
}

fn purchase_outcome(
    connection: &Connection,
    store: &mut Store,
    outcome: &Outcome,
    position: &Position,
    now: Millis,
    settled: &mut Settled,
) -> rusqlite::Result<()> {
    let Some(purchase) = &outcome.purchase else { return Ok(()) };
    let said = Answer {
        purchase,
        kind: outcome.kind,
        rejection: outcome.rejection.as_ref(),
        picked: outcome.picked,
        position,
    };
    // A cancel that came first ends the attempt's own request, too: the store will never run it.
    if outcome.kind != Kind::PurchasePicked {
        answer(connection, outcome, purchase.attempt.as_str(), position, now, settled)?;
    }
    if purchases::settle(connection, store, &said, now)? {
        settled.push(purchase.purchase_id.to_string());
    }
    Ok(())
}

fn answer(
    connection: &Connection,
    outcome: &Outcome,
    id: &str,
    position: &Position,
    now: Millis,
    settled: &mut Settled,
) -> rusqlite::Result<()> {
    let status = match outcome.kind {
        Kind::CommandRefused | Kind::PurchaseRejected => Status::Refused,
        Kind::PurchaseExpired => Status::Expired,
        _ => Status::Done,
    };
    if commands::settle(connection, id, status, outcome, position, now)? {
        settled.push(id.to_owned());
    }
    Ok(())
}
