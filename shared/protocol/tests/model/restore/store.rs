//! A store's database: one function for one transaction. What the restore decides is production's
//! ([`protocol::restore::plan`]), and what the stock decides; written here is what is loaded and saved
//! (`store-agent/src/operators/restore.rs`), and how a fact is recorded again (`restore/again.rs`), in the same order of cases.

use protocol::domain::{Facts, Guard, Operation as Asked, Quantity, decide, decide_purchase, decide_return};
use protocol::hash::Hash;
use protocol::link::{Commands, Cursor, EntryId, Epoch, Events, Log, Past, Receipt, Seq, receive};
use protocol::restore::{Choice, Own, Plan, Refusal, plan};

use super::Bugs;
use super::central::Told;
use super::said::{Became, Command, Deed, Fact, Id, Operation, Operations, Outcomes, Said, Units, What, Whole};
use crate::publisher::Rows;
use crate::redis::Row;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    /// The log: all entries that are kept, of all epochs, in order.
    pub(crate) rows: Vec<Row<Said>>,
    pub(crate) head: Cursor,
    pub(crate) acked: Seq,
    pub(crate) lineage: Vec<Past>,
    pub(crate) units: Units,
    pub(crate) outcomes: Outcomes,
    /// Operations that are in the state: a till may repeat its own without effect.
    known: Operations,
    pub(crate) commands: Cursor<Commands>,
    pub(crate) opened_for: Epoch,
}

impl Log for Store {
    fn head(&self) -> Cursor {
        self.head
    }
    fn hash_at(&self, seq: Seq) -> Option<Hash> {
        if seq == Seq::ZERO { Some(Hash::ZERO) } else { self.row(seq).map(|row| row.hash) }
    }
    fn continues(&self, receiver: &Cursor) -> bool {
        let ended = |past: &&Past| past.end.epoch == receiver.epoch && past.kept < past.end.seq;
        let said = |row: &Row<Said>| match &row.payload {
            Said::Opened(lineage) => lineage.iter().all(|past| past.proven != Some(*receiver)),
            _ => false,
        };
        self.lineage.iter().any(|past| ended(&past))
            && self.at(receiver.id()).is_some_and(|row| row.hash == receiver.hash)
            && self.row(Seq::FIRST).is_some_and(said)
    }
}

impl Rows<Said> for Store {
    fn row(&self, seq: Seq) -> Option<&Row<Said>> {
        self.at(EntryId { epoch: self.head.epoch, seq })
    }
}

impl Store {
    /// A database with nothing in it: it has no epoch, and no agent serves it.
    pub(crate) fn empty() -> Self {
        Self {
            rows: Vec::new(),
            head: Cursor::default(),
            acked: Seq::ZERO,
            lineage: Vec::new(),
            units: Units::new(0),
            outcomes: Outcomes::new(),
            known: Operations::new(),
            commands: Cursor::default(),
            opened_for: Epoch::NONE,
        }
    }

    /// A new store with goods on its shelf.
    pub(crate) fn new(units: i64, epoch: Epoch) -> Self {
        let mut new = Self { units: Units::new(units), ..Self::empty() };
        new.begin_epoch(epoch, Vec::new(), Operations::new());
        new
    }

    fn at(&self, id: EntryId) -> Option<&Row<Said>> {
        self.rows.binary_search_by_key(&id, |row| row.id).ok().map(|at| &self.rows[at])
    }

    fn append(&mut self, said: Said) {
        let row = Row::follow(&self.head, said);
        self.head = row.cursor();
        self.rows.push(row);
    }

    fn record(&mut self, operation: Operation, what: What, command: Option<Id>) {
        self.known.insert(operation);
        self.append(Said::Fact(Fact { operation, what, command, after: self.units }));
    }

    /// L9: `opened`, then the whole state. The command cursor is closed until a command epoch names this one.
    fn begin_epoch(&mut self, epoch: Epoch, lineage: Vec<Past>, named: Operations) {
        self.head = Cursor { epoch, ..Cursor::default() };
        self.acked = Seq::ZERO;
        self.lineage.clone_from(&lineage);
        self.append(Said::Opened(lineage));
        self.append(Said::Page(Whole { units: self.units, outcomes: self.outcomes.clone(), named }));
        self.append(Said::End);
    }

