//! What a run of a store's entries touches: loaded before the first is folded, changed in memory, saved once.

use std::collections::{BTreeMap, BTreeSet};

use protocol::domain::Item;
use protocol::domain::transfer::Transfer as Reported;
use protocol::ids::{OperationId, ProductId, PurchaseId, ReservationId, StoreId, TransferId};
use protocol::link::{Commands, EntryId};
use protocol::promise::purchase::Reply;
use protocol::promise::request::Status;
use protocol::stock::{self, Effect};
use protocol::time::Millis;
use protocol::wire::{Became, Command, Event, Fact, Happened, ItemAfter, Outcome, Position, PurchaseRef};

use crate::promises::allotments;
use crate::promises::transfers::announce;
use crate::storage::commands::{self, Asked};
use crate::storage::outcomes;
use crate::storage::purchases::{self, Purchase};
use crate::storage::reservations::{self, Reservation};
use crate::storage::stores::Store;
use crate::storage::transfers::{self, Transfer};
use crate::storage::{Connection, JobResult};
use crate::storage::{items, stocks, totals};

/// Names of what has been settled, for whoever waits for it.
pub type Settled = Vec<String>;

/// What saving a run has done.
#[derive(Debug, Default)]
pub struct Saved {
    /// Purchases, requests and transfers that were settled, or moved on.
    pub settled: Settled,
    /// Other stores that were asked for something.
    pub asked: BTreeSet<StoreId>,
    /// A purchase seeks another store.
    pub seeks: bool,
}

impl Saved {
    /// Something more was saved.
    pub(super) fn append(&mut self, mut other: Self) {
        self.settled.append(&mut other.settled);
        self.asked.append(&mut other.asked);
        self.seeks |= other.seeks;
    }
}

/// The keys of everything that a run may touch, known before anything is read.
#[derive(Debug, Default)]
pub(super) struct Needs {
    items: BTreeSet<ProductId>,
    purchases: BTreeSet<PurchaseId>,
    requests: BTreeSet<OperationId>,
    outcomes: BTreeSet<OperationId>,
    reservations: BTreeSet<ReservationId>,
    transfers: BTreeSet<TransferId>,
    /// Commands that were refused: what they were about is touched, too.
    refused: BTreeSet<OperationId>,
}

impl Needs {
    /// Of an event, and of the operation that its entry names.
    pub(super) fn add(&mut self, event: &Event, operation: &str) {
        if let Effect::Put(items) = stock::effect(event) {
            self.items.extend(items.iter().map(|after| after.product_id.clone()));
        }
        match event {
            Event::Fact(fact) => self.add_fact(fact),
            Event::OutcomeRepeated(outcome) => {
                self.requests.extend(OperationId::parse(operation).ok());
                self.add_outcome(outcome);
            }
            Event::Opened { .. } | Event::SnapshotPage(_) | Event::SnapshotEnd(_) | Event::Ready { .. } => {}
        }
    }

    fn add_fact(&mut self, fact: &Fact) {
        self.requests.extend(fact.command.clone());
        if let Happened::PurchasePicked { purchase, .. } = &fact.what {
            self.add_purchase(purchase);
        }
        if let Happened::Reservation { reservation, .. } = &fact.what {
            self.reservations.insert(reservation.id);
        }
        self.transfers.extend(fact.what.transfer_id());
        if let Some(answer) = fact.what.answer() {
            self.add_answer(fact.command.as_ref(), &answer);
        }
    }

    /// Of a transfer that comes with a state.
    pub(super) fn add_transfer(&mut self, id: TransferId) {
        self.transfers.insert(id);
    }

    /// Of an outcome that is said again, or comes with a state.
    pub(super) fn add_outcome(&mut self, outcome: &Outcome) {
        self.requests.insert(outcome.command.clone());
        self.add_answer(Some(&outcome.command), &outcome.became);
    }

    fn add_answer(&mut self, command: Option<&OperationId>, answer: &Became) {
        if let Became::Refused { subject, .. } = answer {
            self.refused.extend(command.cloned());
            self.reservations.extend(subject.reservation());
        }
        if let Some((_, purchase)) = Reply::of(answer) {
            self.add_purchase(purchase);
        }
    }

