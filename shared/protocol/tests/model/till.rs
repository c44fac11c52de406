//! The store and central as far as purchases are concerned: rules B1 to B6 in the smallest form, one function for one
//! transaction. The daemons keep these rules beside their SQL (`central/src/promises/purchases.rs`, `central/src/projection/settle.rs`,
//! `central/src/promises/commands.rs`, `store-agent/src/operations/commands.rs`); what is written here has the same names and the same
//! order of cases. The stock itself is production's [`decide`] and [`apply`].

use std::collections::BTreeMap;

use protocol::domain::{Change, Facts, Guard, Item, Operation, apply, decide};
use protocol::hash::Hash;
use protocol::link::{Cursor, Log, OPENED};
use protocol::time::Millis;

use crate::publisher::Rows;
use crate::redis::{Payload, Row};

/// The event epoch that all this happens in.
pub(crate) const LEDGER_EPOCH: u64 = 1;

/// Command ids. The number of a cancel keeps two of them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Id {
    Buy(u8),
    Cancel(u8, u8),
    Back(u8, EntryAt),
}

type EntryAt = (u64, u64);

impl Id {
    fn purchase(self) -> u8 {
        match self {
            Self::Buy(p) | Self::Cancel(p, _) | Self::Back(p, _) => p,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Command {
    Opened { for_epoch: u64 },
    Purchase { id: Id, deadline: u8 },
    Cancel { id: Id, forced: bool },
}

impl Payload for Command {
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
    Ready(u64),
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
    pub(crate) cursor: Cursor,
    pub(crate) opened_for: u64,
}

impl Store {
    fn item(&self) -> Item {
        Item { quantity: self.quantity, version: 1, ..Item::default() }
    }

    fn perform(&mut self, operation: &Operation) -> bool {
        let item = self.item();
        let Ok(changes) = decide(Some(&item), operation, &Guard::default(), Facts::default()) else { return false };
        self.quantity =
            changes.iter().fold(item, |item, change: &Change| apply(Some(&item), change, Millis(0))).quantity;
        true
    }

    pub(crate) fn sell(&mut self) -> bool {
        let sold = self.perform(&Operation::Sell { quantity: 1 });
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
        } else if self.perform(&Operation::Purchase { quantity: 1 }) {
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
                self.perform(&Operation::GiveBack { quantity: 1 });
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
pub(crate) enum Status {
    Pending,
    Confirmed,
    Rejected,
    Expired,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Purchase {
    pub(crate) status: Status,
    pub(crate) cancel_requested: bool,
    pub(crate) picked: bool,
    /// It ended because the store was retired.
    pub(crate) voided: bool,
    /// For the model only: a cancel was accepted while it was pending.
    pub(crate) cancelled_while_pending: bool,
}

/// Central's database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Central {
    pub(crate) purchases: BTreeMap<u8, Purchase>,
    /// Asked and not answered, in order.
    pub(crate) requests: Vec<Command>,
    log: Vec<Row<Command>>,
    /// First entry of the log that was not pruned.
    first: u64,
    pub(crate) acked: u64,
    /// Events applied.
    pub(crate) read: usize,
    pub(crate) quantity: i64,
    pub(crate) ready: u64,
    pub(crate) retired: bool,
}

impl Log for Central {
    fn head(&self) -> Cursor {
        self.log.last().map(Row::cursor).unwrap_or_default()
    }
    fn hash_at(&self, seq: u64) -> Option<Hash> {
        if seq == 0 { Some(Hash::ZERO) } else { self.row(seq).map(|row| row.hash) }
    }
}

impl Rows<Command> for Central {
    fn row(&self, seq: u64) -> Option<&Row<Command>> {
        if seq < self.first { None } else { self.log.get((seq - 1) as usize) }
    }
}

impl Central {
    pub(crate) fn new(quantity: i64) -> Self {
        let (purchases, requests, log) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut new =
            Self { purchases, requests, log, first: 1, acked: 0, read: 0, quantity, ready: 0, retired: false };
        new.open_epoch(1);
        new
    }

    /// L8: every unsettled command again, in its old order, under its old id.
    pub(crate) fn open_epoch(&mut self, epoch: u64) {
        self.log.clear();
        (self.first, self.acked) = (1, 0);
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
    pub(crate) fn was_at(&self, seq: u64) -> Cursor {
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
        let pending = self.purchases.values().filter(|purchase| purchase.status == Status::Pending).count() as i64;
        if self.retired || self.is_settling() || self.quantity - pending < 1 || self.purchases.contains_key(&purchase) {
            return false;
        }
        self.purchases.insert(purchase, PENDING);
        self.ask(Command::Purchase { id: Id::Buy(purchase), deadline });
        true
    }

    /// B5. `false`: there is nothing to cancel, or it is asked already.
    pub(crate) fn cancel(&mut self, number: u8, unique: u8) -> bool {
        let asked = self.is_cancel_asked(number);
        let Some(purchase) = self.purchases.get_mut(&number) else { return false };
        let forced = match purchase.status {
            Status::Pending => true,
            Status::Confirmed if !purchase.picked => false,
            _ => return false,
        };
        if asked || self.retired {
            return false;
        }
        purchase.cancel_requested = true;
        purchase.cancelled_while_pending |= forced;
        self.ask(Command::Cancel { id: Id::Cancel(number, unique), forced });
        true
    }

    fn is_cancel_asked(&self, number: u8) -> bool {
        self.requests.iter().any(|asked| matches!(asked, Command::Cancel { id, .. } if id.purchase() == number))
    }

    /// An operator retires the store: all that is open ends, and is in no log that opens from now on.
    pub(crate) fn retire(&mut self, epoch: u64) {
        self.retired = true;
        self.requests.clear();
        for purchase in self.purchases.values_mut().filter(|purchase| purchase.status == Status::Pending) {
            (purchase.status, purchase.voided) = (Status::Cancelled, true);
        }
        self.open_epoch(epoch);
    }

    /// It is taken back, and asked for units that it may have taken for what retiring has ended.
    pub(crate) fn adopt(&mut self, epoch: u64) {
        self.retired = false;
        self.open_epoch(epoch);
        let voided = |(number, purchase): (&u8, &Purchase)| purchase.voided.then_some(*number);
        let voided: Vec<u8> = self.purchases.iter().filter_map(voided).collect();
        for number in voided {
            self.give_back(number);
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
        if kind == Kind::Refused {
            if let Some(purchase) = self.purchases.get_mut(&number).filter(|known| known.status == Status::Confirmed) {
                purchase.cancel_requested = false;
            }
            return false;
        }
        if kind != Kind::Picked {
            self.answer(Id::Buy(number));
        }
        self.settle(number, kind)
    }

    fn answer(&mut self, answered: Id) {
        self.requests.retain(|asked| match asked {
            Command::Purchase { id, .. } | Command::Cancel { id, .. } => *id != answered,
            Command::Opened { .. } => true,
        });
    }

    fn settle(&mut self, number: u8, kind: Kind) -> bool {
        let is_new = !self.purchases.contains_key(&number);
        let purchase = self.purchases.entry(number).or_insert(PENDING);
        let said = match kind {
            Kind::Confirmed => Status::Confirmed,
            Kind::Rejected => Status::Rejected,
            Kind::Expired => Status::Expired,
            Kind::Cancelled => Status::Cancelled,
            Kind::Picked if is_new => Status::Confirmed,
            Kind::Picked | Kind::Refused => {
                purchase.picked |= kind == Kind::Picked;
                return false;
            }
        };
        match (said, purchase.status) {
            (Status::Confirmed, Status::Pending) if purchase.cancel_requested => {}
            (_, Status::Pending) => purchase.status = said,
            (Status::Cancelled, Status::Confirmed) => purchase.status = said,
            (Status::Confirmed, Status::Confirmed) => {}
            (Status::Confirmed, _) => return self.give_back(number),
            _ => {}
        }
        false
    }

    /// B6: the store took units for a purchase that is settled otherwise.
    fn give_back(&mut self, number: u8) -> bool {
        let asked = self.is_cancel_asked(number);
        if !asked {
            let at = self.head().id();
            self.ask(Command::Cancel { id: Id::Back(number, (at.epoch, at.seq)), forced: true });
        }
        !asked
    }
}

const PENDING: Purchase = Purchase {
    status: Status::Pending,
    cancel_requested: false,
    picked: false,
    voided: false,
    cancelled_while_pending: false,
};
