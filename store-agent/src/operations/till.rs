//! What tills and staff do: one operation on one item, in one transaction.

use protocol::domain::allotment::{Rule, cut};
use protocol::domain::reservation::Reservation;
use protocol::domain::{Facts, Guard, Item, Operation, Rejection, apply, decide, shortage};
use protocol::ids::{OperationId, ProductId};
use protocol::link::{EntryId, Epoch};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{About, Fact, Happened, ItemAfter, Position};
use runtime::sqlite::{Abort, Connection, JobResult};

use super::effect::{self, Cause, Effect, Items};
use super::{allotment, reservations};
use crate::ledger::{self, Head, Moved};

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
    /// Reservations that were ended by it.
    pub ended: Vec<Reservation>,
}

/// What a decision about an item depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The ledger's present epoch.
    pub epoch: Epoch,
    /// The item, if there is one.
    pub items: Items,
    /// For a count of an item: sum of its changes after the position at which the count was true; none: this ledger has
    /// no such position.
    pub moved_since_count: Option<i64>,
    /// Open reservations that hold the units which the operation finds missing, the youngest first.
    pub holds: Vec<Reservation>,
    /// What the store sets aside for online sale by itself, once the operation is done.
    pub rule: Rule,
}

/// What a decision says: the change, and what else happened because of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The item after it.
    pub item: Item,
    /// Change of the quantity.
    pub delta: i64,
    /// Reservations that end with it, as they are then.
    pub ended: Vec<Reservation>,
    /// All that is recorded, in order.
    pub effect: Effect,
}

/// The item and the position of a count that was true at one: what it has moved since is added up before the write.
pub fn counted(product: &ProductId, operation: &Operation) -> Option<(ProductId, EntryId)> {
    let Operation::Count { counted_at: Some(position), .. } = operation else { return None };
    Some((product.clone(), position.at))
}

/// Loads, decides and records. Everything happens or, if it is refused, nothing. `moved`: sums for what is
/// [`counted`]; one that is missing is added up here.
pub fn perform(
    connection: &Connection,
    request: &Request,
    moved: &Moved,
    now: Millis,
) -> Result<Performed, Abort<Rejection>> {
    let mut head = ledger::head(connection)?;
    let mut known = load(connection, &head, &request.product, &request.operation, moved)?;
    let is_held = known.items.values().any(|item| item.reserved > 0);
    if is_held && reservations::expire_due(connection, &mut head, [&request.product], now)? {
        known = load(connection, &head, &request.product, &request.operation, moved)?;
    }
    let Decided { item, delta, ended, effect } = decide_request(&known, request, now).map_err(Abort::Refused)?;
    let operation = &request.operation_id;
    let position = effect::record(connection, &mut head, operation, &mut known.items, effect, now)?;
    ledger::save_head(connection, &head)?;
    Ok(Performed { item, delta, position, ended })
}

/// Units that an item has moved since a position at which a count was true; none: this ledger has no such position. An epoch
/// may open with a state of which this log has not all entries, so it has none of an earlier one.
pub fn moved_since(
    connection: &Connection,
    head: &Head,
    product: &ProductId,
    position: &Position,
    moved: &Moved,
) -> JobResult<Option<i64>> {
    if !has(connection, head, position)? {
        return Ok(None);
    }
    Ok(Some(if planted(Bug::EarlierShelfIsNow) { 0 } else { moved.since(connection, product, position.at)? }))
}

/// Whether a count can be true at this position of this ledger.
pub fn has(connection: &Connection, head: &Head, Position { store, at }: &Position) -> JobResult<bool> {
    let is_ours = *store == ledger::store_id(connection)?
        && (at.epoch == head.cursor.epoch || planted(Bug::EarlierEpochCounted))
        && *at <= head.cursor.id();
    Ok(is_ours && ledger::is_kept(connection, *at)?)
}

