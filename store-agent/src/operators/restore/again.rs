//! Recording an own entry again on top of central's state: by its difference, never refused.

use protocol::domain::reservation::{Reservation, State};
use protocol::domain::transfer::{self, Transfer};
use protocol::domain::{Change, Item, Line, Lines, apply, shortage};
use protocol::ids::{OperationId, ProductId};
use protocol::link::Entry;
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use protocol::wire::{Became, Event, Fact, Happened, ItemAfter, Outcome, PurchaseRef, ReservationStep};
use runtime::sqlite::{Connection, JobResult};

use crate::ledger::{self, Head};
use crate::operations::effect::{self, Append, Effect, Items, PurchaseChange};

/// What an entry tells that happened, if it is not about the link's own affairs.
pub(super) fn fact(entry: &Entry) -> Option<Fact> {
    match Event::decode(&entry.kind, &entry.body).ok()? {
        Event::Fact(fact) => Some(fact),
        Event::OutcomeRepeated(_)
        | Event::Opened { .. }
        | Event::SnapshotPage(_)
        | Event::SnapshotEnd(_)
        | Event::Ready { .. } => None,
    }
}

/// What it depends on how an entry is recorded again.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The items that it is about as they are now.
    items: Items,
    /// The outcome of the command that it answered.
    outcome: Option<Outcome>,
    /// The outcome of the attempt of the purchase that it is about.
    attempt: Option<Outcome>,
    /// The reservation that it is about as it is now.
    reservation: Option<Reservation>,
    /// The transfer that it is about as it is now.
    transfer: Option<Transfer>,
}

/// Records it, unless it is none that can happen again. Says whether it was recorded.
pub(super) fn record(connection: &Connection, head: &mut Head, entry: &Entry, now: Millis) -> JobResult<bool> {
    let (Some(original), Ok(operation)) = (fact(entry), OperationId::parse(&entry.operation)) else {
        return Ok(false);
    };
    let find =
        |command: Option<&OperationId>| command.map_or(Ok(None), |command| ledger::outcomes::find(connection, command));
    if find(operation.batch().as_ref())?.is_some() {
        // Central has the answer, and with it all lines that were done.
        return Ok(false);
    }
    let mut items = Items::new();
    let held = original.what.reservation().map(|reservation| &reservation.lines);
    let bought = original.what.purchase().map(|purchase| &purchase.lines);
    let lines = held.into_iter().chain(bought).flat_map(Lines::iter);
    let products = original.what.items().iter().map(|after| &after.product_id).chain(original.what.product());
    for product in products.chain(lines.map(|line| &line.product_id)) {
        if let Some(item) = ledger::find_item(connection, product)? {
            items.insert(product.clone(), item);
        }
    }
    let known = Known {
        items: items.clone(),
        outcome: find(original.command.as_ref())?,
        attempt: find(original.what.purchase().map(|purchase| &purchase.attempt))?,
        reservation: match original.what.reservation() {
            Some(reservation) => ledger::reservations::find(connection, reservation.id)?,
            None => None,
        },
        transfer: match original.what.transfer() {
            Some(transfer) => ledger::transfers::find(connection, transfer.id)?,
            None => None,
        },
    };
    let Some(Again { shortages, effect }) = decide(original, known, now) else { return Ok(false) };
    if let Some(shortages) = shortages {
        let id = if planted(Bug::ShortageSharesId) { operation.clone() } else { of_shortage(&operation) };
        effect::record(connection, head, &id, &mut items, shortages, now)?;
    }
    effect::record(connection, head, &operation, &mut items, effect, now)?;
    Ok(true)
}

/// What is recorded.
#[derive(Debug)]
struct Again {
    /// Units that had left the shelf and were not in the books, entered first.
    shortages: Option<Effect>,
    /// The entry itself.
    effect: Effect,
}

