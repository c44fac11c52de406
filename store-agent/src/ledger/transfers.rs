//! Units that go to another store, or come from one.

use protocol::domain::transfer::{State, Transfer};
use protocol::ids::TransferId;
use protocol::time::Millis;
use runtime::sqlite::newest::{Newest, Part, Slice};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// A row of `transfer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Order in which this store heard of them.
    pub number: i64,
    pub transfer: Transfer,
}

/// Columns of a transfer, in the order that [`Recorded::read`] expects.
const COLUMNS: &str = "number, body";

impl Recorded {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let transfer = serde_json::from_str(row.get_ref(1)?.as_str()?);
        let transfer =
            transfer.map_err(|error| rusqlite::Error::FromSqlConversionFailure(1, Type::Text, Box::new(error)))?;
        Ok(Self { number: row.get(0)?, transfer })
    }
}

pub fn find(connection: &Connection, id: TransferId) -> rusqlite::Result<Option<Transfer>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from transfer where transfer_id = ?1"))?
        .query_row([id.to_string()], |row| Ok(Recorded::read(row)?.transfer))
        .optional()
}

/// One that comes to this store, or has come.
pub fn find_incoming(connection: &Connection, id: TransferId) -> rusqlite::Result<Option<Transfer>> {
    let here = super::store_id(connection)?;
    Ok(find(connection, id)?.filter(|transfer| transfer.to == here))
}

/// Makes it what it is now.
pub(crate) fn save(connection: &Connection, transfer: &Transfer, at: Millis) -> rusqlite::Result<()> {
    let is_incoming = transfer.to == super::store_id(connection)?;
    let is_over = !is_incoming || transfer.state != State::Shipped;
    connection
        .prepare_cached(
            "insert into transfer (transfer_id, direction, status, body, settled_at) values (?1, ?2, ?3, ?4, ?5) \
             on conflict (transfer_id) do update set status = excluded.status, body = excluded.body, \
             settled_at = excluded.settled_at",
        )?
        .execute(params![
            transfer.id.to_string(),
            if is_incoming { "in" } else { "out" },
            transfer.state.as_str(),
            serde_json::to_string(transfer).expect("a transfer serialises"),
            is_over.then_some(at.0),
        ])?;
    Ok(())
}

/// All that are kept, in the order in which this store heard of them.
pub fn all(connection: &Connection) -> rusqlite::Result<Vec<Transfer>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from transfer order by number"))?
        .query_map([], |row| Ok(Recorded::read(row)?.transfer))?
        .collect()
}

/// Which transfers a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// `in` or `out`; another text finds nothing.
    pub direction: Option<String>,
    /// `shipped` or `received`; another text finds nothing.
    pub status: Option<String>,
    pub reference: Option<String>,
}

/// Transfers, the newest first, one less than the slice's limit; its key is the transfer's number.
pub fn list(connection: &Connection, filter: &Filter, slice: &Slice<i64>) -> rusqlite::Result<Part<Recorded>> {
    query(filter).list(connection, slice, Recorded::read)
}

fn query(Filter { direction, status, reference }: &Filter) -> Newest {
    let mut list = Newest::of("transfer", COLUMNS);
    list = match (reference, status, direction) {
        (Some(reference), ..) => list.along("transfer_by_reference", "body ->> 'reference' = ?", [reference]),
        (None, Some(status), _) => list.along("transfer_by_status", "status = ?", [status]),
        (None, None, Some(direction)) => list.along("transfer_by_direction", "direction = ?", [direction]),
        (None, None, None) => list,
    };
    list.and_equal("direction", direction.as_deref()).and_equal("status", status.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::testing::{all_of, ways};
    use crate::testing::store;

    #[test]
    fn whatever_else_is_compared_a_list_goes_along_the_index_that_leaves_the_least() {
        let connection = store(&[]);
        for [direction, status, reference] in all_of(["in", "shipped", "order-1"]) {
            let way = match (&reference, &status, &direction) {
                (Some(_), ..) => "transfer USING INDEX transfer_by_reference (<expr>=?",
                (None, Some(_), _) => "transfer USING INDEX transfer_by_status (status=?",
                (None, None, Some(_)) => "transfer USING INDEX transfer_by_direction (direction=?",
                (None, None, None) => "transfer",
            };
            let filter = Filter { direction, status, reference };
            assert_eq!(ways(&connection, &query(&filter)), [way], "{filter:?}");
        }
    }
}
