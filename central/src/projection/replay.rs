//! A store's stock recomputed from its ledger: what the view must be.

use std::collections::BTreeMap;

use protocol::domain::Item;
use protocol::ids::ProductId;
use protocol::wire::Event;
use rusqlite::{Connection, params};

use crate::storage::stores::Store;

/// The stock at the store's state: the pages of the snapshot that was installed last, then every entry after them, in
/// order.
pub fn stock(connection: &Connection, store: &Store) -> rusqlite::Result<BTreeMap<ProductId, Item>> {
    let mut statement = connection.prepare_cached(
        "select type, body from event where store_id = ?1 and epoch = ?2 and seq between ?3 and ?4 order by seq",
    )?;
    let mut rows = statement.query(params![store.id.as_str(), store.state.epoch, store.base.seq, store.state.seq])?;
    let mut stock = BTreeMap::new();
    let (mut laid_aside, mut pages, mut count) = (BTreeMap::new(), 0, 0);
    while let Some(row) = rows.next()? {
        match Event::decode(row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?) {
            Ok(Event::Fact(_, fact)) => {
                if let Some(item) = fact.item {
                    stock.insert(fact.product_id, item);
                }
            }
            Ok(Event::SnapshotPage(page)) => {
                pages += 1;
                count += page.items.len() as u64;
                laid_aside.extend(page.items.into_iter().map(|named| (named.product_id, named.item)));
            }
            Ok(Event::SnapshotEnd(end)) => {
                // As in the view: pages that are missing take no effect.
                if (pages, count) == (end.pages, end.count) {
                    stock = std::mem::take(&mut laid_aside);
                }
                (pages, count) = (0, 0);
                laid_aside.clear();
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(stock)
}