/// Loads what an operation on a product depends on.
pub(super) fn load(
    connection: &Connection,
    head: &Head,
    product: &ProductId,
    operation: &Operation,
    moved: &Moved,
) -> JobResult<Known> {
    let item = ledger::find_item(connection, product)?;
    let moved_since_count = match operation {
        Operation::Count { counted_at: Some(at), .. } if item.is_some() => {
            moved_since(connection, head, product, at, moved)?
        }
        Operation::Count { .. }
        | Operation::Create { .. }
        | Operation::Sell { .. }
        | Operation::Receive { .. }
        | Operation::Adjust { .. }
        | Operation::Change { .. }
        | Operation::Allot { .. } => Some(0),
    };
    let epoch = head.cursor.epoch;
    let missing = match (&item, moved_since_count) {
        (Some(item), Some(moved_since_count)) if item.reserved > 0 => {
            let facts = Facts { epoch, moved_since_count };
            let change = decide(Some(item), operation, &Guard::default(), facts);
            change.map_or(0, |change| {
                let left = cut(item, &change).map(|cut| apply(Some(item), &cut, item.updated_at));
                shortage(left.as_ref().unwrap_or(item), &change)
            })
        }
        (_, _) => 0,
    };
    let holds = ledger::reservations::youngest_of_product(connection, product, missing)?;
    let mut items: Items = item.into_iter().map(|item| (product.clone(), item)).collect();
    for hold in &holds {
        items.extend(reservations::loaded(connection, &hold.lines)?);
    }
    let rule = match operation {
        Operation::Receive { .. } | Operation::Count { .. } => ledger::allotment::rule(connection)?,
        Operation::Create { .. }
        | Operation::Sell { .. }
        | Operation::Adjust { .. }
        | Operation::Change { .. }
        | Operation::Allot { .. } => Rule::default(),
    };
    Ok(Known { epoch, items, moved_since_count, holds, rule })
}

/// Decides one operation on one item: what is recorded if it is done.
pub fn decide_request(known: &Known, request: &Request, now: Millis) -> Result<Decided, Rejection> {
    let moved_since_count = known.moved_since_count.ok_or(Rejection::UnknownPosition)?;
    let facts = Facts { epoch: known.epoch, moved_since_count };
    let change = decide(known.items.get(&request.product), &request.operation, &request.guard, facts)?;
    let mut items = known.items.clone();
    let cause = Cause { operation: &request.operation_id, epoch: known.epoch };
    let cut = allotment::cut_before(&request.product, &change, &mut items, cause, now);
    let fallen = reservations::fall_short(&known.holds, &request.product, &mut items, cause, now);
    let before = items.get(&request.product);
    let after = apply(before, &change, now);
    let from = if planted(Bug::DifferenceNotTold) { Some(&after) } else { before };
    let after = ItemAfter::new(request.product.clone(), from, after.clone());
    let delta = after.delta;
    let by = after.item.allotted - before.map_or(0, |before| before.allotted);
    let item = after.item.clone();
    let fact = Fact {
        about: request.about.clone(),
        command: request.command.clone(),
        ..Fact::new(happened(&request.operation, after, by), now)
    };
    let ended = fallen.iter().filter_map(|(_, effect)| effect.reservation.clone()).collect();
    let mut effect = Effect { before: cut.into_iter().chain(fallen).collect(), ..Effect::of(fact, &items) };
    items.insert(request.product.clone(), item.clone());
    let raised = allotment::raise_behind(&known.rule, &request.product, &mut items, cause, now);
    effect.behind.extend(raised);
    let item = items.remove(&request.product).unwrap_or(item);
    Ok(Decided { item, delta, ended, effect })
}

