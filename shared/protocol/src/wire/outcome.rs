//! Outcomes: what became of commands.

use serde::{Deserialize, Serialize};

use super::body::OutcomeBody;
use super::{PurchaseRef, Results, Subject};
use crate::domain::reservation::Reservation;
use crate::domain::transfer::Transfer;
use crate::domain::{Action, Item, Rejection};
use crate::ids::{OperationId, ProductId};
use crate::time::Millis;

/// The answer to a command, kept by its id for the retention: a command seen again gets it again and has no effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "OutcomeBody", into = "OutcomeBody")]
pub struct Outcome {
    /// The command.
    pub command: OperationId,
    /// When, by the store's clock.
    pub at: Millis,
    /// What became of it.
    pub became: Became,
}

/// What became of a command. Items are as they were then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Became {
    /// The operation was done.
    Done {
        /// Which.
        action: Action,
        /// Of which product.
        product_id: ProductId,
        /// The item after it.
        item: Item,
    },
    /// The store took the units of a purchase.
    Confirmed {
        /// The attempt.
        purchase: PurchaseRef,
        /// The item after it, if it is of one line.
        item: Option<Item>,
        /// Staff has picked it since.
        picked: bool,
    },
    /// The store could not.
    Rejected {
        /// The attempt.
        purchase: PurchaseRef,
        /// Why.
        rejection: Rejection,
        /// The item, if it is of one product and the store has that.
        item: Option<Item>,
    },
    /// The store heard of the purchase too late.
    Expired {
        /// The attempt.
        purchase: PurchaseRef,
        /// The item, if it is of one product and the store has that.
        item: Option<Item>,
    },
    /// The purchase is cancelled; units that were taken are back.
    Cancelled {
        /// The attempt.
        purchase: PurchaseRef,
        /// The item, if it is of one product and the store has that.
        item: Option<Item>,
    },
    /// An item command or a cancel was refused.
    Refused {
        /// What it was about.
        subject: Subject,
        /// Why.
        rejection: Rejection,
        /// The item, if it is of one product and the store has that.
        item: Option<Item>,
    },
    /// What was asked of a reservation was done.
    Reservation(Reservation),
    /// What was asked of a transfer was done.
    Transfer(Transfer),
    /// The lines of a batch were judged, and done or not.
    Batch(Results),
    /// The whole state was sent again.
    Resynced,
}

impl Became {
    /// Why it was not done.
    pub fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected { rejection, .. } | Self::Refused { rejection, .. } => Some(rejection),
            Self::Expired { .. } => Some(&Rejection::PurchaseExpired),
            Self::Done { .. }
            | Self::Confirmed { .. }
            | Self::Cancelled { .. }
            | Self::Reservation(_)
            | Self::Transfer(_)
            | Self::Batch(_)
            | Self::Resynced => None,
        }
    }

    /// The item after it, if it is about one.
    pub fn item(&self) -> Option<&Item> {
        match self {
            Self::Done { item, .. } => Some(item),
            Self::Confirmed { item, .. }
            | Self::Rejected { item, .. }
            | Self::Expired { item, .. }
            | Self::Cancelled { item, .. }
            | Self::Refused { item, .. } => item.as_ref(),
            Self::Reservation(_) | Self::Transfer(_) | Self::Batch(_) | Self::Resynced => None,
        }
    }
}

impl Became {
    /// The reservation after it.
    pub fn reservation(&self) -> Option<&Reservation> {
        match self {
            Self::Reservation(reservation) => Some(reservation),
            Self::Done { .. }
            | Self::Confirmed { .. }
            | Self::Rejected { .. }
            | Self::Expired { .. }
            | Self::Cancelled { .. }
            | Self::Refused { .. }
            | Self::Transfer(_)
            | Self::Batch(_)
            | Self::Resynced => None,
        }
    }

    /// The transfer after it.
    pub fn transfer(&self) -> Option<&Transfer> {
        if let Self::Transfer(transfer) = self { Some(transfer) } else { None }
    }

    /// What became of each line of a batch.
    pub fn results(&self) -> Option<&Results> {
        if let Self::Batch(results) = self { Some(results) } else { None }
    }
}

impl Outcome {
    /// The same, now that staff has picked the purchase. What is not confirmed stays what it is.
    #[must_use]
    pub fn picked(mut self) -> Self {
        if let Became::Confirmed { picked, .. } = &mut self.became {
            *picked = true;
        }
        self
    }
}
