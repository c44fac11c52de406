//! A store as the unit tests need it.

use protocol::domain::{Guard, Operation, Quantity};
use protocol::ids::{OperationId, ProductId, StoreId};
use protocol::time::Millis;
use protocol::wire::About;
use runtime::sqlite::Connection;

use crate::ledger::{self, Moved, SCHEMA};
use crate::operations::till::{Performed, Request, perform};

pub(crate) const NOW: Millis = Millis(1_700_000_000_000);

pub(crate) fn product(name: &str) -> ProductId {
    ProductId::parse(name).expect("valid")
}

pub(crate) fn quantity(units: i64) -> Quantity {
    Quantity::try_from(units).expect("in range")
}

pub(crate) fn operation(name: &str) -> OperationId {
    OperationId::parse(name).expect("valid")
}

/// Does something at the till.
pub(crate) fn act(connection: &Connection, id: &str, name: &str, does: Operation, now: Millis) -> Performed {
    let request = Request {
        operation_id: operation(id),
        product: product(name),
        operation: does,
        guard: Guard::default(),
        about: About::default(),
        command: None,
    };
    perform(connection, &request, &Moved::default(), now).expect("done")
}

/// A new store with these items and so many units of each.
pub(crate) fn store(items: &[(&str, i64)]) -> Connection {
    let connection = runtime::sqlite::memory(SCHEMA).expect("opens");
    ledger::initialise(&connection, &StoreId::parse("s1").expect("valid"), NOW).expect("is new");
    for (name, quantity) in items {
        let create = Operation::Create { name: (*name).into(), quantity: *quantity, low_at: None };
        act(&connection, &format!("create-{name}"), name, create, NOW);
    }
    connection
}

/// A ledger of two entries for the opening and so many for one item.
pub(crate) fn ledger(entries: i64) -> Connection {
    let connection = store(if entries > 0 { &[("tea", 0)] } else { &[] });
    for number in 1..entries {
        act(
            &connection,
            &format!("o{number}"),
            "tea",
            Operation::Receive { quantity: Quantity::ONE },
            NOW.plus(number),
        );
    }
    connection
}