/// `None`: it cannot happen again. It is a notice, a shortage of an earlier restore, the end of a reservation's time that is
/// known already, or a reply to a command that central has the outcome of.
fn decide(original: Fact, known: Known, now: Millis) -> Option<Again> {
    let Known { items, outcome, attempt, reservation: held, transfer: on_its_way } = known;
    let is_taken = attempt.as_ref().map(|attempt| matches!(attempt.became, Became::Confirmed { .. }));
    let is_cancel = matches!(original.what, Happened::PurchaseCancelled { .. });
    // A purchase that was confirmed before may still be cancelled.
    if original.command.is_some() && (outcome.is_some() || (is_cancel && is_taken == Some(false))) {
        return None;
    }
    let at = original.recorded_at;
    let mut today = Today { items, shortages: Vec::new(), now };
    let (mut outcomes, mut purchase_change, mut reservation_after) = (Vec::new(), None, None);
    let mut transfer_after = None;
    let what = match original.what {
        Happened::ItemCreated(then) => Happened::ItemCreated(today.created(then)),
        Happened::ItemChanged(then) if planted(Bug::RestoredChangeForgotten) => {
            Happened::ItemChanged(today.moved(then))
        }
        Happened::ItemChanged(then) => Happened::ItemChanged(today.changed(then)),
        Happened::Received(then) => Happened::Received(today.moved(then)),
        Happened::Sold(then) => Happened::Sold(today.moved(then)),
        Happened::Adjusted { item, reason, note } => Happened::Adjusted { item: today.moved(item), reason, note },
        Happened::Counted { item, count_ref } => Happened::Counted { item: today.moved(item), count_ref },
        Happened::AllotmentChanged { item, by } => today.allotted(item, by),
        Happened::PurchaseConfirmed { purchase, items } => {
            purchase_change = Some(PurchaseChange::Confirmed(purchase.clone(), at));
            let items = items.into_iter().map(|then| today.bought(then, &purchase)).collect();
            Happened::PurchaseConfirmed { purchase, items }
        }
        Happened::PurchaseRejected { purchase, rejection, items } => {
            let items = today.unchanged(purchase.lines.iter().map(|line| &line.product_id), &items);
            Happened::PurchaseRejected { purchase, rejection, items }
        }
        Happened::PurchaseExpired { purchase, items } => {
            let items = today.unchanged(purchase.lines.iter().map(|line| &line.product_id), &items);
            Happened::PurchaseExpired { purchase, items }
        }
        Happened::PurchaseCancelled { purchase, items } => {
            // By what is known today: what found no units taken gives them back if central knows that they were, and what gave
            // some back does not if whatever took them is left out.
            let items = today.given_back(&purchase.lines, &items, is_taken == Some(true));
            purchase_change = Some(PurchaseChange::Cancelled(purchase.purchase_id, now));
            let attempt = purchase.attempt.clone();
            let what = Happened::PurchaseCancelled { purchase, items };
            outcomes.extend(what.answer().map(|became| Outcome { command: attempt, at: now, became }));
            what
        }
        Happened::PurchasePicked { purchase, items } => {
            outcomes.extend(attempt.filter(|_| !planted(Bug::RestoredPickForgotten)).map(Outcome::picked));
            purchase_change = Some(PurchaseChange::Picked(purchase.purchase_id, at));
            let items = today.unchanged(purchase.lines.iter().map(|line| &line.product_id), &items);
            Happened::PurchasePicked { purchase, items }
        }
        // Nobody was told of it: it comes of itself, in each copy of a log under the same name.
        Happened::Reservation { step: ReservationStep::Expired, .. }
            if held.as_ref().is_some_and(|held| held.state == State::Expired) =>
        {
            return None;
        }
        Happened::Reservation { step, reservation, items } => {
            let what = today.reservation(step, reservation, items, held);
            reservation_after = what.reservation().cloned();
            what
        }
        Happened::Transfer { transfer, items } => {
            let what = today.transfer(transfer, items, on_its_way);
            transfer_after = what.transfer().cloned();
            what
        }
        Happened::CommandRefused { subject, rejection, items } => {
            let items = today.unchanged(subject.products(), &items);
            Happened::CommandRefused { subject, rejection, items }
        }
        // It is found anew, if it is still one.
        Happened::Shortage { reservation: None, purchase, .. } if original.replayed || purchase.is_some() => {
            return None;
        }
        Happened::Shortage { reservation: Some(_), .. } if planted(Bug::RestoreForgetsWhoFellShort) => return None,
        Happened::Shortage { item, reservation, purchase } => {
            Happened::Shortage { item: today.moved(item), reservation, purchase }
        }
        Happened::LowStock(then) if planted(Bug::NoticeRecordedAgain) => Happened::LowStock(then),
        Happened::LowStock(_) => return None,
    };
    let fact = Fact { what, replayed: true, ..original };
    outcomes.extend(fact.outcome().filter(|_| !planted(Bug::RestoredOutcomeForgotten)));
    let shortage = |after| {
        let about = fact.about.clone();
        let purchase = fact.what.purchase().cloned();
        let what = Happened::Shortage { item: after, reservation: None, purchase };
        Append::Fact(Fact { about, replayed: true, ..Fact::new(what, at) })
    };
    let shortages: Vec<Append> = today.shortages.into_iter().map(shortage).collect();
    let shortages = (!shortages.is_empty()).then(|| Effect { appends: shortages, ..Effect::default() });
    let effect = Effect {
        before: Vec::new(),
        behind: Vec::new(),
        appends: vec![Append::Fact(fact)],
        outcomes,
        purchase: purchase_change,
        reservation: reservation_after,
        transfer: transfer_after,
        asks: None,
        parked: None,
    };
    Some(Again { shortages, effect })
}

