//! Online purchases whose units left the shelf: staff picks them.

use protocol::domain::Rejection;
use protocol::ids::{OperationId, PurchaseId};
use protocol::link::EntryId;
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{About, Fact, Happened, ItemAfter, Outcome};
use runtime::sqlite::{Abort, Connection};

use super::effect::{self, Effect, Items, PurchaseChange};
use super::reservations;
use crate::ledger;
use crate::ledger::purchases::Purchase;

/// What picking did.
#[derive(Debug, Clone)]
pub struct Picked {
    /// The purchase after it.
    pub purchase: Purchase,
    /// Where it is recorded; none: it had been picked before.
    pub position: Option<EntryId>,
}

/// Staff has picked it: it can no longer be cancelled. `None`: there is no such purchase.
pub fn pick(
    connection: &Connection,
    id: PurchaseId,
    operation: &OperationId,
    about: &About,
    now: Millis,
) -> Result<Option<Picked>, Abort<Rejection>> {
    let Some(purchase) = ledger::purchases::find(connection, id)? else { return Ok(None) };
    let mut items = reservations::loaded(connection, &purchase.reference.lines)?;
    let outcome = ledger::outcomes::find(connection, &purchase.reference.attempt)?;
    let decided = decide_pick(&purchase, &items, outcome, about, now).map_err(Abort::Refused)?;
    let Some(effect) = decided else { return Ok(Some(Picked { purchase, position: None })) };
    let mut head = ledger::head(connection)?;
    let position = effect::record(connection, &mut head, operation, &mut items, effect, now)?;
    ledger::save_head(connection, &head)?;
    Ok(Some(Picked { purchase: Purchase { picked_at: Some(now), ..purchase }, position: Some(position) }))
}

/// `None`: it has been picked before. `outcome`: what is kept of the attempt, which says from now on that it was picked.
pub fn decide_pick(
    purchase: &Purchase,
    items: &Items,
    outcome: Option<Outcome>,
    about: &About,
    now: Millis,
) -> Result<Option<Effect>, Rejection> {
    if purchase.is_cancelled && !planted(Bug::CancelledIsPicked) {
        return Err(Rejection::PurchaseCancelled);
    }
    if purchase.picked_at.is_some() && !planted(Bug::PickedTwice) {
        return Ok(None);
    }
    let reference = &purchase.reference;
    let unchanged = items.iter().map(|(product, item)| ItemAfter::unchanged(product.clone(), item.clone()));
    let what = Happened::PurchasePicked { purchase: reference.clone(), items: unchanged.collect() };
    let fact = Fact { about: about.clone(), ..Fact::new(what, now) };
    Ok(Some(Effect {
        purchase: Some(PurchaseChange::Picked(reference.purchase_id, now)),
        outcomes: outcome.filter(|_| !planted(Bug::PickNotInOutcome)).map(Outcome::picked).into_iter().collect(),
        ..Effect::of(fact, items)
    }))
}

#[cfg(test)]
mod tests {
    use protocol::domain::Lines;
    use protocol::wire::PurchaseRef;

    use super::*;
    use crate::testing::{NOW, operation, product, quantity};

    fn purchase() -> Purchase {
        let reference = PurchaseRef {
            from_allotment: None,
            purchase_id: "00000000-0000-0000-0000-000000000001".parse().expect("an id"),
            attempt: operation("attempt"),
            lines: Lines::one(product("ale"), quantity(2)),
            reference: None,
            created_at: NOW,
            expires_at: NOW,
        };
        Purchase { number: 1, reference, is_cancelled: false, settled_at: NOW, picked_at: None }
    }

    fn given(purchase: &Purchase) -> Result<Option<Effect>, Rejection> {
        decide_pick(purchase, &Items::new(), None, &About::default(), NOW)
    }

    #[test]
    fn a_purchase_is_picked_once_and_not_after_its_cancel() {
        let picked = given(&purchase()).expect("may be picked").expect("was not yet");
        assert_eq!(picked.purchase, Some(PurchaseChange::Picked(purchase().reference.purchase_id, NOW)));
        assert_eq!(given(&Purchase { picked_at: Some(NOW), ..purchase() }), Ok(None));
        let cancelled = Purchase { is_cancelled: true, picked_at: Some(NOW), ..purchase() };
        assert_eq!(given(&cancelled), Err(Rejection::PurchaseCancelled));
    }
}
