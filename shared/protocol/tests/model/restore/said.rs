//! What the two sides say to one another, in a form small enough to be kept a million times.

use std::collections::{BTreeMap, BTreeSet};

use protocol::domain::{Change, Item, apply};
use protocol::link::{Commands, EntryId, Epoch, Events, OPENED, Past};
use protocol::number::CommandEpoch;
use protocol::time::Millis;

use crate::redis::Payload;

/// Ids of commands. The number of a cancel keeps two of them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Id {
    Buy(u8),
    Cancel(u8, u8),
    Back(u8, EntryId<Commands>),
    /// An item command: goods that come.
    Receive(u8),
}

impl Id {
    pub(crate) fn purchase(self) -> Option<u8> {
        match self {
            Self::Buy(purchase) | Self::Cancel(purchase, _) | Self::Back(purchase, _) => Some(purchase),
            Self::Receive(_) => None,
        }
    }

    pub(crate) fn is_cancel_of(self, purchase: u8) -> bool {
        matches!(self, Self::Cancel(of, _) | Self::Back(of, _) if of == purchase)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Command {
    Opened {
        for_epoch: Epoch,
    },
    /// `forced`: a cancel gives back what was picked, too; what is bought was promised, and is not refused.
    Do {
        id: Id,
        forced: bool,
    },
}

impl Payload for Command {
    type Link = Commands;

    fn kind(&self) -> &'static str {
        match self {
            Self::Opened { .. } => OPENED,
            Self::Do { .. } => "command",
        }
    }
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Became {
    Confirmed {
        picked: bool,
    },
    Rejected,
    Cancelled,
    /// A cancel came too late.
    Refused,
    Received,
}

pub(crate) type Outcomes = BTreeMap<Id, Became>;

/// Something that moves units, or picks them, as a bit: it has its effect once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Deed {
    Sale(u8),
    Receipt(u8),
    Taken(u8),
    GivenBack(u8),
    Pick(u8),
}

impl Deed {
    pub(crate) fn bit(self) -> u16 {
        1 << match self {
            Self::Sale(n) => n,
            Self::Receipt(n) => 4 + n,
            Self::Taken(p) => 6 + p,
            Self::GivenBack(p) => 9 + p,
            Self::Pick(p) => 12 + p,
        }
    }

    fn delta(self) -> i64 {
        match self {
            Self::Sale(_) | Self::Taken(_) => -1,
            Self::Receipt(_) | Self::GivenBack(_) => 1,
            Self::Pick(_) => 0,
        }
    }
}

/// All deeds.
fn deeds() -> impl Iterator<Item = Deed> {
    let of_purchases = |p| [Deed::Taken(p), Deed::GivenBack(p), Deed::Pick(p)];
    let sales = (0..4).map(Deed::Sale).chain((0..2).map(Deed::Receipt));
    sales.chain((0..3).flat_map(of_purchases))
}

/// The stock: one item. Production sees its quantity; the rest is the model's, to know where each unit has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Units {
    pub(crate) quantity: i64,
    /// What has had its effect.
    pub(crate) done: u16,
    /// Units entered because they had left the shelf and were not in the books.
    pub(crate) short: i64,
    /// Something was done twice, given back that was not taken, or given back that was picked.
    pub(crate) broken: bool,
}

impl Units {
    pub(crate) fn new(quantity: i64) -> Self {
        Self { quantity, done: 0, short: 0, broken: false }
    }

    pub(crate) fn item(&self) -> Item {
        Item { quantity: self.quantity, version: 1, ..Item::default() }
    }

    pub(crate) fn has(&self, deed: Deed) -> bool {
        self.done & deed.bit() != 0
    }

    /// What production has decided happens.
    pub(crate) fn perform(&mut self, deed: Deed, change: &Change) {
        self.broken |= self.has(deed);
        if let Deed::GivenBack(purchase) = deed {
            self.broken |= !self.has(Deed::Taken(purchase));
        }
        self.done |= deed.bit();
        self.quantity = apply(Some(&self.item()), change, Millis(0)).quantity;
    }

    /// It really happened, whatever is in the books: what is missing is entered first. Returns how much that was.
    pub(crate) fn happened(&mut self, deed: Deed) -> i64 {
        let change = Change::Moved(deed.delta());
        let short = protocol::domain::shortage(&self.item(), &change);
        self.quantity += short;
        self.short += short;
        self.perform(deed, &change);
        short
    }

