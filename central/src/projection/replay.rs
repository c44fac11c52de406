//! A store's state, recomputed from its ledger: what central must know of it.

use std::collections::BTreeMap;

use protocol::domain::Item;
use protocol::domain::reservation::Reservation;
use protocol::domain::transfer::Transfer;
use protocol::ids::{OperationId, ProductId, ReservationId, TransferId};
use protocol::stock::Stock;
use protocol::wire::{Event, Fact, Happened, Outcome};

use crate::storage::ledger;
use crate::storage::stores::Store;
use crate::storage::{Connection, JobResult};

/// A store's state as its ledger tells it.
#[derive(Debug, Default)]
pub struct State {
    pub stock: BTreeMap<ProductId, Item>,
    pub outcomes: BTreeMap<OperationId, Outcome>,
    pub reservations: BTreeMap<ReservationId, Reservation>,
    /// Those of which the store has said something; others are on their way to it.
    pub transfers: BTreeMap<TransferId, Transfer>,
}

/// At the store's state: the pages of the snapshot that was installed last, then every entry after them, in order.
pub fn state(connection: &Connection, store: &Store) -> JobResult<State> {
    let (mut state, mut stock) = (State::default(), Stock::default());
    ledger::since_base(connection, store, |kind, body, operation| match Event::decode(kind, body) {
        Ok(event) => {
            // What does not fit is told by `verify`.
            drop(stock.apply(&event));
            state.apply(event, OperationId::parse(operation).ok());
        }
        Err(_) => stock.skip(),
    })?;
    Ok(State { stock: stock.into_items().collect(), ..state })
}

impl State {
    fn apply(&mut self, event: Event, operation: Option<OperationId>) {
        match event {
            Event::Fact(fact) => self.fact(&fact),
            Event::SnapshotPage(page) => {
                page.outcomes.into_iter().for_each(|outcome| self.keep(outcome));
                self.reservations.extend(page.reservations.into_iter().map(|held| (held.id, held)));
                self.transfers.extend(page.transfers.into_iter().map(|one| (one.id, one)));
            }
            Event::OutcomeRepeated(outcome) => {
                if let Some(command) = operation {
                    self.keep(Outcome { command, ..outcome.clone() });
                }
                self.keep(outcome);
            }
            Event::Opened { .. } | Event::SnapshotEnd(_) | Event::Ready { .. } => {}
        }
    }

    fn fact(&mut self, fact: &Fact) {
        if let Some(outcome) = fact.outcome() {
            self.keep(outcome);
        }
        match &fact.what {
            Happened::PurchaseCancelled { purchase, .. } => {
                // The attempt's own outcome becomes that of its cancel.
                let became = fact.what.answer();
                let own =
                    became.map(|became| Outcome { command: purchase.attempt.clone(), at: fact.recorded_at, became });
                own.into_iter().for_each(|own| self.keep(own));
            }
            Happened::PurchasePicked { purchase, .. } => {
                if let Some(known) = self.outcomes.remove(&purchase.attempt) {
                    self.keep(known.picked());
                }
            }
            Happened::Reservation { reservation, .. } => {
                self.reservations.insert(reservation.id, reservation.clone());
            }
            Happened::Transfer { transfer, .. } => {
                self.transfers.insert(transfer.id, transfer.clone());
            }
            Happened::ItemCreated(_)
            | Happened::ItemChanged(_)
            | Happened::Received(_)
            | Happened::Sold(_)
            | Happened::Adjusted { .. }
            | Happened::Counted { .. }
            | Happened::AllotmentChanged { .. }
            | Happened::PurchaseConfirmed { .. }
            | Happened::PurchaseRejected { .. }
            | Happened::PurchaseExpired { .. }
            | Happened::CommandRefused { .. }
            | Happened::Shortage { .. }
            | Happened::LowStock(_) => {}
        }
    }

    fn keep(&mut self, outcome: Outcome) {
        self.outcomes.insert(outcome.command.clone(), outcome);
    }
}
