//! Rows of `reservation`: what stores hold, as they last said, and what they were asked to hold.

use protocol::domain::Lines;
use protocol::domain::reservation::{Reservation as Reported, State};
use protocol::ids::{OperationId, ReservationId, StoreId};
use protocol::time::Millis;
use protocol::wire::Position;
use runtime::sqlite::parsed;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Where a reservation is, as central knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The store was asked, and has not answered.
    Pending,
    Open,
    Confirmed,
    Cancelled,
    Expired,
    /// The store could not hold it.
    Rejected,
}

const STATUSES: [(Status, &str); 6] = [
    (Status::Pending, "pending"),
    (Status::Open, "open"),
    (Status::Confirmed, "confirmed"),
    (Status::Cancelled, "cancelled"),
    (Status::Expired, "expired"),
    (Status::Rejected, "rejected"),
];

impl Status {
    pub fn as_str(self) -> &'static str {
        STATUSES.iter().find(|(status, _)| *status == self).map_or("", |(_, name)| name)
    }

    /// What it is once the store has said where it is.
    pub fn of(state: &State) -> Self {
        match state {
            State::Open => Self::Open,
            State::Confirmed { .. } => Self::Confirmed,
            State::Cancelled => Self::Cancelled,
            State::Expired => Self::Expired,
        }
    }

    /// Whether nothing more becomes of it.
    pub fn has_ended(self) -> bool {
        !matches!(self, Self::Pending | Self::Open)
    }
}

impl std::str::FromStr for Status {
    type Err = protocol::ids::Invalid;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        STATUSES
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(status, _)| *status)
            .ok_or_else(|| protocol::ids::Invalid(format!("no reservation status {text:?}")))
    }
}

/// A row of `reservation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Order in which central heard of it.
    pub number: i64,
    pub id: ReservationId,
    /// At which store.
    pub store: StoreId,
    pub status: Status,
    /// Why it was rejected, or why it ended other than by being confirmed.
    pub code: Option<String>,
    pub lines: Lines,
    /// What was taken, if it was confirmed.
    pub confirmed_lines: Option<Lines>,
    /// The shop's order number.
    pub reference: Option<String>,
    pub created_at: Millis,
    /// By the store's clock; while it is pending by central's.
    pub expires_at: Millis,
    /// When its end was applied.
    pub settled_at: Option<Millis>,
    /// The store's position of what it said last.
    pub position: Option<Position>,
    /// The stock of the store's that it was last said with.
    pub stock: i64,
    /// Its store is retired: nobody can have what it holds until the store comes back.
    pub is_store_retired: bool,
}

/// Columns of a reservation, in the order that [`Reservation::read`] expects.
pub const COLUMNS: &str = "number, reservation_id, store_id, status, code, lines, confirmed_lines, reference, \
     created_at, expires_at, settled_at, position, stock, \
     (select retired from store where store.store_id = reservation.store_id)";

const OPEN: &str =
    "from reservation indexed by reservation_open where store_id = ?1 and stock < ?2 and status = 'open'";

fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    let read = row.get_ref(column)?.as_str_or_null()?.map(serde_json::from_str).transpose();
    read.map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

fn text(lines: &Lines) -> String {
    serde_json::to_string(lines).expect("lines serialise")
}

impl Reservation {
    pub fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let missing = || rusqlite::Error::InvalidColumnType(5, "lines".into(), Type::Null);
        Ok(Self {
            number: row.get(0)?,
            id: parsed(row, 1)?,
            store: parsed(row, 2)?,
            status: parsed(row, 3)?,
            code: row.get(4)?,
            lines: json(row, 5)?.ok_or_else(missing)?,
            confirmed_lines: json(row, 6)?,
            reference: row.get(7)?,
            created_at: Millis(row.get(8)?),
            expires_at: Millis(row.get(9)?),
            settled_at: row.get::<_, Option<i64>>(10)?.map(Millis),
            position: row.get::<_, Option<String>>(11)?.and_then(|text| text.parse().ok()),
            stock: row.get(12)?,
            is_store_retired: row.get(13)?,
        })
    }
}

pub fn find(connection: &Connection, id: ReservationId) -> rusqlite::Result<Option<Reservation>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from reservation where reservation_id = ?1"))?
        .query_row([id.to_string()], Reservation::read)
        .optional()
}

/// Makes the row what it is now; a new one gets the next number.
pub fn save(connection: &Connection, reservation: &Reservation) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert into reservation (reservation_id, store_id, status, code, lines, confirmed_lines, reference, \
             created_at, expires_at, settled_at, position, stock) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) \
             on conflict (reservation_id) do update set status = excluded.status, code = excluded.code, \
             lines = excluded.lines, confirmed_lines = excluded.confirmed_lines, expires_at = excluded.expires_at, \
             created_at = excluded.created_at, settled_at = excluded.settled_at, position = excluded.position, \
             stock = excluded.stock",
        )?
        .execute(params![
            reservation.id.to_string(),
            reservation.store.as_str(),
            reservation.status.as_str(),
            reservation.code,
            text(&reservation.lines),
            reservation.confirmed_lines.as_ref().map(text),
            reservation.reference,
            reservation.created_at.0,
            reservation.expires_at.0,
            reservation.settled_at.map(|at| at.0),
            reservation.position.as_ref().map(ToString::to_string),
            reservation.stock,
        ])?;
    Ok(())
}

/// Open reservations of a store that were last said with an older stock than this one, at most so many.
pub fn open_of_older_stock(
    connection: &Connection,
    store: &StoreId,
    stock: i64,
    rows: usize,
) -> rusqlite::Result<Vec<Reservation>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} {OPEN} limit ?3"))?
        .query_map(params![store.as_str(), stock, rows], Reservation::read)?
        .collect()
}

/// What a restored store has to know again, because it has said so with this stock or since: those whose number is greater,
/// in order, at most so many.
pub fn behind(
    connection: &Connection,
    store: &StoreId,
    stock: i64,
    number: i64,
    rows: usize,
) -> rusqlite::Result<Vec<(i64, Option<Reported>)>> {
    connection
        .prepare_cached(&format!(
            "select {COLUMNS} from reservation indexed by reservation_by_store \
             where store_id = ?1 and number > ?2 and stock = ?3 order by number limit ?4"
        ))?
        .query_map(params![store.as_str(), number, stock, rows], Reservation::read)?
        .map(|row| row.map(|row| (row.number, reported(row))))
        .collect()
}

/// A reservation as the store reported it. `None`: it has never held anything.
fn reported(row: Reservation) -> Option<Reported> {
    let state = match row.status {
        Status::Pending | Status::Rejected => return None,
        Status::Open => State::Open,
        Status::Confirmed => State::Confirmed { confirmed_lines: row.confirmed_lines? },
        Status::Cancelled => State::Cancelled,
        Status::Expired => State::Expired,
    };
    Some(Reported {
        id: row.id,
        lines: row.lines,
        expires_at: row.expires_at,
        created_at: row.created_at,
        reference: row.reference,
        state,
    })
}

/// The command about a reservation that is still unanswered, the first if there are several.
pub fn unanswered(connection: &Connection, id: ReservationId) -> rusqlite::Result<Option<OperationId>> {
    connection
        .prepare_cached(
            "select command_id from request indexed by request_pending_by_reservation \
             where reservation_id = ?1 and status = 'pending' order by number limit 1",
        )?
        .query_row([id.to_string()], |row| parsed(row, 0))
        .optional()
}
