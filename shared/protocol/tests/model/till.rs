//! The store and central as far as purchases are concerned: rules B1 to B6 and L8 in the smallest form, one function for
//! one transaction. What becomes of a purchase at central is decided by production's [`Life`], the stock by production's
//! [`decide`] and [`apply`]; written here is what central loads and saves, and what the store does with a command
//! (`store-agent/src/operations/commands.rs`), in the same order of cases.

use std::collections::BTreeMap;

use protocol::domain::{
    Change, Facts, Guard, Item, Operation, Quantity, Rejection, apply, decide, decide_purchase, decide_return,
};
use protocol::hash::Hash;
use protocol::link::{Commands, Cursor, EntryId, Log, OPENED, Seq};
use protocol::number::CommandEpoch;
use protocol::promise::purchase::{Cancelling, Life, Refused, Reply, Status, Transition};
use protocol::time::Millis;

use crate::publisher::Rows;
use crate::redis::{Payload, Row};

/// The event epoch that all this happens in.
pub(crate) const LEDGER_EPOCH: u32 = 1;

/// Command ids. The number of a cancel keeps two of them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Id {
    Buy(u8),
    Cancel(u8, u8),
    Back(u8, EntryAt),
}

type EntryAt = EntryId<Commands>;

impl Id {
    fn purchase(self) -> u8 {
        match self {
            Self::Buy(p) | Self::Cancel(p, _) | Self::Back(p, _) => p,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Command {
    Opened { for_epoch: u32 },
    Purchase { id: Id, deadline: u8 },
    Cancel { id: Id, forced: bool },
}

impl Payload for Command {
    type Link = Commands;

    fn kind(&self) -> &'static str {
        match self {
            Self::Opened { .. } => OPENED,
            Self::Purchase { .. } => "purchase",
            Self::Cancel { .. } => "cancel",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Confirmed,
    Rejected,
    Expired,
    Cancelled,
    Picked,
    /// A cancel came too late.
    Refused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    Ready(CommandEpoch),
    Sold {
        left: i64,
    },
    /// What became of a command or of a purchase; `by`: the command that made the store say so.
    Said {
        by: Option<Id>,
        purchase: u8,
        kind: Kind,
        left: i64,
    },
    Repeated {
        by: Id,
        purchase: u8,
        kind: Kind,
    },
}

/// The store's database. Its ledger reaches central as `link` has shown: in order, once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Store {
    pub(crate) quantity: i64,
    pub(crate) sold: i64,
    /// Outcomes by command id, and whether the purchase was picked.
    pub(crate) outcomes: BTreeMap<Id, (Kind, bool)>,
    pub(crate) ledger: Vec<Event>,
    pub(crate) cursor: Cursor<Commands>,
    pub(crate) opened_for: u32,
}

impl Store {
    fn item(&self) -> Item {
        Item { quantity: self.quantity, version: 1, ..Item::default() }
    }

    fn perform(&mut self, decided: Result<Change, Rejection>) -> bool {
        let Ok(change) = decided else { return false };
        self.quantity = apply(Some(&self.item()), &change, Millis(0)).quantity;
        true
    }

    pub(crate) fn sell(&mut self) -> bool {
        let sell = Operation::Sell { quantity: Quantity::ONE };
        let sold = self.perform(decide(Some(&self.item()), &sell, &Guard::default(), Facts::default()));
        if sold {
            self.sold += 1;
            self.ledger.push(Event::Sold { left: self.quantity });
        }
        sold
    }

    pub(crate) fn pick(&mut self, purchase: u8) -> bool {
        let Some((Kind::Confirmed, picked @ false)) = self.outcomes.get_mut(&Id::Buy(purchase)) else { return false };
        *picked = true;
        self.say(None, purchase, Kind::Picked);
        true
    }

    fn say(&mut self, by: Option<Id>, purchase: u8, kind: Kind) {
        self.ledger.push(Event::Said { by, purchase, kind, left: self.quantity });
    }

    /// L8: a command epoch opens if it was made for the ledger's present one.
    pub(crate) fn open(&mut self, row: &Row<Command>) -> bool {
        if row.payload != (Command::Opened { for_epoch: LEDGER_EPOCH }) {
            return false;
        }
        self.opened_for = LEDGER_EPOCH;
        self.cursor = row.cursor();
        self.ledger.push(Event::Ready(row.id.epoch));
        true
    }

    /// B2: effect or refusal, outcome, reply and cursor. Says whether a kept outcome answered it.
    pub(crate) fn execute(&mut self, row: &Row<Command>, now: u8) -> bool {
        self.cursor = row.cursor();
        let (Command::Purchase { id, .. } | Command::Cancel { id, .. }) = row.payload else { return false };
        if let Some((kind, _)) = self.outcomes.get(&id) {
            self.ledger.push(Event::Repeated { by: id, purchase: id.purchase(), kind: *kind });
            return true;
        }
        match row.payload {
            Command::Opened { .. } => {}
            Command::Purchase { deadline, .. } => self.buy(id, now > deadline),
            Command::Cancel { forced, .. } => self.cancel(id, forced),
        }
        false
    }

    fn buy(&mut self, id: Id, too_late: bool) {
        let kind = if too_late {
            Kind::Expired
        } else if self.perform(decide_purchase(Some(&self.item()), Quantity::ONE, 0)) {
            Kind::Confirmed
        } else {
            Kind::Rejected
        };
        self.outcomes.insert(id, (kind, false));
        self.say(Some(id), id.purchase(), kind);
    }

    fn cancel(&mut self, id: Id, forced: bool) {
        let purchase = id.purchase();
        let attempt = Id::Buy(purchase);
        let kind = match self.outcomes.get(&attempt).copied() {
            Some((Kind::Confirmed, true)) if !forced => Kind::Refused,
            Some((Kind::Confirmed, _)) => {
                self.perform(decide_return(Some(&self.item()), Quantity::ONE));
                Kind::Cancelled
            }
            None => Kind::Cancelled,
            Some((kind, _)) => {
                self.outcomes.insert(id, (kind, false));
                self.ledger.push(Event::Repeated { by: id, purchase, kind });
                return;
            }
        };
        if kind == Kind::Cancelled {
            self.outcomes.insert(attempt, (kind, false));
        }
        self.outcomes.insert(id, (kind, false));
        self.say(Some(id), purchase, kind);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Purchase {
    pub(crate) life: Life,
    /// The last that was heard of its attempt is `confirmed`.
    confirmed_heard: bool,
    /// For the model only: a cancel was accepted while it was pending.
    pub(crate) cancelled_while_pending: bool,
}

impl Purchase {
    pub(crate) fn status(&self) -> Status {
        self.life.status
    }
}

/// Central's database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Central {
    pub(crate) purchases: BTreeMap<u8, Purchase>,
    /// Asked and not answered, in order.
    pub(crate) requests: Vec<Command>,
    log: Vec<Row<Command>>,
    /// First entry of the log that was not pruned.
    first: Seq,
    pub(crate) acked: Seq,
    /// Events applied.
    pub(crate) read: usize,
    pub(crate) quantity: i64,
    pub(crate) ready: CommandEpoch,
    pub(crate) retired: bool,
}

impl Log<Commands> for Central {
    fn head(&self) -> Cursor<Commands> {
        self.log.last().map(Row::cursor).unwrap_or_default()
    }
    fn hash_at(&self, seq: Seq) -> Option<Hash> {
        if seq == Seq::ZERO { Some(Hash::ZERO) } else { self.row(seq).map(|row| row.hash) }
    }
}

impl Rows<Command> for Central {
    fn row(&self, seq: Seq) -> Option<&Row<Command>> {
        if seq < self.first { None } else { self.log.get((seq - Seq::FIRST) as usize) }
    }
}

impl Central {
    pub(crate) fn new(quantity: i64) -> Self {
        let (purchases, requests, log) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut new = Self {
            purchases,
            requests,
            log,
            first: Seq::FIRST,
            acked: Seq::ZERO,
            read: 0,
            quantity,
            ready: CommandEpoch::NONE,
            retired: false,
        };
        new.open_epoch(1.into());
        new
    }

    /// L8: every unsettled command again, in its old order, under its old id.
    pub(crate) fn open_epoch(&mut self, epoch: CommandEpoch) {
        self.log.clear();
        (self.first, self.acked) = (Seq::FIRST, Seq::ZERO);
        let start = Cursor { epoch, ..Cursor::default() };
        self.log.push(Row::follow(&start, Command::Opened { for_epoch: LEDGER_EPOCH }));
        for request in self.requests.clone() {
            self.log.push(Row::follow(&self.head(), request));
        }
    }

    /// Everything below the acknowledged entry is old enough to go.
    pub(crate) fn prune(&mut self) {
        self.first = self.first.max(self.acked);
    }

    /// The place of an entry, kept or pruned; nowhere at 0.
    pub(crate) fn was_at(&self, seq: u64) -> Cursor<Commands> {
        seq.checked_sub(1).and_then(|index| self.log.get(index as usize)).map(Row::cursor).unwrap_or_default()
    }

    fn ask(&mut self, command: Command) {
        self.log.push(Row::follow(&self.head(), command.clone()));
        self.requests.push(command);
    }

    pub(crate) fn is_settling(&self) -> bool {
        self.ready != self.head().epoch
    }

    /// B1. `false`: refused.
    pub(crate) fn begin(&mut self, purchase: u8, deadline: u8) -> bool {
        let pending = self.purchases.values().filter(|purchase| purchase.status() == Status::Pending).count() as i64;
        if self.retired || self.is_settling() || self.quantity - pending < 1 || self.purchases.contains_key(&purchase) {
            return false;
        }
        self.purchases.insert(purchase, NEW);
        self.ask(Command::Purchase { id: Id::Buy(purchase), deadline });
        true
    }

    /// B5. `false`: there is nothing to cancel, or it is asked already.
    pub(crate) fn cancel(&mut self, number: u8, unique: u8) -> bool {
        let (retired, asked) = (self.retired, self.is_cancel_asked(number));
        let Some(purchase) = self.purchases.get_mut(&number) else { return false };
        let Ok(Cancelling::Ask { forced }) = purchase.life.on_cancel(retired, asked) else { return false };
        purchase.life = purchase.life.after(Transition::CancelRequested);
        purchase.cancelled_while_pending |= forced;
        self.ask(Command::Cancel { id: Id::Cancel(number, unique), forced });
        true
    }

    fn is_cancel_asked(&self, number: u8) -> bool {
        self.requests.iter().any(|asked| matches!(asked, Command::Cancel { id, .. } if id.purchase() == number))
    }

    /// An operator retires the store: all that is open ends, and is in no log that opens from now on.
    pub(crate) fn retire(&mut self, epoch: CommandEpoch) {
        self.retired = true;
        self.requests.clear();
        for purchase in self.purchases.values_mut() {
            purchase.life = purchase.life.after(purchase.life.on_retire());
        }
        self.open_epoch(epoch);
    }

    /// It is taken back, and asked for units that it may have taken for what retiring has ended.
    pub(crate) fn adopt(&mut self, epoch: CommandEpoch) {
        self.retired = false;
        self.open_epoch(epoch);
        for number in self.purchases.keys().copied().collect::<Vec<u8>>() {
            self.settle(number, |life| life.on_readmit());
        }
    }

    /// Applies the next event to the view, and settles what it says. B6's cancel may follow from it: `true`.
    pub(crate) fn apply(&mut self, event: Event) -> bool {
        self.read += 1;
        let (by, number, kind) = match event {
            Event::Ready(epoch) => {
                self.ready = epoch;
                return false;
            }
            Event::Sold { left } => {
                self.quantity = left;
                return false;
            }
            Event::Said { by, purchase, kind, left } => {
                self.quantity = left;
                (by, purchase, kind)
            }
            Event::Repeated { by, purchase, kind } => (Some(by), purchase, kind),
        };
        by.into_iter().for_each(|by| self.answer(by));
        let reply = match kind {
            Kind::Refused => {
                let Some(purchase) = self.purchases.get(&number) else { return false };
                let is_confirmed = purchase.confirmed_heard;
                return self.settle(number, |life| life.on_refusal(Refused::Cancel { is_confirmed }));
            }
            Kind::Confirmed => Reply::Confirmed { picked: false },
            Kind::Rejected => Reply::Rejected,
            Kind::Expired => Reply::Expired,
            Kind::Cancelled => Reply::Cancelled,
            Kind::Picked => Reply::Picked,
        };
        if reply != Reply::Picked {
            self.answer(Id::Buy(number));
        }
        let is_new = !self.purchases.contains_key(&number);
        let purchase = self.purchases.entry(number).or_insert(NEW);
        if reply != Reply::Picked {
            purchase.confirmed_heard = reply == Reply::Confirmed { picked: false };
        }
        self.settle(number, |life| if is_new { Life::on_first_reply(reply, false) } else { life.on_reply(reply, true) })
    }

    fn answer(&mut self, answered: Id) {
        self.requests.retain(|asked| match asked {
            Command::Purchase { id, .. } | Command::Cancel { id, .. } => *id != answered,
            Command::Opened { .. } => true,
        });
    }

    /// Decides about a purchase, and saves what becomes of it. `true`: units are asked back.
    fn settle(&mut self, number: u8, decide: impl FnOnce(&Life) -> Transition) -> bool {
        let Some(purchase) = self.purchases.get_mut(&number) else { return false };
        let transition = decide(&purchase.life);
        purchase.life = purchase.life.after(transition);
        transition == Transition::Compensate && self.compensate(number)
    }

    /// B6: the store took units for a purchase that is settled otherwise.
    fn compensate(&mut self, number: u8) -> bool {
        let asked = self.is_cancel_asked(number);
        if !asked {
            let at = self.head().id();
            self.ask(Command::Cancel { id: Id::Back(number, at), forced: true });
        }
        !asked
    }
}

const NEW: Purchase = Purchase { life: Life::PENDING, confirmed_heard: false, cancelled_while_pending: false };
