//! What the store's word means for what central has promised (B2, B3, B5, B6): requests are answered, purchases settled,
//! outcomes kept. Pure: over what was [loaded](Touched), saved with the item that the event is about, and by nothing else.

use protocol::domain::Rejection;
use protocol::domain::reservation::Reservation;
use protocol::domain::transfer::Transfer;
use protocol::ids::{OperationId, PurchaseId, StoreId};
use protocol::link::EntryId;
use protocol::planted::{Bug, planted};
use protocol::promise::purchase::{Life, Refused, Reply, Transition};
use protocol::promise::request::Status;
use protocol::time::Millis;
use protocol::wire::{Became, Fact, Happened, Outcome, Position, PurchaseRef};

use crate::projection::touched::{Change, Touched};
use crate::promises::purchases::{Basis, change, compensation, known_again};
use crate::promises::{reservations, transfers};
use crate::storage::reservations::Status as Held;
use crate::storage::transfers::Status as Sent;

/// The place in a store's ledger where something is said, and central's time.
pub(super) struct Settling<'a> {
    touched: &'a mut Touched,
    position: Position,
    now: Millis,
}

impl<'a> Settling<'a> {
    /// What is said at this place of the store's ledger.
    pub(super) fn at(touched: &'a mut Touched, store: &StoreId, at: EntryId, now: Millis) -> Self {
        Self { touched, position: Position { store: store.clone(), at }, now }
    }

    /// A fact may answer a request, settle a purchase, or both.
    pub(super) fn fact(&mut self, fact: &Fact) {
        if let Happened::PurchasePicked { purchase, .. } = &fact.what {
            if let Some(known) = self.touched.outcome(&purchase.attempt)
                && !planted(Bug::PickNotKept)
            {
                let known = known.clone().picked();
                self.touched.keep(known);
            }
            self.reply(Reply::Picked, purchase, None);
        }
        if let Happened::Reservation { reservation, .. } = &fact.what {
            self.reservation(reservation);
        }
        if let Happened::Transfer { transfer, .. } = &fact.what {
            self.transfer(transfer);
        }
        if let Some(outcome) = fact.outcome() {
            self.answer(&outcome.command, &outcome);
            if let Became::Refused { rejection, .. } = &outcome.became {
                self.refusal(&outcome.command, rejection);
            }
            if !planted(Bug::OutcomeNotKept) {
                self.touched.keep(outcome);
            }
        }
        if let Some(became) = fact.what.answer()
            && let Some((reply, purchase)) = Reply::of(&became)
        {
            let own = Outcome { command: purchase.attempt.clone(), at: fact.recorded_at, became: became.clone() };
            // A cancel that came first ends the attempt's own request, too: the store will never run it.
            self.answer(&purchase.attempt, &own);
            if reply == Reply::Cancelled && !planted(Bug::CancelNotKept) {
                // The attempt's own outcome becomes that of its cancel.
                self.touched.keep(own);
            }
            self.reply(reply, purchase, became.rejection());
        }
    }

    /// What the store says of a reservation is what it is.
    pub(super) fn reservation(&mut self, said: &Reservation) {
        let before = self.touched.reservations.get(&said.id).map(|(before, _)| before);
        let generation = self.touched.generation;
        let after = reservations::reported(before, &self.position.store, said, &self.position, generation, self.now);
        self.touched.reservations.insert(said.id, (after, true));
    }

    /// What the store says of a transfer.
    pub(super) fn transfer(&mut self, said: &Transfer) {
        let before = self.touched.transfers.get(&said.id).map(|(before, _)| before);
        let generation = self.touched.generation;
        let after = transfers::reported(before, &self.position.store, said, &self.position, generation, self.now);
        let Some(after) = after else { return };
        if said.from == self.position.store {
            self.touched.shipped.push(said.clone());
        }
        self.touched.transfers.insert(said.id, (after, true));
    }

    /// An outcome that the store says again (B2), or keeps in its state. `also`: the command that made it say so.
    pub(super) fn outcome(&mut self, outcome: &Outcome, also: Option<&OperationId>) {
        for command in [&outcome.command].into_iter().chain(also) {
            self.answer(command, outcome);
            self.touched.keep(Outcome { command: command.clone(), ..outcome.clone() });
        }
        if let Became::Refused { rejection, .. } = &outcome.became {
            self.refusal(&outcome.command, rejection);
        }
        if let Some((reply, purchase)) = Reply::of(&outcome.became) {
            self.answer(&purchase.attempt, outcome);
            self.reply(reply, purchase, outcome.became.rejection());
        }
    }

