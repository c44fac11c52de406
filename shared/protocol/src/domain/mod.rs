//! The stock of one item: what may be asked of it, what can happen to it, and why it says no.
//!
//! [`decide`], [`decide_purchase`] and [`decide_return`] may refuse and change nothing; [`apply`] cannot fail. All are
//! pure: the clock, the epoch and what the ledger knows are arguments. What they let through keeps `0 <= quantity` and
//! every total within [`TOTAL_MAX`]; and `0 <= available`, once as much is promised no longer as [`shortage`] says.

pub mod allotment;
mod decide;
mod item;
mod lines;
mod quantity;
mod rejection;
pub mod reservation;
pub mod transfer;

pub(crate) use decide::insufficient;
pub use decide::{Facts, decide, decide_purchase, decide_return, decide_sold, shortage};
pub use item::{Change, Item, apply};
pub use lines::{InvalidLines, LINES_MAX, Line, Lines};
pub use quantity::Quantity;
pub use rejection::{Rejection, ShortLine};

use serde::{Deserialize, Serialize};

use crate::number::Epoch;
use crate::position::Position;

/// Greatest number of units in one operation.
pub const QUANTITY_MAX: i64 = 1_000_000;
/// Greatest quantity of an item, and of a count.
pub const TOTAL_MAX: i64 = 1_000_000_000;

/// Something asked of one item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Operation {
    /// A new item; refused if there is one.
    Create {
        /// Name shown to people, 1 to 200 characters.
        name: String,
        /// Units on hand at the start, 0 to [`TOTAL_MAX`].
        quantity: i64,
        /// Low-stock threshold on sellable units.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        low_at: Option<i64>,
    },
    /// A sale at the till.
    Sell {
        /// So many.
        quantity: Quantity,
    },
    /// Goods that came in.
    Receive {
        /// So many.
        quantity: Quantity,
    },
    /// A correction by so many units, with a reason.
    Adjust {
        /// Not 0, at most [`QUANTITY_MAX`] either way.
        delta: i64,
        /// Why.
        reason: Reason,
        /// In words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// What was counted on the shelf; sales after `counted_at` are applied on top.
    Count {
        /// 0 to [`TOTAL_MAX`].
        quantity: i64,
        /// Position of this store's ledger at which the count was true; absent: now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        counted_at: Option<Position>,
        /// The count list it belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        count_ref: Option<String>,
    },
    /// New name, threshold, or whether it is still carried. Absent members stay.
    Change {
        /// Name shown to people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        /// Discontinued: tills sell what is left, nothing else.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        discontinued: Option<bool>,
        /// Low-stock threshold.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        low_at: Option<LowAt>,
    },
    /// So many units are to be set aside for online sale.
    Allot {
        /// 0 to [`TOTAL_MAX`].
        quantity: i64,
    },
}

/// What an operation does, without its particulars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// [`Operation::Create`].
    Create,
    /// [`Operation::Sell`].
    Sell,
    /// [`Operation::Receive`].
    Receive,
    /// [`Operation::Adjust`].
    Adjust,
    /// [`Operation::Count`].
    Count,
    /// [`Operation::Change`].
    Change,
    /// [`Operation::Allot`].
    Allot,
}

impl Operation {
    /// What it does.
    pub fn action(&self) -> Action {
        match self {
            Self::Create { .. } => Action::Create,
            Self::Sell { .. } => Action::Sell,
            Self::Receive { .. } => Action::Receive,
            Self::Adjust { .. } => Action::Adjust,
            Self::Count { .. } => Action::Count,
            Self::Change { .. } => Action::Change,
            Self::Allot { .. } => Action::Allot,
        }
    }
}

impl Action {
    /// What a client calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Sell => "sell",
            Self::Receive => "receive",
            Self::Adjust => "adjust",
            Self::Count => "count",
            Self::Change => "change",
            Self::Allot => "allot",
        }
    }
}

/// What a low-stock threshold becomes. On the wire it is the number, or `"off"`: an agent that cannot take a threshold off
/// does not read that and refuses the command, while it would take a missing number for no change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LowAt {
    /// Stock is low at so many sellable units, 0 to [`TOTAL_MAX`].
    Units(i64),
    /// Stock is never low.
    Off(Off),
}

/// The text `"off"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Off {
    /// `"off"`.
    Off,
}

impl LowAt {
    /// No threshold.
    pub const OFF: Self = Self::Off(Off::Off);

    /// The threshold, if there is to be one.
    pub fn units(self) -> Option<i64> {
        match self {
            Self::Units(units) => Some(units),
            Self::Off(_) => None,
        }
    }
}

impl From<Option<i64>> for LowAt {
    fn from(units: Option<i64>) -> Self {
        units.map_or(Self::OFF, Self::Units)
    }
}

/// Why stock was adjusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A customer brought it back.
    Return,
    /// A sale was entered by mistake.
    Void,
    /// Broken or spoiled.
    Damage,
    /// Stolen.
    Theft,
    /// Past its date.
    Expiry,
    /// Turned up.
    Found,
    /// Was recorded wrongly.
    Correction,
    /// See the note.
    Other,
}

/// What the caller believes the item's version to be. Both are judged when both are there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guard {
    /// `expectedVersion` of the body: 409 when it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_version: Option<i64>,
    /// `If-Match`: 412 when none of it fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_match: Option<IfMatch>,
}

/// An `If-Match` header, reduced to what it compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfMatch {
    /// `*`: any version of an item that exists.
    Any,
    /// One of these (epoch, version).
    Versions(Vec<(Epoch, i64)>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_called_what_clients_call_it() {
        let change = Operation::Change { name: None, discontinued: None, low_at: None };
        let called =
            [Operation::Sell { quantity: Quantity::ONE }, Operation::Receive { quantity: Quantity::ONE }, change];
        assert_eq!(called.map(|operation| operation.action().as_str()), ["sell", "receive", "change"]);
    }
}