    /// L9, because the log does not reach back.
    pub(crate) fn open_by_need(&mut self, epoch: Epoch, proven: Option<Cursor>) {
        let mut lineage = self.lineage.clone();
        let first = self.rows.iter().find(|row| row.id.epoch == self.head.epoch);
        lineage.push(Past { end: self.head, kept: first.map_or(Seq::ZERO, |row| row.id.seq), proven: None });
        for past in lineage.iter_mut().filter(|past| proven.is_some_and(|proven| proven.epoch == past.end.epoch)) {
            past.proven = proven;
        }
        self.begin_epoch(epoch, lineage, self.known.clone());
    }

    /// L1: what is old enough, and acknowledged, goes.
    pub(crate) fn prune(&mut self) {
        let acked = EntryId { epoch: self.head.epoch, seq: self.acked };
        if self.acked > Seq::ZERO {
            self.rows.retain(|row| row.id >= acked);
        }
    }

    /// A till sells one unit, or asks for it again.
    pub(crate) fn sell(&mut self, number: u8) -> bool {
        let sale = Deed::Sale(number);
        if self.known.contains(&Operation::Sale(number)) {
            return false;
        }
        let sell = Asked::Sell { quantity: Quantity::ONE };
        let Ok(change) = decide(Some(&self.units.item()), &sell, &Guard::default(), Facts::default()) else {
            return false;
        };
        self.units.perform(sale, &change);
        self.record(Operation::Sale(number), What::Sold(number), None);
        true
    }

    pub(crate) fn pick(&mut self, purchase: u8) -> bool {
        let Some(Became::Confirmed { picked: picked @ false }) = self.outcomes.get_mut(&Id::Buy(purchase)) else {
            return false;
        };
        *picked = true;
        self.units.perform(Deed::Pick(purchase), &protocol::domain::Change::Moved(0));
        self.record(Operation::Pick(purchase), What::Picked(purchase), None);
        true
    }

    /// Executes what it finds of the command stream, in one transaction (L2, L8, B2).
    pub(crate) fn execute(&mut self, batch: &[Row<Command>], bugs: &Bugs) {
        for row in batch {
            match receive(&self.commands, &row.entry()) {
                Receipt::Known => continue,
                Receipt::Next if self.opened_for == self.head.epoch => self.execute_one(row),
                Receipt::Opens => {
                    let Command::Opened { for_epoch } = row.payload else { break };
                    if for_epoch != self.head.epoch && !bugs.command_epoch_name_ignored {
                        break;
                    }
                    self.opened_for = self.head.epoch;
                    self.append(Said::Ready(row.id.epoch));
                }
                Receipt::Next | Receipt::Unfit => break,
            }
            self.commands = row.cursor();
        }
    }

    fn execute_one(&mut self, row: &Row<Command>) {
        let Command::Do { id, forced } = row.payload else { return };
        if let Some(became) = self.outcomes.get(&id) {
            self.append(Said::Repeated { by: id, of: id, became: *became });
            return;
        }
        match id {
            Id::Receive(number) => {
                let came = Asked::Receive { quantity: Quantity::ONE };
                let change = decide(Some(&self.units.item()), &came, &Guard::default(), Facts::default());
                self.units.perform(Deed::Receipt(number), &change.expect("goods may always come"));
                self.answer(id, What::Received(number));
            }
            Id::Buy(purchase) if forced => {
                self.happened(Deed::Taken(purchase), Operation::ShortOfPurchase(purchase));
                self.answer(id, What::Confirmed(purchase));
            }
            Id::Buy(purchase) => match decide_purchase(Some(&self.units.item()), Quantity::ONE, 0) {
                Ok(change) => {
                    self.units.perform(Deed::Taken(purchase), &change);
                    self.answer(id, What::Confirmed(purchase));
                }
                Err(_) => self.answer(id, What::Rejected(purchase)),
            },
            Id::Cancel(purchase, _) | Id::Back(purchase, _) => self.cancel(id, purchase, forced),
        }
    }

    fn answer(&mut self, id: Id, what: What) {
        self.record(Operation::Command(id), what, Some(id));
        let Some(Said::Fact(fact)) = self.rows.last().map(|row| &row.payload) else { return };
        self.outcomes.extend(fact.became().map(|became| (id, became)));
    }

    fn cancel(&mut self, id: Id, purchase: u8, forced: bool) {
        let attempt = Id::Buy(purchase);
        let given_back = match self.outcomes.get(&attempt).copied() {
            None => false,
            Some(Became::Confirmed { picked: true }) if !forced => return self.answer(id, What::Refused(purchase)),
            Some(Became::Confirmed { .. }) => {
                let change = decide_return(Some(&self.units.item()), Quantity::ONE).expect("the item is known");
                self.units.broken |= !forced && self.units.has(Deed::Pick(purchase));
                self.units.perform(Deed::GivenBack(purchase), &change);
                true
            }
            Some(became) => {
                self.outcomes.insert(id, became);
                return self.append(Said::Repeated { by: id, of: attempt, became });
            }
        };
        self.outcomes.insert(attempt, Became::Cancelled);
        self.answer(id, What::Cancelled(purchase, given_back));
    }

