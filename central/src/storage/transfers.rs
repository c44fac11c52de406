//! Rows of `transfer`: what goes from one store to another, as it was asked for, and as the stores last said.

use protocol::domain::transfer::{State, Transfer as Reported};
use protocol::ids::{OperationId, ProductId, StoreId, TransferId};
use protocol::time::Millis;
use protocol::wire::Position;
use runtime::sqlite::parsed;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Where a transfer is, as central knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The source was asked, and has not answered.
    Requested,
    /// Its units have left the source.
    Shipped,
    /// The destination has booked in what has arrived.
    Received,
    /// Nothing has left the source.
    Rejected,
}

const STATUSES: [(Status, &str); 4] = [
    (Status::Requested, "requested"),
    (Status::Shipped, "shipped"),
    (Status::Received, "received"),
    (Status::Rejected, "rejected"),
];

impl Status {
    pub fn as_str(self) -> &'static str {
        STATUSES.iter().find(|(status, _)| *status == self).map_or("", |(_, name)| name)
    }

    /// What it is once a store has said where it is.
    pub fn of(state: &State) -> Self {
        match state {
            State::Shipped => Self::Shipped,
            State::Received { .. } => Self::Received,
        }
    }

    /// Whether nothing more becomes of it.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Received | Self::Rejected)
    }
}

impl std::str::FromStr for Status {
    type Err = protocol::ids::Invalid;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        STATUSES
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(status, _)| *status)
            .ok_or_else(|| protocol::ids::Invalid(format!("no transfer status {text:?}")))
    }
}

/// A row of `transfer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// Order in which central heard of it.
    pub number: i64,
    /// As it was asked for, or as a store said.
    pub transfer: Reported,
    pub status: Status,
    /// Why it was rejected.
    pub code: Option<String>,
    /// When its end was applied.
    pub settled_at: Option<Millis>,
    /// Of what was said last.
    pub position: Option<Position>,
    /// The destination's stock that it was last said with.
    pub stock: i64,
    /// Its destination is retired: it does not arrive until the store comes back.
    pub is_destination_retired: bool,
}

/// Columns of a transfer, in the order that [`Transfer::read`] expects.
pub const COLUMNS: &str = "number, body, status, code, settled_at, position, stock, \
     coalesce((select retired from store where store.store_id = transfer.to_store), 0)";

const UNNAMED: &str =
    "from transfer indexed by transfer_on_its_way where to_store = ?1 and stock < ?2 and status = 'shipped'";
const UNANSWERED: &str = "select command_id from request indexed by request_pending_by_transfer \
     where transfer_id = ?1 and status = 'pending' and type <> 'announce' order by number desc limit 1";
const IS_ANNOUNCED: &str = "select exists (select 1 from request indexed by request_pending_by_transfer \
     where transfer_id = ?1 and status = 'pending' and type = 'announce')";
const IN_TRANSIT: &str = "select coalesce(sum(quantity), 0) from transit where product_id = ?1 \
     and not exists (select 1 from store where store.store_id = transit.to_store and retired)";
// The source knows it as shipped whatever the destination has said since.
const OF_STORE: &str = "select number, body from transfer indexed by transfer_by_source where from_store = ?1 \
       and number > ?2 and status in ('shipped', 'received') \
     union all select number, body from transfer indexed by transfer_by_destination where to_store = ?1 \
       and number > ?2 and status in ('shipped', 'received') order by number limit ?3";

impl Transfer {
    pub fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            number: row.get(0)?,
            transfer: body(row, 1)?,
            status: parsed(row, 2)?,
            code: row.get(3)?,
            settled_at: row.get::<_, Option<i64>>(4)?.map(Millis),
            position: row.get::<_, Option<String>>(5)?.and_then(|text| text.parse().ok()),
            stock: row.get(6)?,
            is_destination_retired: row.get(7)?,
        })
    }
}

fn body(row: &Row<'_>, column: usize) -> rusqlite::Result<Reported> {
    let read = serde_json::from_str(row.get_ref(column)?.as_str()?);
    read.map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

pub fn find(connection: &Connection, id: TransferId) -> rusqlite::Result<Option<Transfer>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from transfer where transfer_id = ?1"))?
        .query_row([id.to_string()], Transfer::read)
        .optional()
}

