//! The state of an item and what can happen to it.

use serde::{Deserialize, Serialize};

use super::LowAt;
use crate::planted::{Bug, planted};
use crate::time::Millis;

/// One product in one store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Shown to people.
    pub name: String,
    /// Units on hand in the store and not sold.
    pub quantity: i64,
    /// Of these, promised to open reservations.
    pub reserved: i64,
    /// Of these, set aside for online sale.
    pub allotted: i64,
    /// What the allotment shall become, while that waits for central.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allotment_wanted: Option<i64>,
    /// No longer carried: tills sell what is left.
    pub discontinued: bool,
    /// Low-stock threshold on sellable units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_at: Option<i64>,
    /// Whether stock is low: set at the threshold, cleared when more than a tenth above it, and more than one unit, so
    /// that it does not flicker.
    pub low: bool,
    /// Grows by one with each change.
    pub version: i64,
    /// When it last changed, by the store's clock.
    pub updated_at: Millis,
}

impl Item {
    /// What a till may sell.
    pub fn available(&self) -> i64 {
        self.quantity - self.reserved - self.allotted
    }

    /// Whether nothing but units has moved since.
    pub fn differs_in_units_alone(&self, before: &Self) -> bool {
        let Self {
            name,
            quantity: _,
            reserved: _,
            allotted: _,
            allotment_wanted,
            discontinued,
            low_at,
            low,
            version: _,
            updated_at: _,
        } = before;
        (name, allotment_wanted, discontinued, low_at, low)
            == (&self.name, &self.allotment_wanted, &self.discontinued, &self.low_at, &self.low)
    }

    /// Whether its sellable units have fallen to the threshold since.
    pub fn has_fallen_low(&self, before: Option<&Self>) -> bool {
        self.low && !before.is_some_and(|before| before.low)
    }

    fn is_low(&self) -> bool {
        match self.low_at {
            None => false,
            Some(at) if self.low => self.available() <= at + (at / 10).max(at.min(1)),
            Some(at) => self.available() <= at,
        }
    }
}

/// What becomes of an item. Never refused: why it does is told by the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The item exists from now on.
    Created {
        /// Shown to people.
        name: String,
        /// Units on hand.
        quantity: i64,
        /// Low-stock threshold.
        low_at: Option<i64>,
    },
    /// So many units came in; negative: went out.
    Moved(i64),
    /// Members that have changed.
    Changed {
        /// New name.
        name: Option<String>,
        /// Whether it is discontinued.
        discontinued: Option<bool>,
        /// New threshold.
        low_at: Option<LowAt>,
    },
    /// So many units more are set aside for online sale; negative: fewer.
    Allotted {
        /// By so many.
        by: i64,
        /// How many it shall be, if that is fewer than there are then.
        wanted: Option<i64>,
    },
    /// Units left for an online purchase.
    Bought {
        /// So many.
        units: i64,
        /// Of these, so many had been set aside.
        of_allotment: i64,
    },
    /// So many units more are held for reservations; negative: fewer.
    Reserved(i64),
    /// A reservation was confirmed: units leave, and it holds nothing any more.
    Fulfilled {
        /// Units that leave, at most those that it held.
        taken: i64,
        /// Units that it held.
        held: i64,
    },
}

/// The item after the change. Only [`Change::Created`] makes one out of nothing.
pub fn apply(before: Option<&Item>, change: &Change, now: Millis) -> Item {
    let mut item = before.cloned().unwrap_or_default();
    match change {
        Change::Created { name, quantity, low_at } => {
            item.name.clone_from(name);
            item.quantity = *quantity;
            item.low_at = *low_at;
        }
        Change::Moved(delta) => item.quantity += delta,
        Change::Allotted { by, wanted } => {
            item.allotted += by;
            item.allotment_wanted = *wanted;
        }
        Change::Bought { units, of_allotment } => {
            item.quantity -= units;
            item.allotted -= of_allotment;
        }
        Change::Reserved(delta) => item.reserved += delta,
        Change::Fulfilled { taken, held } => {
            item.quantity -= taken;
            item.reserved -= held;
        }
        Change::Changed { name, discontinued, low_at } => {
            if let Some(name) = name.as_ref().filter(|_| !planted(Bug::NameNotChanged)) {
                item.name.clone_from(name);
            }
            if let Some(discontinued) = discontinued.as_ref().filter(|_| !planted(Bug::DiscontinuedNotChanged)) {
                item.discontinued = *discontinued;
            }
            if *discontinued == Some(true) && !planted(Bug::DiscontinuedStaysAllotted) {
                // Tills sell what is left.
                item.allotment_wanted = Some(0);
            }
            match low_at {
                Some(low_at) => item.low_at = low_at.units(),
                None if planted(Bug::ThresholdForgotten) => item.low_at = None,
                None => {}
            }
        }
    }
    item.allotment_wanted = item.allotment_wanted.filter(|wanted| *wanted < item.allotted);
    item.version += 1;
    item.updated_at = now;
    item.low = item.is_low();
    item
}