/// What has happened once an operation is done. `by`: so many units more are set aside.
fn happened(operation: &Operation, item: ItemAfter, by: i64) -> Happened {
    match operation {
        Operation::Create { .. } => Happened::ItemCreated(item),
        Operation::Sell { .. } => Happened::Sold(item),
        Operation::Receive { .. } => Happened::Received(item),
        Operation::Adjust { reason, note, .. } => Happened::Adjusted { item, reason: *reason, note: note.clone() },
        Operation::Count { count_ref, .. } => Happened::Counted { item, count_ref: count_ref.clone() },
        Operation::Change { .. } => Happened::ItemChanged(item),
        Operation::Allot { .. } => Happened::AllotmentChanged { item, by },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::effect::Append;
    use crate::testing::{self, operation, product, quantity};

    const NOW: Millis = Millis(1_000);

    fn request(does: Operation) -> Request {
        Request {
            operation_id: operation("o"),
            product: product("ale"),
            operation: does,
            guard: Guard::default(),
            about: About::default(),
            command: None,
        }
    }

    fn known(quantity: i64, low_at: Option<i64>) -> Known {
        let item = Item { quantity, low_at, version: 1, ..Item::default() };
        Known {
            epoch: 7.into(),
            items: [(product("ale"), item)].into(),
            moved_since_count: Some(0),
            ..Known::default()
        }
    }

    #[test]
    fn a_sale_that_leaves_little_is_told_as_two_facts_of_one_item() {
        let sold = decide_request(&known(5, Some(3)), &request(Operation::Sell { quantity: quantity(2) }), NOW);
        let sold = sold.expect("there are enough");
        assert_eq!((sold.delta, sold.item.quantity), (-2, 3));
        let told = sold.effect.appends.iter().map(|told| match told {
            Append::Fact(fact) => fact.what.clone(),
            Append::Repeated(_) => panic!("a till records facts"),
        });
        let after = |delta| ItemAfter { product_id: product("ale"), delta, item: sold.item.clone() };
        assert_eq!(told.collect::<Vec<_>>(), [Happened::Sold(after(-2)), Happened::LowStock(after(0))]);
    }

    #[test]
    fn a_count_at_a_place_that_is_not_known_is_refused_before_anything_else() {
        let count = request(Operation::Count { quantity: 3, counted_at: None, count_ref: None });
        let unknown = Known { moved_since_count: None, ..known(5, None) };
        assert_eq!(decide_request(&unknown, &count, NOW), Err(Rejection::UnknownPosition));
        let moved = Known { moved_since_count: Some(-1), ..known(5, None) };
        assert_eq!(decide_request(&moved, &count, NOW).map(|counted| counted.item.quantity), Ok(2));
    }

    #[test]
    fn the_same_count_entered_twice_corrects_once() {
        let connection = testing::store(&[("ale", 12)]);
        let does = |operation| perform(&connection, &request(operation), &Moved::default(), NOW).expect("is done");
        let at = ledger::head(&connection).expect("reads").cursor.id();
        let counted_at = Some(Position { store: ledger::store_id(&connection).expect("reads"), at });
        let count = Operation::Count { quantity: 10, counted_at, count_ref: None };
        does(Operation::Sell { quantity: quantity(1) });
        let [first, second] = [does(count.clone()), does(count)];
        assert_eq!((first.delta, second.delta, second.item.quantity), (-2, 0, 9));
    }

    #[test]
    fn a_count_on_top_of_an_earlier_epochs_position_is_refused() {
        let connection = testing::store(&[("ale", 5)]);
        let at = |connection: &Connection| ledger::head(connection).expect("reads").cursor.id();
        let then = at(&connection);
        let counted = |at| {
            let counted_at = Some(Position { store: ledger::store_id(&connection).expect("reads"), at });
            let count = Operation::Count { quantity: 5, counted_at, count_ref: None };
            perform(&connection, &request(count), &Moved::default(), NOW)
        };
        assert_eq!(counted(then).expect("is this epoch's").delta, 0);
        ledger::open_epoch(&connection, None, NOW).expect("opens");
        assert!(matches!(counted(then), Err(Abort::Refused(Rejection::UnknownPosition))));
        assert_eq!(counted(at(&connection)).expect("is this epoch's").delta, 0);
    }
}
