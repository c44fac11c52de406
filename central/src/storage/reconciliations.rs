//! What a list of counted products is compared with: a store's quantities, and what has moved since a place of its ledger.

use std::collections::HashMap;

use protocol::ids::StoreId;
use protocol::link::EntryId;
use protocol::planted::{Bug, planted};
use protocol::wire::Event;
use rusqlite::{Connection, params};

use crate::storage::stores::Store;

/// Tells product and quantity of each row of a stock, in order, and whether lists show it.
pub fn quantities(connection: &Connection, stock: i64, mut tell: impl FnMut(&str, i64, bool)) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(QUANTITIES)?;
    let mut rows = statement.query([stock])?;
    while let Some(row) = rows.next()? {
        tell(row.get_ref(0)?.as_str()?, row.get(1)?, row.get(2)?);
    }
    Ok(())
}

const QUANTITIES: &str =
    "select product_id, quantity, discontinued = 0 or quantity > 0 from item where stock = ?1 order by product_id";

/// Units that came to each product, or went, behind a place of the state's epoch and up to the state. A count finds out what
/// was there already, and what a product was created with has not come: neither moves anything.
pub fn moved_since(connection: &Connection, store: &Store, place: EntryId) -> rusqlite::Result<HashMap<String, i64>> {
    let mut moved = HashMap::new();
    let mut statement = connection.prepare_cached(MOVES)?;
    let mut rows =
        statement.query(params![store.id.as_str(), place.epoch.get(), place.seq.get(), store.state.seq.get()])?;
    while let Some(row) = rows.next()? {
        let product: String = row.get(0)?;
        *moved.entry(product).or_default() += row.get::<_, i64>(1)?;
        // Of what is about several products the columns have the first.
        let Some(body) = row.get_ref(3)?.as_str_or_null()? else { continue };
        let Ok(Event::Fact(fact)) = Event::decode(row.get_ref(2)?.as_str()?, body) else { continue };
        for after in fact.what.items().iter().skip(1).filter(|_| !planted(Bug::OneProductMovesList)) {
            *moved.entry(after.product_id.to_string()).or_default() += after.delta;
        }
    }
    Ok(moved)
}

/// Only what is about several products has its body decoded.
const MOVES: &str = "select product_id, delta, type, case when instr(body, '\"more\":') > 0 then body end from event \
     where store_id = ?1 and epoch = ?2 and seq > ?3 and seq <= ?4 \
     and product_id is not null and type not in ('counted', 'item_created', 'shortage')";

/// Whether something may have been counted, or may yet be, that a comparison with the state at this place does not know of.
pub fn is_counting(connection: &Connection, store: &StoreId, compared: EntryId) -> rusqlite::Result<bool> {
    if planted(Bug::ReconciliationsOverlap) {
        return Ok(false);
    }
    connection
        .prepare_cached(IS_COUNTING)?
        .query_row(params![store.as_str(), compared.epoch.get(), compared.seq.get()], |row| row.get(0))
}

const IS_COUNTING: &str = "select \
     exists (select 1 from event where store_id = ?1 and epoch = ?2 and seq > ?3 and type = 'counted') \
     or exists (select 1 from request indexed by request_pending \
       where store_id = ?1 and status = 'pending' and (type = 'batch' or operation = 'count')) \
     or not exists (select 1 from store where store_id = ?1 and state_epoch = ?2)";

#[cfg(test)]
mod tests {
    use protocol::domain::{Item, Line, Lines, Operation, Quantity};
    use protocol::ids::OperationId;
    use protocol::wire::{About, Command, Event, Fact, Happened, PurchaseRef};

    use super::*;
    use crate::storage::commands;
    use crate::testing::{Agent, NOW, database, plan, product, purchase_id};

    fn counted(agent: &mut Agent) -> runtime::redis::Received {
        let counted = Happened::Counted { item: agent.take_one(), count_ref: None };
        agent.entry(&Event::Fact(Fact::new(counted, NOW)))
    }

