//! Dead letters (L11): entries that were in their place but not understood.

use protocol::time::Millis;
use rusqlite::{Connection, Row, params};

/// Letters of one list, at most.
const LIST: usize = 1_000;
/// Characters of a body that a list shows.
const SHOWN: usize = 1_000;

/// An entry that was not understood.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Order in which it came.
    pub id: i64,
    /// Which store sent it.
    pub store: String,
    /// Its place in the store's log.
    pub entry: String,
    pub kind: String,
    pub operation: String,
    /// What it says, in a list only the beginning.
    pub body: String,
    /// Why it was not understood.
    pub reason: String,
    /// When it came.
    pub received_at: Millis,
}

fn read(row: &Row<'_>) -> rusqlite::Result<Letter> {
    Ok(Letter {
        id: row.get(0)?,
        store: row.get(1)?,
        entry: row.get(2)?,
        kind: row.get(3)?,
        operation: row.get(4)?,
        reason: row.get(5)?,
        received_at: Millis(row.get(6)?),
        body: row.get(7)?,
    })
}

const COLUMNS: &str = "id, store_id, entry_id, type, operation_id, reason, received_at";

/// How many there are; 10,000 if there are more.
pub fn count(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("select count(*) from (select 1 from dead_letter limit 10000)")?
        .query_row([], |row| row.get(0))
}

/// The newest, of one store if it is given.
pub fn list(connection: &Connection, store: Option<&str>) -> rusqlite::Result<Vec<Letter>> {
    connection
        .prepare_cached(&format!(
            "select {COLUMNS}, substr(body, 1, {SHOWN}) from dead_letter where ?1 is null or store_id = ?1 \
             order by id desc limit {LIST}"
        ))?
        .query_map([store], read)?
        .collect()
}

/// The last one's id; 0: there is none.
pub fn last(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("select coalesce(max(id), 0) from dead_letter")?.query_row([], |row| row.get(0))
}

/// Reads the next ones behind an id up to another one, in the order in which they came, one at a time and so many at
/// most. Says up to which.
pub fn each_behind(
    connection: &Connection,
    behind: i64,
    last: i64,
    most: usize,
    mut each: impl FnMut(Letter),
) -> rusqlite::Result<i64> {
    let mut statement = connection.prepare_cached(&format!(
        "select {COLUMNS}, body from dead_letter where id > ?1 and id <= ?2 order by id limit ?3"
    ))?;
    let (mut count, mut upto) = (0, last);
    for letter in statement.query_map(params![behind, last, most], read)? {
        let letter = letter?;
        count += 1;
        if count == most {
            upto = letter.id;
        }
        each(letter);
    }
    Ok(upto)
}

/// Removes one. `false`: there was none.
pub fn remove(connection: &Connection, id: i64) -> rusqlite::Result<bool> {
    Ok(connection.prepare_cached("delete from dead_letter where id = ?1")?.execute([id])? > 0)
}
