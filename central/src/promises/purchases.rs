//! Online purchases: asked by the shop, settled by the store (rules B1 to B6).
//!
//! A purchase is `pending` until the store's answer is applied, then has one outcome for ever, but that a confirmed
//! one may be cancelled until it is picked. While it is pending its units are left out of `onlineAvailable`. What an
//! answer, a cancel or retiring a store makes of it is [`protocol::promise::purchase`]'s to say.

use protocol::domain::{Item, Rejection};
use protocol::ids::{OperationId, ProductId, PurchaseId, StoreId};
use protocol::link::{Commands, EntryId};
use protocol::planted::{Bug, planted};
use protocol::promise::purchase::{Cancelling, Status, Transition};
use protocol::time::Millis;
use protocol::wire::{About, Command, Position, PurchaseRef};
use runtime::sqlite::Abort;

use crate::storage::Connection;
use crate::storage::commands;
use crate::storage::items;
use crate::storage::purchases::{self, Purchase};
use crate::storage::stores::Store;

/// What the shop asks for, and what was read before the transaction.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The new purchase's id.
    pub id: PurchaseId,
    pub product: ProductId,
    /// How many, 1 to a million.
    pub quantity: i64,
    /// The shop's customer.
    pub customer: Option<String>,
    /// Who asked, and the shop's order number.
    pub about: About,
    /// Time to live, ms.
    pub ttl_ms: i64,
    /// Redis's clock, read with the store's heartbeat (B1).
    pub redis_now: Millis,
}

/// B1: the purchase and its command, in one transaction.
pub fn begin(connection: &Connection, store: &mut Store, ask: &Ask, now: Millis) -> Result<(), Abort<Rejection>> {
    let item = items::find(connection, &store.id, &ask.product)?;
    let pending = items::pending(connection, &store.id, &ask.product)?;
    let (purchase, command) = offer(&store.id, item.as_ref(), pending, ask, now).map_err(Abort::Refused)?;
    purchases::insert(connection, &purchase)?;
    commands::append(connection, store, &purchase.attempt, &command, now)?;
    Ok(())
}

/// The purchase and the command that asks for it, if central has as much to sell. `pending`: units of the item in
/// purchases that are not settled.
fn offer(
    store: &StoreId,
    item: Option<&Item>,
    pending: i64,
    ask: &Ask,
    now: Millis,
) -> Result<(Purchase, Command), Rejection> {
    let item = item.ok_or(Rejection::UnknownProduct)?;
    if item.discontinued {
        return Err(Rejection::Discontinued);
    }
    if ask.quantity > items::online_available(item, pending) {
        return Err(insufficient(item, pending, ask.quantity));
    }
    let asked = PurchaseRef {
        purchase_id: ask.id,
        attempt: OperationId::attempt(&ask.id, 1),
        product_id: ask.product.clone(),
        quantity: ask.quantity,
        reference: ask.about.reference.clone(),
        created_at: now,
        expires_at: now.plus(ask.ttl_ms),
    };
    let purchase = Purchase { customer: ask.customer.clone(), ..pending_one(store, &asked) };
    let deadline = ask.redis_now.plus(ask.ttl_ms);
    Ok((purchase, Command::Purchase { purchase: asked, deadline, about: ask.about.clone() }))
}

/// As it begins, and as B3 makes it known again.
pub(crate) fn pending_one(store: &StoreId, asked: &PurchaseRef) -> Purchase {
    Purchase {
        number: 0,
        id: asked.purchase_id,
        store: store.clone(),
        product: asked.product_id.clone(),
        quantity: asked.quantity,
        attempt: asked.attempt.clone(),
        status: Status::Pending,
        code: None,
        reference: asked.reference.clone(),
        customer: None,
        created_at: asked.created_at,
        expires_at: asked.expires_at,
        cancel_requested_at: None,
        settled_at: None,
        picked_at: None,
        position: None,
    }
}

fn insufficient(item: &Item, pending: i64, requested: i64) -> Rejection {
    Rejection::InsufficientStock {
        requested,
        quantity: item.quantity,
        reserved: item.reserved,
        allotted: item.allotted,
        available: items::online_available(item, pending),
    }
}