    /// A request has its answer, if it still takes one.
    fn answer(&mut self, id: &OperationId, outcome: &Outcome) {
        let Some(answered) = self.touched.requests.get_mut(id) else { return };
        if !answered.asked.status.takes_answer(answered.asked.is_answered) || planted(Bug::AnswerNotSettled) {
            return;
        }
        let status = Status::of(&outcome.became);
        (answered.asked.status, answered.asked.is_answered) = (status, true);
        let (mut outcome, mut position) = (outcome.clone(), self.position.clone());
        if let (Became::Refused { rejection, .. }, true) = (&mut outcome.became, planted(Bug::RefusalReasonLost)) {
            *rejection = Rejection::UnsupportedByStore { entry: String::new() };
        }
        position.at.seq = if planted(Bug::AnswerPlacedBefore) { position.at.seq - 1 } else { position.at.seq };
        answered.answer = Some((status, outcome, position));
        if let Some(cancels) = answered.asked.purchase.and_then(|purchase| self.touched.cancels.get_mut(&purchase)) {
            cancels.remove(id);
        }
        self.touched.settled.push(id.to_string());
    }

    /// The store's word on an attempt.
    fn reply(&mut self, reply: Reply, attempt: &PurchaseRef, rejection: Option<&Rejection>) {
        let is_overdue = attempt.expires_at < self.now && matches!(reply, Reply::Confirmed { .. });
        let reply = if is_overdue && planted(Bug::ExpiryByTimeAlone) { Reply::Expired } else { reply };
        let store = &self.position.store;
        let mut is_present = true;
        let transition = match self.touched.purchases.get(&attempt.purchase_id).map(|promised| &promised.purchase) {
            Some(purchase) => {
                is_present = purchase.attempt == attempt.attempt && purchase.store == *store;
                purchase.life().on_reply(reply, is_present)
            }
            // B3: it is known again.
            None => {
                self.touched.recreate(known_again(store, attempt));
                Life::on_first_reply(reply, attempt.attempt.is_of_chosen_store())
            }
        };
        match transition {
            Transition::Compensate => self.compensate(attempt),
            Transition::Stands => {}
            Transition::Settled { .. }
            | Transition::Seeks
            | Transition::AskedElsewhere
            | Transition::Sold
            | Transition::Taken { .. }
            | Transition::Failed
            | Transition::AskedAgain
            | Transition::Picked
            | Transition::Proven
            | Transition::CancelRequested
            | Transition::CancelEnded { .. }
            | Transition::Voided => {
                if let (false, Some(promised)) = (is_present, self.touched.purchases.get_mut(&attempt.purchase_id)) {
                    // This store has the last word, not the one that is asked.
                    promised.purchase.store = self.position.store.clone();
                    promised.purchase.attempt = attempt.attempt.clone();
                }
                self.change(attempt.purchase_id, transition, rejection);
                if transition != Transition::Proven {
                    self.touched.settled.push(attempt.purchase_id.to_string());
                }
            }
        }
    }

    fn change(&mut self, id: PurchaseId, transition: Transition, rejection: Option<&Rejection>) {
        if let Some(promised) = self.touched.purchases.get_mut(&id) {
            let basis = Basis { position: Some(&self.position), rejection };
            change(&mut promised.purchase, transition, &basis, self.now);
            if promised.change == Change::None {
                promised.change = Change::Transition;
            }
        }
    }

    /// B6: the store took units for a purchase that is settled otherwise: it shall give them back.
    fn compensate(&mut self, attempt: &PurchaseRef) {
        let asked = self.touched.cancels.entry(attempt.purchase_id).or_default();
        if asked.is_empty()
            && let Some((id, command)) = compensation(attempt, self.touched.command_head())
        {
            self.touched.cancels.entry(attempt.purchase_id).or_default().insert(id.clone());
            self.touched.ask(id, command);
        }
    }

    /// The store refused a command that may have been about a purchase: then that goes on, or ends.
    fn refusal(&mut self, command: &OperationId, rejection: &Rejection) {
        let Some(asked) = self.touched.requests.get(command).map(|answered| &answered.asked) else { return };
        if let Some(id) = asked.reservation
            && asked.kind == "reserve"
            && let Some((reservation, has_changed)) = self.touched.reservations.get_mut(&id)
            && reservation.status == Held::Pending
        {
            (*reservation, *has_changed) =
                (reservations::rejected(reservation, rejection, &self.position, self.now), true);
        }
        if let Some(id) = asked.transfer
            && asked.kind == "ship"
            && let Some((transfer, has_changed)) = self.touched.transfers.get_mut(&id)
            && transfer.status == Sent::Requested
        {
            (*transfer, *has_changed) =
                (transfers::rejected(transfer, rejection, Some(&self.position), self.now), true);
        }
        let Some(id) = asked.purchase else { return };
        let is_purchase = asked.kind == "purchase";
        let Some(purchase) = self.touched.purchases.get(&id).map(|promised| &promised.purchase) else { return };
        if purchase.store != self.position.store {
            // It waits for another store.
            return;
        }
        let refused = if is_purchase {
            Refused::Purchase
        } else {
            // Its own reply came before and waited for that of the cancel.
            let is_confirmed = |known: &Outcome| matches!(known.became, Became::Confirmed { .. });
            let replied = self.touched.outcome(&purchase.attempt);
            Refused::Cancel { is_confirmed: replied.is_some_and(is_confirmed) }
        };
        let transition = purchase.life().on_refusal(refused);
        if transition != Transition::Stands {
            self.change(id, transition, Some(rejection));
        }
        self.touched.settled.push(id.to_string());
    }
}
