//! A transfer as a store shows it, and central what the store said of it; its lines, as both servers show them.

use protocol::domain::transfer::Transfer;
use protocol::ids::{ProductId, StoreId, TransferId};
use protocol::time::Millis;
use serde::Serialize;
use utoipa::ToSchema;

use super::openapi::schema;

/// Units of one product on their way
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TransferLine {
    #[schema(value_type = schema::ProductId)]
    product_id: ProductId,
    /// As the source calls it; `null` until it was shipped.
    name: Option<String>,
    quantity: i64,
    /// What has arrived; `null` as long as it is on its way.
    received: Option<i64>,
}

impl TransferLine {
    /// One for each product.
    pub fn all_of(transfer: &Transfer) -> Vec<Self> {
        let line = |line: &protocol::domain::Line| Self {
            product_id: line.product_id.clone(),
            name: transfer.names.get(&line.product_id).cloned(),
            quantity: line.quantity.get(),
            received: transfer.received(&line.product_id),
        };
        transfer.lines.iter().map(line).collect()
    }
}

/// Units that go from one store to another
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Transfer, example = json!({
    "transferId": "0197a1b2-0000-7000-8000-000000000004", "fromStoreId": "store-1", "toStoreId": "store-2",
    "direction": "in", "status": "shipped",
    "lines": [{"productId": "coffee", "name": "Coffee, 500 g", "quantity": 2, "received": null}],
    "discrepancy": false, "autoReceive": false, "createdAt": "2026-01-31T12:00:00.000Z", "reference": "refill 17",
}))]
pub struct StoreTransfer<'a> {
    #[schema(value_type = schema::Id)]
    transfer_id: TransferId,
    #[schema(value_type = schema::StoreId)]
    from_store_id: &'a StoreId,
    #[schema(value_type = schema::StoreId)]
    to_store_id: &'a StoreId,
    /// `in` or `out`.
    direction: &'static str,
    /// `shipped` or `received`. What has left this store stays `shipped` here: central knows what becomes of it.
    status: &'static str,
    lines: Vec<TransferLine>,
    /// Less has arrived than was shipped.
    discrepancy: bool,
    auto_receive: bool,
    #[schema(value_type = schema::Time)]
    created_at: Millis,
    reference: Option<&'a str>,
}

impl<'a> StoreTransfer<'a> {
    /// At this store.
    pub fn of(here: &StoreId, transfer: &'a Transfer) -> Self {
        Self {
            transfer_id: transfer.id,
            from_store_id: &transfer.from,
            to_store_id: &transfer.to,
            direction: if transfer.to == *here { "in" } else { "out" },
            status: transfer.state.as_str(),
            lines: TransferLine::all_of(transfer),
            discrepancy: transfer.has_discrepancy(),
            auto_receive: transfer.auto_receive,
            created_at: transfer.created_at,
            reference: transfer.reference.as_deref(),
        }
    }
}