/// A shortage is an entry of its own, so it has an id of its own: central may have heard of it and not yet of the operation
/// behind it. It follows from the operation's, so that the same one found twice is the same.
fn of_shortage(operation: &OperationId) -> OperationId {
    OperationId::from_key("shortage", operation.as_str())
}

/// The stock of today, in which what happened then is recorded again.
struct Today {
    items: Items,
    shortages: Vec<ItemAfter>,
    now: Millis,
}

impl Today {
    fn apply(&self, before: Option<&Item>, change: &Change) -> Item {
        apply(before, change, self.now)
    }

    /// The item of today. One that is not known (any more) begins with so many units.
    fn item(&self, then: &ItemAfter, units: i64) -> Item {
        let begin = || {
            let Item { name, low_at, .. } = &then.item;
            self.apply(None, &Change::Created { name: name.clone(), quantity: units, low_at: *low_at })
        };
        self.items.get(&then.product_id).cloned().unwrap_or_else(begin)
    }

    fn created(&mut self, then: ItemAfter) -> ItemAfter {
        if self.items.contains_key(&then.product_id) {
            return self.moved(then);
        }
        ItemAfter { item: self.item(&then, then.delta), ..then }
    }

    fn changed(&self, then: ItemAfter) -> ItemAfter {
        let change = Change::Changed {
            name: Some(then.item.name.clone()),
            discontinued: Some(then.item.discontinued),
            low_at: Some(then.item.low_at.into()),
        };
        let item = self.apply(Some(&self.item(&then, 0)), &change);
        ItemAfter { item, ..then }
    }

    /// So many units more are set aside, or fewer, as far as that can be today; what is wanted then is wanted again, unless
    /// there were fewer: that is a loss or a release, and nobody's wish.
    fn allotted(&self, then: ItemAfter, by: i64) -> Happened {
        let before = self.item(&then, 0);
        let wanted = if by < 0 { before.allotment_wanted } else { then.item.allotment_wanted };
        let free = if before.discontinued { 0 } else { before.available() };
        let by = by.clamp(-before.allotted, free);
        let by = if planted(Bug::RestoredAllotmentForgotten) { 0 } else { by };
        let wanted = if before.discontinued { Some(0) } else { wanted };
        let item = self.apply(Some(&before), &Change::Allotted { by, wanted });
        Happened::AllotmentChanged { item: ItemAfter { item, ..then }, by }
    }

    /// Its quantity moves by the difference of then; if there are fewer units in the books than left the shelf, the
    /// shortage is entered first.
    fn moved(&mut self, mut then: ItemAfter) -> ItemAfter {
        let mut item = self.item(&then, 0);
        if planted(Bug::ShortageClipped) {
            then.delta = then.delta.max(-item.available());
        }
        let short = -(item.available() + then.delta);
        if short > 0 && then.delta < 0 {
            item = self.apply(Some(&item), &Change::Moved(short));
            self.shortages.push(ItemAfter { delta: short, item: item.clone(), ..then.clone() });
        }
        if then.delta != 0 {
            item = self.apply(Some(&item), &Change::Moved(then.delta));
        }
        ItemAfter { item, ..then }
    }