/// Makes it what it is now, and what of it is on its way.
pub fn save(connection: &Connection, transfer: &Transfer) -> rusqlite::Result<()> {
    let Reported { id, from, to, lines, created_at, .. } = &transfer.transfer;
    let id = id.to_string();
    connection
        .prepare_cached(
            "insert into transfer (transfer_id, from_store, to_store, status, code, body, created_at, settled_at, \
             position, stock) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
             on conflict (transfer_id) do update set status = excluded.status, code = excluded.code, \
             body = excluded.body, settled_at = excluded.settled_at, position = excluded.position, \
             stock = excluded.stock",
        )?
        .execute(params![
            id,
            from.as_str(),
            to.as_str(),
            transfer.status.as_str(),
            transfer.code,
            serde_json::to_string(&transfer.transfer).expect("a transfer serialises"),
            created_at.0,
            transfer.settled_at.map(|at| at.0),
            transfer.position.as_ref().map(ToString::to_string),
            transfer.stock,
        ])?;
    connection.prepare_cached("delete from transit where transfer_id = ?1")?.execute([&id])?;
    if transfer.status == Status::Shipped {
        let mut insert = connection.prepare_cached(
            "insert into transit (product_id, transfer_id, to_store, quantity) values (?1, ?2, ?3, ?4)",
        )?;
        for line in lines.iter() {
            insert.execute(params![line.product_id.as_str(), id, to.as_str(), line.quantity.get()])?;
        }
    }
    Ok(())
}

/// Units of a product that have left a store and have not arrived at another one, which is not retired.
pub fn in_transit(connection: &Connection, product: &ProductId) -> rusqlite::Result<i64> {
    connection.prepare_cached(IN_TRANSIT)?.query_row([product.as_str()], |row| row.get(0))
}

/// What was last asked about it by somebody, and is not answered.
pub fn unanswered(connection: &Connection, id: TransferId) -> rusqlite::Result<Option<OperationId>> {
    connection.prepare_cached(UNANSWERED)?.query_row([id.to_string()], |row| parsed(row, 0)).optional()
}

/// Whether the destination has yet to hear that it is on its way.
pub fn is_announced(connection: &Connection, id: TransferId) -> rusqlite::Result<bool> {
    connection.prepare_cached(IS_ANNOUNCED)?.query_row([id.to_string()], |row| row.get(0))
}

/// Transfers on their way to a store that a stock before this one was the last to name, or none.
pub fn unnamed(
    connection: &Connection,
    store: &StoreId,
    generation: i64,
    rows: usize,
) -> rusqlite::Result<Vec<Transfer>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} {UNNAMED} order by stock, number limit ?3"))?
        .query_map(params![store.as_str(), generation, rows], Transfer::read)?
        .collect()
}

/// Transfers from and to a store, as it is to know them, behind a number.
pub fn behind(
    connection: &Connection,
    store: &StoreId,
    behind: i64,
    rows: usize,
) -> rusqlite::Result<Vec<(i64, Reported)>> {
    let known = connection
        .prepare_cached(OF_STORE)?
        .query_map(params![store.as_str(), behind, rows], |row| Ok((row.get(0)?, body(row, 1)?)))?
        .collect::<rusqlite::Result<Vec<(i64, Reported)>>>()?;
    let of_source = |transfer: Reported| Reported { state: State::Shipped, ..transfer };
    let as_known = |(number, transfer): (i64, Reported)| {
        (number, if transfer.from == *store { of_source(transfer) } else { transfer })
    };
    Ok(known.into_iter().map(as_known).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{database, plan};

    #[test]
    fn nothing_reads_all_transfers() {
        let connection = database();
        let unnamed = format!("select {COLUMNS} {UNNAMED} order by stock, number limit ?3");
        for sql in [&unnamed, UNANSWERED, IS_ANNOUNCED, IN_TRANSIT, OF_STORE] {
            let plan = plan(&connection, sql);
            assert!(!plan.contains("SCAN transfer") && !plan.contains("SCAN transit"), "{sql}: {plan}");
            assert!(!plan.contains("SCAN request"), "{sql}: {plan}");
        }
    }
}
