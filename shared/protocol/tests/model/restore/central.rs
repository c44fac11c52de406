//! Central's database, as far as one store is concerned: one function for one transaction. Whether an epoch may open and what
//! becomes of a purchase is production's ([`accepts_epoch`], [`Life`]); written here is what central loads and saves
//! (`central/src/projection/view.rs`, `settle.rs`, `install.rs`, `central/src/operators/restore.rs`,
//! `central/src/promises/commands.rs`), in the same order of cases.

use std::collections::BTreeMap;

use protocol::hash::Hash;
use protocol::link::{Ack, Commands, Cursor, EntryId, Epoch, Known, Receipt, Seq, accepts_epoch, receive};
use protocol::number::CommandEpoch;
use protocol::promise::purchase::{Cancelling, Life, Refused, Reply, Status, Transition};
use protocol::time::Millis;
use protocol::wire::restore::{Answer, KnownEntry};

use super::Bugs;
use super::said::{Became, Command, Fact, Id, Operation, Operations, Outcomes, Said, Units, What, Whole};
use crate::redis::Row;

/// What a restore is told, in a form that can be kept in a state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Told {
    pub(crate) epoch: Epoch,
    lineage: Vec<Cursor>,
    pub(crate) complete: bool,
    at: Cursor,
    covers: Vec<Cursor>,
    pub(crate) entries: Vec<(EntryId, Hash, Operation)>,
    pub(crate) state: Whole,
}

impl Told {
    /// The operations that are in the state: those that it names, and those of entries behind it. An entry of an earlier epoch
    /// that it does not name a human has given up.
    pub(crate) fn done(&self, bugs: &Bugs) -> Operations {
        let is_given_up = |id: &EntryId| id.epoch < self.at.epoch && !bugs.given_up_told && !bugs.named_not_told;
        let of_entries = self.entries.iter().filter(|(id, ..)| !is_given_up(id)).map(|(_, _, operation)| *operation);
        let named = self.state.named.iter().copied();
        of_entries.chain(named).filter(|operation| *operation != Operation::Link).collect()
    }