    /// Whether the books are what has happened.
    pub(crate) fn adds_up(&self, units: i64) -> bool {
        let moved: i64 = deeds().filter(|deed| self.has(*deed)).map(Deed::delta).sum();
        !self.broken && self.quantity >= 0 && self.quantity == units + moved + self.short
    }

    /// Whether this outcome of an attempt is what has happened to its units.
    pub(crate) fn agrees(&self, purchase: u8, outcome: Option<&Became>) -> bool {
        let has_left = self.has(Deed::Taken(purchase)) && !self.has(Deed::GivenBack(purchase));
        let picked = matches!(outcome, Some(Became::Confirmed { picked: true }));
        let is_confirmed = matches!(outcome, Some(Became::Confirmed { .. }));
        has_left == is_confirmed && (!picked || self.has(Deed::Pick(purchase)))
    }
}

/// Names of operations: what an entry's `i` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Operation {
    Command(Id),
    Sale(u8),
    Pick(u8),
    /// What was missing for a sale, or for a purchase.
    ShortOfSale(u8),
    ShortOfPurchase(u8),
    /// The link's own.
    Link,
}

pub(crate) type Operations = BTreeSet<Operation>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    Sold(u8),
    Received(u8),
    Confirmed(u8),
    Rejected(u8),
    /// Whether units came back with it.
    Cancelled(u8, bool),
    Picked(u8),
    /// A cancel was.
    Refused(u8),
    Shortage,
}

/// What happened, with the stock after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fact {
    pub(crate) operation: Operation,
    pub(crate) what: What,
    pub(crate) command: Option<Id>,
    pub(crate) after: Units,
}

impl Fact {
    /// What it says of a command.
    pub(crate) fn became(&self) -> Option<Became> {
        match self.what {
            What::Received(_) => Some(Became::Received),
            What::Confirmed(_) => Some(Became::Confirmed { picked: false }),
            What::Rejected(_) => Some(Became::Rejected),
            What::Cancelled(..) => Some(Became::Cancelled),
            What::Refused(_) => Some(Became::Refused),
            What::Sold(_) | What::Picked(_) | What::Shortage => None,
        }
    }

    pub(crate) fn is_shortage(&self) -> bool {
        self.what == What::Shortage
    }

    pub(crate) fn purchase(&self) -> Option<u8> {
        match self.what {
            What::Confirmed(p) | What::Rejected(p) | What::Cancelled(p, _) | What::Picked(p) | What::Refused(p) => {
                Some(p)
            }
            What::Sold(_) | What::Received(_) | What::Shortage => None,
        }
    }
}

/// A whole state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Whole {
    pub(crate) units: Units,
    pub(crate) outcomes: Outcomes,
    /// Operations of earlier epochs that are in it.
    pub(crate) named: Operations,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Said {
    Opened(Vec<Past>),
    /// All pages.
    Page(Whole),
    End,
    Ready(CommandEpoch),
    Fact(Fact),
    Repeated {
        by: Id,
        of: Id,
        became: Became,
    },
}

impl Said {
    /// The sale or the goods that it tells of.
    pub(crate) fn deed(&self) -> Option<Deed> {
        match self {
            Self::Fact(Fact { what: What::Sold(number), .. }) => Some(Deed::Sale(*number)),
            Self::Fact(Fact { what: What::Received(number), .. }) => Some(Deed::Receipt(*number)),
            _ => None,
        }
    }

    pub(crate) fn operation(&self) -> Operation {
        match self {
            Self::Opened(_) | Self::Page(_) | Self::End | Self::Ready(_) => Operation::Link,
            Self::Fact(fact) => fact.operation,
            Self::Repeated { by, .. } => Operation::Command(*by),
        }
    }
}

impl Payload for Said {
    type Link = Events;

    fn kind(&self) -> &'static str {
        match self {
            Self::Opened(_) => OPENED,
            Self::Page(_) => "snapshot_page",
            Self::End => "snapshot_end",
            Self::Ready(_) => "ready",
            Self::Fact(_) => "fact",
            Self::Repeated { .. } => "outcome_repeated",
        }
    }
}
