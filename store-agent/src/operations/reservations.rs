//! Units held for a while. What may become of a reservation is [`protocol::domain::reservation`]'s to say.
//!
//! **Guarantees.** A reservation and what it does to the stock of all its products are one entry of the ledger. One whose
//! time is over holds up nobody: whoever touches an item of it records its end first, in the same transaction. What is
//! reserved of an item is the sum of what open reservations hold of it, which `verify` checks.

use std::collections::BTreeSet;

use protocol::domain::reservation::{Act, Decided, Reservation, State, hold};
use protocol::domain::{Lines, Rejection};
use protocol::ids::{OperationId, ProductId, ReservationId};
use protocol::link::EntryId;
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{About, Fact, Happened, ItemAfter, ReservationStep};
use runtime::sqlite::{Abort, Connection, JobResult};

use super::effect::{self, Append, Cause, Effect, Items};
use crate::ledger::{self, Head, reservations};

/// Reservations whose end is recorded in one transaction of the sweeper's, at most.
const SWEPT: usize = 50;
/// With the one that has the last of so many lines of them the transaction ends.
const SWEPT_LINES: usize = 200;

/// Who asks, and under which name.
#[derive(Debug, Clone)]
pub struct Asking {
    /// The operation's name for ever.
    pub operation: OperationId,
    pub about: About,
    /// The command that asked; none: a till or staff did.
    pub command: Option<OperationId>,
}

/// What was done.
#[derive(Debug, Clone)]
pub struct Done {
    /// The reservation after it.
    pub reservation: Reservation,
    /// Where it is recorded; none: it had been done before.
    pub position: Option<EntryId>,
}

/// Holds all of these units, or none.
pub fn reserve(
    connection: &Connection,
    id: ReservationId,
    lines: &Lines,
    ttl_ms: i64,
    asking: &Asking,
    now: Millis,
) -> Result<Done, Abort<Rejection>> {
    let mut head = ledger::head(connection)?;
    expire_due(connection, &mut head, lines.iter().map(|line| &line.product_id), now)?;
    let items = loaded(connection, lines)?;
    let full = find_full(connection, lines, &items)?;
    let effect = decide_reserve(id, lines, ttl_ms, &items, full, asking, now).map_err(Abort::Refused)?;
    finish(connection, &mut head, items, effect, asking, now)
}

/// Confirms, cancels or extends a reservation. `None`: there is none with this id.
pub fn act(
    connection: &Connection,
    id: ReservationId,
    act: &Act,
    asking: &Asking,
    now: Millis,
) -> Result<Option<Done>, Abort<Rejection>> {
    let Some(reservation) = reservations::find(connection, id)? else { return Ok(None) };
    let items = loaded(connection, &reservation.lines)?;
    match decide_act(&reservation, act, &items, asking, now).map_err(Abort::Refused)? {
        Some(effect) => {
            let mut head = ledger::head(connection)?;
            finish(connection, &mut head, items, effect, asking, now).map(Some)
        }
        None => Ok(Some(Done { reservation, position: None })),
    }
}

fn finish(
    connection: &Connection,
    head: &mut Head,
    mut items: Items,
    effect: Effect,
    asking: &Asking,
    now: Millis,
) -> Result<Done, Abort<Rejection>> {
    let reservation = effect.reservation.clone().expect("a reservation's effect has one");
    let position = effect::record(connection, head, &asking.operation, &mut items, effect, now)?;
    ledger::save_head(connection, head)?;
    Ok(Done { reservation, position: Some(position) })
}

/// The first product of which as many reservations are open as may be.
pub(super) fn find_full(connection: &Connection, lines: &Lines, items: &Items) -> JobResult<Option<ProductId>> {
    for line in lines.iter() {
        // Each holds a unit at least.
        let may_be = items.get(&line.product_id).is_some_and(|item| item.reserved >= reservations::HOLDS_MAX);
        if may_be && reservations::is_full(connection, &line.product_id)? {
            return Ok(Some(line.product_id.clone()));
        }
    }
    Ok(None)
}

