//! Central's database.

use runtime::sqlite::Schema;

/// Numbered migrations; `application_id` is "SHCE".
pub const SCHEMA: Schema = Schema {
    application_id: 0x5348_4345,
    migrations: &[
        include_str!("../../migrations/0001_view.sql"),
        include_str!("../../migrations/0002_steps.sql"),
        include_str!("../../migrations/0003_reservations.sql"),
        include_str!("../../migrations/0004_webhooks.sql"),
        include_str!("../../migrations/0005_search.sql"),
        include_str!("../../migrations/0006_policy.sql"),
        include_str!("../../migrations/0007_units.sql"),
        include_str!("../../migrations/0008_rebuild.sql"),
        include_str!("../../migrations/0009_transfers.sql"),
        include_str!("../../migrations/0010_lines.sql"),
        include_str!("../../migrations/0011_allotment.sql"),
        include_str!("../../migrations/0012_outcomes.sql"),
        include_str!("../../migrations/0013_transfer_references.sql"),
        include_str!("../../migrations/0014_sold.sql"),
        include_str!("../../migrations/0015_operations.sql"),
        include_str!("../../migrations/0016_named_since.sql"),
    ],
};

#[cfg(test)]
mod tests {
    use protocol::ids::StoreId;

    use super::*;
    use crate::operators::verify;
    use crate::storage::items;
    use crate::storage::stores;
    use crate::testing::Agent;

    /// What the version before wrote: a store with two items and its opening in the ledger, one that is retired, and one
    /// whose opening had not arrived in full.
    const BEFORE: &str = "
        insert into store (store_id, first_seen_at, epoch, seq, complete, state_epoch, state_seq, retired) values
          ('s1', 1, 7, 3, 1, 7, 3, 0), ('s2', 1, 5, 9, 1, 5, 9, 1);
        insert into store (store_id, first_seen_at, epoch, seq, opening, command_epoch) values ('s3', 1, 4, 2, 1, 1);
        insert into item (store_id, product_id, name, quantity, reserved, allotted, discontinued, low, version, updated_at)
          values ('s1', 'milk', 'Milk', 4, 0, 0, 0, 0, 1, 1), ('s1', 'tea', 'Tea', 10, 1, 2, 0, 0, 3, 1),
            ('s2', 'tea', 'Tea', 5, 0, 0, 0, 0, 1, 1);
        insert into product (product_id, name, quantity, reserved, allotted, stores)
          values ('milk', 'Milk', 4, 0, 0, 1), ('tea', 'Tea', 10, 1, 2, 1);
        insert into page (store_id, epoch, seq, body) values ('s3', 4, 2, '{}');";

    #[test]
    fn a_database_of_the_version_before_keeps_all() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("central.db");
        let before = Schema { migrations: &SCHEMA.migrations[..1], ..SCHEMA };
        let (connection, lock) = runtime::sqlite::open(&path, before).expect("opens");
        connection.execute_batch(BEFORE).expect("writes");
        drop((connection, lock));
        let (connection, _lock) = runtime::sqlite::open(&path, SCHEMA).expect("opens");
        let stock = |id: &str| -> Vec<(String, i64)> {
            let stock = items::of_store(&connection, &StoreId::parse(id).expect("valid")).expect("reads");
            stock.into_iter().map(|(product, item)| (product.to_string(), item.quantity)).collect()
        };
        assert_eq!(stock("s1"), [("milk".to_owned(), 4), ("tea".to_owned(), 10)]);
        assert_eq!((stock("s2"), stock("s3")), (vec![("tea".to_owned(), 5)], Vec::new()));
        assert_eq!(crate::storage::totals::differences(&connection).expect("reads"), []);
        for store in stores::all(&connection).expect("reads") {
            while stores::find(&connection, &store.id).expect("reads").is_some_and(|store| store.steps) {
                crate::projection::steps::step(&connection, &store.id, 1, crate::testing::NOW).expect("can be done");
            }
        }
        let differences = verify::verify(&connection).expect("reads").differences;
        assert!(!differences.iter().any(|text| text.contains("total")), "{differences:?}");
        // The pages that had arrived are asked for again.
        let mut agent = Agent::new("s3");
        agent.head = stores::find(&connection, &agent.id).expect("reads").expect("is known").cursor;
        let end = agent.state(Vec::new()).pop().expect("an end");
        let protocol::link::Entry { kind, body, .. } = end.expect("an entry");
        agent.head = stores::find(&connection, &agent.id).expect("reads").expect("is known").cursor;
        let end =
            protocol::link::Entry::follow(&agent.head, &kind, "o", body.replace("\"pages\":0", "\"pages\":1"), None);
        agent.tell(&connection, &[Ok(end)]);
        let store = agent.store(&connection);
        assert!(store.opening && store.wants_resync());
        assert!(
            crate::projection::view::repeat_resync(&connection, &agent.id, crate::testing::NOW).expect("writes"),
            "it is asked"
        );
    }
}