/// What a cancel did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancelled {
    /// The store was asked, now or before, under this command.
    Asked(OperationId),
    /// It had ended before; nothing to do.
    Ended,
}

/// B5: asks the store to cancel, in order. From now on a pending purchase can never end `confirmed`.
pub fn cancel(
    connection: &Connection,
    store: &mut Store,
    purchase: &Purchase,
    id: OperationId,
    about: &About,
    now: Millis,
) -> Result<Cancelled, Abort<Rejection>> {
    let asked = commands::unanswered_cancel(connection, purchase.id)?;
    let forced = match purchase.life().on_cancel(store.retired, asked.is_some()).map_err(Abort::Refused)? {
        Cancelling::Ended => return Ok(Cancelled::Ended),
        Cancelling::Asked => return Ok(asked.map_or(Cancelled::Ended, Cancelled::Asked)),
        Cancelling::Ask { forced } => forced,
    };
    let mut purchase = purchase.clone();
    let out_of_order = forced && planted(Bug::CancelOutOfOrder);
    let ended = Transition::Settled { status: Status::Cancelled, picked: false };
    let transition = if out_of_order { ended } else { Transition::CancelRequested };
    change(&mut purchase, transition, &Said::NOTHING, now);
    purchases::save_transition(connection, &purchase)?;
    if !out_of_order {
        let command = Command::Cancel { purchase: purchase.attempt_ref(), forced, about: about.clone() };
        commands::append(connection, store, &id, &command, now)?;
    }
    Ok(Cancelled::Asked(id))
}

/// What a transition is recorded with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said<'a> {
    /// Where the store said so.
    pub(crate) position: Option<&'a Position>,
    /// Why not, if it said why.
    pub(crate) rejection: Option<&'a Rejection>,
}

impl Said<'_> {
    /// It was not the store that said so.
    pub(crate) const NOTHING: Self = Self { position: None, rejection: None };
}

/// Makes of a purchase what a transition says. The caller saves it, and sees to the units that are to be given back.
pub(crate) fn change(purchase: &mut Purchase, transition: Transition, said: &Said<'_>, now: Millis) {
    let life = purchase.life().after(transition);
    match transition {
        Transition::Stands | Transition::GiveBack => return,
        Transition::Settled { status, .. } => {
            purchase.code = match status {
                Status::Pending | Status::Confirmed => None,
                Status::Rejected => Some(said.rejection.map_or("insufficient_stock", Rejection::code).to_owned()),
                Status::Expired => Some("purchase_expired".to_owned()),
                Status::Cancelled => Some("purchase_cancelled".to_owned()),
            };
            (purchase.settled_at, purchase.position) = (Some(now), said.position.cloned());
        }
        Transition::CancelEnded { confirmed: true } => {
            (purchase.code, purchase.settled_at, purchase.position) = (None, Some(now), said.position.cloned());
        }
        Transition::Proven => purchase.position = said.position.cloned(),
        Transition::Voided => (purchase.code, purchase.settled_at) = (Some("store_retired".to_owned()), Some(now)),
        Transition::Picked | Transition::CancelRequested | Transition::CancelEnded { confirmed: false } => {}
    }
    purchase.status = life.status;
    purchase.cancel_requested_at = match transition {
        Transition::CancelRequested => Some(now),
        _ => purchase.cancel_requested_at.filter(|_| life.cancel_requested),
    };
    purchase.picked_at = purchase.picked_at.or(life.picked.then_some(now));
}

/// B6: the cancel that asks for the units of an attempt back. One for each time the store says that it took them: named
/// by where it stands in the command log, `at`, hence never twice. `None`: no id can be made of these.
pub(crate) fn compensation(attempt: &PurchaseRef, at: EntryId<Commands>) -> Option<(OperationId, Command)> {
    let id = OperationId::parse(&format!("{}:back:{at}", attempt.attempt)).ok()?;
    Some((id, Command::Cancel { purchase: attempt.clone(), forced: true, about: About::default() }))
}