/// Whether these units can be held, and what is recorded then. `full`: see [`find_full`].
pub(super) fn decide_reserve(
    id: ReservationId,
    lines: &Lines,
    ttl_ms: i64,
    items: &Items,
    full: Option<ProductId>,
    asking: &Asking,
    now: Millis,
) -> Result<Effect, Rejection> {
    let changes = hold(lines, |product| items.get(product))?;
    if full.is_some() {
        return Err(Rejection::LimitExceeded { product_id: full });
    }
    let after = Reservation {
        id,
        lines: lines.clone(),
        expires_at: now.plus(ttl_ms),
        created_at: now,
        reference: asking.about.reference.clone(),
        state: State::Open,
    };
    Ok(effect_of(ReservationStep::Reserved, Decided { after, changes }, items, asking, now))
}

/// Whether this can be done to a reservation, and what is recorded then. `None`: it was done before.
pub(super) fn decide_act(
    reservation: &Reservation,
    act: &Act,
    items: &Items,
    asking: &Asking,
    now: Millis,
) -> Result<Option<Effect>, Rejection> {
    let step = match act {
        Act::Confirm { .. } => ReservationStep::Confirmed,
        Act::Cancel => ReservationStep::Cancelled,
        Act::Extend { .. } => ReservationStep::Extended,
    };
    let decided = reservation.decide(act, now)?;
    Ok(decided.map(|decided| effect_of(step, decided, items, asking, now)))
}

fn effect_of(step: ReservationStep, decided: Decided, items: &Items, asking: &Asking, now: Millis) -> Effect {
    let Decided { after: reservation, changes } = decided;
    let after = effect::changed(changes, items, now);
    let fact = Fact {
        about: asking.about.clone(),
        command: asking.command.clone(),
        ..Fact::new(Happened::Reservation { step, reservation: reservation.clone(), items: after }, now)
    };
    Effect { reservation: Some(reservation), ..Effect::of(fact, items) }
}

/// Fewer units of a product are there than were promised: what happens to these reservations of it, before the operation
/// that found that out. Each is named as a shortage, which is an entry of its own: one may be known without the other. Both
/// have names that follow from the operation's.
pub(super) fn fall_short(
    holds: &[Reservation],
    product: &ProductId,
    items: &mut Items,
    cause: Cause<'_>,
    now: Millis,
) -> Vec<(OperationId, Effect)> {
    let mut effects = Vec::new();
    for hold in holds {
        let Some(mut decided) = hold.fall_short() else { continue };
        if planted(Bug::FallenHoldKeepsOthers) {
            decided.changes.retain(|(of, _)| of == product);
        }
        if planted(Bug::FallenHoldStaysOpen) {
            decided.after.state = State::Open;
        }
        let named = |what| cause.names(what, hold.id);
        let about = About { reference: hold.reference.clone(), ..About::default() };
        let asking = Asking { operation: named("cancelled"), about, command: None };
        let cancelled = effect_of(ReservationStep::Cancelled, decided, items, &asking, now);
        let after = cancelled.appends.iter().filter_map(Append::fact).flat_map(|fact| fact.what.items());
        items.extend(after.map(|after| (after.product_id.clone(), after.item.clone())));
        let short = items.get(product).filter(|_| !planted(Bug::FallenHoldNotNamed)).map(|item| {
            let item = ItemAfter::unchanged(product.clone(), item.clone());
            let what = Happened::Shortage { item, reservation: Some(hold.id), purchase: None };
            Effect::of(Fact { about: asking.about.clone(), ..Fact::new(what, now) }, items)
        });
        effects.push((asking.operation, cancelled));
        effects.extend(short.map(|short| (named("shortage"), short)));
    }
    effects
}

/// The items of these lines that the store has.
pub(super) fn loaded(connection: &Connection, lines: &Lines) -> JobResult<Items> {
    let mut items = Items::new();
    for line in lines.iter() {
        if let Some(item) = ledger::find_item(connection, &line.product_id)? {
            items.insert(line.product_id.clone(), item);
        }
    }
    Ok(items)
}

