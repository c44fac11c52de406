//! An item that an event is about, as both servers show it.

use protocol::ids::ProductId;
use protocol::wire::{Happened, ItemAfter};
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::schema;

/// One of several items that an event is about
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventItem {
    #[schema(value_type = schema::ProductId)]
    product_id: ProductId,
    /// By so many units more, or fewer.
    delta: i64,
    #[serde(flatten)]
    units: EventUnits,
}

/// The item after the event.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct EventUnits {
    quantity: i64,
    reserved: i64,
    allotted: i64,
    version: i64,
}

impl From<&ItemAfter> for EventUnits {
    fn from(ItemAfter { item, .. }: &ItemAfter) -> Self {
        Self { quantity: item.quantity, reserved: item.reserved, allotted: item.allotted, version: item.version }
    }
}

impl EventItem {
    /// Each of them, if they are several.
    pub fn several(what: &Happened) -> Vec<Self> {
        let one =
            |after: &ItemAfter| Self { product_id: after.product_id.clone(), delta: after.delta, units: after.into() };
        let items = what.items();
        if items.len() > 1 { items.iter().map(one).collect() } else { Vec::new() }
    }

    /// Which product's.
    pub fn product(&self) -> &str {
        self.product_id.as_str()
    }

    /// By so many units more, or fewer.
    pub fn delta(&self) -> i64 {
        self.delta
    }

    /// As it is after the event.
    pub fn units(&self) -> &EventUnits {
        &self.units
    }
}
