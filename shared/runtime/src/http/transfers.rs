//! A line of a transfer, as both servers show it.

use protocol::domain::transfer::Transfer;
use protocol::ids::ProductId;
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
