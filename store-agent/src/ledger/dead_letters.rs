//! Commands of central that were in their place but not understood, or not possible (L11).

use protocol::link::{Commands, Entry};
use protocol::time::Millis;
use rusqlite::{Connection, Row, params};

/// Letters that a list shows, at most.
const LISTED: usize = 1_000;
/// Letters that are looked at in one go, at most, and bytes of their bodies.
const LOOKED_AT: usize = 100;
const BYTES: usize = 1 << 20;
/// Characters of a body that a list shows, at most.
const SHOWN: usize = 1_000;
// Reads no more than so many rows, whatever has piled up.
const COUNT: &str = "select count(*) from (select 1 from dead_letter limit 10000)";

/// A command that was parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number here.
    pub id: i64,
    /// `<epoch>-<seq>` of the command.
    pub entry_id: String,
    /// `t` of the command.
    pub kind: String,
    /// The command's id.
    pub operation: String,
    pub reason: String,
    pub received_at: Millis,
    /// The command's body, or its beginning.
    pub body: String,
}

/// Parks a command.
pub(crate) fn park(
    connection: &Connection,
    entry: &Entry<Commands>,
    reason: &str,
    now: Millis,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "insert into dead_letter (entry_id, type, operation_id, body, reason, received_at) \
             values (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![entry.id.to_string(), entry.kind, entry.operation, entry.body, reason, now.0])?;
    Ok(())
}

/// The newest, with the beginnings of their bodies.
pub fn newest(connection: &Connection) -> rusqlite::Result<Vec<DeadLetter>> {
    connection
        .prepare_cached(&format!(
            "select id, entry_id, type, operation_id, reason, received_at, substr(body, 1, {SHOWN}) \
             from dead_letter order by id desc limit {LISTED}"
        ))?
        .query_map([], DeadLetter::read)?
        .collect()
}

/// Shows some letters behind an id, the oldest first, one at a time: so many, or so many bytes of them, and one in any case.
/// Says which was the last; `None`: there is none behind.
pub fn look_behind(connection: &Connection, id: i64, mut see: impl FnMut(DeadLetter)) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached(&format!(
        "select id, entry_id, type, operation_id, reason, received_at, body from dead_letter where id > ?1 \
         order by id limit {LOOKED_AT}"
    ))?;
    let mut rows = statement.query([id])?;
    let (mut last, mut bytes) = (None, 0);
    while bytes < BYTES
        && let Some(row) = rows.next()?
    {
        let letter = DeadLetter::read(row)?;
        last = Some(letter.id);
        bytes += letter.body.len();
        see(letter);
    }
    Ok(last)
}

impl DeadLetter {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            entry_id: row.get(1)?,
            kind: row.get(2)?,
            operation: row.get(3)?,
            reason: row.get(4)?,
            received_at: Millis(row.get(5)?),
            body: row.get(6)?,
        })
    }
}

/// How many there are; 10,000 if there are more.
pub fn count(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached(COUNT)?.query_row([], |row| row.get(0))
}

/// Takes one away. Says whether there was one.
pub fn discard(connection: &Connection, id: i64) -> rusqlite::Result<bool> {
    Ok(connection.prepare_cached("delete from dead_letter where id = ?1")?.execute([id])? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::testing::tamper;
    use crate::testing::store;

    #[test]
    fn no_more_are_read_than_a_list_shows_and_a_number_tells() {
        let connection = store(&[]);
        tamper(
            &connection,
            "with recursive number (n) as (select 1 union all select n + 1 from number where n < 10001) \
             insert into dead_letter (entry_id, type, operation_id, body, reason, received_at) \
             select '1-' || n, 'teleported', 'op', '{}', 'unknown type', 0 from number",
        );
        let listed = newest(&connection).expect("reads");
        assert_eq!((listed.len(), listed[0].entry_id.as_str()), (1_000, "1-10001"));
        assert_eq!(count(&connection).expect("reads"), 10_000);
    }

    #[test]
    fn letters_are_looked_at_a_few_at_a_time_whole_and_each_once() {
        let connection = store(&[]);
        let insert = "with recursive number (n) as (select 1 union all select n + 1 from number where n < 250) \
             insert into dead_letter (entry_id, type, operation_id, body, reason, received_at) \
             select '1-' || n, 'teleported', 'op', iif(n < 103, '{}', printf('%.*c', ?1, 'x')), 'why', 0 from number";
        connection.execute(insert, [BYTES / 2]).expect("writes");
        let (mut seen, mut goes, mut last) = (Vec::new(), Vec::new(), 0);
        while let Some(next) =
            look_behind(&connection, last, |letter| seen.push((letter.id, letter.body.len()))).expect("reads")
        {
            goes.push(next - last);
            last = next;
        }
        // By their number, then by their bytes.
        assert_eq!((&goes[..3], goes.len()), (&[100, 4, 2][..], 75));
        let all: Vec<_> = (1..=250).map(|id| (id, if id < 103 { 2 } else { BYTES / 2 })).collect();
        assert_eq!(seen, all);
    }
}
