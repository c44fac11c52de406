//! Units held for a while, and what holds them.

use protocol::domain::Lines;
use protocol::domain::reservation::{Reservation, State};
use protocol::ids::{ProductId, ReservationId};
use protocol::planted::{Bug, planted};
use protocol::time::Millis;
use runtime::sqlite::newest::{Newest, Part, Slice};
use runtime::sqlite::parsed;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

/// A row of `reservation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Order in which they were made.
    pub number: i64,
    pub reservation: Reservation,
}

/// Open reservations that hold a product, at most. They are all ended at once when their time is over at once, or when
/// nothing of it is there any more, and tills wait meanwhile.
pub const HOLDS_MAX: i64 = 1_000;

/// Columns of a reservation, in the order that [`Recorded::read`] expects.
const COLUMNS: &str = "number, reservation_id, status, lines, confirmed_lines, reference, created_at, expires_at";

const DUE_OF_PRODUCT: &str = "select number, reservation.reservation_id, status, lines, confirmed_lines, reference, \
     created_at, reservation.expires_at from hold join reservation using (reservation_id) \
     where hold.product_id = ?1 and hold.expires_at <= ?2 order by hold.expires_at";
const FULL: &str = "select 1 from hold where product_id = ?1 limit 1 offset ?2";
const DUE: &str = "where status = 'open' and expires_at <= ?1 order by expires_at limit ?2";
const NEXT_END: &str = "select min(expires_at) from reservation indexed by reservation_open where status = 'open'";
const YOUNGEST_OF_PRODUCT: &str = "select number, reservation.reservation_id, status, lines, confirmed_lines, \
     reference, created_at, reservation.expires_at from hold join reservation using (reservation_id) \
     where hold.product_id = ?1 order by created_at desc, number desc";

