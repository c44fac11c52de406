//! Units go from one store to another. That happens in a part of the seeds and by dice of its own, so that the others play
//! as if there were no such thing.

use central::promises::transfers::{self as promised, SHIP_WITHIN_MS, TransferRequest};
use central::storage::{items, stores, transfers as shown};
use protocol::domain::transfer::{State, Transfer};
use protocol::domain::{Line, Lines, Rejection};
use protocol::ids::{OperationId, StoreId, TransferId};
use protocol::time::Millis;
use protocol::wire::About;
use runtime::sqlite::{Abort, Connection, attempt};
use store_agent::ledger;
use store_agent::operations::reservations::Asking;
use store_agent::operations::transfers::receive;

use super::DENSE;
use super::holds::written;
use super::virtual_world::{Commit, VirtualWorld, commit};
use crate::Dice;
use crate::judge::{self, By, Occasion, Receipt};

/// Those who send and book in, of one seed.
pub(super) struct Sending {
    dice: Dice,
    /// Whether there are any.
    happens: bool,
    /// The last number that was given.
    last: u64,
}

impl Sending {
    pub(super) fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x7472_616e_7366_6572);
        let happens = dice.chance(250) | (seed >= DENSE && seed.is_multiple_of(4));
        Self { dice, happens, last: 0 }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl VirtualWorld {
    /// Now and then somebody sends something, or books it in.
    pub(super) fn send_units(&mut self) {
        // In the calm there is about as much of it as of other traffic.
        let chance = if self.calm { 4 } else { 70 };
        if !self.sending.happens || self.stores.len() < 2 || !self.sending.dice.chance(chance) {
            return;
        }
        match self.sending.dice.below(7) {
            0..=2 => self.send(),
            3..=5 => self.book_in(),
            _ => self.book_in_through_central(),
        }
    }

    fn send(&mut self) {
        if !self.central.runs {
            return;
        }
        let dice = &mut self.sending.dice;
        let at = dice.below(self.stores.len() as u64) as usize;
        let to = (at + 1 + dice.below(self.stores.len() as u64 - 1) as usize) % self.stores.len();
        let (from, to) = (self.stores[at].clone(), self.stores[to].clone());
        // Mostly of what the source is known to have.
        let file = &self.central.file;
        let has = |line: &Line| {
            let item = items::find(file, &from, &line.product_id).expect("the view can be read");
            item.is_some_and(|item| item.available() >= line.quantity.get())
        };
        let mut lines = some_lines(dice, &self.products);
        for _ in 0..6 {
            if lines.as_ref().is_some_and(|lines| lines.iter().all(has)) || dice.chance(100) {
                break;
            }
            lines = some_lines(dice, &self.products);
        }
        let Some(lines) = lines else { return };
        let auto_receive = dice.chance(250);
        let id = TransferId::new(uuid::Uuid::from_u128(u128::from(self.sending.number()) << 64));
        let redis_now = Millis(self.now - if self.sending.dice.chance(60) { SHIP_WITHIN_MS } else { 0 });
        let ask = TransferRequest {
            transfer: Transfer {
                id,
                from: from.clone(),
                to: to.clone(),
                lines,
                names: Default::default(),
                auto_receive,
                reference: None,
                created_at: self.central.clock(self.now),
                state: State::Shipped,
            },
            about: About::default(),
            redis_now,
        };
        let asked = judge::Transfer {
            from: from.as_str().into(),
            to: to.as_str().into(),
            lines: written(&ask.transfer.lines),
            auto: auto_receive,
            deadline: redis_now.0 + SHIP_WITHIN_MS,
        };
        let transfer: judge::Name = id.to_string().into();
        self.oracle.book.transfers.insert(transfer.clone(), asked);
        self.oracle.book.ships.insert(ask.command().as_str().into(), transfer);
        let begun = self.ask_for_transfer(&from, |connection, store, clock| {
            if stores::find(connection, &to)?.is_none_or(|store| store.retired) {
                return Err(Abort::Refused(Rejection::StoreRetired));
            }
            promised::begin(connection, store, &ask, clock)
        });
        if begun {
            self.count("transfers asked for");
        }
    }

    fn book_in(&mut self) {
        let number = self.sending.dice.below(self.agents.len() as u64) as usize;
        if !self.agents[number].runs {
            return;
        }
        let known = ledger::transfers::all(&self.agents[number].file).expect("transfers can be read");
        let Some(transfer) = self.sending.dice.pick(&known).cloned() else { return };
        let lines = self.what_arrived(&transfer);
        let id = format!("receipt-{}", self.sending.number());
        let operation = OperationId::parse(&id).expect("a valid id");
        let asking = Asking { operation, about: About::default(), command: None };
        let store = self.agents[number].store.clone();
        let receipt = Receipt {
            store: store.as_str().into(),
            transfer: transfer.id.to_string().into(),
            lines: lines.as_ref().map(written),
            by: By::Store,
        };
        let expected = self.shop(number).may_receive(store.as_str(), &self.oracle.book, &receipt).map(drop);
        self.oracle.book.receipts.insert(id.as_str().into(), receipt);
        let (clock, risk) = (self.agents[number].clock(self.now), self.risk());
        let mut answer = Err("");
        let end = commit(&self.agents[number].file, &mut self.sending.dice, risk, &mut |connection| {
            match attempt(connection, || receive(connection, transfer.id, lines.as_ref(), &asking, clock))? {
                Ok(_) => answer = Ok(()),
                Err(Abort::Refused(rejection)) => answer = Err(rejection.code()),
                Err(Abort::Database(error)) => return Err(error),
            }
            Ok(())
        });
        if answer != expected {
            self.oracle.break_(format!("P4: {id} was answered {answer:?}, and must be {expected:?}"));
        }
        self.look_at(number, Occasion::Operation(&[&id]), None);
        if answer.is_ok() && end != Commit::Before {
            self.say(|| format!("agent {number}: {id} books in {lines:?} of {}", transfer.id));
            if lines.is_some_and(|lines| lines != transfer.lines) {
                self.count("transfers received in part");
            }
            if end == Commit::Done {
                self.oracle.acked(&id);
            }
        }
        self.after_commit(number, end);
    }

    /// All of it, a part, or more than was sent.
    fn what_arrived(&mut self, transfer: &Transfer) -> Option<Lines> {
        let dice = &mut self.sending.dice;
        if dice.chance(500) {
            return None;
        }
        let first = transfer.lines.iter().next().expect("a transfer has a line");
        Some(Lines::one(first.product_id.clone(), dice.units(1, first.quantity.get() + 1)))
    }

    fn book_in_through_central(&mut self) {
        if !self.central.runs {
            return;
        }
        let filter = ::central::storage::queries::transfers::Filter::default();
        let slice = ::central::storage::queries::Slice { after: None, offset: 0, limit: 21 };
        let known = ::central::storage::queries::transfers::list(&self.central.file, &filter, &slice);
        let known = known.expect("the view can be read").rows;
        let Some(transfer) = self.sending.dice.pick(&known).cloned() else { return };
        let lines = self.what_arrived(&transfer.transfer);
        let name = format!("central-receipt-{}", self.sending.number());
        let command = OperationId::parse(&name).expect("a valid id");
        let to = transfer.transfer.to.clone();
        let receipt = Receipt {
            store: to.as_str().into(),
            transfer: transfer.transfer.id.to_string().into(),
            lines: lines.as_ref().map(written),
            by: By::Central,
        };
        self.oracle.book.receipts.insert(name.as_str().into(), receipt);
        let asked = self.ask_for_transfer(&to, |connection, store, clock| {
            let Some(transfer) = shown::find(connection, transfer.transfer.id)? else {
                return Err(Abort::Refused(Rejection::UnknownTransfer));
            };
            promised::receive(connection, store, &transfer, (&command, lines.as_ref(), &About::default()), clock)
        });
        if asked {
            self.count("transfers received through central");
        }
    }

    fn ask_for_transfer(
        &mut self,
        id: &StoreId,
        mut ask: impl FnMut(&Connection, &mut stores::Store, Millis) -> Result<(), Abort<Rejection>>,
    ) -> bool {
        let (clock, risk) = (self.central.clock(self.now), self.risk());
        let mut asked = false;
        let end = commit(&self.central.file, &mut self.sending.dice, risk, &mut |connection| {
            let may = |store: &stores::Store| !store.is_settling() && !store.retired;
            let Some(mut store) = stores::find(connection, id)?.filter(may) else { return Ok(()) };
            match attempt(connection, || ask(connection, &mut store, clock))? {
                Ok(()) => asked = true,
                Err(Abort::Refused(_)) => {}
                Err(Abort::Database(error)) => return Err(error),
            }
            Ok(())
        });
        self.after_central_commit(end);
        asked && end != Commit::Before
    }
}

fn some_lines(dice: &mut Dice, products: &[protocol::ids::ProductId]) -> Option<Lines> {
    let mut line = || Some(Line { product_id: dice.pick(products).cloned()?, quantity: dice.units(1, 3) });
    let (first, second) = (line()?, line()?);
    Lines::new([first].into_iter().chain(dice.chance(400).then_some(second))).ok()
}