/// Records the end of each reservation of these products whose time is over: before it is decided what else happens to
/// them, in the same transaction. Says whether there were any.
pub(super) fn expire_due<'a>(
    connection: &Connection,
    head: &mut Head,
    products: impl IntoIterator<Item = &'a ProductId>,
    now: Millis,
) -> JobResult<bool> {
    let mut are_any = false;
    let products: BTreeSet<&ProductId> = products.into_iter().collect();
    for product in products {
        if ledger::find_item(connection, product)?.is_none_or(|item| item.reserved == 0) {
            continue;
        }
        if planted(Bug::ExpiredHoldCounts) {
            continue;
        }
        for reservation in reservations::due_of_product(connection, product, now)? {
            expire(connection, head, &reservation, now)?;
            are_any = true;
        }
    }
    Ok(are_any)
}

fn expire(connection: &Connection, head: &mut Head, reservation: &Reservation, now: Millis) -> JobResult<()> {
    let Some(decided) = reservation.expire(now) else { return Ok(()) };
    let mut items = loaded(connection, &reservation.lines)?;
    // Once for each reservation, hence under a name that follows from its own.
    let operation = OperationId::parse(&format!("{}:expired", reservation.id)).expect("an id and letters");
    let asking = Asking { operation, about: About::default(), command: None };
    let effect = effect_of(ReservationStep::Expired, decided, &items, &asking, now);
    effect::record(connection, head, &asking.operation, &mut items, effect, now)?;
    Ok(())
}

/// Records the end of some reservations whose time is over. Says when the next one ends, which may have been already.
pub fn sweep(connection: &Connection, now: Millis) -> JobResult<Option<Millis>> {
    let due = reservations::due(connection, now, SWEPT)?;
    if !due.is_empty() {
        let mut head = ledger::head(connection)?;
        let mut lines = 0;
        for reservation in &due {
            expire(connection, &mut head, reservation, now)?;
            lines += reservation.lines.iter().count();
            if lines >= SWEPT_LINES {
                break;
            }
        }
        ledger::save_head(connection, &head)?;
    }
    reservations::next_end(connection)
}

#[cfg(test)]
mod tests {
    use protocol::domain::{Line, Operation};

    use super::*;
    use crate::operators::verify::verify;
    use crate::testing::{self, NOW, operation, product, quantity, store};

    fn lines(of: &[(&str, i64)]) -> Lines {
        let line = |(name, units): &(&str, i64)| Line { product_id: product(name), quantity: quantity(*units) };
        Lines::new(of.iter().map(line)).expect("are lines")
    }

    fn id(number: u128) -> ReservationId {
        ReservationId::new(uuid::Uuid::from_u128(number))
    }

    fn asking(name: &str) -> Asking {
        Asking { operation: operation(name), about: About::default(), command: None }
    }

    fn held(connection: &Connection, number: u128, of: &[(&str, i64)]) -> Result<Done, Abort<Rejection>> {
        reserve(connection, id(number), &lines(of), 1_000, &asking(&format!("hold-{number}")), NOW)
    }

    fn done(connection: &Connection, number: u128, what: &Act, now: Millis) -> Result<Option<Done>, Abort<Rejection>> {
        act(connection, id(number), what, &asking(&format!("act-{number}")), now)
    }

    /// Quantity, reserved, available of a product, after the auditor has found nothing.
    fn figures(connection: &Connection, name: &str) -> (i64, i64, i64) {
        let audit = verify(connection).expect("reads");
        assert!(audit.differences.is_empty(), "{:?}", audit.differences);
        let item = ledger::find_item(connection, &product(name)).expect("reads").expect("an item");
        (item.quantity, item.reserved, item.available())
    }