    /// Units that were bought: those out of what is set aside first, as far as they are there today.
    fn bought(&mut self, then: ItemAfter, purchase: &PurchaseRef) -> ItemAfter {
        let before = self.item(&then, 0);
        let of_allotment = purchase.from_allotment(&then.product_id).min(before.allotted);
        if of_allotment == 0 {
            return self.moved(then);
        }
        let change = Change::Bought { units: -then.delta, of_allotment };
        let missing = shortage(&before, &change);
        let mut item = before;
        if missing > 0 {
            item = self.apply(Some(&item), &Change::Moved(missing));
            self.shortages.push(ItemAfter { delta: missing, item: item.clone(), ..then.clone() });
        }
        ItemAfter { item: self.apply(Some(&item), &change), ..then }
    }

    /// `held`: the reservation as it is today, if it is known. What is not possible any more has no effect, and is
    /// recorded as what the reservation is: it was acknowledged, so it stands in the ledger.
    fn reservation(
        &mut self,
        step: ReservationStep,
        then: Reservation,
        items: Vec<ItemAfter>,
        held: Option<Reservation>,
    ) -> Happened {
        let lines = held.as_ref().map_or(&then.lines, |held| &held.lines).clone();
        let is_open = held.as_ref().is_some_and(|held| held.state == State::Open);
        let held = held.filter(|_| step != ReservationStep::Extended || !planted(Bug::HoldCountedTwice));
        let (step, reservation, items) = match (step, &then.state, held) {
            (ReservationStep::Reserved | ReservationStep::Extended, _, None) => self.hold_again(then, &lines),
            (ReservationStep::Extended, _, Some(held)) if is_open && planted(Bug::ExtensionLost) => {
                (step, held, Vec::new())
            }
            (ReservationStep::Extended, _, Some(_)) if is_open => (step, then, Vec::new()),
            (ReservationStep::Confirmed, State::Confirmed { confirmed_lines }, Some(_)) if is_open => {
                let change = |line: &Line| {
                    let taken = confirmed_lines.quantity_of(&line.product_id);
                    Change::Fulfilled { taken, held: line.quantity.get() }
                };
                let items = self.each(&lines, change);
                (step, then, items)
            }
            (ReservationStep::Confirmed, _, Some(held)) if matches!(held.state, State::Confirmed { .. }) => {
                (step, held, Vec::new())
            }
            // Its units have left the store, whoever was promised them since.
            (ReservationStep::Confirmed, _, _) => {
                let items = self.all_moved(items);
                (step, then, items)
            }
            (ReservationStep::Cancelled | ReservationStep::Expired, _, Some(_)) if is_open => {
                let items = self.each(&lines, |line| Change::Reserved(-line.quantity.get()));
                (step, then, items)
            }
            (ReservationStep::Cancelled | ReservationStep::Expired, _, None) => (step, then, Vec::new()),
            (
                ReservationStep::Reserved
                | ReservationStep::Extended
                | ReservationStep::Cancelled
                | ReservationStep::Expired,
                _,
                Some(held),
            ) => {
                let step = match held.state {
                    State::Open => ReservationStep::Extended,
                    State::Confirmed { .. } => ReservationStep::Confirmed,
                    State::Cancelled => ReservationStep::Cancelled,
                    State::Expired => ReservationStep::Expired,
                };
                (step, held, Vec::new())
            }
        };
        Happened::Reservation { step, reservation, items }
    }

    /// `known`: the transfer as it is today. Its units have left, or arrived, if that is not in the books.
    fn transfer(&mut self, then: Transfer, items: Vec<ItemAfter>, known: Option<Transfer>) -> Happened {
        let is_new =
            |known: &Transfer| then.state != transfer::State::Shipped && known.state == transfer::State::Shipped;
        match known.filter(|known| !is_new(known)) {
            Some(known) => Happened::Transfer { transfer: known, items: Vec::new() },
            None => {
                let items = self.all_moved(items);
                Happened::Transfer { transfer: then, items }
            }
        }
    }

    /// A hold that is not known today: its units are held again if they are free. Else it ends: nothing of it has left the
    /// store, and its units are somebody else's by now.
    fn hold_again(&self, then: Reservation, lines: &Lines) -> (ReservationStep, Reservation, Vec<ItemAfter>) {
        let free = |line: &Line| self.items.get(&line.product_id).map_or(0, Item::available);
        if lines.iter().all(|line| line.quantity.get() <= free(line)) {
            let items = self.each(lines, |line| Change::Reserved(line.quantity.get()));
            return (ReservationStep::Reserved, then, items);
        }
        (ReservationStep::Cancelled, Reservation { state: State::Cancelled, ..then }, Vec::new())
    }

