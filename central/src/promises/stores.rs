//! Taking a store out of the chain, and back into it: what becomes of what is open with it (API rule 19, B5).

use protocol::planted::{Bug, planted};
use std::collections::BTreeMap;

use protocol::domain::Rejection;
use protocol::ids::PurchaseId;
use protocol::number::Epoch;
use protocol::promise::purchase::{Status as Bought, Transition};
use protocol::promise::request::Status;
use protocol::time::Millis;
use protocol::wire::{Became, Outcome, Subject};

use crate::promises::commands::open_epoch;
use crate::promises::purchases::{Basis, change, compensation};
use crate::promises::reservations::voided;
use crate::promises::transfers::{announce, may_be_forgotten, rejected};
use crate::storage::commands::{self, Unanswered};
use crate::storage::purchases::{self, Purchase};
use crate::storage::reservations::{self, Status as Held};
use crate::storage::stores::{self, Store};
use crate::storage::transfers::{self, Status as Sent};
use crate::storage::{Connection, JobResult};

/// Takes a store out of the chain: ends everything that is open with it, and refuses it until it is adopted. Returns
/// what was ended.
pub fn retire(connection: &Connection, store: &mut Store, now: Millis) -> JobResult<Vec<String>> {
    if store.retired {
        return Ok(Vec::new());
    }
    let requests = commands::unanswered(connection, &store.id)?;
    let pending = purchases::pending(connection, &store.id)?;
    let mut ended = Vec::new();
    let mut touched: BTreeMap<PurchaseId, Purchase> = pending.into_iter().map(|one| (one.id, one)).collect();
    // Also those that it was never told of, though they are confirmed.
    let is_of_purchase = |request: &&Unanswered| matches!(request.kind.as_str(), "cancel" | "purchase");
    for id in requests.iter().filter(is_of_purchase).filter_map(|request| request.purchase) {
        if !touched.contains_key(&id)
            && let Some(purchase) = purchases::find(connection, id)?
            && purchase.store == store.id
        {
            touched.insert(id, purchase);
        }
    }
    for purchase in touched.values_mut() {
        let transition = purchase.life().on_retire();
        if transition != Transition::Stands && !planted(Bug::RetiringLeavesPending) {
            if purchase.status == Bought::Pending || purchase.life().sold {
                ended.push(purchase.id.to_string());
            }
            change(purchase, transition, &Basis::NONE, now);
            purchases::save_transition(connection, purchase)?;
        }
    }
    for request in &requests {
        commands::save_answer(connection, &request.id, Status::Refused, &never_answered(request, now), None, now)?;
        ended.push(request.id.to_string());
    }
    let new_holds = requests.iter().filter(|request| request.kind == "reserve");
    for id in new_holds.filter_map(|request| request.reservation) {
        if let Some(before) = reservations::find(connection, id)? {
            let after = voided(&before, Held::Cancelled, "store_retired", now);
            reservations::save(connection, &after)?;
        }
    }
    let unsent = requests.iter().filter(|request| request.kind == "ship");
    for id in unsent.filter_map(|request| request.transfer) {
        if let Some(before) = transfers::find(connection, id)?.filter(|before| before.status == Sent::Requested) {
            transfers::save(connection, &rejected(&before, &Rejection::StoreRetired, None, now))?;
        }
    }
    stores::take_out(connection, store)?;
    reopen_commands(connection, store, now)?;
    Ok(ended)
}

/// What whoever waits for a request hears once its store is retired.
fn never_answered(request: &Unanswered, now: Millis) -> Outcome {
    let subject = request.product.clone().map_or(Subject::Store, Subject::Product);
    let became = Became::Refused { subject, rejection: Rejection::StoreRetired, item: None };
    Outcome { command: request.id.clone(), at: now, became }
}

/// Takes back what is retired, or lets a refused epoch open after all. `false`: nobody claims this epoch.
pub fn adopt(connection: &Connection, store: &mut Store, epoch: Epoch, now: Millis) -> JobResult<bool> {
    if !store.claims().contains(&epoch) {
        return Ok(false);
    }
    stores::lift_fence(connection, store, epoch)?;
    if epoch != store.cursor.epoch {
        // It takes effect when that epoch's opening is read.
        stores::set_adopt(connection, store, Some(epoch))?;
        return Ok(true);
    }
    if store.retired {
        stores::readmit(connection, store)?;
        reopen_commands(connection, store, now)?;
        ask_compensations(connection, store, now)?;
        announce_all(connection, store, now)?;
    }
    Ok(true)
}

/// Units that the store may have taken for purchases that retiring it has ended.
fn ask_compensations(connection: &Connection, store: &mut Store, now: Millis) -> JobResult<()> {
    for purchase in purchases::voided(connection, &store.id)? {
        if purchase.life().on_readmit() == Transition::Compensate
            && commands::unanswered_cancels(connection, &store.id, purchase.id)?.is_empty()
            && let Some((id, command)) = compensation(&purchase.attempt_ref(), store.command_head.id())
        {
            commands::append(connection, store, &id, &command, now)?;
        }
    }
    Ok(())
}

/// What is on its way to the store: retiring it has ended its announcement, or there was none meanwhile.
fn announce_all(connection: &Connection, store: &Store, now: Millis) -> JobResult<()> {
    let unnamed = transfers::unnamed(connection, &store.id, i64::MAX, usize::MAX >> 1)?;
    for transfer in unnamed.iter().filter(|transfer| !may_be_forgotten(&transfer.transfer, now)) {
        announce(connection, &transfer.transfer, now)?;
    }
    Ok(())
}

/// Commands that were ended are still in the log: a new epoch leaves them out, so that they are never executed.
fn reopen_commands(connection: &Connection, store: &mut Store, now: Millis) -> JobResult<()> {
    if store.cursor.epoch == Epoch::NONE {
        return Ok(());
    }
    let (for_epoch, beyond) = (store.cursor.epoch, store.ready_epoch);
    open_epoch(connection, store, for_epoch, beyond, now)
}