    fn add_purchase(&mut self, purchase: &PurchaseRef) {
        self.purchases.insert(purchase.purchase_id);
        self.requests.insert(purchase.attempt.clone());
        self.outcomes.insert(purchase.attempt.clone());
    }
}

/// An item of the stock that is shown.
#[derive(Debug, Default)]
struct TouchedItem {
    before: Option<Item>,
    /// None: no event has touched it yet.
    after: Option<Item>,
    is_renamed: bool,
}

/// What has to be written of a purchase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// What a transition changes.
    Transition,
    /// All of it: it became known again when so many were touched.
    New(usize),
}

/// A purchase, and what has to be written of it.
#[derive(Debug)]
pub(super) struct Promised {
    pub(super) purchase: Purchase,
    pub(super) change: Change,
}

/// A request, and the answer that it takes.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) asked: Asked,
    pub(super) answer: Option<(Status, Outcome, Position)>,
}

/// What a run touches.
#[derive(Debug)]
pub(super) struct Touched {
    items: BTreeMap<ProductId, TouchedItem>,
    pub(super) purchases: BTreeMap<PurchaseId, Promised>,
    pub(super) requests: BTreeMap<OperationId, Answered>,
    outcomes: BTreeMap<OperationId, Outcome>,
    outcomes_changed: BTreeSet<OperationId>,
    /// Reservations that are known, and whether they have changed.
    pub(super) reservations: BTreeMap<ReservationId, (Reservation, bool)>,
    /// Transfers that are known, and whether they have changed.
    pub(super) transfers: BTreeMap<TransferId, (Transfer, bool)>,
    /// Transfers that their destinations are to hear of.
    pub(super) shipped: Vec<Reported>,
    /// The stock that outcomes, reservations and transfers are reported with.
    pub(super) generation: i64,
    /// Unanswered cancels of these purchases, at this store.
    pub(super) cancels: BTreeMap<PurchaseId, BTreeSet<OperationId>>,
    /// What the store is asked for, in order.
    commands: Vec<(OperationId, Command)>,
    command_head: EntryId<Commands>,
    /// Purchases and requests that were settled.
    pub(super) settled: Settled,
}

impl Touched {
    /// Reads all of it.
    pub(super) fn load(connection: &Connection, store: &Store, needs: Needs) -> JobResult<Self> {
        let Needs { items, purchases: mut named, requests, outcomes: mut attempts, refused, .. } = needs;
        let (mut of_reservations, mut of_transfers) = (needs.reservations, needs.transfers);
        let mut touched = Self {
            items: BTreeMap::new(),
            purchases: BTreeMap::new(),
            requests: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            outcomes_changed: BTreeSet::new(),
            reservations: BTreeMap::new(),
            transfers: BTreeMap::new(),
            shipped: Vec::new(),
            generation: store.generation,
            cancels: BTreeMap::new(),
            commands: Vec::new(),
            command_head: store.command_head.id(),
            settled: Settled::new(),
        };
        for product in items {
            let before = items::of(connection, store.stock, &product)?;
            touched.items.insert(product, TouchedItem { before, ..TouchedItem::default() });
        }
        for id in requests {
            if let Some(asked) = commands::asked(connection, &id)? {
                // An agent that does not know what was asked does not say what it is about.
                named.extend(asked.purchase.filter(|_| refused.contains(&id)));
                of_reservations.extend(asked.reservation.filter(|_| refused.contains(&id)));
                of_transfers.extend(asked.transfer.filter(|_| refused.contains(&id)));
                touched.requests.insert(id, Answered { asked, answer: None });
            }
        }
        for id in named {
            if let Some(purchase) = purchases::find(connection, id)? {
                attempts.insert(purchase.attempt.clone());
                touched.purchases.insert(id, Promised { purchase, change: Change::None });
            }
            let asked = commands::unanswered_cancels(connection, &store.id, id)?;
            touched.cancels.insert(id, asked.into_iter().collect());
        }
        for id in of_reservations {
            if let Some(reservation) = reservations::find(connection, id)? {
                touched.reservations.insert(id, (reservation, false));
            }
        }
        for id in of_transfers {
            if let Some(transfer) = transfers::find(connection, id)? {
                touched.transfers.insert(id, (transfer, false));
            }
        }
        for attempt in attempts {
            if let Some(outcome) = outcomes::find(connection, &store.id, &attempt)? {
                touched.outcomes.insert(attempt, outcome);
            }
        }
        Ok(touched)
    }