    /// Each item of these lines after its change of today.
    fn each(&self, lines: &Lines, change: impl Fn(&Line) -> Change) -> Vec<ItemAfter> {
        let after = |line: &Line| {
            let before = self.items.get(&line.product_id)?;
            let after = self.apply(Some(before), &change(line));
            Some(ItemAfter::new(line.product_id.clone(), Some(before), after))
        };
        lines.iter().filter_map(after).collect()
    }

    /// Items as they are today, those that were not known then included.
    fn unchanged<'a>(&self, products: impl Iterator<Item = &'a ProductId>, then: &[ItemAfter]) -> Vec<ItemAfter> {
        let item = |product: &ProductId| match then.iter().find(|then| then.product_id == *product) {
            Some(then) => Some(ItemAfter::unchanged(product.clone(), self.item(then, 0))),
            None => self.items.get(product).map(|item| ItemAfter::unchanged(product.clone(), item.clone())),
        };
        products.filter_map(item).collect()
    }

    /// Each item after its difference of then.
    fn all_moved(&mut self, then: Vec<ItemAfter>) -> Vec<ItemAfter> {
        then.into_iter().map(|then| self.moved(then)).collect()
    }

    /// The items of a cancelled purchase, which are given back if they are taken.
    fn given_back(&mut self, lines: &Lines, then: &[ItemAfter], is_taken: bool) -> Vec<ItemAfter> {
        let mut items = self.unchanged(lines.iter().map(|line| &line.product_id), then);
        for item in &mut items {
            item.delta = if is_taken { lines.quantity_of(&item.product_id) } else { 0 };
        }
        self.all_moved(items)
    }
}

#[cfg(test)]
mod tests {
    use protocol::ids::ReservationId;

    use super::*;
    use crate::testing::{NOW, product};

    fn item(quantity: i64) -> Item {
        Item { quantity, version: 3, ..Item::default() }
    }

    /// Names and differences recorded for what happened to so many ales when so many units are in the books.
    fn given(
        happened: fn(ItemAfter) -> Happened,
        delta: i64,
        units: Option<i64>,
    ) -> Option<Vec<(&'static str, i64, i64)>> {
        let then = ItemAfter { product_id: product("ale"), delta, item: item(1) };
        let items = units.map(|units| (product("ale"), item(units))).into_iter().collect();
        let again = decide(Fact::new(happened(then), NOW), Known { items, ..Known::default() }, NOW)?;
        let told = again.shortages.into_iter().chain([again.effect]).flat_map(|effect| effect.appends);
        let told = told.map(|told| match told {
            Append::Fact(fact) => (fact.what.name(), fact.filed_delta(), fact.what.items()[0].item.quantity),
            Append::Repeated(_) => panic!("facts only"),
        });
        Some(told.collect())
    }

    #[test]
    fn a_fact_moves_the_stock_of_today_by_its_difference_and_what_is_missing_is_entered_first() {
        use Happened::{ItemCreated, LowStock, Sold};
        assert_eq!(given(Sold, -4, Some(5)), Some(vec![("sold", -4, 1)]));
        assert_eq!(given(Sold, -4, Some(3)), Some(vec![("shortage", 1, 4), ("sold", -4, 0)]));
        assert_eq!(given(Sold, -4, None), Some(vec![("shortage", 4, 4), ("sold", -4, 0)]));
        assert_eq!(given(ItemCreated, 4, None), Some(vec![("item_created", 4, 4)]));
        assert_eq!(given(ItemCreated, 4, Some(3)), Some(vec![("item_created", 4, 7)]));
        assert_eq!(given(LowStock, 0, Some(3)), None);
        let named = |item| Happened::Shortage {
            item,
            reservation: Some(ReservationId::new(uuid::Uuid::from_u128(1))),
            purchase: None,
        };
        assert_eq!(given(named, 0, Some(3)), Some(vec![("shortage", 0, 3)]), "who goes without is told");
    }
}
