//! The domain's "no": a stable code and what the caller needs to know. The same value is a problem's members over
//! HTTP and the body of a refusal on the link.

use serde::{Deserialize, Serialize};

use super::Item;
use crate::ids::ProductId;

/// A line of which fewer units may be taken than were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "said at `Rejection::InsufficientStock`")]
pub struct ShortLine {
    pub product_id: ProductId,
    pub requested: i64,
    pub quantity: i64,
    pub reserved: i64,
    pub allotted: i64,
    pub available: i64,
}

/// Why an operation was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum Rejection {
    /// The store has no such item.
    #[error("the store has no such product")]
    UnknownProduct,
    /// The store has this item already.
    #[error("the store has this product already")]
    AlreadyExists,
    /// Fewer units than asked for may be taken.
    #[error("{requested} asked for, {available} available")]
    InsufficientStock {
        /// Units asked for.
        requested: i64,
        /// Units on hand and not sold.
        quantity: i64,
        /// Of these, promised to open reservations.
        reserved: i64,
        /// Of these, set aside for online sale.
        allotted: i64,
        /// What may be taken.
        available: i64,
        /// Of several lines asked for together each that is short; the figures above are those of the first of them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lines: Vec<ShortLine>,
    },
    /// `expectedVersion` is not the item's version.
    #[error("the item's version is {current_version}")]
    VersionConflict {
        /// The item's version.
        current_version: i64,
    },
    /// `If-Match` names no version of the item as it is.
    #[error("the item's version is {current_version}")]
    PreconditionFailed {
        /// The item's version.
        current_version: i64,
    },
    /// The item is no longer carried.
    #[error("the item is discontinued")]
    Discontinued,
    /// A total would go beyond a thousand million, or too many reservations of a product be open.
    #[error("{}", beyond(product_id.as_ref()))]
    LimitExceeded {
        /// The product of which so many are open. Absent: it is a total.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        product_id: Option<ProductId>,
    },
    /// The store heard of the purchase after its deadline.
    #[error("the purchase's time to live was over when the store heard of it")]
    PurchaseExpired,
    /// The purchase was cancelled before.
    #[error("the purchase was cancelled")]
    PurchaseCancelled,
    /// The purchase has been picked and can no longer be cancelled.
    #[error("the purchase has been picked")]
    AlreadyPicked,
    /// `countedAt` names a place that this store's ledger does not have.
    #[error("countedAt is not a position of this store's ledger")]
    UnknownPosition,
    /// The store's agent does not understand the command.
    #[error("the store's agent does not understand the command")]
    UnsupportedByStore {
        /// The link entry that it did not understand.
        entry: String,
    },
    /// The reservation's time was over.
    #[error("the reservation has expired")]
    ReservationExpired,
    /// The reservation has ended otherwise.
    #[error("the reservation is {state}")]
    ReservationClosed {
        /// How.
        state: String,
    },
    /// More was to be confirmed than the reservation holds.
    #[error("the reservation holds {held} of {product_id}")]
    BeyondReservation {
        /// Of which product.
        product_id: ProductId,
        /// Units that it holds.
        held: i64,
    },
    /// The store has no such reservation.
    #[error("the store has no such reservation")]
    UnknownReservation,
    /// The transfer has ended, or was never begun.
    #[error("the transfer is {state}")]
    TransferClosed {
        /// How: `received`, or `expired` of one that the source heard of too late.
        state: String,
    },
    /// More was to be received than was shipped.
    #[error("the transfer brings {shipped} of {product_id}")]
    BeyondTransfer {
        /// Of which product.
        product_id: ProductId,
        /// Units that were shipped.
        shipped: i64,
    },
    /// No such transfer is on its way to the store.
    #[error("the store has no such transfer")]
    UnknownTransfer,
    /// An operator ended it because the store was retired.
    #[error("the store was retired")]
    StoreRetired,
}

fn beyond(held: Option<&ProductId>) -> String {
    match held {
        Some(product) => format!("too many open reservations hold {product} already"),
        None => "the quantity would exceed 1,000,000,000".to_owned(),
    }
}

impl Rejection {
    /// So many units were asked for of an item, and only so many may be taken.
    pub fn insufficient(item: &Item, requested: i64, available: i64) -> Self {
        Self::InsufficientStock {
            requested,
            quantity: item.quantity,
            reserved: item.reserved,
            allotted: item.allotted,
            available,
            lines: Vec::new(),
        }
    }

    /// The stable code, as in a problem's `code`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownProduct => "unknown_product",
            Self::AlreadyExists => "already_exists",
            Self::InsufficientStock { .. } => "insufficient_stock",
            Self::VersionConflict { .. } => "version_conflict",
            Self::PreconditionFailed { .. } => "precondition_failed",
            Self::Discontinued => "discontinued",
            Self::LimitExceeded { .. } => "limit_exceeded",
            Self::PurchaseExpired => "purchase_expired",
            Self::PurchaseCancelled => "purchase_cancelled",
            Self::AlreadyPicked => "already_picked",
            Self::UnknownPosition => "unknown_position",
            Self::UnsupportedByStore { .. } => "unsupported_by_store",
            Self::ReservationExpired => "reservation_expired",
            Self::ReservationClosed { .. } => "reservation_closed",
            Self::BeyondReservation { .. } => "beyond_reservation",
            Self::UnknownReservation => "unknown_reservation",
            Self::TransferClosed { .. } => "transfer_closed",
            Self::BeyondTransfer { .. } => "beyond_transfer",
            Self::UnknownTransfer => "unknown_transfer",
            Self::StoreRetired => "store_retired",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_what_serde_writes() {
        let rejections = [
            Rejection::UnknownProduct,
            Rejection::InsufficientStock {
                requested: 2,
                quantity: 1,
                reserved: 0,
                allotted: 0,
                available: 1,
                lines: Vec::new(),
            },
            Rejection::InsufficientStock {
                requested: 2,
                quantity: 1,
                reserved: 0,
                allotted: 0,
                available: 1,
                lines: vec![ShortLine {
                    product_id: ProductId::parse("tea").expect("valid"),
                    requested: 2,
                    quantity: 1,
                    reserved: 0,
                    allotted: 0,
                    available: 1,
                }],
            },
            Rejection::UnsupportedByStore { entry: "1-1".into() },
            Rejection::UnknownPosition,
            Rejection::TransferClosed { state: "received".into() },
            Rejection::UnknownTransfer,
            Rejection::StoreRetired,
            Rejection::LimitExceeded { product_id: None },
            Rejection::LimitExceeded { product_id: Some(ProductId::parse("tea").expect("valid")) },
        ];
        for rejection in rejections {
            let json = serde_json::to_value(&rejection).expect("serialises");
            assert_eq!(json["code"], rejection.code());
            assert_eq!(serde_json::from_value::<Rejection>(json).expect("reads"), rejection);
        }
    }

    #[test]
    fn a_total_beyond_its_limit_is_written_as_it_always_was() {
        let json = serde_json::to_value(Rejection::LimitExceeded { product_id: None }).expect("serialises");
        assert_eq!(json, serde_json::json!({"code": "limit_exceeded"}));
    }
}