    #[test]
    fn lines_are_held_together_and_told_as_one_entry() {
        let connection = store(&[("ale", 5), ("tea", 2)]);
        let before = ledger::head(&connection).expect("reads").cursor.seq;
        held(&connection, 1, &[("ale", 4), ("tea", 2)]).expect("there are enough");
        assert_eq!((figures(&connection, "ale"), figures(&connection, "tea")), ((5, 4, 1), (2, 2, 0)));
        assert_eq!(ledger::head(&connection).expect("reads").cursor.seq, before + 1);
        assert!(matches!(held(&connection, 2, &[("ale", 1), ("tea", 1)]), Err(Abort::Refused(_))));
        assert_eq!(figures(&connection, "ale"), (5, 4, 1));
        let part = Act::Confirm { lines: Some(lines(&[("ale", 3)])) };
        let confirmed = done(&connection, 1, &part, NOW).expect("is open").expect("is known");
        assert!(confirmed.position.is_some());
        assert_eq!((figures(&connection, "ale"), figures(&connection, "tea")), ((2, 0, 2), (2, 0, 2)));
        let again = done(&connection, 1, &part, NOW).expect("was done").expect("is known");
        assert_eq!((again.position, again.reservation), (None, confirmed.reservation));
    }

    #[test]
    fn a_hold_whose_time_is_over_blocks_no_sale() {
        let connection = store(&[("ale", 5), ("tea", 2)]);
        held(&connection, 1, &[("ale", 5), ("tea", 1)]).expect("there are enough");
        let end = NOW.plus(1_000);
        let sale = |at: Millis| {
            let request = crate::operations::till::Request {
                operation_id: operation("sale"),
                product: product("ale"),
                operation: Operation::Sell { quantity: quantity(5) },
                guard: Default::default(),
                about: About::default(),
                command: None,
            };
            crate::operations::till::perform(&connection, &request, &Default::default(), at)
        };
        assert!(matches!(sale(end.plus(-1)), Err(Abort::Refused(Rejection::InsufficientStock { available: 0, .. }))));
        sale(end).expect("the hold is over");
        assert_eq!((figures(&connection, "ale"), figures(&connection, "tea")), ((0, 0, 0), (2, 0, 2)));
        let refused = done(&connection, 1, &Act::Confirm { lines: None }, end);
        assert!(matches!(refused, Err(Abort::Refused(Rejection::ReservationExpired))));
    }

    #[test]
    fn a_count_below_what_is_held_ends_the_youngest_holds_and_names_them() {
        let connection = store(&[("ale", 9), ("tea", 5)]);
        for (number, of) in
            [(1, [("ale", 3), ("tea", 1)]), (2, [("ale", 2), ("tea", 1)]), (3, [("ale", 2), ("tea", 2)])]
        {
            held(&connection, number, &of).expect("there are enough");
        }
        let head = |connection: &Connection| ledger::head(connection).expect("reads").cursor.seq;
        let count = |name: &str, quantity| {
            let count = Operation::Count { quantity, counted_at: None, count_ref: None };
            testing::act(&connection, name, "ale", count, NOW)
        };
        let before = head(&connection);
        let counted = count("count-1", 4);
        assert_eq!((counted.delta, counted.item.available()), (-5, 1));
        assert_eq!(counted.ended.iter().map(|one| one.id).collect::<Vec<_>>(), [id(3), id(2)]);
        assert_eq!((figures(&connection, "ale"), figures(&connection, "tea")), ((4, 3, 1), (5, 1, 4)));
        // Two entries for each, then the count, which the answer names.
        assert_eq!((head(&connection), counted.position.seq), (before + 5, before + 5));
        assert_eq!(ledger::testing::last(&connection).0, "counted");
        let closed = done(&connection, 3, &Act::Confirm { lines: None }, NOW);
        assert!(matches!(closed, Err(Abort::Refused(Rejection::ReservationClosed { .. }))));
        done(&connection, 1, &Act::Confirm { lines: None }, NOW).expect("its units are there");
        assert_eq!(figures(&connection, "ale"), (1, 0, 1));
        assert!(count("count-2", 0).ended.is_empty(), "nothing is held");
    }

    #[test]
    fn a_count_that_is_refused_ends_no_hold() {
        let connection = store(&[("ale", 9)]);
        held(&connection, 1, &[("ale", 9)]).expect("there are enough");
        let before = ledger::head(&connection).expect("reads").cursor;
        let request = crate::operations::till::Request {
            operation_id: operation("count"),
            product: product("ale"),
            operation: Operation::Count { quantity: 0, counted_at: None, count_ref: None },
            guard: protocol::domain::Guard { expected_version: Some(1), if_match: None },
            about: About::default(),
            command: None,
        };
        let refused = crate::operations::till::perform(&connection, &request, &Default::default(), NOW);
        assert!(matches!(refused, Err(Abort::Refused(Rejection::VersionConflict { .. }))));
        assert_eq!(ledger::head(&connection).expect("reads").cursor, before);
        assert_eq!(figures(&connection, "ale"), (9, 9, 0));
    }