    /// As production wants to see it; stock and outcomes are the model's affair.
    pub(crate) fn answer(&self) -> Answer {
        let known = |(id, hash, operation): &(EntryId, Hash, Operation)| KnownEntry {
            epoch: id.epoch,
            seq: id.seq,
            hash: *hash,
            operation: format!("{operation:?}"),
            product_id: None,
            also: Vec::new(),
            given_up: false,
        };
        Answer {
            store_id: String::new(),
            epoch: self.epoch,
            lineage: self.lineage.clone(),
            complete: self.complete,
            state: self.at,
            covers: self.covers.clone(),
            named_since: None,
            items: Vec::new(),
            outcomes: Vec::new(),
            reservations: Vec::new(),
            transfers: Vec::new(),
            operations: Vec::new(),
            entries: self.entries.iter().map(known).collect(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Purchase {
    pub(crate) life: Life,
    /// For the model only: a cancel was accepted while it was pending.
    pub(crate) cancelled_while_pending: bool,
}

/// What central's copy of the ledger has of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Copy {
    entries: Vec<(EntryId, Hash, Operation)>,
    /// Lineage of its opening.
    covers: Vec<Cursor>,
    /// Its `snapshot_end` is there.
    whole: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Central {
    pub(crate) cursor: Cursor,
    pub(crate) fenced: Epoch,
    pub(crate) adopt: Option<Epoch>,
    lineage: Vec<Cursor>,
    ledger: BTreeMap<Epoch, Copy>,
    /// Where the view stands.
    state: Cursor,
    opening: bool,
    complete: bool,
    /// The view.
    pub(crate) units: Units,
    staged: Option<Whole>,
    /// Outcomes that came with the state, and are not settled yet.
    pub(crate) installing: Option<Outcomes>,
    pub(crate) outcomes: Outcomes,
    /// Operations that the state has named.
    named: Operations,
    pub(crate) purchases: BTreeMap<u8, Purchase>,
    /// Asked and not answered, in order.
    pub(crate) requests: Vec<Command>,
    /// The command log, of the present command epoch.
    pub(crate) commands: Vec<Row<Command>>,
    ready: CommandEpoch,
}

/// Where an epoch ends of which nothing was taken in.
fn nothing_of(epoch: Epoch) -> Cursor {
    Cursor { epoch, ..Cursor::default() }
}

impl Central {
    pub(crate) fn new() -> Self {
        Self {
            cursor: Cursor::default(),
            fenced: Epoch::NONE,
            adopt: None,
            lineage: Vec::new(),
            ledger: BTreeMap::new(),
            state: Cursor::default(),
            opening: false,
            complete: false,
            units: Units::new(0),
            staged: None,
            installing: None,
            outcomes: Outcomes::new(),
            named: Operations::new(),
            purchases: BTreeMap::new(),
            requests: Vec::new(),
            commands: Vec::new(),
            ready: CommandEpoch::NONE,
        }
    }

    pub(crate) fn ack(&self) -> Ack {
        Ack { cursor: self.cursor, fenced: self.fenced }
    }

    pub(crate) fn command_head(&self) -> Cursor<Commands> {
        self.commands.last().map(Row::cursor).unwrap_or_default()
    }

    pub(crate) fn is_settling(&self) -> bool {
        self.opening || !self.complete || self.cursor.seq == Seq::ZERO || self.ready != self.command_head().epoch
    }

    /// Whether an epoch has opened whose state has not come in full.
    pub(crate) fn opens_half(&self) -> bool {
        self.opening
    }

    // The event side.

    /// Applies a batch, in one transaction.
    pub(crate) fn receive(&mut self, batch: &[Row<Said>], clock: &mut Millis, bugs: &Bugs) {
        for row in batch {
            if self.installing.is_some() && !bugs.asked_while_installing {
                break;
            }
            match receive(&self.cursor, &row.entry()) {
                Receipt::Known => continue,
                Receipt::Next => self.apply(row, clock),
                Receipt::Opens => {
                    if !self.open(row, clock, bugs) {
                        break;
                    }
                }
                Receipt::Unfit => break,
            }
            if !self.opening {
                self.state = self.cursor;
            }
        }
    }

    fn keep(&mut self, row: &Row<Said>) {
        self.cursor = row.cursor();
        self.ledger.entry(row.id.epoch).or_default().entries.push(row.place());
    }

    /// L7.
    fn open(&mut self, row: &Row<Said>, clock: &mut Millis, bugs: &Bugs) -> bool {
        let Said::Opened(lineage) = &row.payload else { return false };
        let epochs = self.ledger.keys().copied().chain(self.lineage.iter().map(|end| end.epoch));
        let epochs = epochs.chain([self.cursor.epoch]).collect();
        let known = Known { cursor: self.cursor, epochs, adopt: self.adopt };
        if !accepts_epoch(&known, row.id.epoch, lineage) {
            self.fenced = row.id.epoch;
            return false;
        }
        if !self.opening && self.cursor.seq > Seq::ZERO {
            self.state = self.cursor;
        }
        (self.fenced, self.adopt, self.opening, self.staged) = (Epoch::NONE, None, true, None);
        self.lineage = lineage.iter().map(|past| past.end).collect();
        if !bugs.command_epoch_kept {
            self.open_commands(row.id.epoch, self.ready, clock);
        }
        self.keep(row);
        self.ledger.entry(row.id.epoch).or_default().covers = self.lineage.clone();
        true
    }

    fn apply(&mut self, row: &Row<Said>, clock: &mut Millis) {
        self.keep(row);
        match &row.payload {
            Said::Opened(_) => {}
            Said::Page(page) => self.staged = Some(page.clone()),
            Said::End => {
                self.ledger.entry(row.id.epoch).or_default().whole = true;
                let Some(arrived) = self.staged.take() else { return };
                (self.opening, self.complete) = (false, true);
                (self.units, self.named) = (arrived.units, arrived.named);
                let changes = !arrived.outcomes.is_empty() || !self.outcomes.is_empty();
                self.installing = Some(arrived.outcomes).filter(|_| changes);
            }
            Said::Ready(epoch) => {
                self.ready = *epoch;
                if *epoch > self.command_head().epoch {
                    self.open_commands(row.id.epoch, *epoch, clock);
                }
            }
            Said::Fact(fact) => {
                self.units = fact.after;
                self.settle(fact);
            }
            Said::Repeated { by, of, became } => self.outcome(*of, *became, Some(*by)),
        }
    }

    /// The outcomes that came with the state settle; what it does not name it does not know.
    pub(crate) fn install(&mut self, bugs: &Bugs) {
        let Some(named) = self.installing.take() else { return };
        let unnamed: Vec<Id> = self.outcomes.keys().filter(|id| !named.contains_key(id)).copied().collect();
        for (id, became) in named {
            self.outcome(id, became, None);
        }
        for id in unnamed.into_iter().filter(|_| !bugs.unnamed_outcomes_kept) {
            let forgotten = self.outcomes.remove(&id);
            if let (Some(Became::Confirmed { .. }), Id::Buy(purchase)) = (forgotten, id)
                && !bugs.forgotten_not_asked_again
            {
                self.ask_again(purchase, id);
            }
        }
    }

    /// L10: what a human has chosen does not know of units that a buyer was promised.
    fn ask_again(&mut self, purchase: u8, attempt: Id) {
        let Some(known) = self.purchases.get_mut(&purchase) else { return };
        let transition = known.life.on_forgotten();
        known.life = known.life.after(transition);
        if transition == Transition::AskedAgain {
            self.ask(attempt, true);
        }
    }

    fn settle(&mut self, fact: &Fact) {
        if let What::Picked(purchase) = fact.what {
            if let Some(Became::Confirmed { picked }) = self.outcomes.get_mut(&Id::Buy(purchase)) {
                *picked = true;
            }
            self.reply(purchase, Reply::Picked);
        }
        let Some(became) = fact.became() else { return };
        if let Some(command) = fact.command {
            self.answer(command);
            if let (Became::Refused, Some(purchase)) = (became, fact.purchase()) {
                self.refusal(purchase);
            }
            self.outcomes.insert(command, became);
        }
        if let (Some(reply), Some(purchase)) = (reply_of(became), fact.purchase()) {
            self.answer(Id::Buy(purchase));
            if became == Became::Cancelled {
                self.outcomes.insert(Id::Buy(purchase), became);
            }
            self.reply(purchase, reply);
        }
    }

    fn outcome(&mut self, id: Id, became: Became, also: Option<Id>) {
        for id in [id].into_iter().chain(also) {
            self.answer(id);
            self.outcomes.insert(id, became);
        }
        let Some(purchase) = id.purchase() else { return };
        if became == Became::Refused {
            self.refusal(purchase);
        }
        if let Some(reply) = reply_of(became) {
            self.answer(Id::Buy(purchase));
            self.reply(purchase, reply);
        }
    }

    fn answer(&mut self, answered: Id) {
        self.requests.retain(|asked| !matches!(asked, Command::Do { id, .. } if *id == answered));
    }

    fn refusal(&mut self, purchase: u8) {
        let is_confirmed = matches!(self.outcomes.get(&Id::Buy(purchase)), Some(Became::Confirmed { .. }));
        self.change(purchase, |life| life.on_refusal(Refused::Cancel { is_confirmed }));
    }

    fn reply(&mut self, purchase: u8, reply: Reply) {
        if self.purchases.contains_key(&purchase) {
            return self.change(purchase, |life| life.on_reply(reply, true));
        }
        self.purchases.insert(purchase, Purchase { life: Life::PENDING, cancelled_while_pending: false });
        self.change(purchase, |_| Life::on_first_reply(reply, false));
    }

    fn change(&mut self, purchase: u8, decide: impl FnOnce(&Life) -> Transition) {
        let Some(known) = self.purchases.get_mut(&purchase) else { return };
        let transition = decide(&known.life);
        known.life = known.life.after(transition);
        // B6: the store took units for a purchase that is settled otherwise.
        if transition == Transition::Compensate && !self.is_cancel_asked(purchase) {
            self.ask(Id::Back(purchase, self.command_head().id()), true);
        }
    }

    // The command side.

    fn is_cancel_asked(&self, purchase: u8) -> bool {
        self.requests.iter().any(|asked| matches!(asked, Command::Do { id, .. } if id.is_cancel_of(purchase)))
    }

    fn ask(&mut self, id: Id, forced: bool) {
        let command = Command::Do { id, forced };
        self.commands.push(Row::follow(&self.command_head(), command));
        self.requests.push(command);
    }

    /// L8: every unsettled command again, in its old order, under its old id.
    fn open_commands(&mut self, for_epoch: Epoch, beyond: CommandEpoch, clock: &mut Millis) {
        *clock = clock.plus(1);
        let epoch = self.command_head().epoch.max(beyond).next(*clock);
        self.commands = vec![Row::follow(&Cursor { epoch, ..Cursor::default() }, Command::Opened { for_epoch })];
        for request in &self.requests {
            self.commands.push(Row::follow(&self.commands.last().expect("it opens").cursor(), *request));
        }
    }

    /// `central restore`: this database is an older copy. `acked`: what the store has last acknowledged.
    pub(crate) fn reopen(&mut self, acked: CommandEpoch, clock: &mut Millis) {
        if self.cursor.epoch != Epoch::NONE {
            self.open_commands(self.cursor.epoch, self.ready.max(acked), clock);
        }
    }

    /// B1. `false`: refused.
    pub(crate) fn buy(&mut self, purchase: u8) -> bool {
        let pending = self.purchases.values().filter(|purchase| purchase.life.status == Status::Pending).count() as i64;
        if self.is_settling() || self.units.quantity - pending < 1 || self.purchases.contains_key(&purchase) {
            return false;
        }
        self.purchases.insert(purchase, Purchase { life: Life::PENDING, cancelled_while_pending: false });
        self.ask(Id::Buy(purchase), false);
        true
    }

    /// B5. `false`: there is nothing to cancel, or it is asked already.
    pub(crate) fn cancel(&mut self, number: u8, unique: u8) -> bool {
        let asked = self.is_cancel_asked(number);
        let Some(purchase) = self.purchases.get_mut(&number) else { return false };
        let Ok(Cancelling::Ask { forced }) = purchase.life.on_cancel(false, asked) else { return false };
        purchase.life = purchase.life.after(Transition::CancelRequested);
        purchase.cancelled_while_pending |= forced;
        self.ask(Id::Cancel(number, unique), forced);
        true
    }

    /// Goods are to be booked in. `false`: refused.
    pub(crate) fn send_goods(&mut self, number: u8) -> bool {
        if !self.is_settling() {
            self.ask(Id::Receive(number), false);
        }
        !self.is_settling()
    }

    // The restore.

    /// L10, the question: gives out an epoch. `None`: outcomes are being settled.
    pub(crate) fn question(&mut self, asker: Epoch, clock: &mut Millis, bugs: &Bugs) -> Option<Epoch> {
        if self.installing.is_some() && !bugs.asked_while_installing {
            return None;
        }
        if self.opening {
            self.lineage.retain(|end| end.epoch < self.state.epoch);
            if self.state.epoch != Epoch::NONE {
                self.lineage.push(self.state);
            }
            if self.cursor.epoch > self.state.epoch {
                self.lineage.push(nothing_of(self.cursor.epoch));
            }
        } else if self.cursor.epoch != Epoch::NONE {
            self.lineage.retain(|end| end.epoch != self.cursor.epoch);
            self.lineage.push(self.cursor);
        }
        *clock = clock.plus(1);
        let given = self.cursor.epoch.max(asker).next(*clock);
        (self.fenced, self.adopt) = (Epoch::NONE, None);
        if bugs.old_epoch_open {
            self.adopt = Some(given);
        } else {
            (self.cursor, self.opening) = (nothing_of(given), false);
        }
        if !bugs.staged_told {
            self.staged = None;
        }
        Some(given)
    }

    /// L10, the answer. `None`: another one has asked, or an epoch has opened.
    pub(crate) fn tell(&self, epoch: Epoch, bugs: &Bugs) -> Option<Told> {
        if self.cursor != nothing_of(epoch) && !bugs.old_epoch_open && !bugs.own_number {
            return None;
        }
        let covers = match self.ledger.get(&self.state.epoch) {
            Some(copy) if self.complete => copy.covers.clone(),
            _ => Vec::new(),
        };
        let mut entries = Vec::new();
        for (epoch, copy) in self.ledger.iter().filter(|_| self.complete) {
            let is_taken_in = copy.whole && !covers.contains(&nothing_of(*epoch));
            if *epoch <= self.state.epoch && is_taken_in {
                entries.extend(copy.entries.iter().filter(|(id, _, _)| *id <= self.state.id()).copied());
            }
        }
        let staged = self.staged.as_ref().filter(|_| bugs.staged_told);
        let named = if bugs.named_not_told { Operations::new() } else { self.named.clone() };
        let shown = Whole { units: self.units, outcomes: self.outcomes.clone(), named: named.clone() };
        let state = staged.map_or(shown, |staged| Whole { named, ..staged.clone() });
        let (lineage, complete, at) = (self.lineage.clone(), self.complete, self.state);
        Some(Told { epoch, lineage, complete, at, covers, entries, state })
    }
}

fn reply_of(became: Became) -> Option<Reply> {
    match became {
        Became::Confirmed { picked } => Some(Reply::Confirmed { picked }),
        Became::Rejected => Some(Reply::Rejected),
        Became::Cancelled => Some(Reply::Cancelled),
        Became::Refused | Became::Received => None,
    }
}