fn lines(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Lines>> {
    let text = row.get_ref(column)?.as_str_or_null()?;
    let lines = text.map(serde_json::from_str).transpose();
    lines.map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

impl Recorded {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let missing = |column| rusqlite::Error::InvalidColumnType(column, "lines".into(), Type::Null);
        let state = match row.get_ref(2)?.as_str()? {
            "confirmed" => State::Confirmed { confirmed_lines: lines(row, 4)?.ok_or_else(|| missing(4))? },
            "cancelled" => State::Cancelled,
            "expired" => State::Expired,
            _ => State::Open,
        };
        let reservation = Reservation {
            id: parsed(row, 1)?,
            lines: lines(row, 3)?.ok_or_else(|| missing(3))?,
            expires_at: Millis(row.get(7)?),
            created_at: Millis(row.get(6)?),
            reference: row.get(5)?,
            state,
        };
        Ok(Self { number: row.get(0)?, reservation })
    }
}

pub fn find(connection: &Connection, id: ReservationId) -> rusqlite::Result<Option<Reservation>> {
    connection
        .prepare_cached(&format!("select {COLUMNS} from reservation where reservation_id = ?1"))?
        .query_row([id.to_string()], Recorded::read)
        .optional()
        .map(|found| found.map(|recorded| recorded.reservation))
}

/// Makes it what it is now, and what it holds.
pub(crate) fn save(connection: &Connection, reservation: &Reservation, at: Millis) -> rusqlite::Result<()> {
    let json = |lines: &Lines| serde_json::to_string(lines).expect("lines serialise");
    let confirmed = match &reservation.state {
        State::Confirmed { confirmed_lines } => Some(json(confirmed_lines)),
        State::Open | State::Cancelled | State::Expired => None,
    };
    let id = reservation.id.to_string();
    let is_open = reservation.state == State::Open;
    connection.prepare_cached("delete from hold where reservation_id = ?1")?.execute([&id])?;
    connection
        .prepare_cached(
            "insert into reservation (reservation_id, status, lines, confirmed_lines, reference, created_at, \
             expires_at, settled_at) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
             on conflict (reservation_id) do update set status = excluded.status, lines = excluded.lines, \
             confirmed_lines = excluded.confirmed_lines, reference = excluded.reference, \
             created_at = excluded.created_at, expires_at = excluded.expires_at, settled_at = excluded.settled_at",
        )?
        .execute(params![
            id,
            reservation.state.as_str(),
            json(&reservation.lines),
            confirmed,
            reservation.reference,
            reservation.created_at.0,
            reservation.expires_at.0,
            (!is_open).then_some(at.0),
        ])?;
    if is_open {
        let mut insert = connection.prepare_cached(
            "insert into hold (product_id, expires_at, reservation_id, quantity) values (?1, ?2, ?3, ?4)",
        )?;
        for line in reservation.lines.iter() {
            insert.execute(params![line.product_id.as_str(), reservation.expires_at.0, id, line.quantity.get()])?;
        }
    }
    Ok(())
}

/// Whether as many open reservations hold a product as may.
pub fn is_full(connection: &Connection, product: &ProductId) -> rusqlite::Result<bool> {
    connection.prepare_cached(FULL)?.exists(params![product.as_str(), HOLDS_MAX - 1])
}

/// Open reservations of a product whose time is over, those that ended first before others.
pub fn due_of_product(connection: &Connection, product: &ProductId, now: Millis) -> rusqlite::Result<Vec<Reservation>> {
    read(connection, DUE_OF_PRODUCT, params![product.as_str(), now.0])
}

/// Open reservations whose time is over, those that ended first before others.
pub fn due(connection: &Connection, now: Millis, limit: usize) -> rusqlite::Result<Vec<Reservation>> {
    read(
        connection,
        &format!("select {COLUMNS} from reservation indexed by reservation_open {DUE}"),
        params![now.0, limit],
    )
}

/// Open reservations of a product, the youngest first: as many as hold so many units of it. When one was made survives a
/// restore; its number does not.
pub fn youngest_of_product(
    connection: &Connection,
    product: &ProductId,
    units: i64,
) -> rusqlite::Result<Vec<Reservation>> {
    let oldest = planted(Bug::OldestHoldEnds).then(|| YOUNGEST_OF_PRODUCT.replace("desc", "asc"));
    let sql = oldest.as_deref().unwrap_or(YOUNGEST_OF_PRODUCT);
    let units = match units {
        1.. if planted(Bug::OneHoldTooManyEnds) => units + 1,
        1.. if planted(Bug::OneUnitTooFewFreed) => units - 1,
        _ => units,
    };
    if units <= 0 {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([product.as_str()])?;
    let (mut found, mut held) = (Vec::new(), 0);
    while held < units
        && let Some(row) = rows.next()?
    {
        let reservation = Recorded::read(row)?.reservation;
        held += reservation.lines.quantity_of(product);
        found.push(reservation);
    }
    Ok(found)
}

fn read(connection: &Connection, sql: &str, params: &[&dyn ToSql]) -> rusqlite::Result<Vec<Reservation>> {
    connection.prepare_cached(sql)?.query_map(params, |row| Ok(Recorded::read(row)?.reservation))?.collect()
}

/// When the next open reservation ends.
pub fn next_end(connection: &Connection) -> rusqlite::Result<Option<Millis>> {
    connection.prepare_cached(NEXT_END)?.query_row([], |row| Ok(row.get::<_, Option<i64>>(0)?.map(Millis)))
}

/// All that are kept, in the order in which they were made.
pub fn all(connection: &Connection) -> rusqlite::Result<Vec<Reservation>> {
    read(connection, &format!("select {COLUMNS} from reservation order by number"), &[])
}

/// Products of which another number of units is reserved than open reservations hold, with both numbers.
pub fn unbalanced(connection: &Connection) -> rusqlite::Result<Vec<(ProductId, i64, i64)>> {
    connection
        .prepare_cached(
            "with held as (select product_id, sum(quantity) as units from hold group by product_id) \
             select product_id, reserved, coalesce(units, 0) from item left join held using (product_id) \
             where reserved <> coalesce(units, 0)",
        )?
        .query_map([], |row| Ok((parsed(row, 0)?, row.get(1)?, row.get(2)?)))?
        .collect()
}

/// Which reservations a list shows.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// `open`, `confirmed`, `cancelled` or `expired`; another text finds nothing.
    pub status: Option<String>,
    /// That have a line of this product.
    pub product_id: Option<String>,
    /// For this order.
    pub reference: Option<String>,
}

/// Reservations, the newest first, one less than the slice's limit; its key is the reservation's number.
pub fn list(connection: &Connection, filter: &Filter, slice: &Slice<i64>) -> rusqlite::Result<Part<Recorded>> {
    query(filter).list(connection, slice, Recorded::read)
}

fn query(Filter { status, product_id, reference }: &Filter) -> Newest {
    let mut list = Newest::of("reservation", COLUMNS);
    list = match (reference, status) {
        (Some(reference), _) => list.along("reservation_by_reference", "reference = ?", [reference]),
        (None, Some(status)) => list.along("reservation_by_status", "status = ?", [status]),
        (None, None) => list,
    };
    list = list.and_equal("status", status.as_deref());
    if let Some(product) = product_id {
        let has_line = "exists (select 1 from json_each(lines) where value ->> 'productId' = ?)";
        list = list.and(has_line, [product.clone().into()]);
    }
    list
}

#[cfg(test)]
mod tests {
    use protocol::domain::{Line, Quantity};

    use super::*;
    use crate::ledger::testing::{all_of, plan, ways};
    use crate::testing::{NOW, product, store};

    fn reservation(number: u128, ends_ms: i64, lines: &[(&str, i64)]) -> Reservation {
        let line = |(name, quantity): &(&str, i64)| Line {
            product_id: product(name),
            quantity: Quantity::try_from(*quantity).expect("in range"),
        };
        Reservation {
            id: ReservationId::new(uuid::Uuid::from_u128(number)),
            lines: Lines::new(lines.iter().map(line)).expect("are lines"),
            expires_at: NOW.plus(ends_ms),
            created_at: NOW,
            reference: Some(format!("order-{number}")),
            state: State::Open,
        }
    }

    fn ids(found: &[Reservation]) -> Vec<String> {
        found.iter().map(|one| one.reference.clone().expect("an order")).collect()
    }

    #[test]
    fn what_is_saved_is_found_and_holds_units_as_long_as_it_is_open() {
        let connection = store(&[("ale", 9), ("tea", 9)]);
        let held = |name| {
            let sql = "select coalesce(sum(quantity), 0) from hold where product_id = ?1";
            connection.query_row(sql, [name], |row| row.get::<_, i64>(0)).expect("reads")
        };
        let first = reservation(1, 100, &[("ale", 2), ("tea", 3)]);
        save(&connection, &first, NOW).expect("writes");
        assert_eq!(find(&connection, first.id).expect("reads"), Some(first.clone()));
        let later = Reservation { expires_at: NOW.plus(500), ..first.clone() };
        save(&connection, &later, NOW).expect("writes");
        assert_eq!((held("ale"), held("tea")), (2, 3));
        let lines = Lines::one(product("ale"), Quantity::ONE);
        let confirmed = Reservation { state: State::Confirmed { confirmed_lines: lines }, ..later };
        save(&connection, &confirmed, NOW).expect("writes");
        assert_eq!(find(&connection, first.id).expect("reads"), Some(confirmed));
        assert_eq!((held("ale"), held("tea")), (0, 0));
        assert_eq!(all(&connection).expect("reads").len(), 1);
    }

    #[test]
    fn the_youngest_is_the_one_that_was_made_last_in_whatever_order_a_restore_told_of_them() {
        let connection = store(&[("ale", 9)]);
        for (number, made) in [(1, 20), (2, 30), (3, 10)] {
            let made = Reservation { created_at: NOW.plus(made), ..reservation(number, 100, &[("ale", 1)]) };
            save(&connection, &made, NOW).expect("writes");
        }
        let young = youngest_of_product(&connection, &product("ale"), 2).expect("reads");
        assert_eq!(ids(&young), ["order-2", "order-1"]);
    }

    #[test]
    fn whatever_else_is_compared_what_belongs_to_an_order_is_found_by_index() {
        let connection = store(&[("ale", 9)]);
        for [status, product_id, reference] in all_of(["open", "ale", "order-1"]) {
            let way = match (&reference, &status) {
                (Some(_), _) => "reservation USING INDEX reservation_by_reference (reference=?",
                (None, Some(_)) => "reservation USING INDEX reservation_by_status (status=?",
                (None, None) => "reservation",
            };
            let filter = Filter { status, product_id, reference };
            assert_eq!(ways(&connection, &query(&filter)), [way], "{filter:?}");
        }
        for number in [1, 2] {
            save(&connection, &reservation(number, 100, &[("ale", 1)]), NOW).expect("writes");
        }
        let of_order =
            Filter { status: Some("open".into()), product_id: Some("ale".into()), reference: Some("order-1".into()) };
        let found = list(&connection, &of_order, &Slice { after: None, offset: 0, limit: 9 }).expect("reads");
        assert_eq!(
            found.rows.iter().map(|found| found.reservation.id).collect::<Vec<_>>(),
            [reservation(1, 0, &[("ale", 1)]).id]
        );
    }

    #[test]
    fn those_that_are_due_are_found_by_index_in_the_order_of_their_ends() {
        let connection = store(&[("ale", 9), ("tea", 9)]);
        for (number, ends, name) in [(1, 300, "ale"), (2, 100, "ale"), (3, 200, "tea"), (4, 900, "ale")] {
            save(&connection, &reservation(number, ends, &[(name, 1)]), NOW).expect("writes");
        }
        let of_ale = due_of_product(&connection, &product("ale"), NOW.plus(300)).expect("reads");
        assert_eq!(ids(&of_ale), ["order-2", "order-1"]);
        assert_eq!(ids(&due(&connection, NOW.plus(200), 9).expect("reads")), ["order-2", "order-3"]);
        assert_eq!(next_end(&connection).expect("reads"), Some(NOW.plus(100)));
        let young = |units| youngest_of_product(&connection, &product("ale"), units).expect("reads");
        assert_eq!(ids(&young(2)), ["order-4", "order-2"]);
        assert_eq!((young(0).len(), young(9).len()), (0, 3));
        let of_product = plan(&connection, DUE_OF_PRODUCT);
        assert!(of_product.contains("SEARCH hold USING PRIMARY KEY (product_id=? AND expires_at<?)"), "{of_product}");
        assert_eq!(plan(&connection, FULL), "SEARCH hold USING PRIMARY KEY (product_id=?)");
        assert!(plan(&connection, NEXT_END).contains("reservation_open"), "{}", plan(&connection, NEXT_END));
    }
}
