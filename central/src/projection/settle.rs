//! What the store's word means for what central has promised (B2, B3, B5, B6): requests are answered, purchases settled,
//! outcomes kept. Pure: over what was [loaded](Touched), saved with the item that the event is about, and by nothing else.

use protocol::domain::Rejection;
use protocol::ids::{OperationId, PurchaseId, StoreId};
use protocol::link::EntryId;
use protocol::planted::{Bug, planted};
use protocol::promise::purchase::{Life, Refused, Reply, Transition};
use protocol::promise::request::Status;
use protocol::time::Millis;
use protocol::wire::{Fact, Kind, Outcome, Position, PurchaseRef};

use crate::projection::touched::{Change, Touched};
use crate::promises::purchases::{Said, change, compensation, pending_one};

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
    pub(super) fn fact(&mut self, kind: Kind, fact: &Fact) {
        let outcome = |command: &OperationId| Outcome {
            command: command.clone(),
            kind,
            at: fact.recorded_at,
            product_id: fact.product_id.clone(),
            purchase: fact.purchase.clone(),
            rejection: fact.rejection.clone(),
            item: fact.item.clone(),
            picked: kind == Kind::PurchasePicked,
        };
        if let Some(command) = &fact.command {
            // A change may be recorded as two events of one command; the first is its answer.
            if kind != Kind::LowStock {
                self.answer(command, &outcome(command));
                self.touched.keep(outcome(command));
            }
            if kind == Kind::CommandRefused {
                self.refusal(command, fact.rejection.as_ref());
            }
        }
        if let Some(purchase) = fact.purchase.as_ref().filter(|_| kind != Kind::CommandRefused) {
            let outcome = outcome(&purchase.attempt);
            if kind == Kind::PurchaseCancelled {
                // The attempt's own outcome becomes that of its cancel.
                self.touched.keep(outcome.clone());
            } else if let (Kind::PurchasePicked, Some(known)) = (kind, self.touched.outcome(&purchase.attempt)) {
                let known = Outcome { picked: true, ..known.clone() };
                self.touched.keep(known);
            }
            self.reply(&outcome, purchase);
        }
    }

    /// An outcome that the store says again (B2), or keeps in its state. `also`: the command that made it say so.
    pub(super) fn outcome(&mut self, outcome: &Outcome, also: Option<&OperationId>) {
        for command in [&outcome.command].into_iter().chain(also) {
            self.answer(command, outcome);
            self.touched.keep(Outcome { command: command.clone(), ..outcome.clone() });
        }
        if outcome.kind == Kind::CommandRefused {
            self.refusal(&outcome.command, outcome.rejection.as_ref());
        } else if let Some(purchase) = &outcome.purchase {
            self.reply(outcome, purchase);
        }
    }

    /// A request has its answer, if it still takes one.
    fn answer(&mut self, id: &OperationId, outcome: &Outcome) {
        let Some(answered) = self.touched.requests.get_mut(id) else { return };
        if !answered.asked.status.takes_answer(answered.asked.is_answered) {
            return;
        }
        let status = Status::of(outcome.kind);
        (answered.asked.status, answered.asked.is_answered) = (status, true);
        answered.answer = Some((status, outcome.clone(), self.position.clone()));
        if let Some(cancels) = answered.asked.purchase.and_then(|purchase| self.touched.cancels.get_mut(&purchase)) {
            cancels.remove(id);
        }
        self.touched.settled.push(id.to_string());
    }

    /// The store's word on an attempt.
    fn reply(&mut self, outcome: &Outcome, attempt: &PurchaseRef) {
        let Some(reply) = Reply::of(outcome.kind, outcome.picked) else { return };
        // A cancel that came first ends the attempt's own request, too: the store will never run it.
        if reply != Reply::Picked {
            self.answer(&attempt.attempt, outcome);
        }
        let is_overdue = attempt.expires_at < self.now && matches!(reply, Reply::Confirmed { .. });
        let reply = if is_overdue && planted(Bug::ExpiryByTimeAlone) { Reply::Expired } else { reply };
        let store = &self.position.store;
        let transition = match self.touched.purchases.get(&attempt.purchase_id).map(|promised| &promised.purchase) {
            Some(purchase) => {
                let is_present = purchase.attempt == attempt.attempt && purchase.store == *store;
                purchase.life().on_reply(reply, is_present)
            }
            // B3: it is known again.
            None => {
                self.touched.recreate(pending_one(store, attempt));
                Life::on_first_reply(reply)
            }
        };
        match transition {
            Transition::GiveBack => self.give_back(attempt),
            Transition::Stands => {}
            Transition::Settled { .. }
            | Transition::Picked
            | Transition::Proven
            | Transition::CancelRequested
            | Transition::CancelEnded { .. }
            | Transition::Voided => {
                self.change(attempt.purchase_id, transition, outcome.rejection.as_ref());
                if transition != Transition::Proven {
                    self.touched.settled.push(attempt.purchase_id.to_string());
                }
            }
        }
    }

    fn change(&mut self, id: PurchaseId, transition: Transition, rejection: Option<&Rejection>) {
        if let Some(promised) = self.touched.purchases.get_mut(&id) {
            let said = Said { position: Some(&self.position), rejection };
            change(&mut promised.purchase, transition, &said, self.now);
            if promised.change == Change::None {
                promised.change = Change::Transition;
            }
        }
    }

    /// B6: the store took units for a purchase that is settled otherwise: it shall give them back.
    fn give_back(&mut self, attempt: &PurchaseRef) {
        let asked = self.touched.cancels.entry(attempt.purchase_id).or_default();
        if asked.is_empty()
            && let Some((id, command)) = compensation(attempt, self.touched.command_head())
        {
            self.touched.cancels.entry(attempt.purchase_id).or_default().insert(id.clone());
            self.touched.ask(id, command);
        }
    }

    /// The store refused a command that may have been about a purchase: then that goes on, or ends.
    fn refusal(&mut self, command: &OperationId, rejection: Option<&Rejection>) {
        let Some(asked) = self.touched.requests.get(command).map(|answered| &answered.asked) else { return };
        let Some(id) = asked.purchase else { return };
        let is_purchase = asked.kind == "purchase";
        let Some(purchase) = self.touched.purchases.get(&id).map(|promised| &promised.purchase) else { return };
        let refused = if is_purchase {
            Refused::Purchase
        } else {
            // Its own reply came before and waited for that of the cancel.
            let replied = self.touched.outcome(&purchase.attempt);
            Refused::Cancel { is_confirmed: replied.is_some_and(|known| known.kind == Kind::PurchaseConfirmed) }
        };
        let transition = purchase.life().on_refusal(refused);
        if transition != Transition::Stands {
            self.change(id, transition, rejection);
        }
        self.touched.settled.push(id.to_string());
    }
}
