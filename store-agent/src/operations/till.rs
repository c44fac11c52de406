//! What tills and staff do: one operation on one item, in one transaction.

use protocol::domain::{Change, Facts, Guard, Item, Operation, Rejection, apply, decide};
use protocol::ids::{OperationId, ProductId};
use protocol::link::{EntryId, Epoch};
use protocol::time::Millis;
use protocol::wire::{About, Fact, Kind, PurchaseRef};
use runtime::sqlite::{Abort, Connection, JobResult};

use super::effect::{self, Effect};
use crate::ledger::{self, Head};

/// One operation on one item.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its name for ever.
    pub operation_id: OperationId,
    /// Of which product.
    pub product: ProductId,
    pub operation: Operation,
    /// What the caller believes the version to be.
    pub guard: Guard,
    /// Who asked, and what for.
    pub about: About,
    /// The command that asked; none: a till or staff did.
    pub command: Option<OperationId>,
    /// The purchase it is about.
    pub purchase: Option<PurchaseRef>,
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Performed {
    /// The item after it.
    pub item: Item,
    /// Change of the quantity.
    pub delta: i64,
    /// Where it is recorded.
    pub position: EntryId,
    /// Under which name.
    pub kind: Kind,
}

/// What a decision about an item depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The ledger's present epoch.
    pub epoch: Epoch,
    /// The item, if there is one.
    pub item: Option<Item>,
    /// For a count of an item: sum of its changes after the position at which the count was true; none: this ledger has
    /// no such position.
    pub moved_since_count: Option<i64>,
}

/// What a decision says: the change, and what else happened because of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The item after it.
    pub item: Item,
    /// Change of the quantity.
    pub delta: i64,
    /// Under which name it is recorded.
    pub kind: Kind,
    /// All that is recorded, in order.
    pub effect: Effect,
}

/// Loads, decides and records. Everything happens or, if it is refused, nothing.
pub fn perform(connection: &Connection, request: &Request, now: Millis) -> Result<Performed, Abort<Rejection>> {
    let mut head = ledger::head(connection)?;
    let known = load(connection, &head, &request.product, &request.operation)?;
    let Decided { item, delta, kind, effect } = decide_request(&known, request, now).map_err(Abort::Refused)?;
    let operation = &request.operation_id;
    let position = effect::record(connection, &mut head, operation, known.item.as_ref(), &effect, now)?;
    ledger::save_head(connection, &head)?;
    Ok(Performed { item, delta, position, kind })
}

/// Loads what an operation on a product depends on.
pub(super) fn load(
    connection: &Connection,
    head: &Head,
    product: &ProductId,
    operation: &Operation,
) -> JobResult<Known> {
    let item = ledger::find_item(connection, product)?;
    let moved_since_count = match operation {
        Operation::Count { counted_at: Some(at), .. } if item.is_some() => {
            let is_ours = at.store == ledger::store_id(connection)? && at.at <= head.cursor.id();
            if is_ours && ledger::is_kept(connection, at.at)? {
                Some(ledger::moved_since(connection, product, at.at)?)
            } else {
                None
            }
        }
        Operation::Count { .. }
        | Operation::Create { .. }
        | Operation::Sell { .. }
        | Operation::Receive { .. }
        | Operation::Adjust { .. }
        | Operation::Change { .. }
        | Operation::Purchase { .. }
        | Operation::GiveBack { .. } => Some(0),
    };
    Ok(Known { epoch: head.cursor.epoch, item, moved_since_count })
}

/// Decides one operation on one item: what is recorded if it is done.
pub fn decide_request(known: &Known, request: &Request, now: Millis) -> Result<Decided, Rejection> {
    let moved_since_count = known.moved_since_count.ok_or(Rejection::UnknownPosition)?;
    let facts = Facts { epoch: known.epoch, moved_since_count };
    let changes = decide(known.item.as_ref(), &request.operation, &request.guard, facts)?;
    let mut item = known.item.clone();
    let mut told = Vec::with_capacity(changes.len());
    for change in &changes {
        let after = apply(item.as_ref(), change, now);
        told.push((Kind::of(change), fact(request, change, item.as_ref(), &after, now)));
        item = Some(after);
    }
    let (kind, first) = told.first().expect("what is not refused changes something");
    let (kind, delta) = (*kind, first.delta);
    let item = item.expect("there is an item after a change");
    Ok(Decided { item, delta, kind, effect: Effect::of(told) })
}

/// The event that tells of one change.
fn fact(request: &Request, change: &Change, before: Option<&Item>, after: &Item, now: Millis) -> Fact {
    let mut fact = Fact::new(request.product.clone(), now);
    fact.delta = after.quantity - before.map_or(0, |before| before.quantity);
    fact.item = Some(after.clone());
    fact.about = request.about.clone();
    fact.command.clone_from(&request.command);
    if *change != Change::FellLow {
        fact.purchase.clone_from(&request.purchase);
    }
    match &request.operation {
        Operation::Adjust { reason, note, .. } if *change != Change::FellLow => {
            fact.reason = Some(*reason);
            fact.note.clone_from(note);
        }
        Operation::Count { count_ref, .. } => fact.count_ref.clone_from(count_ref),
        Operation::Adjust { .. }
        | Operation::Create { .. }
        | Operation::Sell { .. }
        | Operation::Receive { .. }
        | Operation::Change { .. }
        | Operation::Purchase { .. }
        | Operation::GiveBack { .. } => {}
    }
    fact
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::effect::Told;
    use crate::testing::{operation, product};

    const NOW: Millis = Millis(1_000);

    fn request(does: Operation) -> Request {
        Request {
            operation_id: operation("o"),
            product: product("ale"),
            operation: does,
            guard: Guard::default(),
            about: About::default(),
            command: None,
            purchase: None,
        }
    }

    fn known(quantity: i64, low_at: Option<i64>) -> Known {
        let item = Item { quantity, low_at, version: 1, ..Item::default() };
        Known { epoch: 7.into(), item: Some(item), moved_since_count: Some(0) }
    }

    #[test]
    fn a_sale_that_leaves_little_is_told_as_two_facts_of_one_item() {
        let sold = decide_request(&known(5, Some(3)), &request(Operation::Sell { quantity: 2 }), NOW);
        let sold = sold.expect("there are enough");
        assert_eq!((sold.kind, sold.delta, sold.item.quantity), (Kind::Sold, -2, 3));
        let told = sold.effect.told.iter().map(|told| match told {
            Told::Fact(kind, fact) => (*kind, fact.delta, fact.item.clone()),
            Told::Repeated(_) | Told::State => panic!("a till tells facts"),
        });
        let item = Some(sold.item.clone());
        assert_eq!(told.collect::<Vec<_>>(), [(Kind::Sold, -2, item.clone()), (Kind::LowStock, 0, item)]);
    }

    #[test]
    fn a_count_at_a_place_that_is_not_known_is_refused_before_anything_else() {
        let count = request(Operation::Count { quantity: 3, counted_at: None, count_ref: None });
        let unknown = Known { moved_since_count: None, ..known(5, None) };
        assert_eq!(decide_request(&unknown, &count, NOW), Err(Rejection::UnknownPosition));
        let moved = Known { moved_since_count: Some(-1), ..known(5, None) };
        assert_eq!(decide_request(&moved, &count, NOW).map(|counted| counted.item.quantity), Ok(2));
    }
}