    #[test]
    fn what_was_sold_since_has_moved_and_what_was_counted_has_not() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let before = agent.head.id();
        let told = [agent.sale(), counted(&mut agent), agent.sale()];
        agent.tell(&connection, &told);
        let store = agent.store(&connection);
        let moved = |at| moved_since(&connection, &store, at).expect("reads").into_iter().collect::<Vec<_>>();
        assert_eq!(moved(before), [("tea".to_owned(), -2)]);
        assert_eq!(moved(agent.head.id()), []);
        let mut found = Vec::new();
        quantities(&connection, store.stock, |name, units, shown| found.push((name.to_owned(), units, shown)))
            .expect("reads");
        assert_eq!(found, [("tea".to_owned(), 7, true)]);
        for sql in [MOVES, QUANTITIES] {
            let plan = plan(&connection, sql);
            assert!(plan.starts_with("SEARCH") && !plan.contains("TEMP B-TREE"), "{plan}");
        }
    }

    #[test]
    fn of_what_is_about_several_products_each_has_moved() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let before = agent.head.id();
        let milk = |quantity, version| Item { name: "Milk".into(), quantity, version, ..Item::default() };
        let created = Happened::ItemCreated(agent.becomes(product("milk"), milk(4, 1)));
        let created = agent.entry(&Event::Fact(Fact::new(created, NOW)));
        let line = |(name, units): (&str, i64)| Line {
            product_id: product(name),
            quantity: Quantity::try_from(units).expect("in range"),
        };
        let purchase = PurchaseRef {
            purchase_id: purchase_id(1),
            attempt: OperationId::attempt(&purchase_id(1), 1),
            lines: Lines::new([("milk", 3), ("tea", 1)].map(line)).expect("are lines"),
            from_allotment: None,
            reference: None,
            created_at: NOW,
            expires_at: NOW,
        };
        let items = vec![agent.becomes(product("milk"), milk(1, 2)), agent.take_one()];
        let bought = agent.entry(&Event::Fact(Fact::new(Happened::PurchaseConfirmed { purchase, items }, NOW)));
        agent.tell(&connection, &[created, bought]);
        let moved = moved_since(&connection, &agent.store(&connection), before).expect("reads");
        assert_eq!(moved, [("milk".to_owned(), -3), ("tea".to_owned(), -1)].into());
    }

    #[test]
    fn a_comparison_is_overtaken_by_counts() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let is_counting = |at| is_counting(&connection, &StoreId::parse("s1").expect("valid"), at).expect("reads");
        let compared = agent.head.id();
        let sale = agent.sale();
        agent.tell(&connection, &[sale]);
        assert!(!is_counting(compared), "a sale is no count");
        let count = counted(&mut agent);
        agent.tell(&connection, &[count]);
        assert!(is_counting(compared) && !is_counting(agent.head.id()));

        let ask = |name: &str, operation| {
            let id = OperationId::parse(name).expect("valid");
            let command = Command::Operate {
                product_id: product("tea"),
                operation,
                guard: Default::default(),
                about: About::default(),
            };
            commands::append(&connection, &mut agent.store(&connection), &id, &command, NOW).expect("writes");
        };
        ask("receive", Operation::Receive { quantity: Quantity::ONE });
        assert!(!is_counting(agent.head.id()));
        ask("count", Operation::Count { quantity: 3, counted_at: None, count_ref: None });
        assert!(is_counting(agent.head.id()));
    }

    #[test]
    fn a_comparison_with_another_epoch_is_overtaken() {
        let connection = database();
        let mut agent = Agent::settled("s1", &connection);
        let past = agent.head;
        let opening = agent.open(8, &[past]);
        agent.tell(&connection, &opening);
        let is_counting = |at| is_counting(&connection, &agent.id, at).expect("reads");
        assert!(is_counting(past.id()) && !is_counting(agent.head.id()));
    }
}
