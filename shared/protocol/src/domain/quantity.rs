//! A number of units that is asked for.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::QUANTITY_MAX;
use crate::ids::Invalid;

/// Units that one operation sells, takes in, buys or holds: 1 to [`QUANTITY_MAX`], so that nobody sells minus one. What an
/// item has, and by how much that changes, are plain numbers.
///
/// ```compile_fail,E0308
/// use protocol::domain::Operation;
/// let wrong = Operation::Sell { quantity: -1 };
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Quantity(i64);

impl Quantity {
    /// One unit.
    pub const ONE: Self = Self(1);

    /// The number, to reckon with.
    pub fn get(self) -> i64 {
        self.0
    }

    /// Both together, unless that is too many.
    pub fn plus(self, other: Self) -> Option<Self> {
        Self::try_from(self.0 + other.0).ok()
    }
}

impl TryFrom<i64> for Quantity {
    type Error = Invalid;
    fn try_from(units: i64) -> Result<Self, Invalid> {
        if (1..=QUANTITY_MAX).contains(&units) {
            Ok(Self(units))
        } else {
            Err(Invalid("must be a whole number from 1 to 1,000,000".into()))
        }
    }
}

impl From<Quantity> for i64 {
    fn from(quantity: Quantity) -> i64 {
        quantity.0
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_to_a_million() {
        for good in [1, QUANTITY_MAX] {
            assert_eq!(Quantity::try_from(good).map(Quantity::get), Ok(good));
            assert_eq!(serde_json::from_str::<Quantity>(&good.to_string()).map(Quantity::get).ok(), Some(good));
        }
        for bad in [i64::MIN, -1, 0, QUANTITY_MAX + 1, i64::MAX] {
            assert!(Quantity::try_from(bad).is_err(), "{bad}");
            assert!(serde_json::from_str::<Quantity>(&bad.to_string()).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Quantity>("\"1\"").is_err());
    }

    #[test]
    fn a_sum_is_in_range_too() {
        let most = Quantity::try_from(QUANTITY_MAX).expect("in range");
        assert_eq!(Quantity::ONE.plus(Quantity::ONE).map(Quantity::get), Some(2));
        assert_eq!(most.plus(Quantity::ONE), None);
    }
}