    /// An item is what the store says it is.
    pub(super) fn put(&mut self, ItemAfter { product_id, item, .. }: &ItemAfter) {
        let shown = self.items.entry(product_id.clone()).or_default();
        let known = shown.after.as_ref().or(shown.before.as_ref());
        shown.is_renamed |= known.is_none_or(|known| known.name != item.name);
        shown.after = Some(item.clone());
    }

    /// What the store has said of a command last.
    pub(super) fn outcome(&self, command: &OperationId) -> Option<&Outcome> {
        self.outcomes.get(command)
    }

    /// Keeps what the store says of a command.
    pub(super) fn keep(&mut self, outcome: Outcome) {
        self.outcomes_changed.insert(outcome.command.clone());
        self.outcomes.insert(outcome.command.clone(), outcome);
    }

    /// Where the command log will stand once all of it is saved.
    pub(super) fn command_head(&self) -> EntryId<Commands> {
        EntryId { seq: self.command_head.seq + self.commands.len() as u64, ..self.command_head }
    }

    /// A purchase that central does not know (any more) is known again.
    pub(super) fn recreate(&mut self, purchase: Purchase) {
        let change = Change::New(self.purchases.len());
        self.purchases.insert(purchase.id, Promised { purchase, change });
    }

    /// Asks the store for something.
    pub(super) fn ask(&mut self, id: OperationId, command: Command) {
        self.commands.push((id, command));
    }

    /// Writes what has changed. Moves the store's digest and its command head.
    pub(super) fn save(self, connection: &Connection, store: &mut Store, now: Millis) -> JobResult<Saved> {
        let mut settled = self.settled;
        let mut lowered: BTreeSet<ProductId> = BTreeSet::new();
        let counted = totals::Interval::of(connection, store.stock)?;
        for (product, shown) in &self.items {
            if let Some(after) = &shown.after {
                stocks::replace(connection, store, &counted, product, shown.before.as_ref(), after, shown.is_renamed)?;
                if after.allotment_wanted.is_some() {
                    lowered.insert(product.clone());
                } else if shown.before.as_ref().is_some_and(|before| before.allotment_wanted.is_some()) {
                    settled.push(allotments::settled(&store.id, product));
                }
            }
        }
        for command in &self.outcomes_changed {
            outcomes::keep(connection, &store.id, self.generation, &self.outcomes[command], now)?;
        }
        for (id, answered) in &self.requests {
            if let Some((status, outcome, position)) = &answered.answer {
                lowered.extend(commands::save_answer(connection, id, *status, outcome, Some(position), now)?);
            }
        }
        let mut new = BTreeMap::new();
        for Promised { purchase, change } in self.purchases.values() {
            match change {
                Change::None => {}
                Change::Transition => purchases::save_transition(connection, purchase)?,
                Change::New(number) => drop(new.insert(number, purchase)),
            }
        }
        // In the order in which they became known again.
        new.values().try_for_each(|purchase| purchases::insert(connection, purchase))?;
        for (reservation, _) in self.reservations.values().filter(|(_, has_changed)| *has_changed) {
            reservations::save(connection, reservation)?;
        }
        for (id, command) in &self.commands {
            commands::append(connection, store, id, command, now)?;
        }
        for (transfer, _) in self.transfers.values().filter(|(_, has_changed)| *has_changed) {
            transfers::save(connection, transfer)?;
        }
        for product in &lowered {
            allotments::release(connection, store, product, now)?;
        }
        let seeks = self
            .purchases
            .values()
            .any(|Promised { purchase, change }| *change != Change::None && purchase.life().seeking);
        let mut saved = Saved { settled, asked: BTreeSet::new(), seeks };
        for transfer in &self.shipped {
            if announce(connection, transfer, now)? {
                saved.asked.insert(transfer.to.clone());
            }
        }
        Ok(saved)
    }
}