    #[test]
    fn the_sweeper_ends_what_is_due_and_says_when_to_come_back() {
        let connection = store(&[("ale", 9)]);
        held(&connection, 1, &[("ale", 2)]).expect("there are enough");
        let longer = lines(&[("ale", 3)]);
        reserve(&connection, id(2), &longer, 5_000, &asking("hold-2"), NOW).expect("there are enough");
        assert_eq!(sweep(&connection, NOW).expect("sweeps"), Some(NOW.plus(1_000)));
        assert_eq!(figures(&connection, "ale"), (9, 5, 4));
        assert_eq!(sweep(&connection, NOW.plus(1_000)).expect("sweeps"), Some(NOW.plus(5_000)));
        assert_eq!(figures(&connection, "ale"), (9, 3, 6));
        done(&connection, 2, &Act::Extend { ttl_ms: 9_000 }, NOW.plus(4_000)).expect("is open");
        assert_eq!(sweep(&connection, NOW.plus(5_000)).expect("sweeps"), Some(NOW.plus(13_000)));
        assert_eq!(sweep(&connection, NOW.plus(13_000)).expect("sweeps"), None);
        assert_eq!(figures(&connection, "ale"), (9, 0, 9));
    }

    #[test]
    fn a_sweep_ends_by_lines() {
        let names: Vec<String> = (0..70).map(|number| format!("p{number}")).collect();
        let items: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 9)).collect();
        let connection = store(&items);
        let one_of_each: Vec<(&str, i64)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        for number in 1..=5 {
            held(&connection, number, &one_of_each).expect("there are enough");
        }
        let head = |connection: &Connection| ledger::head(connection).expect("reads").cursor.seq;
        let end = NOW.plus(1_000);
        for (ended, next) in [(3, Some(end)), (2, None)] {
            let before = head(&connection);
            assert_eq!(sweep(&connection, end).expect("sweeps"), next);
            assert_eq!(head(&connection), before + ended);
        }
        assert_eq!(figures(&connection, "p69"), (9, 0, 9));
    }

    #[test]
    fn no_more_reservations_hold_a_product_than_may_end_at_once() {
        let connection = store(&[("ale", 5_000), ("tea", 5)]);
        let most = u128::try_from(reservations::HOLDS_MAX).expect("is positive");
        for number in 1..=most {
            held(&connection, number, &[("ale", 1)]).expect("there are enough");
        }
        let beyond = held(&connection, most + 1, &[("tea", 1), ("ale", 1)]);
        let Err(Abort::Refused(beyond)) = beyond else { panic!("{beyond:?}") };
        assert_eq!(beyond, Rejection::LimitExceeded { product_id: Some(product("ale")) });
        held(&connection, most + 2, &[("tea", 1)]).expect("it is another product");
        done(&connection, 7, &Act::Cancel, NOW).expect("is open");
        held(&connection, most + 3, &[("ale", 1)]).expect("one has ended");
        let hold = lines(&[("ale", 1)]);
        let later = NOW.plus(1_000);
        reserve(&connection, id(most + 4), &hold, 1_000, &asking("late"), later).expect("all others are over");
        assert_eq!(figures(&connection, "ale"), (5_000, 1, 4_999));
    }

    #[test]
    fn an_item_that_is_held_down_to_its_threshold_is_low() {
        let connection = store(&[]);
        let create = Operation::Create { name: "Ale".into(), quantity: 9, low_at: Some(3) };
        testing::act(&connection, "create", "ale", create, NOW);
        held(&connection, 1, &[("ale", 6)]).expect("there are enough");
        assert_eq!(ledger::testing::last(&connection).0, "low_stock");
    }
}