    /// The answer of a restore, in one transaction (L10).
    pub(crate) fn carry_out(
        &mut self,
        told: &Told,
        choice: Option<Choice>,
        bugs: &Bugs,
    ) -> Result<(Plan, usize), Refusal> {
        let own = Own {
            head: self.head,
            lineage: self.lineage.clone(),
            entries: self.rows.iter().map(|row| (row.id, row.hash)).collect(),
        };
        let answer = told.answer();
        let plan = plan(&own, &answer, choice)?;
        if plan.state == Choice::Own {
            self.begin_epoch(told.epoch, plan.lineage.clone(), self.known.clone());
            return Ok((plan, 0));
        }
        let unshared: Vec<Row<Said>> = self.rows.extract_if(.., |row| plan.is_unshared(row.id)).collect();
        (self.units, self.outcomes) = (told.state.units, told.state.outcomes.clone());
        if bugs.picks_forgotten {
            for became in self.outcomes.values_mut() {
                if let Became::Confirmed { picked } = became {
                    *picked = false;
                }
            }
        }
        if bugs.outcomes_forgotten {
            self.outcomes.clear();
        }
        let done = told.done(bugs);
        self.known = if bugs.known_forgotten { Operations::new() } else { done.clone() };
        let mut named = done.clone();
        if bugs.repeated_named {
            named.extend(unshared.iter().map(|row| row.payload.operation()));
        }
        self.begin_epoch(told.epoch, plan.lineage.clone(), named);
        let mut recorded = 0;
        for row in unshared.iter().filter(|row| plan.repeats && !plan.uncertain.contains(&row.id)) {
            let Said::Fact(fact) = row.payload else { continue };
            if (!done.contains(&fact.operation) || bugs.known_recorded_again) && self.record_again(&fact) {
                recorded += 1;
            }
        }
        Ok((plan, recorded))
    }

    /// By its difference, never refused; unless it is none that can happen again.
    fn record_again(&mut self, fact: &Fact) -> bool {
        let attempt = fact.purchase().and_then(|purchase| self.outcomes.get(&Id::Buy(purchase))).copied();
        let is_taken = attempt.map(|became| matches!(became, Became::Confirmed { .. }));
        let is_cancel = matches!(fact.what, What::Cancelled(..));
        let is_answered = fact.command.is_some_and(|command| self.outcomes.contains_key(&command));
        if fact.command.is_some() && (is_answered || is_cancel && is_taken == Some(false)) {
            return false;
        }
        let what = match fact.what {
            What::Shortage => return false,
            What::Sold(number) => {
                self.happened(Deed::Sale(number), Operation::ShortOfSale(number));
                fact.what
            }
            What::Received(number) => {
                self.units.happened(Deed::Receipt(number));
                fact.what
            }
            What::Confirmed(purchase) => {
                self.happened(Deed::Taken(purchase), Operation::ShortOfPurchase(purchase));
                fact.what
            }
            What::Cancelled(purchase, _) => {
                let given_back = is_taken == Some(true);
                if given_back {
                    self.units.happened(Deed::GivenBack(purchase));
                }
                self.outcomes.insert(Id::Buy(purchase), Became::Cancelled);
                What::Cancelled(purchase, given_back)
            }
            What::Picked(purchase) => {
                self.units.happened(Deed::Pick(purchase));
                if let Some(Became::Confirmed { picked }) = self.outcomes.get_mut(&Id::Buy(purchase)) {
                    *picked = true;
                }
                fact.what
            }
            What::Rejected(_) | What::Refused(_) => fact.what,
        };
        self.record(fact.operation, what, fact.command);
        if let (Some(command), Some(became)) = (fact.command, fact.became()) {
            self.outcomes.insert(command, became);
        }
        true
    }

    fn happened(&mut self, deed: Deed, missing: Operation) {
        let before = self.units;
        if self.units.happened(deed) > 0 {
            let raised = Units { quantity: before.quantity + 1, short: before.short + 1, ..before };
            self.append(Said::Fact(Fact { operation: missing, what: What::Shortage, command: None, after: raised }));
        }
    }
}

impl Row<Said> {
    pub(crate) fn place(&self) -> (EntryId<Events>, Hash, Operation) {
        (self.id, self.hash, self.payload.operation())
    }
}
