//! Lists of purchases.

use protocol::time::Millis;
use runtime::sqlite::newest::{Newest, Part};
use rusqlite::Connection;

use super::Slice;
use crate::storage::purchases::{COLUMNS, Purchase};

/// Which purchases; what is not given is not compared.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this store.
    pub store: Option<String>,
    /// With this status.
    pub status: Option<String>,
    /// Of this customer of the shop.
    pub customer: Option<String>,
    /// With this order number of the shop.
    pub reference: Option<String>,
    /// With a line of this product.
    pub product: Option<String>,
    /// Asked at this time or later.
    pub since: Option<Millis>,
}

/// The newest first, one less than the slice's limit; its key is the purchase's number.
pub fn list(connection: &Connection, filter: &Filter, slice: &Slice<i64>) -> rusqlite::Result<Part<Purchase>> {
    query(filter).list(connection, slice, Purchase::read)
}

fn query(Filter { store, status, customer, reference, product, since }: &Filter) -> Newest {
    let mut list = Newest::of("purchase", COLUMNS);
    list = match (reference, customer, store, status) {
        (Some(reference), ..) => list.along("purchase_by_reference", "reference = ?", [reference]),
        (None, Some(customer), ..) => list.along("purchase_by_customer", "customer_id = ?", [customer]),
        (None, None, Some(store), _) => list.along("purchase_by_store", "store_id = ?", [store]),
        (None, None, None, Some(status)) => list.along("purchase_by_status", "status = ?", [status]),
        (None, None, None, None) => list,
    };
    list = list.and_equal("store_id", store.as_deref()).and_equal("status", status.as_deref());
    list = list.and_equal("customer_id", customer.as_deref());
    if let Some(product) = product {
        let has_line = "(product_id = ? or exists (select 1 from json_each(lines) where value ->> 'productId' = ?))";
        list = list.and(has_line, [product.clone().into(), product.clone().into()]);
    }
    if let Some(since) = since {
        list = list.and("created_at >= ?", [since.0.into()]);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Agent, NOW, all_of, database, ways};

    #[test]
    fn whatever_else_is_compared_a_list_goes_along_the_index_that_leaves_the_least() {
        let connection = database();
        for [store, status, customer, reference, product] in all_of(["s1", "pending", "ann", "order-1", "tea"]) {
            let way = match (&reference, &customer, &store, &status) {
                (Some(_), ..) => "purchase USING INDEX purchase_by_reference (reference=?",
                (None, Some(_), ..) => "purchase USING INDEX purchase_by_customer (customer_id=?",
                (None, None, Some(_), _) => "purchase USING INDEX purchase_by_store (store_id=?",
                (None, None, None, Some(_)) => "purchase USING INDEX purchase_by_status (status=?",
                (None, None, None, None) => "purchase",
            };
            for since in [None, Some(NOW)] {
                let (store, status, customer) = (store.clone(), status.clone(), customer.clone());
                let (reference, product) = (reference.clone(), product.clone());
                let filter = Filter { store, status, customer, reference, product, since };
                assert_eq!(ways(&connection, &query(&filter)), [way], "{filter:?}");
            }
        }
    }

    #[test]
    fn a_list_passes_over_so_many_and_says_how_far_it_has_come() {
        let connection = database();
        let agent = Agent::settled("s1", &connection);
        (1..=10).for_each(|number| drop(agent.buy(&connection, number)));
        // The first, the fifth and the last one are of tea, the third one is older.
        connection
            .execute("update purchase set product_id = 'bun' where number not in (1, 5, 10)", [])
            .expect("writes");
        connection.execute("update purchase set created_at = created_at - 9 where number = 3", []).expect("writes");
        let numbers = |filter: &Filter, after, limit| {
            let slice = Slice { after, offset: 0, limit };
            let part = query(filter).passing_over(4).list(&connection, &slice, Purchase::read).expect("reads");
            (part.rows.iter().map(|purchase| purchase.number).collect::<Vec<_>>(), part.next)
        };
        let tea = Filter { product: Some("tea".into()), ..Filter::default() };
        assert_eq!(numbers(&tea, None, 9), (vec![10], Some(6)));
        assert_eq!(numbers(&tea, Some(6), 9), (vec![5, 1], None));
        let since = Filter { since: Some(NOW), ..Filter::default() };
        assert_eq!(numbers(&since, Some(5), 9), (vec![4, 2, 1], None), "what became known again may be older");
        let nobody = Filter { store: Some("s1".into()), status: Some("confirmed".into()), ..Filter::default() };
        assert_eq!(numbers(&nobody, None, 9), (vec![], Some(7)), "whatever it is that finds nothing");
    }
}
