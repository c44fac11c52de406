//! Lists of the view's items.

use protocol::domain::Item;
use protocol::ids::{ProductId, StoreId};
use runtime::search::{Found as Count, Searched, Words};
use runtime::sqlite::labels::{self, LOOKED_AT, Labels, Part};
use runtime::sqlite::parsed;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Select, Slice};
use crate::storage::items::{self, COLUMNS, OTHER_CASE, read_item};

/// Which items; what is not given is not compared.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this store.
    pub store: Option<StoreId>,
    /// Of this product.
    pub product: Option<ProductId>,
    /// In whose id or name these are.
    pub words: Option<Words>,
    /// Whose stock is low, or is not.
    pub low: Option<bool>,
    /// Also those that are discontinued and sold out.
    pub discontinued: bool,
    /// Also those of retired stores.
    pub retired: bool,
}

/// An item of the view.
#[derive(Debug, Clone)]
pub struct Listed {
    pub store: StoreId,
    /// Of which product.
    pub product: ProductId,
    /// As the store says it is.
    pub item: Item,
    /// Units in purchases that the store has not answered.
    pub pending: i64,
}

impl Filter {
    fn shows(&self, found: &Found, is_retired: bool) -> bool {
        let (store, product, item) = found;
        self.store.as_ref().is_none_or(|wanted| wanted == store)
            && self.product.as_ref().is_none_or(|wanted| wanted == product)
            && self.low.is_none_or(|low| low == item.low)
            && (self.discontinued || !item.discontinued || item.quantity > 0)
            && (self.retired || !is_retired)
    }

    /// The same as conditions.
    fn select(&self, after: Option<&(String, String)>) -> Select {
        let mut select = Select::new(format!(
            "select store.store_id, item.product_id, {COLUMNS} from store cross join item on item.stock = store.stock \
             where true"
        ));
        select.and_equal("store.store_id", self.store.as_ref().map(StoreId::as_str));
        select.and_equal("item.product_id", self.product.as_ref().map(ProductId::as_str));
        // As the index has it.
        match self.low {
            None => {}
            Some(true) => select.and("item.low = 1", []),
            Some(false) => select.and("item.low = 0", []),
        }
        if !self.discontinued {
            select.and("(item.discontinued = 0 or item.quantity > 0)", []);
        }
        if !self.retired {
            select.and("store.retired = 0", []);
        }
        if let Some((store, product)) = after {
            select.and("store.store_id >= ?", [store.clone().into()]);
            let behind = "item.product_id > case when store.store_id = ? then ? else '' end";
            select.and(behind, [store.clone().into(), product.clone().into()]);
        }
        select
    }
}

type Found = (StoreId, ProductId, Item);

fn read(row: &Row<'_>) -> rusqlite::Result<Found> {
    Ok((parsed(row, 0)?, parsed(row, 1)?, read_item(row, 2)?))
}

/// By store and product; a slice's key is both.
pub fn list(
    connection: &Connection,
    filter: &Filter,
    slice: &Slice<(String, String)>,
) -> rusqlite::Result<Searched<Listed>> {
    let Searched { rows, found, reached } = match &filter.words {
        None => {
            let select = filter.select(slice.after.as_ref()).end(ORDER, slice);
            Searched {
                rows: select.rows(connection, read)?,
                found: filter.select(None).count(connection)?,
                reached: None,
            }
        }
        Some(words) => search(connection, filter, words, slice)?,
    };
    let listed = |(store, product, item): Found| -> rusqlite::Result<Listed> {
        Ok(Listed { pending: items::pending(connection, &store, &product)?, store, product, item })
    };
    let rows = rows.into_iter().map(listed).collect::<rusqlite::Result<_>>()?;
    Ok(Searched { rows, found, reached: reached.map(listed).transpose()? })
}

const ORDER: &str = "store.store_id, item.product_id";

/// All that stores have of a product.
const OF_PRODUCT: &str = "from item join store on store.store_id = item.store_id and store.stock = item.stock \
     where item.product_id = ?1 limit ?2";

fn search(
    connection: &Connection,
    filter: &Filter,
    words: &Words,
    slice: &Slice<(String, String)>,
) -> rusqlite::Result<Searched<Found>> {
    let Labels { labels, mut are_all } = labels::search(connection, words)?;
    let mut of_product = connection
        .prepare_cached(&format!("select store.store_id, item.product_id, {COLUMNS}, store.retired {OF_PRODUCT}"))?;
    let (mut found, mut looked_at) = (Vec::new(), 0);
    for (product, name) in labels {
        // Each row is looked at, whatever else it has to be.
        let carried = of_product
            .query_map(params![product.as_str(), LOOKED_AT - looked_at + 1], |row| Ok((read(row)?, row.get(12)?)))?
            .collect::<rusqlite::Result<Vec<(Found, bool)>>>()?;
        looked_at += carried.len();
        if looked_at > LOOKED_AT {
            are_all = false;
            break;
        }
        let is_meant = |(found, is_retired): &(Found, bool)| found.2.name == name && filter.shows(found, *is_retired);
        found.extend(carried.into_iter().filter(is_meant).map(|(found, _)| found));
    }
    let part = Part { offset: slice.offset, limit: slice.limit };
    if are_all {
        found.sort_unstable_by(|(store, product, _), other| (store, product).cmp(&(&other.0, &other.1)));
        let after = slice.after.as_ref().map(|(store, product)| (store.as_str(), product.as_str()));
        let is_behind = |(store, product, _): &Found| Some((store.as_str(), product.as_str())) > after;
        return Ok(labels::cut(found, true, is_behind, part));
    }
    let count = Count { found: found.len(), found_all: false };
    let is_meant = |row: &Row<'_>| Ok(words.find_in(row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?));
    filter
        .select(slice.after.as_ref())
        .order(ORDER)
        .query(connection, |rows| labels::sift(rows, count, part, is_meant, read))
}

/// One look into the index of each store.
const OTHER_CASE_ANYWHERE: &str = "select item.product_id from store cross join item on item.stock = store.stock \
     where not store.retired and item.product_id = ?1 collate nocase limit 1";

/// A product of any store whose id differs in case only; retired ones do not count.
pub fn other_case_anywhere(connection: &Connection, product: &ProductId) -> rusqlite::Result<Option<String>> {
    connection.prepare_cached(OTHER_CASE_ANYWHERE)?.query_row([product.as_str()], |row| row.get(0)).optional()
}

/// A product of the store whose id differs in case only.
pub fn other_case(connection: &Connection, store: &StoreId, product: &ProductId) -> rusqlite::Result<Option<String>> {
    connection.prepare_cached(OTHER_CASE)?.query_row([store.as_str(), product.as_str()], |row| row.get(0)).optional()
}
