//! A store's stock recomputed from its ledger: what the view must be.

use std::collections::BTreeMap;

use protocol::domain::Item;
use protocol::ids::ProductId;
use protocol::wire::Event;

use crate::projection::fold::Stock;
use crate::storage::ledger;
use crate::storage::stores::Store;
use crate::storage::{Connection, JobResult};

/// The stock at the store's state: the pages of the snapshot that was installed last, then every entry after them, in
/// order.
pub fn stock(connection: &Connection, store: &Store) -> JobResult<BTreeMap<ProductId, Item>> {
    let mut stock = Stock::default();
    ledger::since_base(connection, store, |kind, body| match Event::decode(kind, body) {
        Ok(event) => stock.apply(&event),
        Err(_) => stock.skip(),
    })?;
    Ok(stock.into_items())
}
