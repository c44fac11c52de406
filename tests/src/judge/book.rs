//! What was asked, written down before it was sent: the measure of all that the system says and does.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::allotments::{Cover, Release, Rule};

/// A store, a product, a purchase, an operation or a command.
pub type Name = Arc<str>;

/// What is asked of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    Create {
        name: Name,
        quantity: i64,
        low_at: Option<i64>,
    },
    Sell(i64),
    Receive(i64),
    Adjust(i64),
    Count {
        units: i64,
        /// The place in the store's log, epoch and number, where the shelf was as it was counted; none: it is so now.
        at: Option<(u64, u64)>,
    },
    /// So many units are to be set aside for online sale.
    Allot(i64),
    /// What is not named stays. A threshold may become none.
    Change {
        name: Option<Name>,
        discontinued: Option<bool>,
        low_at: Option<Option<i64>>,
    },
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A till or staff.
    Store,
    /// Somebody at central, by a command.
    Central,
    /// The same, as a line of a batch.
    Batch,
}

/// An operation on one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub store: Name,
    pub product: Name,
    pub wish: Wish,
    pub by: By,
}

/// Several operations on items, by one command of central. Each line stands in the book under a name of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub store: Name,
    pub lines: usize,
    /// All of it or nothing.
    pub atomic: bool,
}

/// An online purchase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buy {
    /// All of it or nothing, in the order of products.
    pub lines: Lines,
    /// By Redis's clock, ms: after it no store may take the units.
    pub deadline: i64,
    /// The buyer left it to central which store is asked, and which one next if that refuses.
    pub is_chosen: bool,
    /// By store: the command that asks it.
    pub attempts: BTreeMap<Name, Name>,
}

/// A cancel of a purchase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cancel {
    /// Of which store; none has anything of a purchase that is between two.
    pub store: Name,
    pub purchase: Name,
    /// The purchase was not confirmed when it was asked: units go back even if they were picked.
    pub forced: bool,
}

/// Staff picks a purchase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pick {
    pub store: Name,
    pub purchase: Name,
}

/// Units of products, each named once.
pub type Lines = Vec<(Name, i64)>;

/// Units to be held for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    pub store: Name,
    pub reservation: Name,
    pub lines: Lines,
    pub ttl_ms: i64,
    pub by: By,
    /// Of central's: by Redis's clock, ms; after it the store must not hold them.
    pub deadline: i64,
}

/// What is asked of a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// None: all that it holds.
    Confirm(Option<Lines>),
    Cancel,
    Extend(i64),
}

/// Something asked of a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acted {
    pub store: Name,
    pub reservation: Name,
    pub act: Act,
    pub by: By,
}

/// Units are to go from one store to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    pub from: Name,
    pub to: Name,
    pub lines: Lines,
    /// Booked in by its announcement.
    pub auto: bool,
    /// By Redis's clock, ms: after it they must not leave.
    pub deadline: i64,
}

/// A transfer is to be booked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    pub store: Name,
    pub transfer: Name,
    /// None: all of it.
    pub lines: Option<Lines>,
    pub by: By,
}

/// All that was asked.
#[derive(Debug, Clone, Default)]
pub struct Book {
    /// By operation; a command's operation is the command.
    pub items: HashMap<Name, Asked>,
    /// By command.
    pub batches: HashMap<Name, Batch>,
    /// By purchase.
    pub buys: BTreeMap<Name, Buy>,
    /// By command.
    pub cancels: HashMap<Name, Cancel>,
    /// By operation.
    pub picks: HashMap<Name, Pick>,
    /// By operation; a command's operation is the command.
    pub holds: HashMap<Name, Hold>,
    /// By operation; a command's operation is the command.
    pub acts: HashMap<Name, Acted>,
    /// By transfer.
    pub transfers: BTreeMap<Name, Transfer>,
    /// By command: the transfer whose units are to leave.
    pub ships: HashMap<Name, Name>,
    /// By command, which central gives by itself: the store that is to expect a transfer, and that.
    pub announces: HashMap<Name, (Name, Name)>,
    /// By operation; a command's operation is the command.
    pub receipts: HashMap<Name, Receipt>,
    /// By command, which central gives by itself.
    pub releases: HashMap<Name, Release>,
    /// By command of an attempt: what central wanted of it out of the allotment, each time it asked.
    pub covers: HashMap<Name, Vec<Cover>>,
    /// By store.
    pub rules: HashMap<Name, Rule>,
}

impl Book {
    /// The purchase that a command of an attempt names.
    pub fn purchase_of(command: &str) -> Option<&str> {
        command.split_once(['@', ':']).map(|(purchase, _)| purchase)
    }

    /// Whether a command is an attempt of a purchase at this store.
    pub fn is_attempt(&self, command: &str, store: &str) -> bool {
        let buy = Self::purchase_of(command).and_then(|purchase| self.buys.get(purchase));
        buy.and_then(|buy| buy.attempts.get(store)).is_some_and(|attempt| **attempt == *command)
    }

    /// The store that an operation was asked of.
    pub fn store_of(&self, operation: &str) -> Option<&Name> {
        let asked = self.items.get(operation).map(|asked| &asked.store);
        let asked = asked.or_else(|| self.batches.get(operation).map(|batch| &batch.store));
        let asked = asked.or_else(|| self.picks.get(operation).map(|pick| &pick.store));
        let asked = asked.or_else(|| self.holds.get(operation).map(|hold| &hold.store));
        let asked = asked.or_else(|| self.acts.get(operation).map(|acted| &acted.store));
        let asked = asked.or_else(|| self.receipts.get(operation).map(|receipt| &receipt.store));
        let asked = asked.or_else(|| self.releases.get(operation).map(|release| &release.store));
        let asked = asked.or_else(|| self.announces.get(operation).map(|(store, _)| store));
        asked.or_else(|| self.ships.get(operation).map(|transfer| &self.transfers[transfer].from))
    }
}
